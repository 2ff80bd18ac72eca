"""Files of the server's page: their policy, their types, and nothing of a model in them."""

import re

import digits_service
import pytest

from loupe.serve.page import SCRIPTS, STYLES


@pytest.fixture(scope="module")
def client():
    with digits_service.client(digits_service.service(digits_service.model())) as client:
        yield client


def test_the_policy_allows_the_servers_own_files_and_requests_alone(client):
    response = client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy.pop("script-src") == policy.pop("style-src") == policy.pop("connect-src") == "'self'"
    assert policy.pop("img-src") == "'self'" and set(policy.values()) == {"'none'"}
    assert policy.keys() == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_page_names_files_that_exist_and_holds_no_script_no_style_and_no_model(client):
    text = client.get("/").text
    named = re.findall(r'(?:src|href)="(/[^"]+)"', text)
    assert named == [f"/page/{name}" for name in ("icon.svg", *STYLES, *SCRIPTS)]
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for path in named:
        response = client.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"].split(";")[0] == kinds[path.rpartition(".")[2]]
    assert not re.search(r"<script(?! defer src=)|<style|\bstyle=|\bon\w+=|://", text)
    assert not [name for name in digits_service.CLASSES[2:4] if name in text]


@pytest.mark.parametrize("path", ["/page/none.js", "/page/..%2fpage.py", "/page/%2e%2e/page.py", "/page/"])
def test_other_files_are_not_served(client, path):
    assert client.get(path).status_code == 404
