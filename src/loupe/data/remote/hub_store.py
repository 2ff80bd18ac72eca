"""Data sets of a Hugging Face hub: a revision resolved to its commit, the files of that commit, and their bytes.

The hub is that of `HF_ENDPOINT`; the token is found by huggingface-hub. Every file is read at its commit and checked
against the SHA-256 (large files) or the blob of Git that the hub lists for it.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from loupe.data.remote.address import Address, hub_url
from loupe.data.remote.failures import AttemptError, MissingError, RemoteError
from loupe.data.remote.patterns import fixed_folder, matches
from loupe.data.remote.retries import RetryPolicy, with_retries
from loupe.data.remote.store import Answer, RemoteObject
from loupe.data.remote.web_store import opened
from loupe.data.remote.web_transport import Web

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


def endpoint() -> str:
    """Address of the hub."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


class HubStore:
    """Files of data sets on a hub."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._web = Web(policy)
        self._policy = policy

    def commit(self, address: Address) -> str:
        """Commit that the revision of a data set stands for now; that of `main` where none is given.

        Raises:
            RemoteError: it does not exist or may not be read, or the hub cannot be reached.
        """
        if address.revision and _COMMIT.fullmatch(address.revision):
            return address.revision
        revision = quote(address.revision or "main", safe="")
        found, _ = self._json(address, f"{endpoint()}/api/datasets/{address.root}/revision/{revision}")
        commit = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise RemoteError(
                address.url, f"{urlsplit(endpoint()).netloc} does not say its commit", "Check HF_ENDPOINT."
            )
        return commit

    def listed(self, address: Address) -> list[RemoteObject]:
        commit = self.commit(address)
        path = address.path
        if address.is_pattern:
            found = self._tree(address, commit, fixed_folder(path).rstrip("/"), recursive=True)
            return [remote for name, remote in found if matches(path, name)]
        if not path.strip("/"):
            return [remote for _, remote in self._tree(address, commit, "", recursive=True)]
        if not path.endswith("/"):
            parent = path.rpartition("/")[0]
            for name, remote in self._tree(address, commit, parent, recursive=False):
                if name == path:
                    return [remote]
        return [remote for _, remote in self._tree(address, commit, path.rstrip("/"), recursive=True)]

    def _tree(
        self, address: Address, commit: str, folder: str, *, recursive: bool
    ) -> Iterator[tuple[str, RemoteObject]]:
        """Names and files of a folder of a commit, page by page."""
        at = f"/{quote(folder)}" if folder else ""
        url: str | None = f"{endpoint()}/api/datasets/{address.root}/tree/{commit}{at}?recursive={recursive}"
        while url:
            entries, url = self._json(address, url)
            for entry in entries if isinstance(entries, list) else ():
                if entry.get("type") == "file":
                    yield entry["path"], _remote(address.root, commit, entry)

    def _json(self, address: Address, url: str) -> tuple[Any, str | None]:
        """Answer of the hub as JSON, and the address of its next page."""

        def ask() -> tuple[Any, str | None]:
            with self._web.get(url, _headers(), address.url) as answer:
                body = b"".join(self._web.chunks(answer, address.url))
                following = _NEXT.search(answer.headers.get("Link", ""))
            try:
                return json.loads(body), urljoin(url, following[1]) if following else None
            except ValueError:
                raise AttemptError(f"{urlsplit(url).netloc} sends no JSON") from None

        try:
            return with_retries(address.url, ask, self._policy)
        except RemoteError as error:
            raise _explained(error) from None

    def open(self, remote: RemoteObject, start: int, stop: int) -> Answer:
        address = Address.of(remote.url)
        revision = quote(address.revision or "main", safe="")
        url = f"{endpoint()}/datasets/{address.root}/resolve/{revision}/{quote(address.path)}"
        try:
            return opened(self._web, url, _headers(), remote, start, stop, tagged=False)
        except RemoteError as error:
            raise _explained(error) from None

    def confirmed(self, remote: RemoteObject) -> str | None:
        return None  # a commit does not change


def _remote(name: str, commit: str, entry: dict[str, Any]) -> RemoteObject:
    large = entry.get("lfs") or {}
    digest = large.get("oid") or large.get("sha256")
    checksum = f"sha256:{digest}" if digest else f"git-sha1:{entry['oid']}"
    size = int(large.get("size", entry["size"]))
    return RemoteObject(hub_url(name, commit, entry["path"]), size, checksum, checksum)


def _headers() -> dict[str, str]:
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _explained(error: RemoteError) -> RemoteError:
    """Refusal of the hub, which answers 401 for a data set that does not exist too."""
    if error.attempts or isinstance(error, MissingError) or "status 40" not in error.reason:
        return error
    remedy = "Check OWNER/NAME. For a private or gated data set, request access, then log in: hf auth login."
    return type(error)(error.url, error.reason, remedy)
