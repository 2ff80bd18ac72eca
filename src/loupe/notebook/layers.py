"""Display of the layers of a network: output shapes, parameters, and a flag for the trainable ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from loupe.config.network import CnnSpec
from loupe.config.recipe import Recipe
from loupe.config.resolved import ResolvedRecipe
from loupe.data.dataset import open_dataset
from loupe.data.sources.read_options import ColumnNames, ReadOptions
from loupe.evaluate.results import Layer, Parameters
from loupe.models import cnn
from loupe.models.build import skeleton
from loupe.models.classifier import Classifier
from loupe.models.summary import count_parameters, parameter_table
from loupe.notebook.display import Display, display
from loupe.notebook.stages import check_stage, resolved
from loupe.recipes.resolve import Settings
from loupe.report import texts

MOST_OPEN = 64  # layers; a longer table is closed at first, below one of the blocks
MOST_PX = 1200  # a higher table scrolls


@dataclass(frozen=True)
class Block:
    """Consecutive layers of one block: the output of the last one, and their parameters."""

    name: str
    layers: int
    output: tuple[int, ...]
    parameters: int
    trainable: bool


def layers(
    data: Any,
    *,
    recipe: str | Path | Recipe | None = None,
    model: str | None = None,
    stage: int | None = None,
    settings: Settings = (),
    columns: ColumnNames | None = None,
    images: str | Path | None = None,
    follow_links: bool = False,
) -> Display:
    """Show the layers of the network that `loupe.train` would train with these arguments; nothing is trained.

    Args:
        data, recipe, model, settings, columns, images, follow_links: as for `loupe.train`.
        stage: stage of the recipe, from 1, in which the marked layers are trained. Default: the last.

    Returns:
        Display for a notebook.

    Raises:
        ConfigError: the recipe, the network, a setting or the stage is unknown, or does not suit the images.
        DataError: the images cannot be used.
    """
    dataset = open_dataset(data, ReadOptions.of(columns, images, follow_links))
    chosen = resolved(recipe, dataset, model=model, settings=settings)
    number = len(chosen.stages) if stage is None else stage
    check_stage(number, chosen)
    network = _network(chosen, dataset.table.classes)
    network.learn(chosen.stages[number - 1].part)
    rows = [Layer.model_validate(row) for row in parameter_table(network)]
    counts = Parameters.model_validate(count_parameters(network))
    several = f", stage {number} of {len(chosen.stages)}" if len(chosen.stages) > 1 else ""
    return layers_display(f"{chosen.name}{several}", counts, rows)


def _network(recipe: ResolvedRecipe, classes: tuple[str, ...]) -> Classifier:
    """Network without pretrained weights. A small one is built on the CPU, as the meta device takes seconds to load."""
    if isinstance(recipe.model, CnnSpec):
        return cnn.cnn(recipe.model, recipe.preprocessing, classes, recipe.seed)
    return skeleton(recipe.model, recipe.preprocessing, classes)


def layers_display(name: str, parameters: Parameters, rows: Sequence[Layer]) -> Display:
    """Display of a layer table with its counts."""
    blocks = _blocks(rows) if len(rows) > MOST_OPEN else []
    counts = {"parameters": parameters, "layers": rows}
    shown = {"name": name, "of": name, "results": counts, "blocks": blocks, "most_open": MOST_OPEN}
    height_px = min(MOST_PX, 235 + 31 * (len(blocks) + 1 if blocks else len(rows)))
    return display("cell_layers.html", shown, text=_text(name, parameters, rows), height_px=height_px)


def _blocks(rows: Sequence[Layer]) -> list[Block]:
    """Blocks of the trunk, and the head, in the order of the forward pass."""
    found = []
    for name, group in groupby(rows, key=_block):
        inside = [*group]
        parameters, trainable = sum(row.parameters for row in inside), any(row.trainable for row in inside)
        found.append(Block(name, len(inside), inside[-1].output, parameters, trainable))
    return found


def _block(row: Layer) -> str:
    """Block of a layer: `head`, or a block of the trunk."""
    first, *rest = row.name.split(".")
    return f"{first}.{rest[0]}" if first == "trunk" and rest else first


def _text(name: str, parameters: Parameters, rows: Sequence[Layer]) -> str:
    """Table in plain text."""
    cells = [("layer", "type", "output", "parameters", "trainable")]
    cells += [
        (row.name, row.type, " × ".join(map(str, row.output)), f"{row.parameters:,}", _trainable(row)) for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if number == 3 else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    total = (
        f"{texts.count(parameters.total)} parameters: {texts.count(parameters.trainable)} trainable, "
        f"{texts.count(parameters.non_trainable)} non-trainable"
    )
    return "\n".join([name, *lines, total])


def _trainable(row: Layer) -> str:
    if not row.parameters:
        return texts.UNDEFINED
    return "yes" if row.trainable else "no"
