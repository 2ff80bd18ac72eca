"""The process of the server: answers equal to `loupe predict --json`, reloads without a lost request, and its end."""

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from server_process import ask, assert_same, command, predicted, serving

import loupe
from loupe.serve.server import spare_collector

pytestmark = pytest.mark.slow


def test_answers_are_those_of_predict_alone_and_in_requests_of_many(digits_run, digit_files, tmp_path):
    wanted = predicted(digits_run, digit_files, tmp_path)
    with serving(tmp_path / "serve.log", digits_run) as server, server.client() as client:
        for path in digit_files[:5]:
            (found,) = ask(client, [path]).json()["images"]
            assert_same(found, wanted[str(path)])
        answer = ask(client, digit_files).json()
        for found, path in zip(answer["images"], digit_files, strict=True):
            assert found["path"] == path.name or found["path"] == str(path)
            assert_same(found, wanted[str(path)])


def test_damaged_images_fail_alone(digits_run, digit_files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(digit_files[0].read_bytes()[:60])
    with serving(tmp_path / "serve.log", digits_run) as server, server.client() as client:
        answer = ask(client, [digit_files[0], broken, digit_files[1]])
        first, second, third = answer.json()["images"]
        assert answer.status_code == 200
        assert "error" in second and "label" in first and "label" in third
        assert ask(client, [broken]).status_code == 422


def test_a_reload_loses_no_request(digits_run, digit_files, tmp_path):
    other = loupe.train("digits", epochs=1, seed=7, settings={"precision": "fp32"}, output=tmp_path / "r", quiet=True)
    copy = tmp_path / "model"
    shutil.copytree(digits_run / "model", copy)
    statuses, weights, ended = [], [], threading.Event()

    with serving(tmp_path / "serve.log", copy) as server, server.client() as client:

        def keep_asking():
            while not ended.is_set():
                answer = ask(client, digit_files[:2])
                statuses.append(answer.status_code)
                weights.append(answer.json()["weights"])

        with ThreadPoolExecutor(4) as threads:
            for _ in range(4):
                threads.submit(keep_asking)
            time.sleep(0.5)
            for path in sorted((other.path / "model").iterdir()):  # not in one moment, as any copy
                shutil.copyfile(path, tmp_path / "part")
                (tmp_path / "part").replace(copy / path.name)
                time.sleep(0.2)
            if hasattr(signal, "SIGHUP"):
                server.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and (not weights or weights[-1] == weights[0]):
                time.sleep(0.1)
            time.sleep(0.5)
            ended.set()
        assert server.end() == 0
    assert set(statuses) == {200}
    assert list(dict.fromkeys(weights)) == [weights[0], weights[-1]] and weights[0] != weights[-1]


def test_files_that_cannot_be_opened_leave_the_old_model(digits_run, digit_files, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(digits_run / "model", copy)
    with serving(tmp_path / "serve.log", copy) as server, server.client() as client:
        (copy / "config.json").write_text("{}")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not any(event["event"] == "not reloaded" for event in server.events()):
            time.sleep(0.1)
        assert any(event["event"] == "not reloaded" for event in server.events())
        assert ask(client, digit_files[:1]).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_once_what_is_in_flight_is_answered(digits_run, digit_files, tmp_path, number):
    with (
        serving(tmp_path / "serve.log", digits_run) as server,
        ThreadPoolExecutor(8) as threads,
        server.client() as client,
    ):
        assert ask(client, digit_files[:1]).status_code == 200
        asked = [threads.submit(ask, client, digit_files[:12]) for _ in range(8)]
        time.sleep(0.05)
        began = time.monotonic()
        assert server.end(number) == 0
        assert time.monotonic() - began < 12
        answers = [future.exception() or future.result() for future in asked]
    assert all(isinstance(answer, Exception) or answer.status_code == 200 for answer in answers)
    assert any(not isinstance(answer, Exception) for answer in answers)


def test_a_full_queue_refuses_early_and_recovers(digits_run, digit_files, tmp_path):
    with serving(tmp_path / "serve.log", digits_run, "--queue", 8) as server, server.client() as client:
        with ThreadPoolExecutor(24) as threads:
            answers = list(threads.map(lambda _: ask(client, digit_files[:8]), range(100)))
        statuses = {answer.status_code for answer in answers}
        assert statuses <= {200, 429} and 200 in statuses
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
        assert ask(client, digit_files[:8]).status_code == 200


def test_a_misspelt_parameter_is_refused(digits_run, digit_files, tmp_path):
    with serving(tmp_path / "serve.log", digits_run) as server, server.client() as client:
        answer = ask(client, digit_files[:1], "treshold=0.9")
        assert answer.status_code == 400 and "threshold" in answer.json()["error"]
        assert client.get("/predict").json()["error"].endswith("send POST.")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hangup_while_models_are_opened_ends_nothing(digits_run, tmp_path):
    log = tmp_path / "serve.log"
    with log.open("w") as errors:
        process = subprocess.Popen(command(digits_run, "--port", 0), stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        while not any("torch" in line or "openvino" in line for line in _maps(process.pid)):  # it opens the model
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        assert "http://" in process.stdout.readline()
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="names of folders are Unicode there")
def test_a_name_that_is_no_text_is_shown_escaped(digits_run, digit_files, tmp_path):
    odd = tmp_path / os.fsdecode(b"pets \xff\n%41")
    shutil.copytree(digits_run / "model", odd)
    with serving(tmp_path / "serve.log", odd) as server, server.client() as client:
        answer = ask(client, digit_files[:1])
        assert answer.status_code == 200
        name = answer.json()["model"]
        assert name.isprintable() and name.startswith("pets ")
        assert client.get("/metrics").status_code == 200
        assert client.get("/v2/models").json()["models"][0]["name"] == name
        assert client.get("/v2/models/" + quote(name, safe="")).json()["name"] == name
        assert ask(client, digit_files[:1], f"model={quote(name)}").status_code == 200


def test_a_log_that_nobody_reads_stops_nothing(digits_run):
    words = command(digits_run, "--port", 0)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://[^/]+", process.stdout.readline()).group()
        with httpx.Client(base_url=address, timeout=10, trust_env=False) as client:
            for _ in range(700):  # lines of more than the 64 KiB that a pipe holds
                assert client.get("/v2/health/live").status_code == 200
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_token_is_printed_where_it_was_made_and_not_again(digits_run, digit_files, tmp_path):
    file = tmp_path / "token"
    for is_new in (True, False):
        process = subprocess.Popen(
            command(digits_run, "--port", 0, "--token-file", file), stdout=subprocess.PIPE, text=True
        )
        try:
            printed = process.stdout.readline() + process.stdout.readline()
            token = file.read_text().strip()
            assert len(token) >= 32
            assert (token in printed) == is_new
            assert (str(file) in printed) != is_new
            address = re.search(r"http://[^/]+", printed).group()
            bearer = {"Authorization": f"Bearer {token}"}
            with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
                assert ask(client, digit_files[:1]).status_code == 401
                client.headers.update(bearer)
                assert ask(client, digit_files[:1]).status_code == 200
        finally:
            process.kill()
            process.communicate()


def test_a_threshold_that_no_request_could_use_is_refused_at_the_start(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    labels = ["unclassified", "cat"] * 20
    run = loupe.train(
        (images, labels), recipe="digits", epochs=1, output=tmp_path, name="odd", device="cpu", quiet=True
    )
    done = subprocess.run(command(run.path, "--threshold", 0.5), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "unclassified" in done.stderr and "Traceback" not in done.stderr


def test_no_process_is_left(digits_run, tmp_path):
    with serving(tmp_path / "serve.log", digits_run) as server:
        children = server.children()
        assert children
        assert server.end() == 0
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(map(_lives, children)):
            time.sleep(0.05)
        assert not any(map(_lives, children))


def _maps(pid):
    try:
        return Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return []


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_is_loaded_is_no_work_for_the_garbage_collector():
    try:
        spare_collector()
        assert gc.get_freeze_count() > 10_000 > len(gc.get_objects())
    finally:
        gc.unfreeze()
