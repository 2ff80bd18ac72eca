"""`loupe serve`: trained models over HTTP."""

import shlex
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.cli.options import Device, Output, Quiet
from loupe.errors import ConfigError, enumerated

if TYPE_CHECKING:
    from loupe.serve.guard import Access
    from loupe.serve.service import Service

LOOPBACK = ("127.0.0.1", "localhost", "::1")
WILDCARDS = ("0.0.0.0", "::")


def serve(
    runs: Annotated[list[str], typer.Argument(help="Runs: folders or names; or folders of exports.")],
    host: Annotated[str, typer.Option(help="Address to listen at. Others than loopback need --token-file.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 for any. Default: the first free one from 8000 on.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that requests have to have. It is made if it does not exist."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Origin whose pages may ask, for example https://example.org."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Further name of the server, as behind a proxy.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Probability below which an image stays unclassified. Requests may say another."
        ),
    ] = None,
    deadline: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds in which a request is answered.")] = 30.0,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait for each model; more are refused.")] = 128,
    max_body: Annotated[int, typer.Option(min=1, max=4096, help="Size of a request in MiB.")] = 32,
    decoders: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes that decode images. Default: one for each core.")
    ] = None,
    device: Device = "auto",
    output: Output = Path("runs"),
    quiet: Quiet = False,
) -> None:
    """Serve classifiers over HTTP, with a page to try them.

    Answers are those of `loupe predict`. Ends with Ctrl-C or SIGTERM, once everything in flight is answered.
    """
    if host.lower() not in LOOPBACK and token_file is None:
        raise ConfigError(
            f"--host {host} can be reached from other machines: give --token-file FILE, which is made if it does not "
            "exist. Or leave --host out."
        )
    try:
        from loupe.serve import server
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("loupe"):
            raise
        raise ConfigError(f"loupe serve needs the package {error.name}: pip install 'loupe-vision[serve]'") from None
    from loupe.serve.access_log import log_to_stderr
    from loupe.serve.guard import read_token
    from loupe.serve.limits import MIB, Limits

    is_new = token_file is not None and not token_file.exists()
    token = None if token_file is None else read_token(token_file)
    limits = Limits(
        body_bytes=max_body * MIB,
        held_bytes=max(Limits.held_bytes, 2 * max_body * MIB),
        queue_images=queue,
        deadline_seconds=deadline,
        send_seconds=max(Limits.send_seconds, deadline, float(max_body)),
    )
    options = server.Options(
        host=host,
        port=port,
        token=token,
        origins=tuple(allow_origin or ()),
        hosts=tuple(allow_host or ()),
        device=device,
        threshold=threshold,
        decoders=decoders,
        limits=limits,
    )
    folders = [_named(run, output) for run in runs]
    with log_to_stderr(requests=not quiet):
        server.run(folders, options, partial(_announce, None if is_new or sys.stdout.isatty() else token_file))


def _named(run: str, output: Path) -> tuple[str, Path]:
    """Name and folder of a model: of a run, an export, or a copy of the model folder of a run."""
    from loupe.export.folder import MANIFEST, Manifest, is_export
    from loupe.models.bundle_config import CONFIG, WEIGHTS
    from loupe.rundir import open_run

    path = Path(run)
    if is_export(path):
        return Manifest.read(path / MANIFEST).run, path
    if all((path / name).is_file() for name in (CONFIG, WEIGHTS)):
        return path.resolve().name, path
    opened = open_run(run, output)
    return opened.name, opened.model


def _announce(token_file: Path | None, access: "Access", service: "Service") -> None:
    """Print the address, and a command to try it; of the token only its file, where that is given."""
    name = socket.gethostname() if access.host in WILDCARDS else access.host
    address = f"http://{f'[{name}]' if ':' in name else name}:{access.port}"
    fragment, header = "", ""
    if access.token:
        fragment = f"#token={access.token}" if token_file is None else f" (token: {token_file})"
        shown = access.token if token_file is None else f"$(cat {shlex.quote(str(token_file))})"
        header = f'-H "Authorization: Bearer {shown}" '
    top = min(3, len(service.model(None).classes))
    print(f"serving {enumerated(list(service.models))} at {address}/{fragment}")
    print(f"  curl {header}-F image=@photo.jpg '{address}/predict?top={top}'", flush=True)
