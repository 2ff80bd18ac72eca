"""Access to the server: hosts, origins, the token, headers of answers, and the file of the token."""

import asyncio
import logging
import os

import pytest
from raw_requests import Raw, ask
from starlette.responses import JSONResponse, PlainTextResponse

from loupe.errors import ConfigError, DiskError
from loupe.serve.guard import Access, Guard, own_names, read_token

OWN = ("Host", "127.0.0.1:8000")
TOKEN = "0123456789abcdef-._~+/="
unix = pytest.mark.skipif(os.name == "nt", reason="modes of files are those of Unix")


async def served(scope, receive, send):
    await PlainTextResponse("served", headers={"X-Own": "kept"})(scope, receive, send)


def access(**fields: object) -> Access:
    return Access(**{"host": "127.0.0.1", "port": 8000, **fields})


def told(*headers: tuple[str, str], method: str = "GET", path: str = "/predict", **fields: object) -> Raw:
    return ask(Guard(served, access(**fields)), method, path, headers)


def status_of_host(named: str, **fields: object) -> int:
    return told(("Host", named), **fields).status


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "localhost."])
def test_loopback_names_reach_the_server(host):
    answer = told(("Host", host))
    assert (answer.status, answer.body, answer.headers["x-own"]) == (200, b"served", "kept")


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8000",
        "127.0.0.1:8001",
        "localhost:80",
        "127.0.0.1.attacker.example:8000",
        "0.0.0.0:8000",
        "127.1:8000",
        "192.168.1.5:8000",
        "localhost.attacker.example",
        "2130706433:8000",
    ],
)
def test_foreign_hosts_do_not(host):
    answer = told(("Host", host))
    assert answer.status == 403
    assert f"--allow-host {host}" in answer.error
    assert "x-own" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Host", "")],
        [OWN, OWN],
        [OWN, ("Host", "attacker.example")],
        [("Host", "127.0.0.1:8000, x")],
        [("Host", "a b")],
        [("Host", "127.0.0.1:8000@attacker.example")],
    ],
)
def test_a_request_without_one_valid_host_is_malformed(headers):
    assert told(*headers).status == 400


def test_the_bound_host_reaches_the_server():
    assert status_of_host("192.168.1.5:8000", host="192.168.1.5") == 200
    assert status_of_host("192.168.1.6:8000", host="192.168.1.5") == 403
    assert status_of_host("[2001:db8::1]:8000", host="2001:db8:0::1") == 200
    assert status_of_host("images.local:8000", host="Images.local") == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_wildcard_address_is_reached_by_addresses_and_own_names_alone(host, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Lab7.example.edu")
    allowed = ["10.1.2.3:8000", "[2001:db8::1]:8000", "0.0.0.0:8000", "lab7:8000", "lab7.example.edu", "lab7.local"]
    allowed += ["10.1.2.3:80"]  # the port of a container may have another number outside
    refused = ["attacker.example:8000", "lab8:8000", "127.1:8000"]
    assert [status_of_host(name, host=host) for name in allowed] == [200] * 7
    assert [status_of_host(name, host=host) for name in refused] == [403] * 3


def test_named_hosts_are_reached_at_any_port_unless_one_is_named():
    hosts = ("images.example.org", "other.example.org:8443")
    allowed = ["images.example.org", "Images.Example.org:443", "images.example.org:9999", "other.example.org:8443"]
    refused = ["other.example.org", "other.example.org:8000", "x.images.example.org"]
    assert [status_of_host(name, hosts=hosts) for name in allowed] == [200] * 4
    assert [status_of_host(name, hosts=hosts) for name in refused] == [403] * 3


def test_own_names_of_a_bound_host():
    assert own_names("127.0.0.5") == {"localhost", "127.0.0.1", "::1", "127.0.0.5"}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
def test_pages_of_the_server_may_ask(host, method):
    answer = told(("Host", host), ("Origin", f"http://{host}"), ("Sec-Fetch-Site", "same-origin"), method=method)
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "*",
        "https://attacker.example",
        "http://attacker.example:8000",
        "http://localhost:8000",
        "http://127.0.0.1:8001",
        "https://127.0.0.1:8000",
        "http://127.0.0.1",
        "http://127.0.0.1:8000/",
    ],
)
def test_pages_of_other_origins_may_not(origin, method):
    answer = told(OWN, ("Origin", origin), ("Access-Control-Request-Method", "POST"), method=method)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_two_origins_are_refused():
    own = ("Origin", "http://127.0.0.1:8000")
    assert told(OWN, own, own).status == 403


@pytest.mark.parametrize(
    ("method", "site", "status"),
    [
        ("POST", "cross-site", 403),
        ("POST", "same-site", 403),
        ("POST", "same-origin", 200),
        ("POST", "none", 200),
        ("PUT", "cross-site", 403),
        ("GET", "cross-site", 200),
    ],
)
def test_a_form_of_another_site_is_known_without_its_origin(method, site, status):
    assert told(OWN, ("Sec-Fetch-Site", site), method=method).status == status


def test_behind_a_proxy_pages_may_have_come_by_https():
    hosts = ("images.example.org",)
    pairs = [
        ("images.example.org", "https://images.example.org", 200),
        ("images.example.org", "http://images.example.org", 200),
        ("images.example.org:8443", "https://images.example.org:8443", 200),
        ("images.example.org", "https://images.example.org:8443", 403),
        ("images.example.org", "https://other.example.org", 403),
    ]
    found = [told(("Host", host), ("Origin", origin), hosts=hosts, method="POST").status for host, origin, _ in pairs]
    assert found == [status for *_, status in pairs]


NAMED = ("https://images.example.org", "http://localhost:3000")


def test_named_origins_may_ask_and_are_told_so():
    answer = told(OWN, ("Origin", "http://localhost:3000"), origins=NAMED, method="POST")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers


def test_answers_vary_by_origin_once_one_is_named():
    assert told(OWN, origins=NAMED).headers["vary"] == "Origin"
    assert "vary" not in told(OWN).headers
    foreign = told(OWN, ("Origin", "https://attacker.example"), origins=NAMED)
    assert (foreign.status, foreign.headers["vary"]) == (403, "Origin")
    assert "access-control-allow-origin" not in foreign.headers


def test_the_preflight_of_a_named_origin_needs_no_token():
    question = (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization"))
    asked_by = [OWN, ("Origin", NAMED[0]), *question]
    answer = told(*asked_by, origins=NAMED, token=TOKEN, method="OPTIONS")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == NAMED[0]
    assert "POST" in answer.headers["access-control-allow-methods"].split(", ")
    assert "Authorization" in answer.headers["access-control-allow-headers"].split(", ")
    assert told(*asked_by, token=TOKEN, method="OPTIONS").status == 403
    assert told(("Host", "attacker.example"), *asked_by[1:], origins=NAMED, method="OPTIONS").status == 403


def test_a_named_origin_can_read_why_it_is_refused():
    answer = told(OWN, ("Origin", NAMED[0]), origins=NAMED, token=TOKEN, method="POST")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, NAMED[0])
    assert "WWW-Authenticate" in answer.headers["access-control-expose-headers"].split(", ")


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer  {TOKEN} "])
def test_the_token_opens_the_server(given):
    assert told(OWN, ("Authorization", given), token=TOKEN).status == 200


@pytest.mark.parametrize(
    "given",
    [TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer \xe9", ""],
)
def test_another_token_does_not(given):
    answer = told(OWN, ("Authorization", given), token=TOKEN)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="loupe", error="invalid_token"'


def test_without_a_token_the_server_asks_for_one():
    answer = told(OWN, token=TOKEN)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="loupe"')
    right = ("Authorization", f"Bearer {TOKEN}")
    assert told(OWN, right, right, token=TOKEN).status == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/page/server.js", 200),
        ("GET", "/v2/health/live", 200),
        ("HEAD", "/v2/health/ready", 200),
        ("POST", "/v2/health/live", 401),
        ("POST", "/", 401),
        ("GET", "/page", 401),
        ("GET", "/v2/models", 401),
        ("GET", "/metrics", 401),
        ("GET", "/openapi.json", 401),
        ("GET", "//", 401),
        ("GET", "/v2/health/live/", 401),
        ("POST", "/explain", 401),
    ],
)
def test_health_and_the_page_need_no_token(method, path, status):
    assert told(OWN, token=TOKEN, method=method, path=path).status == status
    assert told(("Host", "attacker.example"), token=TOKEN, method=method, path=path).status == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "attacker.example", ""])
def test_every_answer_has_the_headers_of_security(host):
    headers = told(("Host", host)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_a_page_keeps_its_own_content_policy():
    page = JSONResponse({}, headers={"Content-Security-Policy": "default-src 'self'", "Vary": "Accept"})
    headers = ask(Guard(page, access(origins=NAMED)), headers=[OWN]).headers
    assert headers["content-security-policy"] == "default-src 'self'"
    assert headers["vary"] == "Accept, Origin"


def test_a_refusal_ends_the_connection_of_a_client_that_is_still_sending():
    headers = [("Host", "attacker.example"), ("Transfer-Encoding", "chunked")]
    answer = ask(Guard(served, access()), "POST", "/predict", headers, [b"x", b"y", None])
    assert (answer.status, answer.headers["connection"]) == (403, "close")
    assert [message.get("more_body") for message in answer.messages[1:]] == [True, False]


def test_refusals_are_told_by_their_reason():
    reasons = []
    guard = Guard(served, access(token=TOKEN), reasons.append)
    for headers in ([], [("Host", "a")], [OWN, ("Origin", "null")], [OWN], [OWN, ("Authorization", f"Bearer {TOKEN}")]):
        ask(guard, headers=headers, path="/metrics")
    assert reasons == ["host", "host", "origin", "token"]


def test_websockets_are_refused_and_other_scopes_pass():
    sent, seen = [], []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        seen.append(scope["type"])

    guard = Guard(app, access())
    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, receive, send))
    asyncio.run(guard({"type": "lifespan"}, receive, send))
    assert (sent, seen) == ([{"type": "websocket.close", "code": 1008}], ["lifespan"])


@pytest.mark.parametrize(
    "fields",
    [
        {"origins": ("*",)},
        {"origins": ("example.org",)},
        {"origins": ("null",)},
        {"hosts": ("http://example.org",)},
        {"hosts": ("*",)},
        {"hosts": ("",)},
    ],
)
def test_names_that_are_none_are_refused_at_the_start(fields):
    with pytest.raises(ConfigError):
        access(**fields)


def test_a_token_file_is_made_once_for_its_owner_alone(tmp_path, caplog):
    path = tmp_path / "token"
    token = read_token(path)
    assert len(token) >= 32
    assert path.read_text() == f"{token}\n"
    assert list(tmp_path.iterdir()) == [path]
    assert read_token(path) == token
    assert read_token(tmp_path / "other") != token
    assert not caplog.records
    if os.name != "nt":
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\n", f"{TOKEN}\n"])
def test_the_line_of_a_token_file_is_the_token(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content.encode())
    path.chmod(0o600)
    assert read_token(path) == content.strip()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"0123456789abcde\n",
        b"two words of a token\n",
        b"0123456789abcdef\n0123456789abcdef\n",
        b"\x00" * 20,
        "schlüssel-schlüssel".encode(),
        b"x" * 5000,
        b"\n0123456789abcdef",
    ],
)
def test_other_content_is_no_token(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="token"):
        read_token(path)
    assert path.read_bytes() == content


@unix
def test_a_token_that_others_can_read_is_warned_of(tmp_path, caplog):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING, logger="loupe"):
        assert read_token(path) == TOKEN
    assert str(path) in caplog.text
    assert TOKEN not in caplog.text


def test_a_token_file_without_a_place_is_an_error_of_the_disk(tmp_path):
    with pytest.raises(DiskError) as error:
        read_token(tmp_path / "absent" / "token")
    assert str(tmp_path / "absent" / "token") in str(error.value)


def test_a_folder_is_no_token_file(tmp_path):
    with pytest.raises(ConfigError) as error:
        read_token(tmp_path)
    assert str(tmp_path) in str(error.value)
