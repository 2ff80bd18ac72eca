"""Process of the server: its socket, its start, its reloads and its end.

SIGTERM and Ctrl-C: no new connection is taken, what is in flight is answered, and the process ends with exit code 0.
SIGHUP, or new files of a model: the model is opened again beside the old one, and takes its place once it computes.
"""

import asyncio
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.routing import Route

from loupe.data.processes import worker_count
from loupe.errors import ConfigError
from loupe.log import printable
from loupe.serve import evidence, inference_protocol, openapi, page
from loupe.serve.access_log import log
from loupe.serve.app import create_app
from loupe.serve.connections import Connections
from loupe.serve.decoders import Decoders
from loupe.serve.guard import Access
from loupe.serve.limits import Limits
from loupe.serve.metrics import Metrics
from loupe.serve.served import ServedModel, open_model, signature, unique_names
from loupe.serve.service import Service

FIRST_PORT, PORTS = 8000, 100
END_SECONDS = 10  # for what is in flight
WATCH_SECONDS = 2.0


@dataclass(frozen=True)
class Options:
    """Options of a server.

    Attributes:
        host, port: address; port None for the first free one from 8000 on, 0 for any.
        token: that every request has to have; None for none.
        origins: foreign origins whose pages may ask.
        hosts: further names by which the server is reached.
        device, threshold: as for `served.open_model`.
        decoders: number of processes that decode; None for one for each core.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    token: str | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    device: str = "auto"
    threshold: float | None = None
    decoders: int | None = None
    limits: Limits = field(default_factory=Limits)


def run(folders: Sequence[tuple[str, Path]], options: Options, announce: Callable[[Access, Service], None]) -> None:
    """Serve models until a signal ends it.

    Args:
        folders: name and folder of each model.
        options: options of the server.
        announce: called once requests are answered.

    Raises:
        LoupeError: a model cannot be opened, or the address cannot be used.
    """
    with _hangups_left(), bound(options.host, options.port) as listening:
        names = unique_names([printable(name).replace("\n", "\\n") for name, _ in folders])
        opened = partial(open_model, device=options.device, threshold=options.threshold)
        models = {name: opened(folder, name) for name, (_, folder) in zip(names, folders, strict=True)}
        access = Access(
            host=options.host,
            port=listening.getsockname()[1],
            token=options.token,
            origins=options.origins,
            hosts=options.hosts,
        )
        asyncio.run(_serve(models, options, access, listening, announce))


async def _serve(
    models: dict[str, ServedModel],
    options: Options,
    access: Access,
    listening: socket.socket,
    announce: Callable[[Access, Service], None],
) -> None:
    service = Service(models, Decoders(options.decoders or worker_count()), Metrics(models), options.limits)
    for model in models.values():
        service.metrics.describe(model.name, model.weights, model.engine.name)
    server = _Server(
        uvicorn.Config(
            create_app(service, access, more=routes(service)),
            http=Connections,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=END_SECONDS,
        )
    )
    reloads = Reloads(service, partial(open_model, device=options.device, threshold=options.threshold))
    await service.decoders.start()
    spare_collector()
    watching = asyncio.create_task(reloads.watch())
    with _signals(partial(_end, service, server), reloads.ask):
        started = asyncio.create_task(_announced(server, partial(announce, access, service)))
        try:
            await server.serve(sockets=[listening])
        finally:
            for task in (watching, started):
                task.cancel()
            await service.close()


def routes(service: Service) -> list[Route]:
    """All routes but those of the application itself."""
    return [
        *page.routes(service.limits),
        *evidence.routes(),
        *inference_protocol.routes(service),
        *openapi.routes(service),
    ]


def spare_collector() -> None:
    """Exempt all objects that exist now from the garbage collector.

    PyTorch alone brings 400,000, and every full collection would stop all requests for 0.1 to 0.3 s.
    """
    gc.unfreeze()  # so that the cycles of a model that was replaced are collected
    gc.collect()
    gc.freeze()


def _end(service: Service, server: uvicorn.Server) -> None:
    server.force_exit = not service.ready  # asked for the second time
    server.should_exit = True
    service.ready = False


async def _announced(server: uvicorn.Server, announce: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    announce()


class _Server(uvicorn.Server):
    """Server without handlers of signals, which are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _hangups_left() -> Iterator[None]:
    """Context in which SIGHUP does not end the process: while models are opened, there is nothing to reload."""
    number: signal.Signals | None = getattr(signal, "SIGHUP", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    if before != signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def _signals(end: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Context in which signals end the server or reload its models; one that was ignored before stays so."""
    loop = asyncio.get_running_loop()
    handlers = {"SIGINT": end, "SIGTERM": end, "SIGHUP": reload, "SIGBREAK": end}
    before: dict[signal.Signals, Any] = {}
    for name, handler in handlers.items():
        number: signal.Signals | None = getattr(signal, name, None)
        if number is None or signal.getsignal(number) == signal.SIG_IGN:
            continue
        before[number] = signal.getsignal(number)
        try:
            loop.add_signal_handler(number, handler)
        except NotImplementedError:  # Windows
            signal.signal(number, partial(_from_thread, loop, handler))
    try:
        yield
    finally:
        for number, earlier in before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, earlier)


def _from_thread(loop: asyncio.AbstractEventLoop, handler: Callable[[], None], *_: object) -> None:
    loop.call_soon_threadsafe(handler)


class Reloads:
    """Models that are opened again when their files change, or when asked.

    Args:
        service: holds the models.
        open_again: opens the model in a folder under a name.
    """

    def __init__(self, service: Service, open_again: Callable[[Path, str], ServedModel]) -> None:
        self._service = service
        self._open = open_again
        self._asked = asyncio.Event()
        self._refused: dict[str, object] = {}  # signatures of files that could not be opened

    def ask(self) -> None:
        """Open all models again now."""
        self._asked.set()

    async def watch(self) -> None:
        """Look for new files now and then, until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), WATCH_SECONDS)
            everything = self._asked.is_set()
            self._asked.clear()
            for model in list(self._service.models.values()):
                await self._check(model, now=everything)

    async def _check(self, model: ServedModel, *, now: bool) -> None:
        found = await asyncio.to_thread(signature, model.folder)
        if not now and found in (model.signature, self._refused.get(model.name)):
            return
        try:
            new = await asyncio.to_thread(self._open, model.folder, model.name)
        except Exception as error:  # a GPU's memory may be full, and the old model goes on in any case
            self._refused[model.name] = found
            log(logging.WARNING, "not reloaded", model=model.name, reason=f"{type(error).__name__}: {error}")
            return
        self._refused.pop(model.name, None)
        self._service.replace(new)
        spare_collector()
        self._service.metrics.describe(new.name, new.weights, new.engine.name)
        log(logging.INFO, "reloaded", model=new.name, weights=new.weights)


@contextmanager
def bound(host: str, port: int | None) -> Iterator[socket.socket]:
    """Context with a socket that listens at an address, for IPv4 or IPv6.

    Args:
        host: name or address.
        port: port; None for the first free one from 8000 on, 0 for any.

    Raises:
        ConfigError: the address is unknown, or cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host}: no such address ({error}).") from None
    wanted = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else range(port, port + 1)
    with socket.socket(family, kind, protocol) as listening:
        if hasattr(socket, "SO_REUSEADDR") and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # not on Windows
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reason = "all are in use"
        for number in wanted:
            try:
                listening.bind((address[0], number, *address[2:]))
            except OSError as error:
                reason = error.strerror or str(error)
                continue
            listening.listen(2048)
            yield listening
            return
    ports = f"port {port}" if port is not None else f"ports {wanted.start} to {wanted.stop - 1}"
    raise ConfigError(f"{host}, {ports}: cannot be used ({reason}). Choose another with --port, or --port 0 for any.")
