"""Soups: one network, whose weights are the mean of those of runs with the same start."""

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import update_bn

import loupe
from builders import without_slow_parts
from loupe.augment.pipeline import evaluation_view
from loupe.errors import ConfigError
from loupe.models import bundle
from loupe.provenance import environment_of
from loupe.runs.soup import BATCH, check_start
from loupe.search.blend import soup

SPLIT = {"split.validation": 0.3, "split.seed": 0, "precision": "fp32"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and two that were trained on from its weights with other seeds."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        without_slow_parts(patch)
        patch.setenv("LOUPE_CACHE", str(folder / "cache"))
        patch.chdir(folder)

        def trained(name, **more):
            settings = {**SPLIT, "seed": more.pop("seed", 0)}
            options = {"open_test": False, "quiet": True, "epochs": 1, "device": "cpu", "settings": settings}
            return loupe.train("digits", recipe="digits", name=name, **options, **more)

        start = trained("start")
        yield [start, *(trained(f"child-{seed}", seed=seed, weights=start.path) for seed in (1, 2))]


@pytest.fixture(scope="module")
def made(runs):
    return soup(runs[1:], output=runs[0].path.parent, name="soup", device="cpu")


def state(run):
    return bundle.load(run.directory.model, torch.device("cpu"))[0]


def test_weights_are_means_and_statistics_those_of_pytorch(runs, made):
    one, other, mixed = (state(run).state_dict() for run in (*runs[1:], made))
    trained = [name for name in mixed if "running" not in name and mixed[name].is_floating_point()]
    assert any((one[name] != other[name]).any() for name in trained)
    for name in trained:
        torch.testing.assert_close(mixed[name], (one[name] + other[name]) / 2)
    model, (images, split) = state(made), made.own_images()
    rows_N = np.sort(np.random.default_rng(0).permutation(split.train)[:2048])
    pixels = torch.from_numpy(images.store.read(rows_N)).permute(0, 3, 1, 2)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    update_bn((evaluation_view(part, model.preprocessing) for part in pixels.split(BATCH)), model)
    for name, value in model.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(mixed[name], value, rtol=1e-3, atol=1e-4)


def test_a_soup_is_no_worse_on_validation_images_and_costs_one_network(runs, made):
    results = loupe.load(made.path).results
    assert results.validation.accuracy.value >= max(run.results.validation.accuracy.value for run in runs[1:])
    assert results.parameters == runs[1].results.parameters
    assert results.blend.difference.value >= 0 and not results.blend.cross_fitted
    assert environment_of(made.directory).made_command[-1] == "--soup"
    assert [one.share for one in results.made_of] == [None, None] and results.calibration.temperature.value > 0


def test_a_soup_can_be_trained_on(runs, made):
    options = {"open_test": False, "quiet": True, "epochs": 1, "device": "cpu", "settings": SPLIT}
    more = loupe.train("digits", recipe="digits", weights=made.path, name="more", **options)
    assert more.results.parent.seen_validation == 0  # that its members were trained on is known


def test_runs_with_other_starts_are_refused(runs):
    with pytest.raises(ConfigError, match="random weights"):
        check_start(runs[:2])
