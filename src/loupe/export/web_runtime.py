"""ONNX Runtime Web, which runs a network in a browser: downloaded once with its checksum, or given as a folder."""

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from loupe.cache import cache_folder
from loupe.data.sources.download import Source, download
from loupe.errors import DataError

SCRIPT = "ort.wasm.bundle.min.mjs"
WASM = "ort-wasm-simd-threaded.wasm"
NAMES = ("InferenceSession", "Tensor", "env")  # used by the page
VERSION = "1.30.0"
PUBLISHED = Source(
    f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz",
    "sha512:ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61",
    f"Or download onnxruntime-web {VERSION} elsewhere (npm pack onnxruntime-web@{VERSION}) and give its folder `dist` "
    "with --runtime.",
)
_EXPORTED = re.compile(r"export\s*\{([^{}]*)\}\s*;?\s*(//# sourceMappingURL=\S*\s*)?$")
_FOLDER_IN_ARCHIVE = "package/dist"


@dataclass(frozen=True)
class Runtime:
    """Runtime of a page.

    Attributes:
        script: module that sets `globalThis.runtime` to an object with `NAMES`; it imports and exports nothing.
        wasm: its WebAssembly.
    """

    script: str
    wasm: bytes


def published(source: Source = PUBLISHED) -> Runtime:
    """Runtime from the cache, downloaded if it is not there.

    Raises:
        DataError: it is not in the cache, and cannot be downloaded.
        DiskError: the cache cannot be written.
    """
    archive = download(source, cache_folder() / "runtimes" / source.url.rpartition("/")[2])
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as members:  # read as a stream: nothing is unpacked on the disk
            for member in members:
                name = member.name.removeprefix(f"{_FOLDER_IN_ARCHIVE}/")
                if name in (SCRIPT, WASM) and (file := members.extractfile(member)):
                    found[name] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{archive}: damaged: {error}. Delete it; it is downloaded again.") from None
    return _runtime(found, archive)


def of_folder(folder: Path) -> Runtime:
    """Runtime from a folder that holds `SCRIPT` and `WASM`, for example node_modules/onnxruntime-web/dist.

    Raises:
        DataError: a file is missing or is not what its name says.
    """
    return _runtime(
        {name: (folder / name).read_bytes() for name in (SCRIPT, WASM) if (folder / name).is_file()}, folder
    )


def _runtime(files: dict[str, bytes], where: Path) -> Runtime:
    for name in (SCRIPT, WASM):
        if name not in files:
            raise DataError(
                f"{where}: {name} is missing. Give the folder `dist` of onnxruntime-web {VERSION} with --runtime."
            )
    if not files[WASM].startswith(b"\0asm"):
        raise DataError(f"{where}: {WASM} is not WebAssembly. Download onnxruntime-web {VERSION} again.")
    return Runtime(_as_global(files[SCRIPT].decode(errors="replace"), where), files[WASM])


def _as_global(script: str, where: Path) -> str:
    """The module, with its exports as properties of `globalThis.runtime`: a page from disk can import no file."""
    match = _EXPORTED.search(script)
    pairs = (pair.split(" as ") for pair in match[1].split(",")) if match else ()
    exports = {pair[-1].strip(): pair[0].strip() for pair in pairs}
    if match is None or not exports.keys() >= {*NAMES} or re.search(r"</script|<!--", script, re.IGNORECASE):
        raise DataError(
            f"{where}: {SCRIPT} is not a module that exports {', '.join(NAMES)}. Loupe is tested with onnxruntime-web "
            f"{VERSION}."
        )
    members = ", ".join(f"{name}: {exports[name]}" for name in NAMES)
    return f"{script[: match.start()]}globalThis.runtime = {{{members}}};\n"
