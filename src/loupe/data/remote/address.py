"""Addresses of remote files and folders: those of object stores, of web servers and of data sets on a hub."""

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from loupe.data.remote.redaction import redacted
from loupe.errors import ConfigError

EXAMPLES = {
    "hf": "hf://datasets/OWNER/NAME@main",
    "s3": "s3://bucket/folder/*.tar",
    "gs": "gs://bucket/folder/*.tar",
    "az": "az://container/folder/*.tar",
    "http": "http://host/folder/shard-{000..099}.tar",
    "https": "https://host/folder/shard-{000..099}.tar",
}
_SAME = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://")
_ONE_SLASH = re.compile(rf"((?:{'|'.join([*EXAMPLES, *_SAME])})):/(?=[^/])")  # pathlib joins two slashes to one
_HUB = re.compile(
    r"datasets/(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:convert|pr)/[\w.-]+|[^/]+))?(?:/(?P<path>.*))?"
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SAFE = "/%:@!$&'()*+,;=~[]{}?-._"  # of paths and queries; the rest is quoted, but for what is quoted already
MOST_EXPANDED = 1_000_000


def is_remote(text: str) -> bool:
    """True for an address with a scheme (`s3://…`), whether or not Loupe reads it; False for a local path."""
    return bool(_SCHEME.match(text) or _ONE_SLASH.match(text))


@dataclass(frozen=True)
class Address:
    """Address of a file, a folder or a pattern of files.

    Attributes:
        scheme: hf, s3, gs, az, http or https.
        root: bucket, container, host, or OWNER/NAME of a data set.
        path: what follows it, without a slash at its beginning; may be empty.
        shown: address without credentials, for messages, records and file names.
        url: address for requests; may hold credentials.
        revision: branch, tag or commit of a data set on a hub; None if not given.
    """

    scheme: str
    root: str = field(repr=False)
    path: str = field(repr=False)
    shown: str
    url: str = field(repr=False)
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> "Address":
        """Parse an address.

        Raises:
            ConfigError: the scheme is unknown, or a part is missing.
        """
        text = _ONE_SLASH.sub(lambda match: f"{match[1]}://", text, count=1)
        found = _SCHEME.match(text)
        if not found:
            raise ConfigError(f"{redacted(text)!r} is no address. Addresses begin as {EXAMPLES['s3']}.")
        scheme = _SAME.get(found[1].lower(), found[1].lower())
        if scheme not in EXAMPLES:
            examples = ", ".join(EXAMPLES.values())
            raise ConfigError(
                f"{redacted(text)}: addresses of the scheme {found[1]} cannot be read. Known: {examples}. Give a file "
                "of this machine by its path."
            )
        if any(ord(character) < 32 for character in text):
            raise _wrong(text, scheme, "it holds a control character")
        if scheme == "hf":
            return cls._of_hub(text, found.end())
        if scheme in {"http", "https"}:
            return cls._of_web(text, scheme)
        return cls._of_bucket(text, scheme, found[1].lower(), found.end())

    @classmethod
    def _of_hub(cls, text: str, start: int) -> "Address":
        found = _HUB.fullmatch(text[start:])
        if not found:
            raise _wrong(text, "hf", "expected datasets/OWNER/NAME, then @REVISION and a path where wanted")
        revision = unquote(found["revision"]) if found["revision"] else None
        path = found["path"] or ""
        url = hub_url(found["name"], revision, path)
        return cls("hf", found["name"], path, url, url, revision)

    @classmethod
    def _of_web(cls, text: str, scheme: str) -> "Address":
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise _wrong(text, scheme, str(error)) from None
        if not host:
            raise _wrong(text, scheme, "the host is missing")
        path, query = (quote(part, safe=_SAFE) for part in (parts.path, parts.query))
        url = parts._replace(scheme=scheme, path=path, query=query, fragment="").geturl()
        return cls(scheme, parts.netloc.rpartition("@")[2], path.lstrip("/"), redacted(url), url)

    @classmethod
    def _of_bucket(cls, text: str, scheme: str, given: str, start: int) -> "Address":
        root, _, path = text[start:].partition("/")
        if "@" in root and (scheme != "az" or ":" in root):
            raise _wrong(text, scheme, "it holds credentials, which belong into the environment or a config file")
        if not root or any(character in root for character in "*?[]{} "):
            raise _wrong(text, scheme, f"the {'container' if scheme == 'az' else 'bucket'} is missing")
        kept = given if "@" in root else scheme  # the account stands in abfs://container@account.dfs…/
        path = path.lstrip("/")
        url = f"{kept}://{root}/{path}"
        return cls(scheme, root, path, url, url)

    @property
    def is_pattern(self) -> bool:
        """True if the path has wildcards: * within a name, ** across folders, ? (not on the web), [abc]."""
        return any(character in self.path for character in self.wildcards)

    @property
    def wildcards(self) -> str:
        return "*[" if self.scheme in {"http", "https"} else "*?["

    def expanded(self) -> "list[Address]":
        """Addresses with each range of numbers (`{000..099}`) replaced by its numbers, in their order.

        Raises:
            ConfigError: a range ends before it begins, or there are more than a million.
        """
        found = _RANGE.search(self.url)
        if not found:
            return [self]
        first, last, width = int(found[1]), int(found[2]), len(found[1])
        if not first <= last < first + MOST_EXPANDED:
            raise ConfigError(
                f"{self.shown}: the range {found[0]} is no range of up to a million numbers, as {{000..099}}."
            )
        before, after = self.url[: found.start()], self.url[found.end() :]
        texts = (f"{before}{number:0{width}}{after}" for number in range(first, last + 1))
        return [each for text in texts for each in Address.of(text).expanded()]


def hub_url(name: str, revision: str | None, path: str) -> str:
    """Address of a file of a data set on a hub."""
    at = f"@{revision.replace('/', '%2F')}" if revision else ""
    return f"hf://datasets/{name}{at}{'/' if path else ''}{path}"


def _wrong(text: str, scheme: str, reason: str) -> ConfigError:
    return ConfigError(f"{redacted(text)}: not an address that can be read: {reason}. Example: {EXAMPLES[scheme]}")
