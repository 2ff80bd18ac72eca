"""Redaction of credentials: addresses without passwords and signatures, for messages, records and file names."""

import re
from itertools import pairwise
from urllib.parse import urlsplit, urlunsplit

# Parameters of a query that say which content is meant. The values of all others may be keys or signatures.
_OPEN_PARAMETERS = {"download", "dl", "format", "generation", "raw", "ref", "rev", "revision", "version", "versionid"}
# Parameters that sign an address for some time: two addresses that differ only in them name the same content.
_SIGNING = re.compile(
    r"(?i)x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|expires|key-pair-id|policy"
    r"|sig|sv|se|st|sp|sr|ss|srt|spr|sip|sk[a-z]{1,3}"
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>()]+")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|https?:/(?=[^/])", re.IGNORECASE)  # pathlib joins two slashes to one
_SECRETS = re.compile(
    r"(?i)(\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}"
    r"|(\b(?:x-amz-(?:signature|credential|security-token)|signature|sig|token|access_?token|api_?key|password|secret"
    r"|account_?key|sharedaccesssignature|aws_secret_access_key)\s*[=:]\s*)[^\s&;,'\"]+"
    r"|\b(?:hf_[A-Za-z0-9]{8,}|A[KS]IA[A-Z0-9]{12,})\b"
)


def redacted(url: str) -> str:
    """Address without user, password, fragment, and values of its query that may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that are no IPv6 address
        return re.sub(r"(?<=:/)(/?)[^/]*@", r"\1", url.partition("?")[0].partition("#")[0], count=1)
    netloc, query = parts.netloc, ""
    if parts.scheme in {"http", "https"} or ":" in netloc.rpartition("@")[0]:
        netloc = netloc.rpartition("@")[2]
    if parts.scheme in {"http", "https"}:
        query = "&".join(_parameter(pair) for pair in parts.query.split("&") if pair)
        return urlunsplit((parts.scheme, netloc, parts.path, query, ""))
    scheme, _, rest = url.partition("://")  # names of objects may hold # and ?
    _, slash, path = rest.partition("/")
    return f"{scheme}://{netloc if slash or '@' in rest else rest}{slash}{path}"


def identity(url: str) -> str:
    """Text that is the same for two signed addresses of one file. It may hold secrets: for hashes only."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        return redacted(url)
    kept = [pair for pair in parts.query.split("&") if pair and not _SIGNING.fullmatch(pair.partition("=")[0])]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "&".join(kept), ""))


def _parameter(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return name if len(name) <= 16 else "…"
    return pair if name.lower() in _OPEN_PARAMETERS and len(value) <= 64 else f"{name}=…"


def redacted_word(word: str) -> str:
    """Word of a command, its addresses redacted: one that is an address, or that holds some after other text."""
    starts = [match.start() for match in _ADDRESS.finditer(word)]
    parts = [word[start:stop] for start, stop in pairwise([*starts, len(word)])]
    full = [_ADDRESS.sub(lambda match: f"{match[0].rstrip('/')}//", part, count=1) for part in parts]
    shown = [part if redacted(url) == url else redacted(url) for part, url in zip(parts, full, strict=True)]
    return word[: starts[0]] + "".join(shown) if starts else word


def redacted_text(text: str) -> str:
    """Text of another library's error on one line, with its addresses redacted and its keys removed."""
    plain = _URL.sub(lambda match: redacted(match[0]), " ".join(text.split()))
    return _SECRETS.sub(lambda match: f"{match[1] or match[2] or ''}…", plain)[:200]
