"""Trunks that were converted for OpenVINO and kept: whatever became of their files, none but its own is taken."""

import shutil

import pytest
import torch

from loupe.config.network import CnnSpec, ConvBlock
from loupe.config.recipe import Preprocessing
from loupe.models import conversion
from loupe.models.cnn import cnn
from loupe.models.conversion import DIGEST, NAMES, Converted, traced
from loupe.models.openvino_import import core


@pytest.fixture
def places(tmp_path):
    """Folders of two trunks that are kept."""
    for name in ("own", "other"):
        files = name.encode() * 50, name.encode() * 1000
        Converted(network=None, trunk=files, place=tmp_path / name, is_known=False).keep()
        assert conversion._known(tmp_path / name) == files
    return tmp_path / "own", tmp_path / "other"


@pytest.mark.parametrize("name", [*NAMES, DIGEST])
@pytest.mark.parametrize("damage", ["zeros", "truncated", "other text", "empty", "absent", "another trunk's"])
def test_a_damaged_trunk_is_not_taken(places, name, damage):
    file, other = (place / name for place in places)
    data = file.read_bytes()
    damaged = {"zeros": bytes(len(data)), "truncated": data[:-5], "other text": b"{}", "empty": b""}
    if damage == "absent":
        file.unlink()
    else:
        file.write_bytes(damaged.get(damage, other.read_bytes()))
    assert conversion._known(places[0]) is None


def test_the_folder_of_another_trunk_is_not_taken(places):
    own, other = places
    shutil.rmtree(own)
    shutil.copytree(other, own)
    assert conversion._known(own) is None


@pytest.mark.slow
def test_in_place_of_a_damaged_trunk_the_network_is_converted_again(tmp_path):
    pytest.importorskip("openvino")
    spec = CnnSpec(name="tiny", blocks=(ConvBlock(filters=(4,)),))
    model = cnn(spec, Preprocessing(size_px=8, load_px=8), ("a", "b"), seed=0).eval()
    model.learn("head")
    first = traced(model, tmp_path)
    first.keep()
    assert traced(model, tmp_path).is_known
    (first.place / NAMES[1]).write_bytes(b"")
    found = traced(model, tmp_path)
    assert not found.is_known
    assert torch.equal(answers(found), answers(first))
    found.keep()
    assert traced(model, tmp_path).is_known


def answers(converted):
    x_BHWC = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    compiled = core().compile_model(converted.network, "CPU")
    return torch.tensor(next(iter(compiled([x_BHWC.numpy()]).values())))
