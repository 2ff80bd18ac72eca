"""Hosts and origins as headers of HTTP spell them, parsed strictly and compared in one spelling."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

DEFAULT_PORTS = {"http": 80, "https": 443}
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>[^/]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Host:
    """Name or address of a server, in lower case, and its port if one is given."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"

    @property
    def is_address(self) -> bool:
        """True for an IP address, which no name server can point elsewhere."""
        return is_address(self.name)


@dataclass(frozen=True)
class Origin:
    """Origin of a page: scheme, host and port."""

    scheme: str
    name: str
    port: int


def is_address(name: str) -> bool:
    """True for an IPv4 or IPv6 address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def one_spelling(name: str) -> str:
    """Host name or address in lower case, without brackets, zone and last dot; IPv6 in its short form."""
    bare = name.strip("[]").partition("%")[0].lower()
    return ip_address(bare).compressed if is_address(bare) else bare.removesuffix(".")


def parse_host(text: str) -> Host | None:
    """Host of `name`, `name:port`, `[address]` or `[address]:port`; None if it is none of them."""
    match = _HOST.fullmatch(text)
    if not match:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        return None
    if match["v6"] is None:
        return Host(one_spelling(match["name"]), port)
    try:
        return Host(IPv6Address(match["v6"]).compressed, port)
    except ValueError:
        return None


def parse_origin(text: str) -> Origin | None:
    """Origin of `scheme://host` or `scheme://host:port`, for HTTP and HTTPS; None for others, and for `null`."""
    match = _ORIGIN.fullmatch(text)
    host = parse_host(match["host"]) if match else None
    if not match or not host:
        return None
    scheme = match["scheme"].lower()
    return Origin(scheme, host.name, host.port or DEFAULT_PORTS[scheme])
