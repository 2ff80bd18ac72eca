"""Connection to Ray for one command: started on this machine, found, or at an address; quiet, bounded, ended with it.

A Ray that is started here listens on loopback, answers only to a random token, keeps its files in a folder of its own,
and ends with the command.
"""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import BaseFileLock, FileLock

from loupe.cluster.nodes import Cluster
from loupe.devices import StopSignal
from loupe.errors import ConfigError
from loupe.log import logger
from loupe.openmp import cores

STORE_BYTES = 256 * 2**20  # of the object store of a Ray that is started here; more is spilled to disk
LONGEST_FOLDER = 40  # bytes of a path in which Ray's sockets, with names of up to 65 bytes, may lie
REACH_SECONDS = 5.0
PREFIX = "loupe-ray-"
LOCK = ".lock"
ATTEMPTS = 10  # to make a folder that no other command removes before its lock is held
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOKEN = secrets.token_hex(32)
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a task without a GPU sees none
    "RAY_DEDUP_LOGS": "0",
    "RAY_TQDM_PATCH_PRINT": "0",
}


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Cluster for the block: `local` starts Ray on the cores of this machine, `auto` finds one, else HOST:PORT.

    Raises:
        ConfigError: Ray is not installed, no cluster is there, or a node has other versions of Python, Loupe or torch.
    """
    _check_address(address)
    with _environment(local=address == "local"), _folder(address) as folder:
        ray = imported()
        try:
            with _handlers():
                _start(ray, address, folder)
            cluster = Cluster.of_ray(address)
            cluster.check_versions()
            yield cluster
        finally:
            _shut_down(ray)


def imported() -> ModuleType:
    """The package ray.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--cluster needs Ray. Install it with: pip install 'loupe-vision[cluster]'") from None
    module: ModuleType = ray
    return module


def _check_address(address: str) -> None:
    """Check that something listens at an address: Ray itself would try for a minute.

    Raises:
        ConfigError: it is not an address, or nothing listens there.
    """
    if address in {"auto", "local"}:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--cluster {address}: give auto, local, or the address HOST:PORT that `ray start` printed.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"--cluster {address}: nothing answers there ({error.strerror or error}). Give the address that "
            "`ray start --head` printed, or start it."
        ) from None


def _start(ray: ModuleType, address: str, folder: Path | None) -> None:
    """Start Ray here, or connect to it.

    Raises:
        ConfigError: there is no cluster, or it cannot be used.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address == "local":
        logger.info("starting Ray on this machine")
        options |= {
            "num_cpus": cores(),
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
            "_temp_dir": str(folder),
        }
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:  # as its own errors are
        is_missing = address == "auto" and isinstance(error, ConnectionError)
        reason = "" if is_missing else f" ({' '.join(str(error).split())[:300]})"
        raise ConfigError(
            f"--cluster {address}: no Ray cluster can be used here{reason}. Start one with `ray start --head`, name "
            "its address, or give --cluster local."
        ) from None


@contextmanager
def _environment(*, local: bool) -> Iterator[None]:
    """Variables of a quiet Ray; of one that is started here also a token, which Ray would else store for the user.

    Ray listens on all interfaces, also where its address is given as loopback, unless clusters are off: the variable
    for that names the systems where they are off by default. Ray reads it and the token when it is imported: where it
    was imported before, its own settings stay.
    """
    values = dict(QUIET)
    if local and "ray" not in sys.modules:
        values["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if "RAY_AUTH_MODE" not in os.environ:
            values |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _folder(address: str) -> Iterator[Path | None]:
    """New folder with a short path for the files of a Ray that is started here, removed at the end."""
    if address != "local":
        yield None
        return
    parent = Path(tempfile.gettempdir())
    if os.name != "nt":
        parent = parent if len(os.fsencode(parent)) + len(PREFIX) + 9 <= LONGEST_FOLDER else Path("/tmp")
        _remove_left(parent)
    folder, lock = _new_folder(parent)
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder(parent: Path) -> tuple[Path, BaseFileLock]:
    """New folder, and its lock, which is held: the sign that its command runs, in whatever container.

    Raises:
        ConfigError: none can be made.
    """
    reason: object = "its lock is not kept"
    for _ in range(ATTEMPTS):
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            lock = FileLock(folder / LOCK, thread_local=False)
            lock.acquire(timeout=0)
            if (folder / LOCK).exists():
                return folder, lock
            lock.release()
        except (OSError, NotImplementedError) as error:  # as another command removes it, or there are no locks
            reason = error
    raise ConfigError(f"--cluster local: no folder can be made in {parent} ({reason}). Set TMPDIR to another.")


def _remove_left(parent: Path) -> None:
    """Remove the folders of commands that were killed: the system has freed their locks."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, NotImplementedError):
            if folder.lstat().st_uid == os.getuid():
                with FileLock(folder / LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _handlers() -> Iterator[None]:
    """Keep the handlers of signals, which Ray replaces by ones that end the process."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)


def _shut_down(ray: ModuleType) -> None:
    """End the connection, and a Ray that was started here, whatever signals come meanwhile.

    Ray resets SIGTERM to its default, unseen by Python. Leaving `StopSignal` sets the handler again.
    """
    with StopSignal() as stop:
        stop.is_heeded = True
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if os.name != "nt" else None
        try:
            ray.shutdown()
        finally:
            with _handlers():
                pass
            if blocked is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
