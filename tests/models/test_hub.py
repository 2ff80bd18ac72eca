"""Weights of a hub: a server of our own that answers, refuses, hangs, stalls, breaks off or sends other bytes."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from loupe.config.network import BackboneSpec
from loupe.data.sources.download import Source, download
from loupe.doctor import checks
from loupe.errors import ConfigError, DataError, DiskError
from loupe.models import hub
from loupe.models.timm import weights
from loupe.offline import offline_variable
from loupe.recipes import choice
from loupe.recipes.ladder import ladder

COMMIT = "c" * 40
FILE = hub.HubFile("timm/test_resnet.r160_in1k", "model.safetensors")
SPEC = BackboneSpec(backbone="test_resnet.r160_in1k", weights="timm")


class Hub(ThreadingHTTPServer):
    """Hub with one file. `mode` says how it answers, `asked` what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode = "whole"
        self.data = b"weights" * 100_000
        self.name = "model.safetensors"
        self.asked: list[tuple[str, str]] = []
        self.closing = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        server, data = self.server, self.server.data
        server.asked.append((self.command, self.path))
        if server.mode == "hangs":
            server.closing.wait()
            return
        if server.mode.isdecimal() or not self.path.endswith(server.name):
            self.send_response(int(server.mode) if server.mode.isdecimal() else 404)
            if not server.mode.isdecimal():
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            sent = data[::-1] if server.mode == "other bytes" else data
            half = server.mode in ("stalls", "breaks off")
            self.wfile.write(sent[: len(sent) // 2] if half else sent)
            self.wfile.flush()
            if server.mode == "stalls":
                server.closing.wait()
            if half:
                self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, an empty cache, and short times to wait."""
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "2")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "2")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.forget_failures()
    with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()
    hub.forget_failures()


def refused(file: hub.HubFile = FILE) -> str:
    with pytest.raises(hub.DownloadError) as error:
        file.fetch()
    return str(error.value)


def blobs(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "hub").rglob("blobs/*") if not path.name.endswith(".incomplete")]


def test_a_file_is_downloaded_once_and_then_used_without_asking(server, tmp_path, capfd):
    assert FILE.cached() is None
    path = FILE.fetch()
    assert path.read_bytes() == server.data
    assert path.is_relative_to(tmp_path / "hub") and path.name == "model.safetensors"
    assert {method for method, _ in server.asked} == {"HEAD", "GET"}
    assert {where for _, where in server.asked} == {f"/{FILE.repository}/resolve/main/model.safetensors"}
    server.asked.clear()
    server.mode = "500"
    assert FILE.fetch() == FILE.cached() == path
    assert server.asked == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("401", "answered 401 for timm/test_resnet.r160_in1k/model.safetensors or it asks for a login"),
        ("403", "asks for a login"),
        ("404", "answered 404 for timm/test_resnet.r160_in1k/model.safetensors"),
        ("500", "answered 500"),
        ("503", "answered 503"),
        ("429", "answered 429"),
    ],
)
def test_a_refusal_is_one_request_and_said_with_its_status(server, status, says, capfd):
    server.mode = status
    first, second = refused(), refused()
    assert says in first and first == second
    assert first.startswith(f"127.0.0.1:{server.server_port} answered")
    assert len(server.asked) == 1
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_fails_is_not_asked_for_other_files_and_one_that_refuses_is(server):
    server.mode = "500"
    refused()
    refused(hub.HubFile("timm/other", "model.safetensors"))
    assert len(server.asked) == 1
    hub.forget_failures()
    server.mode = "404"
    refused()
    refused(hub.HubFile("timm/other", "model.safetensors"))
    assert len(server.asked) == 3
    server.mode = "whole"
    server.name = "none.safetensors"
    with pytest.raises(hub.MissingFileError):
        hub.HubFile("timm/third", "model.safetensors").fetch()


def test_a_failure_is_forgotten_after_some_minutes(server, monkeypatch):
    server.mode = "500"
    refused()
    server.mode = "whole"
    refused()
    monkeypatch.setattr(hub, "MEMORY_SECONDS", 0.0)
    assert FILE.fetch().is_file()


@pytest.mark.slow
def test_five_seconds_are_waited_unless_the_hub_s_own_variables_say_otherwise(server, monkeypatch):
    server.mode = "hangs"
    began = time.monotonic()
    assert refused().endswith("does not answer within 2 s")
    assert time.monotonic() - began < 6, "two seconds, and the start of a process"
    began = time.monotonic()
    refused()
    assert time.monotonic() - began < 0.5
    assert len(server.asked) == 1
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT")
    assert hub._seconds("HF_HUB_ETAG_TIMEOUT") == hub.WAIT_SECONDS == 5.0


@pytest.mark.slow
def test_a_connection_that_is_never_accepted(server, monkeypatch):
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)  # one connection waits; of further ones not even the first packet is answered
        first.connect(deaf.getsockname())
        second.setblocking(False)
        second.connect_ex(deaf.getsockname())
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        said = refused()
        assert "within 2 s" in said or "timed out" in said
        assert time.monotonic() - began < 6


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        ({"HF_ENDPOINT": "http://no-such-host.invalid"}, "no-such-host.invalid"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1:9"),
        ({"HF_ENDPOINT": "https://hub.invalid", "HTTPS_PROXY": "http://127.0.0.1:9"}, "hub.invalid"),
    ],
    ids=["name", "port", "proxy"],
)
def test_no_name_no_server_and_no_proxy(server, monkeypatch, variables, host, capfd):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert refused().startswith(f"{host} cannot be reached: ") or "does not answer" in refused()
    assert "Errno" not in refused()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_download_that_stalls_half_way_is_given_up(server, tmp_path, capfd):
    server.mode = "stalls"
    began = time.monotonic()
    assert "sends nothing more after 320 KiB of model.safetensors" in refused()
    assert time.monotonic() - began < 8
    assert FILE.cached() is None and blobs(tmp_path) == []
    count = len(server.asked)
    refused()
    time.sleep(1.5)
    assert len(server.asked) == count, "nobody goes on asking in the background"
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_download_that_breaks_off_is_not_taken_for_whole(server, tmp_path):
    """Nor asked for without end: it begins anew each time."""
    server.mode = "breaks off"
    began = time.monotonic()
    assert "sends nothing more after 320 KiB of model.safetensors" in refused()
    assert time.monotonic() - began < 8
    assert FILE.cached() is None and blobs(tmp_path) == []


def test_other_bytes_than_the_hub_names_are_removed(server, tmp_path):
    server.mode = "other bytes"
    assert "wrong checksum" in refused()
    assert FILE.cached() is None and blobs(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_a_disk_error(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(DiskError, match="HF_HOME"):
        FILE.fetch()


@pytest.mark.parametrize("variable", ["LOUPE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nobody_is_asked(server, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")

    def no_process(*arguments: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(hub.subprocess, "Popen", no_process)
    monkeypatch.setattr("loupe.data.sources.download.urlopen", no_process)
    assert refused() == f"{variable}=1 forbids asking for them"
    source = Source(os.environ["HF_ENDPOINT"], "", "Give the file itself.")
    with pytest.raises(DataError, match=f"{variable}=1.*Give the file itself"):
        download(source, tmp_path / "there")
    (tmp_path / "there").write_text("")
    assert download(source, tmp_path / "there").is_file()
    with pytest.raises(ConfigError, match=f"{variable}=1"):
        weights.check_weights(SPEC)
    [finding] = checks.hub()
    assert finding.value == f"not asked: {variable}=1 is set" and f"unset {variable}" in finding.remedy
    assert server.asked == []
    monkeypatch.setenv(variable, "0")
    assert offline_variable() is None


def test_the_doctor_asks_and_downloads_nothing(server, tmp_path):
    [finding] = checks.hub()
    assert finding.state == "ok" and os.environ["HF_ENDPOINT"] in finding.value
    assert [method for method, _ in server.asked] == ["HEAD"]
    assert not (tmp_path / "hub").exists()
    server.mode = "503"
    [finding] = checks.hub()
    assert finding.state == "warning" and "answered 503" in finding.value


def test_what_is_missing_what_is_done_and_how_to_get_it_in_one_line(server):
    server.mode = "500"

    def chosen() -> str:
        found, reason = choice.choose(
            default=None,
            model=None,
            weights=None,
            images_per_class=20,
            typical_px=lambda: 300,
            are_signs=lambda: False,
        )
        assert found.name == "photographs"
        return reason

    reason = chosen()
    assert "\n" not in reason and reason.startswith("Recipe photographs, from scratch: ")
    host = f"127.0.0.1:{server.server_port}"
    assert (
        f"The pretrained weights of tf_efficientnet_lite0 are not on this machine, and {host} answered 500." in reason
    )
    name = "tf_efficientnet_lite0.in1k.safetensors"
    url = f"http://{host}/timm/tf_efficientnet_lite0.in1k/resolve/main/model.safetensors"
    assert f"On a machine with a network: curl -L -o {name} {url}. " in reason
    assert f"--model tf_efficientnet_lite0 --weights {name}" in reason
    names, why = ladder(dataset_recipe=None, typical_px=300, model=None, weights=None)
    assert names == ["photographs-plain", "photographs"] and "answered 500. On a machine" in why
    assert chosen() == reason
    assert len(server.asked) == 1, "for all of them"


def test_weights_of_the_hub_are_what_timm_gives(server, tmp_path, monkeypatch):
    """The second file that timm knows, a network from the cache alone, and a damaged file named in the error."""
    torch.manual_seed(3)
    state = timm.create_model("test_resnet").state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    server.data = (tmp_path / "w.safetensors").read_bytes()
    weights.fetch(SPEC.backbone)
    path = weights.weights_file(SPEC)
    assert path is not None
    monkeypatch.setenv("LOUPE_OFFLINE", "1")
    loaded = weights.load(SPEC).state_dict()
    assert loaded and all(torch.equal(value, state[name]) for name, value in loaded.items())
    path.resolve().write_bytes(b"damaged")
    with pytest.raises(ConfigError) as error:
        weights.load(SPEC)
    assert str(path) in str(error.value) and "Delete this file" in str(error.value)


def test_the_older_file_of_a_repository_is_taken_where_it_has_no_safetensors(server, tmp_path):
    torch.manual_seed(4)
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, tmp_path / "w.bin")
    server.data, server.name = (tmp_path / "w.bin").read_bytes(), "pytorch_model.bin"
    spec = SPEC.model_copy(update={"weights": "hf-hub:me/old@v2"})
    weights.check_weights(spec)
    assert weights.weights_file(spec).name == "pytorch_model.bin"
    assert {where for _, where in server.asked} == {
        "/me/old/resolve/v2/model.safetensors",
        "/me/old/resolve/v2/pytorch_model.bin",
    }
    loaded = weights.load(spec).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_weights_outside_the_hub_have_an_address_of_their_own(server, tmp_path, monkeypatch):
    target = tmp_path / "checkpoints" / f"net-{hashlib.sha256(server.data).hexdigest()[:8]}.safetensors"
    url = f"{os.environ['HF_ENDPOINT']}/{server.name}"
    server.mode = "breaks off"
    with pytest.raises(hub.DownloadError, match=r"ended at 350,000 of 700,000 bytes"):
        hub.fetch_address(url, target)
    assert not list(target.parent.iterdir())
    hub.forget_failures()
    server.mode = "other bytes"
    with pytest.raises(hub.DownloadError, match="wrong checksum"):
        hub.fetch_address(url, target)
    hub.forget_failures()
    server.mode = "whole"
    assert hub.fetch_address(url, target).read_bytes() == server.data
    server.asked.clear()
    assert hub.fetch_address(url, target) == target and server.asked == []
    assert weights._address(BackboneSpec(backbone="gcvit_tiny.in1k", weights="timm"))[0].startswith(
        "https://github.com/"
    )
