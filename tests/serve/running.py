"""A server in a thread of the test's process, on loopback and a free port."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from digits_service import HereDecoders

from loupe.serve.app import create_app
from loupe.serve.guard import Access
from loupe.serve.limits import Limits
from loupe.serve.metrics import Metrics
from loupe.serve.served import open_model
from loupe.serve.server import routes
from loupe.serve.service import Service

END_SECONDS = 10


def service_of(models: Mapping[str, Path], limits: Limits | None = None) -> Service:
    """Service of the models in folders, which decodes without processes."""
    opened = {name: open_model(folder, name, device="cpu") for name, folder in models.items()}
    return Service(opened, HereDecoders(), Metrics(opened), limits or Limits())


def application(service: Service, port: int, token: str | None = None):
    return create_app(service, Access("127.0.0.1", port, token), more=routes(service))


@contextmanager
def running(models: Mapping[str, Path], token: str | None = None) -> Iterator[str]:
    """Address of a server of the models in folders."""
    service = service_of(models)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        app = application(service, port, token)
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=2))

        async def serve() -> None:
            await server.serve(sockets=[listening])
            await service.close()

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join(END_SECONDS)
            assert not thread.is_alive()
