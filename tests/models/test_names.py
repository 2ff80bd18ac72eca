"""Names of timm's networks in the cache are those of timm, whatever became of the file."""

import json
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from loupe.errors import ConfigError
from loupe.models.names import exists, matching


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """File of the cache; the networks are two, and counting how often timm is asked."""
    monkeypatch.setenv("LOUPE_CACHE", str(tmp_path))
    asked = []
    timm = SimpleNamespace(names=lambda: asked.append(1) or [("resnet18", True), ("vit_tiny", False)])
    monkeypatch.setattr("loupe.models.timm.networks.names", timm.names)
    assert exists("resnet18") and exists("vit_tiny") and len(asked) == 1
    file = tmp_path / "models" / f"timm-{version('timm')}.json"
    assert file.is_file()
    return SimpleNamespace(file=file, asked=asked)


def flipped(file):
    file.write_text(file.read_text().replace("resnet18", "resnet19"))


def without_checksum(file):
    content = json.loads(file.read_text())
    del content["crc32"]
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(bytes(file.stat().st_size)),
        lambda file: file.write_bytes(file.read_bytes()[:-20]),
        lambda file: file.write_text("[]"),
        lambda file: file.write_text('{"models": []}'),
        lambda file: file.unlink(),
        lambda file: (file.unlink(), file.mkdir()),
        flipped,
        without_checksum,
    ],
    ids=["zeros", "truncated", "list", "other", "absent", "folder", "flipped", "no checksum"],
)
def test_damaged_names_are_made_again(kept, damage):
    damage(kept.file)
    assert exists("resnet18") and not exists("resnet19")
    assert [(model.name, model.pretrained) for model in matching("vit")] == [("vit_tiny", False)]
    assert len(kept.asked) == 2 or kept.file.is_dir()
    with pytest.raises(ConfigError, match="resnet18"):
        matching("resnet19")
