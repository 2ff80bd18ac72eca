"""HTTP requests with a time limit for the connection and for silence, whose failures are told apart.

Proxies come from the environment. A redirect to another host gets no credentials.
"""

import base64
import http.client
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from loupe.data.remote.failures import AttemptError, MissingError, RangeError, RefusedError, RemoteError
from loupe.data.remote.redaction import redacted_text
from loupe.data.remote.retries import RetryPolicy

CHUNK_BYTES = 1 << 18
CREDENTIALS = (
    "The credentials used are those that fsspec and huggingface-hub find: environment, config files, instance role."
)
_RETRIED = {408, 409, 425, 429}
_SECRET_HEADERS = ("Authorization", "Cookie")
_PERMANENT_LOOKUP = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class _Redirects(HTTPRedirectHandler):
    """Redirects with the same headers, without credentials for another host or for an unencrypted connection."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        before, after = urlsplit(req.full_url), urlsplit(urljoin(req.full_url, newurl))
        if following is not None and (before.scheme, before.netloc) != (after.scheme, after.netloc):
            for name in _SECRET_HEADERS:
                following.remove_header(name)
        return following

    def http_error_308(self, req: Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        return self.http_error_302(req, fp, 307, msg, headers)


class _Plain(HTTPHandler):
    def __init__(self, policy: RetryPolicy) -> None:
        super().__init__()
        self._policy = policy

    def http_open(self, req: Request) -> http.client.HTTPResponse:
        policy = self._policy

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                self.timeout = policy.connect_seconds
                super().connect()
                self.sock.settimeout(policy.silence_seconds)

        return self.do_open(Connection, req)


class _Encrypted(HTTPSHandler):
    def __init__(self, policy: RetryPolicy) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(context=self._tls)
        self._policy = policy

    def https_open(self, req: Request) -> http.client.HTTPResponse:
        policy = self._policy

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                self.timeout = policy.connect_seconds
                super().connect()
                self.sock.settimeout(policy.silence_seconds)

        return self.do_open(Connection, req, context=self._tls)


class Web:
    """Client of web servers."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._opener: OpenerDirector = build_opener(_Redirects(), _Plain(policy), _Encrypted(policy))
        self._policy = policy

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str], shown: str) -> Iterator[http.client.HTTPResponse]:
        """Answer to a GET request.

        Raises:
            AttemptError: the server or the network failed.
            RemoteError: the server refused.
        """
        parts = urlsplit(url)
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        request = Request(plain, headers={"User-Agent": "loupe", "Accept-Encoding": "identity", **headers})
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            request.add_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
        try:
            answer = self._opener.open(request, timeout=self._policy.connect_seconds)
        except HTTPError as error:
            error.close()
            if error.code == 416:
                total = error.headers.get("Content-Range", "").rpartition("/")[2]
                raise RangeError(int(total) if total.isdecimal() else None, error.headers) from None
            raise status_error(error.code, error.headers, shown) from None
        except (http.client.InvalidURL, UnicodeError) as error:
            raise RemoteError(shown, f"no address of a web server: {redacted_text(f'{error}')}", "Check it.") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise network_error(error, shown) from None
        with answer:
            yield answer

    def chunks(self, answer: http.client.HTTPResponse, shown: str) -> Iterator[bytes]:
        """Body of an answer.

        Raises:
            AttemptError: it broke off.
        """
        while True:
            try:
                data = answer.read1(CHUNK_BYTES)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise network_error(error, shown) from None
            if not data:
                return
            yield data


def status_error(status: int, headers: Message, shown: str) -> Exception:
    """Error for a status of HTTP other than success."""
    if status in _RETRIED or status >= 500:
        return AttemptError(f"the server answered {status}", _seconds(headers.get("Retry-After")))
    if status in {401, 403}:
        return RefusedError(
            shown, f"access was refused (status {status})", f"Check that you may read it. {CREDENTIALS}"
        )
    if status in {404, 410}:
        return MissingError(shown, f"not found (status {status})", "Check the address.")
    return RemoteError(shown, f"the server answered {status}", "Check the address.")


def network_error(error: BaseException, shown: str, host: str | None = None) -> Exception:
    """Error for a failure below HTTP, of whatever library; the causes of an exception are looked at too."""
    host = host or f"the host {urlsplit(shown).hostname or shown}"
    chain = list(causes(error))
    for each in chain:
        if isinstance(each, ssl.SSLCertVerificationError):
            reason = getattr(each, "verify_message", None) or "it was not verified"
            return RemoteError(
                shown,
                f"the TLS certificate of {host} is not valid ({reason})",
                "Check the address and the clock. SSL_CERT_FILE names the certificates of a private authority.",
            )
        if isinstance(each, socket.gaierror):
            if each.errno in _PERMANENT_LOOKUP:
                return RemoteError(shown, f"{host} is not known here", "Check the address and the network.")
            return AttemptError(f"the name of {host} cannot be looked up")
    if any(isinstance(each, TimeoutError) for each in chain):
        return AttemptError("the server did not answer, or stopped sending, within the time limit")
    last = chain[-1]
    reason = getattr(last, "strerror", None) or redacted_text(f"{last}") or type(last).__name__
    return AttemptError(f"the connection failed: {reason}")


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that caused it, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        reason = getattr(current, "reason", None) if isinstance(current, URLError) else None
        current = reason if isinstance(reason, BaseException) else current.__cause__ or current.__context__


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.strip().isdecimal() else 0.0
