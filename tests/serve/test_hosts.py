"""Hosts and origins of headers: one spelling for each, and nothing else is taken."""

import pytest

from loupe.serve.hosts import Host, Origin, one_spelling, parse_host, parse_origin


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost", Host("localhost")),
        ("LocalHost.:8000", Host("localhost", 8000)),
        ("127.0.0.1:1", Host("127.0.0.1", 1)),
        ("[::1]:8000", Host("::1", 8000)),
        ("[0:0:0:0:0:0:0:1]", Host("::1")),
        ("[2001:DB8::1]", Host("2001:db8::1")),
        ("my_server-1.example.org:65535", Host("my_server-1.example.org", 65535)),
    ],
)
def test_hosts_have_one_spelling(text, host):
    assert parse_host(text) == host
    assert parse_host(str(host)) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":8000",
        "::1",
        "[::1",
        "[::g]",
        "[127.0.0.1]",
        "a b",
        "a,b",
        "a/b",
        "u@a",
        "a:",
        "a:0",
        "a:65536",
        "a:b",
        "a:٣",
        "a\n",
        "ä",
        "http://a",
        "a" * 254,
        "[fe80::1%25eth0]",
        "[]",
        "a:80:80",
    ],
)
def test_anything_else_is_no_host(text):
    assert parse_host(text) is None


def test_addresses_are_told_from_names():
    found = {text: parse_host(text).is_address for text in ("10.0.0.1", "[::1]", "10.0.0", "0x7f.1", "localhost")}
    assert found == {"10.0.0.1": True, "[::1]": True, "10.0.0": False, "0x7f.1": False, "localhost": False}


def test_bound_addresses_lose_brackets_and_zones():
    assert [one_spelling(text) for text in ("::0001", "[::1]", "fe80::1%eth0", "A.Example.")] == [
        "::1",
        "::1",
        "fe80::1",
        "a.example",
    ]


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://localhost:8000", Origin("http", "localhost", 8000)),
        ("HTTPS://Example.org", Origin("https", "example.org", 443)),
        ("http://[::1]", Origin("http", "::1", 80)),
    ],
)
def test_origins_have_a_port(text, origin):
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text", ["", "null", "*", "example.org", "http://", "http://a/", "http://a/b", "ftp://a", "file://", "http://u@a"]
)
def test_anything_else_is_no_origin(text):
    assert parse_origin(text) is None
