"""Recorded facts of a run that its model card states, without the folders of the machine that trained it."""

from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Self

from loupe.config.network import BlendSpec, without_weights
from loupe.config.recipe import Preprocessing, Recipe
from loupe.data.sources.read_options import ReadOptions
from loupe.evaluate.results import Evaluation, RunResults
from loupe.export.markdown import one_line
from loupe.models.pretrained import WeightsOrigin, weights_origin
from loupe.provenance import RunEnvironment, environment_of, recorded_licence
from loupe.rundir import count_looks
from loupe.runs.run import Run

LOCAL = "local-dir:"


@dataclass(frozen=True)
class CardFacts:
    """Recorded facts of a run that its card states.

    Attributes:
        preprocessing: of the stored model; its temperature is that of the calibrated probabilities.
        looks: evaluations of the test images that are recorded in the folder of the run.
        origin: repository and licence of the pretrained weights; None for a network trained from random weights.
    """

    name: str
    results: RunResults
    environment: RunEnvironment
    recipe: Recipe
    preprocessing: Preprocessing
    temperature: float
    looks: int
    origin: WeightsOrigin | None

    @classmethod
    def of(cls, run: Run) -> Self:
        """Facts from the files of a finished run."""
        results, recipe = run.results, run.recipe
        now = count_looks(run.path.parent, results.split_hash) if results.split_hash else 0
        return cls(
            name=run.path.resolve().name,
            results=results,
            environment=environment_of(run.directory),
            recipe=recipe,
            preprocessing=run.preprocessing,
            temperature=run.temperature,
            looks=max(results.test_looks, now),
            origin=weights_origin(recipe.model, recorded_licence(run.directory)),
        )

    @property
    def judged(self) -> tuple[str, Evaluation] | None:
        """Split of the figures that count, test if it was evaluated, else validation; None without either."""
        return next(((name, block) for name, block in reversed(self.results.splits.items()) if block.images), None)

    @property
    def command(self) -> list[str]:
        """Command that repeats the training from `recipe.yaml`, or makes the blend, with the last part of each path."""
        environment = self.environment
        if environment.made_of:
            return [one_line(word if word.startswith("--") else last_part(word)) for word in environment.made_command]
        folder = Path(last_part(environment.image_folder)) if environment.image_folder else None
        options = ReadOptions.of(environment.columns, None, environment.follow_links is True)
        skip = ["--skip-damaged"] if environment.skip_damaged else []
        data = last_part(environment.data or "") or "DATA"
        return [
            *map(one_line, ("loupe", "train", data, *replace(options, images=folder).words)),
            "--recipe",
            "recipe.yaml",
            *skip,
        ]

    @property
    def published_recipe(self) -> Recipe:
        """Recipe whose weights and teacher are named without their folders."""
        network, teacher = self.recipe.model, self.recipe.teacher
        recipe = self.recipe.model_copy(update={"teacher": teacher and last_part(teacher)})
        if isinstance(network, BlendSpec):
            return recipe.model_copy(update={"model": _without_folders(network)})
        if network.weights.startswith("hf-hub:"):
            return recipe
        named = LOCAL * network.weights.startswith(LOCAL) + last_part(network.weights.removeprefix(LOCAL))
        return recipe.model_copy(update={"model": network.model_copy(update={"weights": named})})


def _without_folders(blend: BlendSpec) -> BlendSpec:
    """Blend whose members name no folder; the command names the runs."""
    members = [one.model_copy(update={"network": without_weights(one.network)}) for one in blend.members]
    return blend.model_copy(update={"members": tuple(members)})


def last_part(path: str) -> str:
    """Name of a file or a folder without those that it lies in."""
    return PureWindowsPath(path).name  # of paths of either system
