"""Child process that uploads an export to the hub in one commit, with JSON lines about its state on standard output."""

import io
from collections.abc import Iterable
from contextlib import ExitStack
from importlib import import_module
from typing import Any

from loupe.models.hub_process import HubError, Say, answer
from loupe.records import parse

HUB_FILES = {".gitattributes", "README.md"}  # of a repository without an export


def serve(request: dict[str, Any]) -> None:
    """Answer a request to push; the last line has the address of the commit, or a kind of failure and its reason."""
    answer(request, push)


def push(request: dict[str, Any], say: Say) -> str:
    """Upload the files of an export, delete those of an earlier one, and return the address of the commit.

    Args:
        request: `endpoint`, `name`, `public` and `message`; `files`, pairs of a name in the repository and a path; and
            `manifest`, the name of the file by which an export in a repository is known, and which names its files.

    Raises:
        HubError: of kind `token`, `rejected`, `forbidden`, `taken`, `public`, `private`, `changed` or `refused`.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    token = get_token()
    if not token:
        raise HubError("token", "no token")
    api = HfApi(endpoint=request["endpoint"], token=token)
    errors: Any = import_module("huggingface_hub.utils")
    say(ready=True)
    try:
        parent, earlier = _prepared(api, request["name"], request["manifest"], public=request["public"])
        say(prepared=True)
        with ExitStack() as stack:
            read = Counter(say)
            operations: list[Any] = []
            for inside, path in request["files"]:
                file = stack.enter_context(CountedFile(path, read))
                operations.append(CommitOperationAdd(path_in_repo=inside, path_or_fileobj=file))
            kept = {inside for inside, _ in request["files"]} | HUB_FILES
            operations += [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in sorted(earlier - kept)]
            read.start_again()  # each file was read for its hash
            commit = api.create_commit(
                request["name"],
                operations,
                commit_message=request["message"],
                parent_commit=parent,
                num_threads=1,  # files with the same content share one open file
            )
        return str(commit.commit_url)
    except errors.HfHubHTTPError as error:
        raise _explained(error, token) from None
    except RuntimeError as error:  # an upload of one file, of which the cause says more
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _explained(error.__cause__, token) from None
        raise
    except ValueError as error:  # the front matter of the card, or an answer that huggingface_hub does not understand
        raise HubError("refused", f"does not take it: {' '.join(str(error).split())}") from None


def _prepared(api: Any, name: str, manifest: str, *, public: bool) -> tuple[str | None, set[str]]:
    """Commit of a repository that may be pushed to, and files of the export in it; None for a new one, made here."""
    errors: Any = import_module("huggingface_hub.utils")
    try:
        info = api.model_info(name)
    except errors.RepositoryNotFoundError:
        api.create_repo(name, repo_type="model", private=not public)
        return None, set()
    held = {file.rfilename for file in info.siblings or ()}
    if manifest not in held and (others := sorted(held - HUB_FILES)):
        raise HubError("taken", ", ".join(others[:3]))
    if bool(info.private) == public:
        raise HubError("private" if info.private else "public", "")
    named = _files_of_export(api, name, manifest, info.sha) if manifest in held else ()
    return str(info.sha) if info.sha else None, held.intersection(named)


def _files_of_export(api: Any, name: str, manifest: str, revision: str | None) -> Iterable[str]:
    """Names of the files that the description of an export in a repository has.

    Raises:
        HubError: of kind `taken`: it is not the description of an export.
    """
    from huggingface_hub import hf_hub_url

    utils: Any = import_module("huggingface_hub.utils")
    url = hf_hub_url(name, manifest, revision=revision, endpoint=api.endpoint)
    response = utils.get_session().get(url, headers=utils.build_hf_headers(token=api.token))
    utils.hf_raise_for_status(response)
    try:
        return set(parse(response.content)["files"])
    except (ValueError, TypeError, KeyError):
        raise HubError("taken", f"its {manifest} does not describe one") from None


def _explained(error: Any, token: str) -> HubError:
    """Failure of a kind from the status of an answer; the text of the server never shows the token."""
    status = error.response.status_code if error.response is not None else 0
    kinds = {401: "rejected", 403: "forbidden", 409: "taken", 412: "changed"}
    stated = " ".join((error.server_message or "").split()).replace(token, "***")
    reason = f"answered {status}: {stated[:200]}" if stated else f"answered {status}"
    return HubError(kinds.get(status, "refused" if 400 <= status < 500 else "unreachable"), reason)


class Counter:
    """Number of bytes that were read, said to the parent."""

    def __init__(self, say: Say) -> None:
        self.say, self.count, self.name = say, 0, "hashed"

    def add(self, count: int) -> None:
        self.count += count
        self.say(**{self.name: self.count})

    def start_again(self) -> None:
        self.count, self.name = 0, "bytes"


class CountedFile(io.BufferedReader):
    """File opened for reading, whose bytes are counted; huggingface_hub sends such a file over HTTP."""

    def __init__(self, path: str, counter: Counter) -> None:
        super().__init__(io.FileIO(path, "r"))
        self._counter = counter

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._counter.add(len(data))
        return data
