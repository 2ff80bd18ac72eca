"""Configurations of data sets on a hub, as their README.md writes them."""

import pytest

from loupe.data.sources.hub_configs import HubConfig, chosen, configs_of
from loupe.errors import DataError

NAMES = ["README.md", "a/train-0.parquet", "a/val-0.parquet", "b/train-0.parquet", "extra/x.parquet"]


def readme(front: str) -> bytes:
    return f"---\nlicense: mit\nconfigs:\n{front}---\n# Title\n---\n".encode()


@pytest.mark.parametrize(
    ("front", "files"),
    [
        ("- config_name: c\n  data_files: a/*.parquet\n", {NAMES[1]: None, NAMES[2]: None}),
        ("- config_name: c\n  data_files: [a/train-*, b/train-*]\n", {NAMES[1]: None, NAMES[3]: None}),
        ("- config_name: c\n  data_dir: b\n", {NAMES[3]: None}),
        (
            "- config_name: c\n  data_files:\n  - split: train\n    path: [b/*, extra/x.parquet]\n"
            "  - {split: validation, path: a/val-0.parquet}\n",
            {NAMES[2]: "val", NAMES[3]: "train", NAMES[4]: "train"},
        ),
    ],
)
def test_files_and_splits_of_a_configuration(front, files):
    config = chosen(configs_of(readme(front)), None, "here")
    assert config is not None
    assert config.files(NAMES, "here") == files


@pytest.mark.parametrize(
    "text", [b"", b"# Title", b"---\n{", b"---\nconfigs: 3\n---", b"---\nconfigs: [x]\n---", b"\xff"]
)
def test_a_readme_without_configurations_has_none(text):
    assert configs_of(text) == {}
    assert chosen({}, None, "here") is None


def test_one_of_several_is_named_or_is_the_default():
    several = {name: HubConfig(name, (("", "*"),)) for name in ("x", "default")}
    assert chosen(several, None, "here") == several["default"]
    assert chosen(several, "x", "here") == several["x"]
    del several["default"]
    several["y"] = HubConfig("y", ())
    for wanted in (None, "z"):
        with pytest.raises(DataError, match="x and y"):
            chosen(several, wanted, "here")


def test_splits_that_are_not_known_and_patterns_without_files_are_refused():
    for config in (HubConfig("c", (("everything", "a/*"),)), HubConfig("c", (("train", "none/*"),))):
        with pytest.raises(DataError):
            config.files(NAMES, "here")
