"""Bodies of requests: limits, multipart forms, single images, names, and the budget of all requests."""

import json
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_requests import Raw, ask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from loupe.serve.body import Upload, file_name, read_body, read_images
from loupe.serve.held import Held
from loupe.serve.limits import Limits
from loupe.serve.refusals import Refusal

LIMITS = Limits(body_bytes=10_000, held_bytes=20_000, images=4, send_seconds=5.0)
FORM = "multipart/form-data; boundary=limit"


class Reader:
    """Application that answers the names and sizes of what it read, and keeps the files."""

    def __init__(self, read=read_images, limits=LIMITS, held=None) -> None:
        self.read, self.limits, self.held = read, limits, held or Held(limits.held_bytes)
        self.found: list[Upload] | bytes = []
        self.held_bytes = 0

    async def __call__(self, scope, receive, send) -> None:
        try:
            with self.held.share() as share:
                self.found = await self.read(Request(scope, receive), self.limits, share)
                self.held_bytes = self.held.bytes
            answer = JSONResponse({}, 200)
        except Refusal as refusal:
            answer = JSONResponse({"error": refusal.message}, refusal.status, refusal.headers)
        await answer(scope, receive, send)


def sent(reader, body: bytes, kind: str | None = FORM, *more: tuple[str, str], size: int | None = None) -> Raw:
    """Answer to a body, which comes in pieces of a size and without a Content-Length."""
    headers = [("Content-Type", kind), *more] if kind is not None else list(more)
    pieces = [body[start : start + size] for start in range(0, len(body), size)] if size else [body]
    return ask(reader, "POST", headers=headers, pieces=pieces or [b""])


def part(disposition: str, content: bytes, *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    return b"--limit\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"


def image(content: bytes = b"content", name: str = "a.jpg") -> bytes:
    return part(f'name="image"; filename="{name}"', content, "Content-Type: image/jpeg")


END = b"--limit--\r\n"


@pytest.mark.parametrize("size", [None, 1, 2, 7, 100])
def test_the_files_of_a_form_are_its_parts_in_order(size):
    contents = [b"first", b"", b"\r\n--limi\r\n--limitless\r\n\r\n--", bytes(range(256)) * 3]
    body = b"".join(image(content, f"{index}.png") for index, content in enumerate(contents)) + END
    reader = Reader()
    assert sent(reader, body, size=size).status == 200
    assert reader.found == [Upload(f"{index}.png", content) for index, content in enumerate(contents)]
    assert (reader.held_bytes, reader.held.bytes) == (len(body), 0)


@given(
    st.lists(
        st.tuples(st.text("abc ß日.jpg;=", min_size=1, max_size=12), st.binary(max_size=300)), min_size=1, max_size=4
    ),
    st.integers(1, 50),
)
def test_forms_of_httpx_are_read(files, size):
    request = httpx.Request("POST", "http://a", files=[("f", pair) for pair in files])
    reader = Reader()
    assert sent(reader, request.read(), request.headers["content-type"], size=size).status == 200
    assert reader.found == [Upload(name, content) for name, content in files]


def test_a_part_without_a_choice_of_file_is_left_out():
    empty = part('name="other"; filename=""', b"", "Content-Type: application/octet-stream")
    reader = Reader()
    assert sent(reader, empty + image() + part('name="button"', b"") + END).status == 200
    assert reader.found == [Upload("a.jpg", b"content")]
    assert sent(reader, empty + END).status == 400


def test_a_field_that_is_no_file_is_refused_by_its_name():
    answer = sent(Reader(), image() + part('name="top"', b"3") + END)
    assert answer.status == 400
    assert "'top'" in answer.error


def test_files_beyond_the_number_are_refused():
    assert sent(Reader(), image() * 4 + END).status == 200
    answer = sent(Reader(), image() * 5 + END)
    assert answer.status == 413
    assert "4 images" in answer.error


DAMAGED = {
    "another boundary": b"--other\r\n" + image()[9:] + b"--other--\r\n",
    "no end": image(),
    "an end within a file": image()[:-5],
    "no boundary at all": b"content",
    "a part without disposition": b"--limit\r\nContent-Type: image/png\r\n\r\nx\r\n" + END,
    "a part without headers": b"--limit\r\n\r\nx\r\n" + END,
    "a part without a name": b'--limit\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n' + END,
    "another disposition": b'--limit\r\nContent-Disposition: file; name="a"; filename="a"\r\n\r\nx\r\n' + END,
    "no colon": b"--limit\r\nContent-Disposition\r\n\r\nx\r\n" + END,
    "control characters in a header": b"--limit\r\nContent\x00-Type: x\r\n\r\n" + END,
    "large headers": part('name="image"; filename="a"', b"x", "X: " + "x" * 5000) + END,
    "a large header name": part('name="image"; filename="a"', b"x", "x" * 5000 + ": x") + END,
    "many headers": part('name="image"; filename="a"', b"x", *[f"X-{i}: x" for i in range(20)]) + END,
    "many fields": part('name="x"', b"") * 30 + END,
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("size", [None, 3])
def test_damaged_forms_are_refused(what, size, caplog):
    assert sent(Reader(), DAMAGED[what], size=size).status == 400
    assert not caplog.records


@given(st.lists(st.sampled_from([image(), END, b"--limit", b"\r\n", b"--", b"Content-Disposition: ", b"\x00"])))
def test_no_form_is_an_error_of_the_server(pieces):
    assert sent(Reader(), b"".join(pieces)).status in (200, 400, 413)


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 71}"]
)
def test_a_form_needs_a_boundary(kind):
    assert sent(Reader(), image() + END, kind).status == 400


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/png; q=1", "image/x-any", "application/octet-stream"])
def test_a_body_may_be_one_image(kind):
    reader = Reader()
    assert sent(reader, bytes(range(256)), kind, size=100).status == 200
    assert reader.found == [Upload("image", bytes(range(256)))]


def test_the_image_of_a_body_may_have_a_name():
    reader = Reader()
    sent(reader, b"x", "image/png", ("Content-Disposition", 'attachment; filename="a \\"b\\".png"'))
    assert reader.found == [Upload('a "b".png', b"x")]


@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "application/json", "application/x-www-form-urlencoded", "multipart/mixed; boundary=a"],
)
def test_other_types_are_refused(kind):
    assert sent(Reader(), b"x", kind).status == 415


def test_compressed_bodies_are_refused():
    assert sent(Reader(), b"x", "image/png", ("Content-Encoding", "gzip")).status == 415
    assert sent(Reader(), b"x", "image/png", ("Content-Encoding", "identity")).status == 200


@pytest.mark.parametrize("kind", [FORM, "image/png"])
def test_an_empty_body_is_refused(kind):
    assert sent(Reader(), b"", kind).status == 400
    assert sent(Reader(read_body), b"", kind).status == 400


def test_a_body_of_any_type_is_read_as_bytes():
    reader = Reader(read_body)
    assert sent(reader, b"{}" * 100, "application/json", size=7).status == 200
    assert reader.found == b"{}" * 100


@pytest.mark.parametrize("read", [read_body, read_images])
@pytest.mark.parametrize("kind", [FORM, "image/png"])
def test_a_body_above_the_limit_is_refused_before_it_is_read(read, kind):
    async def app(scope, receive, send):
        async def receive_nothing():
            raise AssertionError("the body was read")

        await Reader(read)(scope, receive_nothing, send)

    answer = ask(app, "POST", headers=[("Content-Type", kind), ("Content-Length", "10001")])
    assert answer.status == 413


@pytest.mark.parametrize(("size", "status"), [(10_000, 200), (10_001, 413)])
def test_a_body_without_length_is_cut_off_at_the_limit(size, status):
    assert sent(Reader(), b"x" * size, "image/png", size=999).status == status
    form = image(b"x" * (size - len(image(b"")) - len(END))) + END
    assert len(form) == size
    assert sent(Reader(), form, size=999).status == status


def test_no_more_is_received_than_the_limit():
    reader = Reader()
    received = []

    async def app(scope, receive, send):
        async def endless():
            received.append(1000)
            return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

        await reader(scope, endless, send)

    assert ask(app, "POST", headers=[("Content-Type", "image/png")]).status == 413
    assert sum(received) == 11_000
    assert reader.held.bytes == 0


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "", "1 2"])
def test_a_length_that_is_no_number_is_refused(length):
    assert ask(Reader(), "POST", headers=[("Content-Type", "image/png"), ("Content-Length", length)]).status == 400


def test_a_slow_sender_is_refused():
    reader = Reader(limits=Limits(send_seconds=0.05))
    began = time.perf_counter()
    answer = ask(reader, "POST", headers=[("Content-Type", "image/png")], pieces=[b"x", 0.03, b"y", 5.0, b"z"])
    assert answer.status == 408
    assert time.perf_counter() - began < 2
    assert reader.held.bytes == 0


def test_a_client_that_goes_away_is_no_refusal():
    reader = Reader()
    with pytest.raises(ClientDisconnect):
        ask(reader, "POST", headers=[("Content-Type", "image/png")], pieces=[b"x", b"y", None])
    assert reader.held.bytes == 0


def test_all_requests_share_a_budget():
    held = Held(100)
    with held.share() as first, held.share() as second:
        first.take(60)
        second.take(40)
        with pytest.raises(Refusal) as refused:
            second.take(1)
        assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
        assert (first.bytes, second.bytes, held.bytes) == (60, 40, 100)
    assert held.bytes == 0


@pytest.mark.parametrize("length", [[], [("Content-Length", "100")]])
def test_a_request_above_the_budget_is_refused_with_a_time(length):
    held = Held(150)
    with held.share() as other:
        other.take(51)
        answer = sent(Reader(held=held), b"x" * 100, "image/png", *length, size=10)
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert held.bytes == 51
    assert sent(Reader(held=held), b"x" * 100, "image/png", size=10).status == 200


NAMES = {
    b"a.jpg": "a.jpg",
    "Müller 日本.jpg".encode(): "Müller 日本.jpg",
    b"M\xfcller.jpg": "Müller.jpg",
    b"../../etc/passwd": "../../etc/passwd",
    b"<script>alert(1)</script>": "<script>alert(1)</script>",
    b"a\x00b\x1b[31m\r\n\x7f": "ab[31m",
    "a\u202egpj.exe\u2028\u0085".encode(): "agpj.exe",
    b"x" * 5000: "x" * 255,
}


@pytest.mark.parametrize("raw", NAMES)
def test_names_keep_what_can_be_shown(raw):
    assert file_name(raw) == NAMES[raw]


@given(st.binary(max_size=300))
def test_every_name_is_text_of_one_line(raw):
    name = file_name(raw)
    assert len(name) <= 255
    assert len(name.splitlines()) <= 1
    assert json.loads(json.dumps(name)) == name
