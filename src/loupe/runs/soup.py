"""Soup of trained runs: a new run of one network, whose weights are the mean of those of runs with the same start."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from loupe.augment.pipeline import evaluation_view
from loupe.config.resolved import ResolvedRecipe
from loupe.data.pixels.batches import BatchLoader
from loupe.data.pixels.prepare import Images
from loupe.data.splits.split import Split
from loupe.devices import Compute, choose_device
from loupe.errors import ConfigError, counted
from loupe.evaluate import inference
from loupe.evaluate.predictions import Predictions
from loupe.log import logger, terminal
from loupe.models import bundle
from loupe.models.classifier import Classifier
from loupe.provenance import environment_of
from loupe.runs import made
from loupe.runs.blend import check_together
from loupe.runs.run import Run

STATISTICS = ("running_mean", "running_var")  # of batch normalisation
MOST_IMAGES = 2_048  # of the training images, for these statistics
BATCH = 128

State = Mapping[str, Tensor]


def soup(
    runs: Sequence[Run],
    *,
    output: str | Path = "runs",
    name: str | None = None,
    open_test: bool = False,
    device: str = "auto",
    quiet: bool = True,
) -> Run:
    """Make a run of one network from trained runs, without training: a greedy soup.

    Runs are added to the mean of the weights from the one with the highest validation accuracy on; each stays if the
    validation accuracy does not get worse. Statistics of batch normalisation that training has changed are computed
    anew, from training images.

    Source: Wortsman et al. 2022, "Model soups", recipe 1; for the statistics, Izmailov et al. 2018, "Averaging weights
    leads to wider optima and better generalization".

    Args:
        runs: finished runs of one network on the same images and the same split, which started from the same weights.
        output, name, open_test, device, quiet: as for `loupe.runs.blend.blend`.

    Raises:
        ConfigError: fewer than two runs, runs of other networks or other starts, or each mean is worse than one run.
        DataError: the images are missing or have changed.
    """
    check_start(runs)
    ordered = sorted(runs, key=_accuracy, reverse=True)
    with terminal(quiet=quiet):
        chosen = choose_device(device)
        compute = Compute(chosen, made.precision_of(ordered))
        images, split = ordered[0].own_images()
        mixer = Mixer(images, split, compute)
        model, kept = mixer.greedy(ordered)
    if len(kept) < 2:
        raise ConfigError(
            f"no mean of these weights has the validation accuracy of {ordered[0].directory.name} alone. Use it."
        )
    first = ordered[0].recipe
    names = ", ".join(run.directory.name for run in kept)
    recipe = first.model_copy(
        update={"name": "soup", "description": f"Mean of the weights of {counted(len(kept), 'run')}: {names}"}
    )
    return made.write(
        model.cpu(),
        ResolvedRecipe.of(recipe),
        kept,
        [made.record(run) for run in kept],
        output=Path(output),
        name=name,
        open_test=open_test,
        device=device,
        quiet=quiet,
    )


def check_start(runs: Sequence[Run]) -> None:
    """Check that runs have the same data, the same network, and started from the same weights.

    Raises:
        ConfigError: they do not.
    """
    check_together(runs)
    first, name = runs[0].config, runs[0].directory.name
    starts = [environment_of(run.directory).hashes.weights for run in runs]
    for run, start in zip(runs, starts, strict=True):
        if (run.config.preprocessing, _layers(run)) != (first.preprocessing, _layers(runs[0])):
            raise ConfigError(
                f"{run.directory.name} and {name} have other networks or another input, whose weights have no mean. "
                "Blend their probabilities: leave out --soup."
            )
        if start is None:
            raise ConfigError(
                f"{run.directory.name} started from random weights. The mean of such networks is no network: a soup "
                "needs runs that started from the same pretrained weights or the same run. Leave out --soup."
            )
        if start != starts[0]:
            raise ConfigError(
                f"{run.directory.name} and {name} started from other weights, so that their mean is no network. A soup "
                "needs runs with the same start. Leave out --soup."
            )


def _layers(run: Run) -> object:
    """Network without the weights that it started from."""
    return run.config.network.model_copy(update={"weights": "none"})


def _accuracy(run: Run) -> float:
    block = run.results.validation
    if block is None or block.accuracy.value is None:
        raise ConfigError(f"{run.directory.name} has no validation images, by which a soup is chosen.")
    return block.accuracy.value


class Mixer:
    """Means of weights, judged on validation images."""

    def __init__(self, images: Images, split: Split, compute: Compute) -> None:
        self.images, self.split, self.compute = images, split, compute
        self.loader = BatchLoader(images.store, images.table.labels, compute.device)

    def greedy(self, runs: Sequence[Run]) -> tuple[Classifier, list[Run]]:
        """Mean of the first run and of each later one with which it is no worse; and these runs."""
        model, _ = bundle.load(runs[0].directory.model, self.compute.device)
        states = [_state(run) for run in runs]
        kept, most = [0], self.accuracy(model)
        for number in range(1, len(runs)):
            tried = [*kept, number]
            self.fill(model, [states[one] for one in tried])
            accuracy = self.accuracy(model)
            is_kept = accuracy >= most
            logger.info(
                f"with {runs[number].directory.name}: validation accuracy {accuracy:.4f}, "
                f"{'kept' if is_kept else f'left out (without: {most:.4f})'}"
            )
            if is_kept:
                kept, most = tried, accuracy
        self.fill(model, [states[one] for one in kept])
        return model, [runs[one] for one in kept]

    def accuracy(self, model: Classifier) -> float:
        found = self.predictions(model)
        return float((found.predicted == found.label).mean())

    def predictions(self, model: Classifier) -> Predictions:
        return inference.predictions(model, self.loader, self.images, self.split.val, self.compute)

    def fill(self, model: Classifier, states: Sequence[State]) -> None:
        """Load the mean of weights into a network, with the statistics of its batch normalisation."""
        model.load_state_dict(mean_of(states))
        if len(states) > 1 and any(_differs(states, name) for name in states[0] if name.endswith(STATISTICS)):
            self.measure_statistics(model)
        model.eval()

    @torch.no_grad()
    def measure_statistics(self, model: Classifier) -> None:
        """Compute the statistics of batch normalisation from training images in the evaluation view."""
        model.eval()
        layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
            layer.train()
        rows_N = np.sort(np.random.default_rng(0).permutation(self.split.train)[:MOST_IMAGES])
        for batch in self.loader.batches(rows_N, BATCH):
            with self.compute.autocast():
                model(evaluation_view(batch.x_BCHW, model.preprocessing))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.eval()


def mean_of(states: Sequence[State]) -> dict[str, Tensor]:
    """Mean of each tensor, computed in 64 bits; whole numbers, such as counters of batches, are those of the first."""
    return {name: _mean([state[name] for state in states]) for name in states[0]}


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([one.double() for one in tensors]).mean(dim=0).to(tensors[0].dtype)


def _state(run: Run) -> State:
    model, _ = bundle.load(run.directory.model, torch.device("cpu"))
    return model.state_dict()


def _differs(states: Sequence[State], name: str) -> bool:
    return any(not torch.equal(state[name], states[0][name]) for state in states[1:])
