"""The page of an export as a file: its structure, its policy, hostile names; and where its runtime comes from."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

import web_pages
from loupe.data.sources.download import Source
from loupe.errors import ConfigError, DataError
from loupe.export import web, web_runtime

CLASSES = ("cat", "dog", "horse", "ship")
HOSTILE = (
    "</script><img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>",
    "</script><!--<script>",
    "{{ 7 * 7 }}' onclick='document.title=1",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.etihw",
)


class Elements(HTMLParser):
    """Elements of a page, as (tag, attributes, text)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.is_open = False  # text after an element's end is not its own
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs), []))
        self.is_open = True

    def handle_endtag(self, tag) -> None:
        self.is_open = False

    def handle_data(self, data) -> None:
        if self.is_open:
            self.found[-1][2].append(data)

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.found if name == tag]


def elements(folder, classes=CLASSES, **changes) -> Elements:
    return Elements(web_pages.page(folder, classes, **changes).read_text(encoding="utf-8"))


def policy(page: Elements) -> dict[str, list[str]]:
    [content] = [meta["content"] for meta, _ in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    return {words[0]: words[1:] for directive in content.split(";") if (words := directive.split())}


def hashed(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_allows_no_network_and_only_the_pages_own_scripts(tmp_path):
    page = elements(tmp_path, HOSTILE, title=HOSTILE[0], threshold=0.8)
    allowed = policy(page)
    assert (
        allowed["default-src"] == allowed["connect-src"] == allowed["base-uri"] == allowed["form-action"] == ["'none'"]
    )
    assert allowed["img-src"] == ["blob:"]
    run = [text for attributes, text in page.of("script") if attributes.get("type") in (None, "module")]
    assert allowed["script-src"] == [*(hashed(text) for text in run), "'wasm-unsafe-eval'"]
    assert len(run) == len(web.SCRIPTS) + 1
    assert allowed["style-src"] == [hashed(text) for _, text in page.of("style")]
    tags = [tag for tag, _, _ in page.found]
    assert tags.index("script") > tags.index("meta") and not {"img", "link", "iframe", "object", "base"} & {*tags}
    for tag, attributes, _ in page.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert "src" not in attributes and attributes.get("href", "#").startswith("#")
    ids = [attributes["id"] for _, attributes, _ in page.found if "id" in attributes]
    assert len(ids) == len({*ids})


def test_names_are_text_and_nothing_else(tmp_path):
    hostile, plain = elements(tmp_path / "a", HOSTILE, title=HOSTILE[0]), elements(tmp_path / "b", CLASSES)
    assert [tag for tag, _, _ in hostile.found] == [tag for tag, _, _ in plain.found]
    assert hostile.of("h1")[0][1].strip() == HOSTILE[0]
    assert [text for attributes, text in hostile.of("b") if attributes.get("class") == "name"] == [*HOSTILE, *HOSTILE]
    [facts] = [json.loads(text) for attributes, text in hostile.of("script") if attributes.get("id") == "facts"]
    assert facts["classes"] == [*HOSTILE] and facts["threshold"] is None


def test_the_model_and_the_runtime_are_in_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "PART_BYTES", 9)
    page = elements(tmp_path)
    found: dict[str, bytes] = {}
    for attributes, text in page.of("script"):
        if name := attributes.get("data-part"):
            found[name] = found.get(name, b"") + b64decode(text, validate=True)
    assert gzip.decompress(found["wasm"]) == web_pages.WASM
    assert json.loads(gzip.decompress(found["model"]))["classes"] == 4
    assert sum(attributes.get("data-part") == "model" for attributes, _ in page.of("script")) > 3


def test_the_same_model_gives_the_same_page(tmp_path):
    assert web_pages.page(tmp_path / "a", CLASSES).read_bytes() == web_pages.page(tmp_path / "b", CLASSES).read_bytes()


def test_a_threshold_is_in_the_page(tmp_path):
    page = elements(tmp_path, threshold=0.8)
    [facts] = [json.loads(text) for attributes, text in page.of("script") if attributes.get("id") == "facts"]
    assert facts["threshold"] == 0.8
    assert [text for attributes, text in page.of("b") if not attributes] == ["unclassified"]


def test_what_a_browser_cannot_do_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unclassified"):
        web_pages.page(tmp_path, ("cat", "unclassified"), threshold=0.5)
    deep = web_pages.PREPROCESSING.model_copy(update={"range": (0, 4095)})
    with pytest.raises(ConfigError, match="4095"):
        web_pages.page(tmp_path, CLASSES, preprocessing=deep)
    assert not (tmp_path / web.PAGE).exists()


@pytest.mark.parametrize("missing", [web_runtime.SCRIPT, web_runtime.WASM])
def test_a_folder_without_the_runtime_is_refused_by_name(tmp_path, missing):
    (web_pages.runtime_folder(tmp_path) / missing).unlink()
    with pytest.raises(DataError, match=missing.replace(".", r"\.")):
        web_runtime.of_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (web_runtime.WASM, b"not wasm"),
        (web_runtime.SCRIPT, b""),
        (web_runtime.SCRIPT, b"export{a as InferenceSession,b as Tensor};"),
        (web_runtime.SCRIPT, b"'</SCRIPT>';export{a as InferenceSession,b as Tensor,c as env};"),
        (web_runtime.SCRIPT, b"export{a as InferenceSession,b as Tensor,c as env};alert(1)"),
    ],
)
def test_a_runtime_of_another_form_is_refused(tmp_path, name, content):
    (web_pages.runtime_folder(tmp_path) / name).write_bytes(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        web_runtime.of_folder(tmp_path)


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A server of a small archive in the form of npm's, and an empty cache: the source, and the requests it got."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path / "cache"))
    folder, asked = tmp_path / "server", []
    folder.mkdir()
    archive = folder / "onnxruntime-web-0.tgz"
    with tarfile.open(archive, "w:gz") as file:
        files = {web_runtime.SCRIPT: web_pages.RUNTIME.encode(), web_runtime.WASM: web_pages.WASM, "ort.js": b"other"}
        for name, content in {**files, "../../escape": b"x"}.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))

    class Handler(Silent):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        digest = hashlib.sha512(archive.read_bytes()).hexdigest()
        yield Source(f"http://127.0.0.1:{server.server_port}/{archive.name}", f"sha512:{digest}", "--runtime."), asked
        server.shutdown()
        thread.join()


def test_the_runtime_is_downloaded_once(registry, tmp_path):
    source, asked = registry
    runtime = web_runtime.published(source)
    assert runtime == web_runtime.of_folder(web_pages.runtime_folder(tmp_path / "given")) and len(asked) == 1
    assert web_runtime.published(source) == runtime and len(asked) == 1
    cached = tmp_path / "cache" / "runtimes"
    assert {path.name for path in cached.iterdir() if path.suffix != ".lock"} == {"onnxruntime-web-0.tgz"}


def test_a_download_of_other_content_is_refused(registry, tmp_path):
    source, _ = registry
    with pytest.raises(DataError, match="checksum"):
        web_runtime.published(Source(source.url, "sha512:" + "0" * 128, "--runtime."))
    assert not list((tmp_path / "cache").rglob("*.tgz"))


def test_offline_the_runtime_is_refused_unless_it_is_in_the_cache(registry, monkeypatch):
    source, asked = registry
    monkeypatch.setenv("LOUPE_OFFLINE", "1")
    with pytest.raises(DataError, match=r"LOUPE_OFFLINE=1 .*--runtime"):
        web_runtime.published(source)
    assert not asked
    monkeypatch.delenv("LOUPE_OFFLINE")
    web_runtime.published(source)
    monkeypatch.setenv("LOUPE_OFFLINE", "1")
    assert web_runtime.published(source).wasm == web_pages.WASM


def test_a_damaged_archive_in_the_cache_is_named(registry, tmp_path):
    source, _ = registry
    cached = tmp_path / "cache" / "runtimes" / "onnxruntime-web-0.tgz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(DataError, match=r"onnxruntime-web-0\.tgz"):
        web_runtime.published(source)


def test_the_published_runtime_has_a_strong_checksum():
    algorithm, _, digits = web_runtime.PUBLISHED.checksum.partition(":")
    assert algorithm == "sha512" and len(bytes.fromhex(digits)) == 64
    assert web_runtime.PUBLISHED.url.startswith("https://registry.npmjs.org/onnxruntime-web/")
