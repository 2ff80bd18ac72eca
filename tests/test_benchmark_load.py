"""Load generator of the benchmark of the server: on a server in this process whose times are known."""

import asyncio
import importlib.util
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("httptools")


def benchmark_module(name: str) -> ModuleType:
    """Module of the benchmarks, whose folder is on no path of the tests."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


load = benchmark_module("load")
REQUEST = load.upload(b"\xff\xd8 bytes", "a.jpg", "/predict")
ANSWER = b"HTTP/1.1 %d OK\r\nContent-Length: 2\r\nConnection: %s\r\n\r\n{}"


class OneAtATime:
    """Server that answers one request after the other, each after `seconds`, or what `statuses` say."""

    def __init__(self, seconds: float, statuses: Iterator[int] | None = None, keep: bool = True) -> None:
        self.seconds, self.statuses, self.keep = seconds, statuses, keep
        self.stall_at: dict[int, float] = {}
        self.asked: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while request := await reader.readexactly(len(REQUEST)):
                async with self.lock:
                    number = len(self.asked)
                    self.asked.append(request)
                    await asyncio.sleep(self.stall_at.get(number, self.seconds))
                status = next(self.statuses) if self.statuses else 200
                writer.write(ANSWER % (status, b"keep-alive" if self.keep else b"close"))
                if not self.keep:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    @contextmanager
    def running(self) -> Iterator[int]:
        """Port of the server, which runs in a thread of its own."""
        port, ready, loop = [0], threading.Event(), asyncio.new_event_loop()

        async def main() -> None:
            self.lock, self.stop = asyncio.Lock(), asyncio.Event()
            server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
            port[0] = server.sockets[0].getsockname()[1]
            ready.set()
            await self.stop.wait()
            server.close()

        thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
        thread.start()
        ready.wait()
        try:
            yield port[0]
        finally:
            loop.call_soon_threadsafe(self.stop.set)
            thread.join()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


def test_a_closed_loop_asks_every_request_once_over_kept_connections():
    server = OneAtATime(0.001)
    with server.running() as port:
        done = load.closed_loop(port, [REQUEST] * 20, connections=4)
    assert len(done.of_status(200)) == 20 and server.asked == [REQUEST] * 20
    assert server.connections == 4
    assert done.seconds >= 0.02 and done.per_second == 20 / done.seconds
    assert done.answers[0].json() == {} and 0 < done.sender_processor_seconds < done.seconds


def test_a_stall_counts_for_every_request_that_was_due_meanwhile():
    server = OneAtATime(0.0)
    server.stall_at[0] = 0.1
    with server.running() as port:
        done = load.open_loop(port, [REQUEST] * 20, load.constant(200, 0.1), connections=1)
    latencies = sorted(answer.latency for answer in done.answers)
    assert len(done.of_status(200)) == 20
    # The first waits for 100 ms, the next, due 5 ms later, for 95 ms, and so on: the median is near 50 ms.
    assert 0.1 <= latencies[-1] < 0.14 and 0.045 < latencies[10] < 0.1
    assert done.latency_ms(50) == pytest.approx(1e3 * latencies[10])


def test_refusals_and_lost_connections_are_told_apart():
    server = OneAtATime(0.0, statuses=iter([200, 429, 503, 504]), keep=False)
    with server.running() as port:
        done = load.open_loop(port, [REQUEST] * 5, load.constant(1000, 0.005), connections=1)
    assert sorted(answer.status for answer in done.answers) == [0, 200, 429, 503, 504]
    assert [answer.status for answer in done.refused] == [429, 503]
    assert server.connections == 5


def test_a_closed_port_gives_no_answers():
    with OneAtATime(0.0).running() as port:
        pass
    done = load.closed_loop(port, [REQUEST] * 3, connections=1)
    assert [answer.status for answer in done.answers] == [0, 0, 0] and done.per_second == 0


def test_arrivals():
    assert load.constant(4, 1) == [0, 0.25, 0.5, 0.75]
    assert load.constant(4, 0.5, start=2) == [2, 2.25]
    times = load.poisson(100, 50, seed=1)
    assert len(times) == 5000 and times == sorted(times) and times[-1] == pytest.approx(50, rel=0.05)
    assert times == load.poisson(100, 50, seed=1)


def test_an_upload_is_read_by_the_parser_of_forms():
    from python_multipart.multipart import FormParser, parse_options_header

    head, _, body = REQUEST.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert int(headers["Content-Length"]) == len(body)
    kind, options = parse_options_header(headers["Content-Type"])
    files = []
    parser = FormParser(kind.decode(), None, files.append, boundary=options[b"boundary"])
    parser.write(body)
    parser.finalize()
    [file] = files
    file.file_object.seek(0)
    assert (file.file_name, file.field_name) == (b"a.jpg", b"file")
    assert file.file_object.read() == b"\xff\xd8 bytes"


def test_percentiles_are_those_of_the_nearest_rank_above():
    answers = [load.Answer(1.0, 1.0, 1.0 + number / 1e3, 200, b"") for number in range(1, 101)]
    assert load.percentile_ms(answers, 99) == pytest.approx(100)
    assert load.percentile_ms(answers, 50) == pytest.approx(51)
    assert math.isnan(load.percentile_ms([], 99))
