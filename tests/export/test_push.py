"""Push of an export to a hub: a server of our own that keeps repositories, refuses or hangs."""

import base64
import hashlib
import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from loupe.cli import main
from loupe.errors import ConfigError
from loupe.export import hub
from loupe.export.folder import MANIFEST
from loupe.export.job import Options

pytestmark = pytest.mark.slow  # each push is a process of its own

TOKEN = "hf_" + "s" * 34
NAME = "ann/pets"
LFS_BYTES = 1000  # larger files go there, in place of the commit


class Hub(ThreadingHTTPServer):
    """Hub with repositories. `refuse` maps the end of a path to a status and a message."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict] = {}
        self.contents: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[dict] = []
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.refuse: dict[str, tuple[int, str]] = {}
        self.hangs = ""
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        server, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.asked.append((self.command, path))
        if server.hangs and path.endswith(server.hangs):
            server.closing.wait()
            return None
        for end, (status, message) in server.refuse.items():
            if path.endswith(end):
                return self._answer(status, {"error": message}, {"X-Error-Message": message.partition("\n")[0]})
        if path.startswith("/objects/"):
            server.objects[path.rpartition("/")[2]] = body
            return self._answer(200, {})
        server.tokens.add(self.headers.get("Authorization"))
        content = [json.loads(line) for line in body.splitlines()] if body else []
        if path == "/api/repos/create":
            return self._create(content[0])
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            href = {item["oid"]: {"href": f"{server.url}/objects/{item['oid']}"} for item in content[0]["objects"]}
            objects = [{**item, "actions": {"upload": href[item["oid"]]}} for item in content[0]["objects"]]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        held = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if held is not None:
            return self._send(200, server.contents[held[1]][held[2]], {})
        name = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path)
        if name is None or name[1] not in server.repositories:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if name[2] is None:
            return self._answer(200, {"id": name[1], **server.repositories[name[1]]})
        if name[2] == "/preupload/main":
            modes = {file["path"]: "lfs" if file["size"] > LFS_BYTES else "regular" for file in content[0]["files"]}
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self._answer(200, {"files": files})
        server.commits.append(self._commit(name[1], content))
        return self._answer(200, {"commitUrl": f"{server.url}/{name[1]}/commit/{'c' * 40}", "commitOid": "c" * 40})

    def _create(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        hidden = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
        self.server.repositories[name] = {"private": hidden, "sha": "0" * 40, "siblings": []}
        self.server.contents[name] = {}
        self._answer(200, {"url": f"{self.server.url}/{name}"})

    def _commit(self, name: str, lines: list[dict]) -> dict:
        header, files, deleted = lines[0]["value"], {}, []
        contents = self.server.contents[name]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                deleted.append(value["path"])
                del contents[value["path"]]
                continue
            lfs = line["key"] == "lfsFile"
            files[value["path"]] = self.server.objects[value["oid"]] if lfs else base64.b64decode(value["content"])
        contents |= files
        siblings = [{"rfilename": path} for path in contents]
        self.server.repositories[name] |= {"sha": "c" * 40, "siblings": siblings}
        return {"name": name, "files": files, "deleted": deleted, **header}

    def _answer(self, status: int, content: dict, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), {**(headers or {}), "Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A hub on this machine, and a token in the environment."""
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path) -> Path:
    """An export with a large file and a small one in a folder; beside them others, and a link out of the folder."""
    files = {"model.safetensors": bytes(range(256)) * 200, "more/config.json": b"{}"}
    export = save_export(tmp_path / "export", files)
    for name in (".lock", "notes.txt", "more/photograph.jpg"):
        (export / name).write_text("mine", "utf-8")
    (export / "passwords").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("secret", "utf-8")
    return export


def save_export(folder: Path, files: dict[str, bytes]) -> Path:
    """Folder of an export with the given files of a model."""
    described = {"schema": 1, "target": "timm", "precision": "fp32", "model": None, "files": dict.fromkeys(files, "")}
    described |= {
        "classes": ["cat", "dog"],
        "preprocessing": {"size_px": 20, "load_px": 24},
        "temperature": 1.0,
        "run": "pets",
    }
    described |= {"weights_blake2b": "", "loupe": "1"}
    card = b"---\ntags: [loupe]\n---\n# pets\n"
    own = {"card.md": card, "parity.json": b"{}", MANIFEST: json.dumps(described).encode()}
    for name, data in {**files, **own}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def push(folder: Path, *, public: bool = False) -> str:
    return hub.push(folder, NAME, public=public, message="Loupe: timm")


def command(monkeypatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["loupe", "export", *words])
    with pytest.raises(SystemExit) as end:
        main.main()
    return end.value.code


@pytest.mark.slow
def test_an_export_that_is_there_is_pushed_by_the_command_line(server, exported, run, monkeypatch, capsys):
    words = (str(run.path), "--to", "onnx", "--folder", str(exported), "--push", NAME, "--quiet")
    assert command(monkeypatch, *words) == 0
    assert capsys.readouterr().out.split() == [str(exported), f"{server.url}/{NAME}/commit/{'c' * 40}"]
    [commit] = server.commits
    assert commit["files"]["model.onnx"] == (exported / "model.onnx").read_bytes()
    assert ModelCard(commit["files"]["README.md"].decode()).data.library_name == "onnx"


@pytest.mark.parametrize("words", [("--push", "pets"), ("--public",)])
def test_a_wrong_push_is_refused_before_anything_is_exported(server, run, monkeypatch, tmp_path, words):
    assert command(monkeypatch, str(run.path), "--to", "onnx", "--folder", str(tmp_path / "new"), *words) != 0
    assert not (tmp_path / "new").exists() and server.asked == []


@pytest.mark.slow
def test_an_export_that_was_changed_is_not_taken_for_that_of_the_run(exported, run, tmp_path):
    assert hub.is_export_of(exported, run, "onnx", Options())
    others = (("torch", Options()), ("onnx", Options(precision="int8")), ("onnx", Options(threshold=0.9)))
    assert not any(hub.is_export_of(exported, run, target, options) for target, options in others)
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "model.onnx").write_bytes(b"")
    assert not any(hub.is_export_of(path, run, "onnx", Options()) for path in (copy, tmp_path))


@pytest.mark.slow
def test_the_threshold_of_an_export_is_that_of_the_command(exported, run, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    described = json.loads((copy / MANIFEST).read_text("utf-8"))
    assert described["threshold"] is None
    (copy / MANIFEST).write_text(json.dumps({**described, "threshold": 0.9}), "utf-8")
    found = {value: hub.is_export_of(copy, run, "onnx", Options(threshold=value)) for value in (None, 0.5, 0.9)}
    assert found == {None: False, 0.5: False, 0.9: True}


@pytest.mark.parametrize(("target", "option"), [("onnx", "--images"), ("web", "--images"), ("web", "--runtime")])
def test_an_existing_folder_is_not_pushed_with_options_that_it_does_not_record(
    server, exported, run, monkeypatch, tmp_path, capsys, target, option
):
    words = (str(run.path), "--to", target, "--folder", str(exported), "--push", NAME, option, str(tmp_path))
    assert command(monkeypatch, *words) != 0
    said = capsys.readouterr().err
    assert option in said and "--folder" in said
    assert server.asked == []


def refused(folder: Path, *, public: bool = False) -> hub.PushError:
    with pytest.raises(hub.PushError) as error:
        push(folder, public=public)
    assert TOKEN not in str(error.value) and "\n" not in str(error.value)
    return error.value


def test_a_folder_is_one_commit_in_a_private_repository(server, folder, capfd):
    assert push(folder) == f"{server.url}/{NAME}/commit/{'c' * 40}"
    [commit] = server.commits
    card = (folder / "card.md").read_bytes()
    assert commit["files"] == {
        "README.md": card,
        "card.md": card,
        "model.safetensors": (folder / "model.safetensors").read_bytes(),
        "more/config.json": b"{}",
        "parity.json": b"{}",
        MANIFEST: (folder / MANIFEST).read_bytes(),
    }
    assert list(server.objects) == [hashlib.sha256(commit["files"]["model.safetensors"]).hexdigest()]
    assert (commit["name"], commit["summary"]) == (NAME, "Loupe: timm")
    assert server.repositories[NAME]["private"] is True
    assert server.tokens == {f"Bearer {TOKEN}"}
    assert capfd.readouterr() == ("", "")


def test_an_export_is_pushed_onto_an_earlier_one_but_onto_nothing_else(server, folder):
    push(folder, public=True)
    assert server.repositories[NAME]["private"] is False
    push(folder, public=True)
    assert [commit.get("parentCommit") for commit in server.commits] == [None, "c" * 40]
    server.repositories[NAME]["siblings"] = [{"rfilename": "pytorch_model.bin"}, {"rfilename": "README.md"}]
    error = refused(folder, public=True)
    assert error.kind == "taken" and "pytorch_model.bin" in str(error)
    assert len(server.commits) == 2


def test_files_of_an_earlier_export_are_deleted_in_the_same_commit(server, folder, tmp_path):
    push(folder)
    mine = {"notes.txt": b"mine", ".gitattributes": b"*.onnx filter=lfs"}
    server.contents[NAME] |= mine
    server.repositories[NAME]["siblings"] += [{"rfilename": name} for name in mine]
    second = save_export(tmp_path / "second", {"model.onnx": b"onnx"})
    push(second)
    assert server.commits[1]["deleted"] == ["model.safetensors", "more/config.json"]
    held = {"README.md", "card.md", "parity.json", MANIFEST, "model.onnx"} | set(mine)
    assert len(server.commits) == 2 and set(server.contents[NAME]) == held


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}", b'{"files": 3}', b"\xff"])
def test_a_repository_whose_description_is_of_something_else_is_left_alone(server, folder, data):
    server.contents[NAME] = {MANIFEST: data, "config.json": b"{}"}
    siblings = [{"rfilename": name} for name in server.contents[NAME]]
    server.repositories[NAME] = {"private": True, "sha": "0" * 40, "siblings": siblings}
    assert refused(folder).kind == "taken" and server.commits == []


def test_a_file_that_is_missing_or_outside_the_folder_is_not_pushed(server, folder, tmp_path):
    (folder / "more" / "config.json").unlink()
    assert refused(folder).kind == "disk"
    outside = save_export(tmp_path / "second", {"../elsewhere": b"secret"})
    assert refused(outside).kind == "disk" and server.asked == []


@pytest.mark.parametrize(("private", "kind"), [(True, "private"), (False, "public")])
def test_the_visibility_of_a_repository_is_what_is_asked_for(server, folder, private, kind):
    server.repositories[NAME] = {"private": private, "sha": "0" * 40, "siblings": []}
    error = refused(folder, public=private)
    assert (error.kind, "--public" in str(error), server.commits) == (kind, True, [])


@pytest.mark.parametrize(
    ("end", "status", "kind"),
    [
        (NAME, 401, "rejected"),
        ("/create", 403, "forbidden"),
        ("/create", 409, "taken"),
        ("/validate-yaml", 400, "refused"),
        ("/preupload/main", 403, "forbidden"),
        ("/commit/main", 412, "changed"),
        ("/commit/main", 500, "unreachable"),
    ],
)
def test_a_refusal_is_one_error_of_its_kind_and_no_commit(server, folder, end, status, kind):
    message = "Invalid credentials in Authorization header" if status == 401 else f"no {TOKEN}\nat all"
    server.refuse[end] = (status, message)
    error = refused(folder)
    assert error.kind == kind and (kind != "forbidden" or f"answered {status}" in str(error))
    assert server.commits == []


def test_without_a_token_nobody_is_asked(server, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    error = refused(folder)
    assert error.kind == "token" and "hf auth login" in str(error)
    assert server.asked == []


@pytest.mark.parametrize("variable", ["LOUPE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_pushed(server, folder, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigError, match=f"{variable}=1"):
        push(folder)
    assert server.asked == []


@pytest.mark.parametrize("name", ["pets", "ann/", "ann/pets/2", "ann/a b", "https://huggingface.co/ann/pets", "a/.."])
def test_names_that_are_no_repository_are_refused_before_anything_is_sent(server, folder, name):
    with pytest.raises(ConfigError, match="USER/NAME"):
        hub.push(folder, name, public=False, message="m")
    assert server.asked == []


def test_a_hub_that_is_not_there_or_hangs_is_given_up(server, folder, monkeypatch):
    server.hangs = "/commit/main"
    quiet_seconds, deadline = 1.0, time.monotonic() + 120
    while not server.objects and time.monotonic() < deadline:  # a busy machine may not come to the upload in a second
        monkeypatch.setattr(hub, "QUIET_SECONDS", quiet_seconds)
        assert refused(folder).kind == "unreachable"
        quiet_seconds *= 2
    assert ("PUT", f"/objects/{next(iter(server.objects))}") in server.asked and server.commits == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = refused(folder)
    assert error.kind == "unreachable" and "127.0.0.1:9" in str(error)
