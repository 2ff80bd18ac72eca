"""Access to the server: the hosts and origins it answers, the token, and headers that keep browsers from misuse.

A page of another site can send requests to a server on this machine, and by pointing a name of its own at 127.0.0.1
(DNS rebinding) even read the answers. So a request has to name a host that is known to be this server, and a page has
to come from the server itself, unless others are named.
"""

import hmac
import os
import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loupe.errors import ConfigError, DiskError
from loupe.files import sync_folder
from loupe.log import logger
from loupe.serve.hosts import DEFAULT_PORTS, LOOPBACK_NAMES, Host, Origin, one_spelling, parse_host, parse_origin
from loupe.serve.lingering import Exchange
from loupe.serve.refusals import Refusal

WILDCARDS = frozenset({"0.0.0.0", "::", ""})
OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
OPEN_FOLDER = "/page/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}
NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
ALLOWED_HEADERS = "Authorization, Content-Type, Content-Disposition, Inference-Header-Content-Length"
EXPOSED_HEADERS = "Retry-After, WWW-Authenticate, Inference-Header-Content-Length"

SHORTEST_TOKEN = 16
LONGEST_TOKEN = 4096
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # token68 of RFC 9110


@dataclass(frozen=True)
class Access:
    """Hosts, origins and token of those who may use the server.

    Attributes:
        host: name or address to which the server is bound.
        port: port to which it is bound.
        token: every request has to send it, those of `OPEN_PATHS` and of the page's files apart; None: no token.
        origins: origins of other pages that may send requests, such as `https://images.example.org`.
        hosts: further names by which clients reach the server, such as that of a proxy, with or without a port.

    Raises:
        ConfigError: an origin or host that is none.
    """

    host: str
    port: int
    token: str | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in self.origins:
            if parse_origin(text) is None:
                raise ConfigError(
                    f"{text!r} is no origin. Give scheme and host as a browser sends them, for example "
                    "https://images.example.org or http://localhost:3000."
                )
        for text in self.hosts:
            if parse_host(text) is None:
                raise ConfigError(
                    f"{text!r} is no host. Give a name or an address, with or without a port, for example "
                    "images.example.org, 192.168.1.5:8000 or [::1]."
                )


class Guard:
    """ASGI middleware that answers only requests with a known host, a known origin and the token.

    An answer that is given before the body of its request has arrived reaches the client all the same (`lingering`).
    """

    def __init__(self, app: ASGIApp, access: Access, refused: Callable[[str], None] | None = None) -> None:
        """Guard an application.

        Args:
            app: gets the requests that are allowed.
            access: says which are.
            refused: called with the reason of each refusal.
        """
        self._app = app
        self._access = access
        self._refused = refused or (lambda reason: None)
        self._own_names = own_names(access.host)
        self._hosts = tuple(host for host in map(parse_host, access.hosts) if host)
        self._origins = frozenset(origin for origin in map(parse_origin, access.origins) if origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        headers = Headers(scope=scope)
        named: str | None = None
        app: ASGIApp
        try:
            named = self._named_origin(scope["method"], headers, self._host(headers))
            if named and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                app = preflight()
            else:
                self._check_token(scope, headers)
                app = self._app
        except Refusal as refusal:
            self._refused(refusal.reason)
            app = JSONResponse({"error": refusal.message}, refusal.status, refusal.headers)
        await app(scope, exchange.receive, self._with_headers(exchange.send, named))

    def _host(self, headers: Headers) -> Host:
        """Host of the request, one of those by which the server may be reached."""
        texts = headers.getlist("host")
        host = parse_host(texts[0]) if len(texts) == 1 else None
        if host is None:
            message = "the request has no valid Host header. Send one: the name or address of the server."
            raise Refusal(400, message, reason="host")
        if self._is_own(host) or self._is_named(host):
            return host
        raise Refusal(
            403,
            f"{host} is not known as an address of this server. Use the one that was printed at its start, or start it "
            f"with --allow-host {host}.",
            reason="host",
        )

    def _is_own(self, host: Host) -> bool:
        if self._access.host in WILDCARDS:  # reached from elsewhere, perhaps through a port of another number
            return host.name in self._own_names or host.is_address
        return host.port in (None, self._access.port) and host.name in self._own_names

    def _is_named(self, host: Host) -> bool:
        return any(host.name == named.name and named.port in (None, host.port) for named in self._hosts)

    def _named_origin(self, method: str, headers: Headers, host: Host) -> str | None:
        """Origin of the request if it is one of those named; None for the server's own page, and outside a browser.

        Raises:
            Refusal: the request comes from the page of another site.
        """
        texts = headers.getlist("origin")
        if not texts:
            if method not in SAFE_METHODS and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                raise Refusal(403, "the request comes from the page of another site.", reason="origin")
            return None
        origin = parse_origin(texts[0]) if len(texts) == 1 else None
        if origin in self._origins:
            return texts[0]
        if origin is not None and self._is_same(origin, host):
            return None
        remedy = f" Start the server with --allow-origin {texts[0]} to allow it." if origin else ""
        raise Refusal(403, f"the request comes from the page of another origin.{remedy}", reason="origin")

    def _is_same(self, origin: Origin, host: Host) -> bool:
        """True for pages of the server itself; behind a proxy, HTTPS may end at the proxy."""
        schemes = ("http", "https") if self._is_named(host) else ("http",)
        port = host.port or DEFAULT_PORTS[origin.scheme]
        return origin.scheme in schemes and (origin.name, origin.port) == (host.name, port)

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        if self._access.token is None or is_open(scope["method"], scope["path"]):
            return
        texts = headers.getlist("authorization")
        scheme, _, given = texts[0].partition(" ") if len(texts) == 1 else ("", "", "")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._access.token.encode()):
            return
        problem = "the token is not that of this server" if texts else "the server asks for a token"
        challenge = 'Bearer realm="loupe"' + (', error="invalid_token"' if texts else "")
        message = f"{problem}. Send the header Authorization: Bearer TOKEN."
        raise Refusal(401, message, {"WWW-Authenticate": challenge}, reason="token")

    def _with_headers(self, send: Send, named_origin: str | None) -> Send:
        """Send answers with the headers that keep browsers from misuse, and with those for a named origin."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message.get("headers", [])))
                headers.update(SECURITY_HEADERS)
                headers.setdefault("content-security-policy", NO_CONTENT_POLICY)
                if self._origins:
                    headers.add_vary_header("Origin")
                if named_origin:
                    headers["access-control-allow-origin"] = named_origin
                    headers["access-control-expose-headers"] = EXPOSED_HEADERS
                message = {**message, "headers": headers.raw}
            await send(message)

        return sending


def own_names(bound: str) -> frozenset[str]:
    """Names of a server that is bound to a host: loopback, the host, and the machine's names for a wildcard address."""
    if bound not in WILDCARDS:
        return LOOPBACK_NAMES | {one_spelling(bound)}
    name = one_spelling(socket.gethostname())
    first = name.partition(".")[0]
    return LOOPBACK_NAMES | {name, first, f"{first}.local"}


def is_open(method: str, path: str) -> bool:
    """True for what needs no token: health, and the files of the page, which ask for one themselves."""
    return method in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith(OPEN_FOLDER))


def preflight() -> Response:
    """Answer to the question of a browser before a request of a named origin."""
    headers = {
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": ALLOWED_HEADERS,
        "access-control-max-age": "600",
    }
    return Response(status_code=204, headers=headers)


def read_token(path: str | Path) -> str:
    """Token of a file, which is made with a random one, readable by its owner alone, if it does not exist.

    Raises:
        ConfigError: the file cannot be read, or holds no token of at least `SHORTEST_TOKEN` characters on one line.
        DiskError: the file cannot be written.
    """
    path = Path(path)
    if not path.exists():
        _write_new(path, secrets.token_urlsafe(32))
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_TOKEN + 3).decode("ascii", "replace")
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise ConfigError(f"{path}: the token cannot be read: {error.strerror}. Name a file with a token.") from None
    token = text.removesuffix("\n").removesuffix("\r")
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN or not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"{path}: this is no token. Its one line needs {SHORTEST_TOKEN} or more of the characters A-Z, a-z, 0-9 "
            "and . _ ~ + / -. Remove the file and start again: a token is made."
        )
    if os.name != "nt" and path.is_file() and mode & 0o077:
        logger.warning(f"{path}: other users of this machine may read the token. chmod 600 takes that from them.")
    return token


def _write_new(path: Path, token: str) -> None:
    """Write a token to a file of its owner alone; a file that another process has made meanwhile is kept."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with open(beside, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(f"{token}\n")
                file.flush()
                os.fsync(file.fileno())
            if os.name == "nt":
                beside.rename(path)
            else:
                path.hardlink_to(beside)
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(path.parent)
    except FileExistsError:
        return
    except OSError as error:
        raise DiskError(
            f"{path}: the token cannot be written: {error.strerror}. Name a file in a folder that exists and in which "
            "you may write."
        ) from None
