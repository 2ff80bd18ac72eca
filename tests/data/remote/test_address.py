"""Addresses of remote files: what they mean, what is refused, and that no credentials are shown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.data.remote.address import Address, is_remote
from loupe.data.remote.failures import RemoteError
from loupe.data.remote.patterns import fixed_folder, is_flat, matches
from loupe.data.remote.redaction import redacted, redacted_text, redacted_word
from loupe.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("s3://b/x", True),
        ("HF://datasets/a/b", True),
        ("ftp://host/x", True),
        ("s3:/b/x", True),
        ("https:/h/x", True),
        ("photos/", False),
        ("C:\\photos", False),
        ("/data/s3:/x", False),
        ("digits", False),
        ("", False),
    ],
)
def test_remote_addresses_are_told_from_paths(text, remote):
    assert is_remote(text) is remote


@pytest.mark.parametrize(
    ("text", "scheme", "root", "path", "revision", "shown"),
    [
        ("hf://datasets/ann/pets", "hf", "ann/pets", "", None, "hf://datasets/ann/pets"),
        ("hf://datasets/ann/pets@v1/", "hf", "ann/pets", "", "v1", "hf://datasets/ann/pets@v1"),
        ("hf://datasets/ann/pets/a/*.parquet", "hf", "ann/pets", "a/*.parquet", None, "hf://datasets/ann/pets/a/*.parquet"),
        ("hf://datasets/ann/pets@refs/pr/3/x", "hf", "ann/pets", "x", "refs/pr/3", "hf://datasets/ann/pets@refs%2Fpr%2F3/x"),
        ("hf://datasets/ann/pets@refs%2Fpr%2F3/x", "hf", "ann/pets", "x", "refs/pr/3", "hf://datasets/ann/pets@refs%2Fpr%2F3/x"),
        ("s3://bucket/a b/#1?.tar", "s3", "bucket", "a b/#1?.tar", None, "s3://bucket/a b/#1?.tar"),
        ("gcs://bucket", "gs", "bucket", "", None, "gs://bucket/"),
        ("abfs://box/x", "az", "box", "x", None, "az://box/x"),
        ("abfss://box@acc.dfs.core.windows.net/x", "az", "box@acc.dfs.core.windows.net", "x", None,
         "abfss://box@acc.dfs.core.windows.net/x"),
        ("https:/host:8/a/x.tar#f", "https", "host:8", "a/x.tar", None, "https://host:8/a/x.tar"),
    ],
)  # fmt: skip
def test_parts_of_an_address(text, scheme, root, path, revision, shown):
    address = Address.of(text)
    assert (address.scheme, address.root, address.path, address.revision) == (scheme, root, path, revision)
    assert address.shown == shown
    assert Address.of(address.url) == address


@pytest.mark.parametrize(
    "text",
    [
        "photos/",
        "ftp://host/x",
        "file:///data",
        "simplecache::s3://b/x",
        "hf://datasets/pets",
        "hf://ann/pets",
        "hf://datasets/ann/pets@",
        "s3://",
        "s3:///x",
        "s3://*/x",
        "s3://KEY:SECRET@bucket/x",
        "az://",
        "https://",
        "https://[::1/x",
        "https://host:port/x",
        "s3://b/a\nb",
    ],
)
def test_other_addresses_are_refused_with_an_example_and_without_a_secret(text):
    with pytest.raises(ConfigError, match="://") as error:
        Address.of(text)
    assert "SECRET" not in str(error.value)


def test_ranges_of_numbers_are_expanded_in_order():
    expanded = Address.of("s3://b/{a,b}/x-{08..11}.tar").expanded()
    assert [each.path for each in expanded] == [f"{{a,b}}/x-{number:02}.tar" for number in range(8, 12)]
    assert [each.path for each in Address.of("s3://b/{1..2}/{0..1}").expanded()] == ["1/0", "1/1", "2/0", "2/1"]
    for wrong in ("{5..2}", "{0..1000000}"):
        with pytest.raises(ConfigError):
            Address.of(f"s3://b/{wrong}").expanded()


SECRET_URL = "https://ann:pa55word@host/a.tar?X-Amz-Signature=5ecretsign&download=1&sig=5ecretsign&5ecretsign5ecretsign"


def test_no_credentials_are_shown():
    address = Address.of(SECRET_URL)
    error = RemoteError(
        SECRET_URL, redacted_text(f"refused: {SECRET_URL}, Authorization: Bearer 5ecretsign.5ecretsign")
    )
    texts = [redacted(SECRET_URL), address.shown, repr(address), str(error), error.url, repr(error)]
    for text in [
        *texts,
        redacted_text("key AKIA5ECRETSIGN5ECRET, hf_5ecretsign5ecretsign, token=5ecretsign password: pa55word"),
    ]:
        assert "5ecretsign" not in text and "5ECRET" not in text and "pa55word" not in text
    assert address.shown == "https://host/a.tar?X-Amz-Signature=…&download=1&sig=…&…"
    assert "5ecretsign" in address.url  # requests need it


WORDS = st.text("abcdefgXYZ0123456789-_.~%+=", min_size=6, max_size=20)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    secret=WORDS.map("5ecret".__add__),
    name=WORDS,
    scheme=st.sampled_from(["http", "https", "s3", "gs", "az", "abfs", "hf"]),
)
def test_secrets_in_any_place_are_hidden(secret, name, scheme):
    texts = [f"{scheme}://user:{secret}@host/a.tar"]
    if scheme.startswith("http"):
        texts += [f"{scheme}://host/a.tar?{name}={secret}", f"{scheme}://host/a?version={secret * 12}#{secret}"]
    for text in texts:
        assert "5ecret" not in redacted(text) and "5ecret" not in redacted_text(f"error: '{text}', again")
        try:
            address = Address.of(text)
        except ConfigError as error:
            assert "5ecret" not in str(error)
        else:
            assert "5ecret" not in repr(address) + str(RemoteError(address.url, "failed"))


def test_names_of_objects_are_shown_as_they_are():
    assert redacted("s3://bucket/a@b?c=d#e") == "s3://bucket/a@b?c=d#e"
    assert redacted("gs://user:secret@bucket/a") == "gs://bucket/a"
    assert redacted("https://[bad/x?token=1") == "https://[bad/x"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a/*.tar", "a/x.tar", True),
        ("a/*.tar", "a/b/x.tar", False),
        ("**/*.tar", "x.tar", True),
        ("**/*.tar", "a/b/x.tar", True),
        ("a/**", "a/b/c", True),
        ("a/**/c/*", "a/c/d", True),
        ("a/[xy]?.tar", "a/x1.tar", True),
        ("a/[xy]?.tar", "a/z1.tar", False),
        ("a/X.tar", "a/x.tar", False),
    ],
)
def test_patterns_match_name_by_name(pattern, path, expected):
    assert matches(pattern, path) is expected


def test_the_folder_of_a_pattern_holds_all_matches():
    assert [fixed_folder(pattern) for pattern in ("a/b/*.tar", "a/*/c.tar", "*.tar", "x", "a/x")] == [
        "a/b/",
        "a/",
        "",
        "",
        "a/",
    ]
    assert [is_flat(pattern) for pattern in ("a/*.tar", "*", "a/*/x", "**/x", "a/**")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("http://user:PW@host/p.tar?sig=X", "http://host/p.tar?sig=…"),
        ("--data=https://user:P(W@host/a.tar?X-Amz-Signature=S'X#X", "--data=https://host/a.tar?X-Amz-Signature=…"),
        ("http:/user:PW@host/p.tar", "http://host/p.tar"),
        ("HTTP://user:PW@host/p.tar", "http://host/p.tar"),
        ("http://host/a,http://user:PW@host/b", "http://host/a,http://host/b"),
        ("http://user:PW@[host/p", "http://[host/p"),
        ("s3://AKEY:SECRETPW@bucket/a.tar", "s3://bucket/a.tar"),
        *(
            (word, word)
            for word in ("pets", "C:/a@b", "a:b@c", "hf://datasets/a/b@main#c", "https://host/a?version=1", "")
        ),
    ],
)
def test_words_of_a_command_are_recorded_without_credentials(word, shown):
    assert redacted_word(word) == shown
    assert redacted_word(shown) == shown
