"""Generated pages of docs/reference/: the command line, the keys of recipes, and the keys of results.json.

The command line is that of `loupe COMMAND --help`. Keys, values and defaults of recipes are those of the classes in
`loupe.config`; MEANINGS has a line for each key, and the docstrings stand below the tables.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from loupe.cli import main
from loupe.config import base, size
from loupe.config.loss import CrossEntropy, Focal
from loupe.config.network import BackboneSpec, BlendMember, BlendSpec, CnnSpec, ConvBlock, Dense
from loupe.config.optimizer import Adam, Constant, Cosine, Logistic, Muon, OneCycle, Plateau, RmsProp, Sgd, Step
from loupe.config.recipe import AugmentSpec, InputSpec, Recipe, SplitSpec, Stage
from loupe.evaluate import results
from loupe.evaluate.blend_results import BlendVerdict
from loupe.evaluate.confidence_results import Calibration, Selective
from loupe.evaluate.estimate import Estimate
from loupe.evaluate.history import StageResult
from loupe.evaluate.metrics import METRICS
from loupe.provenance import MadeOf, ParentRun

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
GENERATED = "This page is generated: `make reference`."


# The command line


def command_line() -> str:
    """Page of the command line."""
    group = typer.main.get_command(main.app)
    lines = ["# Command line", "", f"The help of each command, `loupe COMMAND --help`. {GENERATED}", ""]
    lines += ["| command | |", "|---|---|"]
    names = list(group.commands)
    lines += [f"| [`loupe {name}`](#loupe-{name}) | {_first_sentence(group.commands[name].help)} |" for name in names]
    for name in names:
        lines += ["", *_command(name, group.commands[name])]
    lines += ["", "## Exit codes", "", "[Guarantees](../guarantees.md#exit-codes) lists them.", ""]
    return "\n".join(lines)


def _command(name: str, command: Any) -> Iterator[str]:
    given = [param for param in command.params if not param.opts[0].startswith("-")]
    words = " ".join(_argument(param) for param in given)
    yield from (f"## loupe {name}", "", f"`loupe {name} {words}`".replace(" `", "`"), "")
    yield from (paragraph for text in _paragraphs(command.help) for paragraph in (text, ""))
    hints = typing.get_type_hints(_function(name), include_extras=True)
    if given:
        yield from ("| argument | meaning |", "|---|---|")
        yield from (f"| `{param.metavar or param.name}` | {_help(param)} |" for param in given)
        yield ""
    options = [param for param in command.params if param.opts[0].startswith("-") and not param.hidden]
    yield from ("| option | meaning | default |", "|---|---|---|")
    for param in options:
        value = "" if param.is_flag else f" {param.metavar or _kind(hints[param.name])}"
        names = ", ".join(f"`{option}{value}`" for option in (*param.opts, *param.secondary_opts))
        repeated = " Can be repeated." if param.multiple else ""
        yield f"| {names} | {_help(param)}{repeated} | {_default(param)} |"


def _function(name: str) -> Callable[..., Any]:
    return next(command for command in main.COMMANDS if command.__name__ == name)


def _argument(param: Any) -> str:
    name = (param.metavar or param.name).upper() + ("..." if param.nargs == -1 else "")
    name = name.replace("......", "...")
    return name if param.required else f"[{name}]"


def _help(param: Any) -> str:
    return " ".join(param.help.split()).replace("|", "\\|").replace("<", "&lt;")


def _default(param: Any) -> str:
    """Default in its own column, unless the help has it in words."""
    if param.is_flag or param.default in (None, (), "") or "Default:" in param.help:
        return ""
    return f"`{param.default}`"


def _kind(annotation: Any) -> str:
    """Placeholder of an option that has none of its own: the type of its value."""
    types_of = [kind for kind in _plain(annotation) if kind is not type(None)]
    names = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}
    return names.get(types_of[0], "VALUE")


def _plain(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _plain(part)]
    if get_origin(annotation) in (list, tuple):
        return _plain(get_args(annotation)[0])
    return [annotation]


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(text.split()))[0]


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n")]


# Keys of recipes

# Section: title, path of its keys in a recipe, class.
SECTIONS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("The recipe", "", Recipe),
    ("Input", "input.", InputSpec),
    ("Split", "split.", SplitSpec),
    ("Stages", "stages.N.", Stage),
    ("Augmentation", "stages.N.augment.", AugmentSpec),
    ("Loss: cross-entropy", "stages.N.loss.", CrossEntropy),
    ("Loss: focal", "stages.N.loss.", Focal),
    ("Optimizer: sgd", "stages.N.optimizer.", Sgd),
    ("Optimizer: adam", "stages.N.optimizer.", Adam),
    ("Optimizer: muon", "stages.N.optimizer.", Muon),
    ("Optimizer: rmsprop", "stages.N.optimizer.", RmsProp),
    ("Optimizer: logistic", "stages.N.optimizer.", Logistic),
    ("Schedule: constant", "stages.N.schedule.", Constant),
    ("Schedule: step", "stages.N.schedule.", Step),
    ("Schedule: cosine", "stages.N.schedule.", Cosine),
    ("Schedule: one-cycle", "stages.N.schedule.", OneCycle),
    ("Schedule: plateau", "stages.N.schedule.", Plateau),
    ("Network: pretrained backbone", "model.", BackboneSpec),
    ("Network: small convolutional network", "model.", CnnSpec),
    ("Block of convolutions", "model.blocks.N.", ConvBlock),
    ("Hidden layer", "model.hidden.N.", Dense),
    ("Network: several networks", "model.", BlendSpec),
    ("Member of several networks", "model.members.N.", BlendMember),
)

WARMUP = "epochs in which the rate rises linearly from 0"
BETAS = {
    "beta1": "decay of the mean of the gradients",
    "beta2": "decay of the mean of their squares",
    "epsilon": "number added to the root, against division by 0",
}

# One line for each key; the values that it may take stand in a column of their own.
MEANINGS: dict[type[BaseModel], dict[str, str]] = {
    Recipe: {
        "name": "name of the recipe",
        "description": "one line for `loupe recipes`",
        "experiment": "published experiment whose figures are shown beside the result",
        "input": "from an image file to the network's input: see [Input](#input)",
        "split": "sizes of splits that the data lacks: see [Split](#split)",
        "model": "network: a [backbone](#network-pretrained-backbone), a "
        "[small network](#network-small-convolutional-network) or [several](#network-several-networks)",
        "stages": "stages of training, one after the other: see [Stages](#stages)",
        "class_weights": "weights of the classes in the loss; `balanced`: inverse to their images",
        "logit_adjustment": "factor of the logarithm of each class's share; above 0, rare classes become likelier",
        "teacher": "folder of a finished run whose probabilities are learned beside the labels",
        "teacher_share": "share of these probabilities in the target of an image; the label has the rest",
        "monitor": "validation metric that chooses the epoch, ends a stage by patience and lowers rates on a plateau",
        "keep": "epoch whose weights are kept",
        "refit": "train a solved head on training and validation images together, at the end",
        "seed": "random seed for the split, weights, shuffling and augmentation",
        "shuffle_window": "training images within which the images of an epoch are shuffled",
        "precision": "precision of training; `auto` is measured",
        "frozen_precision": "precision of frozen blocks; `auto` is the fastest that keeps their features",
    },
    InputSpec: {
        "size_px": "size of the network's input: the side of a square, or `[height, width]`",
        "load_px": "size to which images are resized when they are decoded, in the same two forms",
        "resize": "fit into the size: cut the centre out, add black borders, or change the proportions",
        "interpolation": "filter of the resizing",
        "normalise": "scale of the pixels: see below",
        "mean": "mean of each channel, subtracted from pixels on [0, 1], with `normalise: given`",
        "std": "standard deviation of each channel, with `normalise: given`",
        "range": "stored pixel values that become black and white; `used`: those of the training images",
        "channels": "3 for colour, 1 for grey",
        "pixel_definition": "rule from a file to pixels; null for the newest",
    },
    SplitSpec: {
        "validation": "validation images to draw: a fraction below 1, or a number",
        "test": "test images to draw: a fraction below 1, or a number",
        "train": "part of the training images to learn from; null for all",
        "choose": "selection of validation images: by class and seed, or in the order of the data",
        "seed": "seed of the split alone; null for that of the recipe",
        "group": "images that stay on one side of each drawn split",
    },
    Stage: {
        "epochs": "epochs; with optimizer `logistic`, L2 strengths",
        "part": "part of the network that is trained; `last-N` is the head and the last N blocks",
        "batch_size": "images in a training step, over all processes",
        "loss": "loss of training: [cross-entropy](#loss-cross-entropy) or [focal](#loss-focal)",
        "optimizer": "optimizer: a name, or a mapping with its keys",
        "lr": "peak learning rate",
        "batch_statistics": "false: batch normalisation keeps the statistics of the pretrained weights",
        "batch_norm_sync": "over several processes: batch statistics of all (true), of each (false), or of all where a "
        "share has fewer images than the number",
        "layer_decay": "ratio of a block's rate to that of the next block",
        "schedule": "schedule of the learning rate: a name, or a mapping with its keys",
        "l2": "factor of the sum of squared kernels in the loss",
        "l2_on": "kernels that `l2` covers",
        "weight_decay": "decay of weights apart from the gradient, as in AdamW",
        "decay_all": "true: decay biases and norms too",
        "label_smoothing": "share of the target that is spread over all classes",
        "clip_norm": "largest norm of the gradient; null for any",
        "ema_decay": "above 0: an exponential moving average of the weights is evaluated and kept",
        "patience_epochs": "epochs without improvement after which the stage ends; null for none",
        "augment": "random changes to training images: see [Augmentation](#augmentation)",
        "views": "augmented views of each image that frozen blocks see; `fresh`: a new one in each epoch",
    },
    AugmentSpec: {
        "rotation_degrees": "largest rotation, in both directions",
        "width_shift": "largest horizontal shift, as a fraction of the width",
        "height_shift": "largest vertical shift, as a fraction of the height",
        "shear_degrees": "largest shear, in both directions",
        "zoom": "range of the factors of both axes; above 1 the content becomes smaller",
        "horizontal_flip": "random mirror images; `alternate`: in every second epoch; `auto`: unless the training "
        "images show that orientation matters",
        "vertical_flip": "random flips upside down",
        "fill": "pixels beyond the edge",
        "fill_value": "their value with `fill: constant`, from 0 to 255",
        "crop_padding_px": "padding before a random crop of the original size",
        "random_resized_crop": "range of the area of a random crop, as a fraction of the image",
        "resolution": "size of training images, as a fraction of the input",
        "cutout_px": "side of one blank square",
        "brightness": "range of factors of the pixel values",
        "mixup_alpha": "parameter of mixup's Beta distribution; 0 for none",
        "cutmix_alpha": "parameter of CutMix's Beta distribution; 0 for none",
    },
    CrossEntropy: {"name": "`cross-entropy`"},
    Focal: {"name": "`focal`", "gamma": "exponent; 0 is cross-entropy"},
    Sgd: {"name": "`sgd`", "momentum": "momentum", "nesterov": "Nesterov's form of the momentum"},
    Adam: {"name": "`adam` or `adamw`", **BETAS},
    Muon: {"name": "`muon`", "momentum": "momentum of the kernels", **BETAS},
    RmsProp: {
        "name": "`rmsprop`",
        "rho": "decay of the mean of the squared gradients",
        "epsilon": "number added to the root, against division by 0",
        "epsilon_in_root": "true: added under the root, as Keras does",
        "momentum": "momentum",
    },
    Logistic: {
        "name": "`logistic`",
        "strongest": "strongest L2 penalty; null for 1e4",
        "weakest": "weakest L2 penalty; null for 0.1",
    },
    Constant: {"name": "`constant`", "warmup_epochs": WARMUP},
    Step: {
        "name": "`step`",
        "every_epochs": "epochs between two reductions",
        "factor": "factor of a reduction",
        "warmup_epochs": WARMUP,
    },
    Cosine: {
        "name": "`cosine`",
        "final_fraction": "rate at the end, as a fraction of `lr`",
        "warmup_epochs": WARMUP,
    },
    OneCycle: {
        "name": "`one-cycle`",
        "peak": "share of the steps at which the rate is highest",
        "start_fraction": "rate at the start, as a fraction of `lr`",
        "final_fraction": "rate at the end, as a fraction of `lr`",
    },
    Plateau: {
        "name": "`plateau`",
        "factor": "factor of a reduction",
        "patience_epochs": "epochs without improvement before a reduction",
        "min_lr": "lowest rate",
        "warmup_epochs": WARMUP,
    },
    BackboneSpec: {
        "backbone": "name of a network of timm, such as `resnet50.a1_in1k`",
        "weights": "`timm` (download), `none`, a file, a run, `hf-hub:NAME` or `local-dir:DIR`",
        "pooling": "pooling of the last feature map; `own`: that of the network",
        "hidden": "hidden layers of the head: see [Hidden layer](#hidden-layer)",
    },
    CnnSpec: {
        "name": "name of the network",
        "blocks": "blocks of convolutions: see [Block of convolutions](#block-of-convolutions)",
        "whitening_px": "side of a fixed first layer of principal components of image patches; 0 for none",
        "pooling": "pooling before the hidden layers",
        "hidden": "hidden layers: see [Hidden layer](#hidden-layer)",
        "norm_momentum": "momentum of the batch statistics, as PyTorch has it (1 minus that of Keras)",
        "norm_epsilon": "number added to the variance in batch normalisation",
        "init": "initial weights",
        "weights": "`none` for random ones, or a run of the same network",
    },
    ConvBlock: {
        "filters": "filters of each convolution of the block",
        "kernel_px": "side of the kernels",
        "padding": "`same` keeps the size of the map, `valid` adds no border",
        "activation": "activation after each convolution",
        "norm": "batch normalisation: none, after each convolution, or once in the block",
        "norm_first": "true: normalisation before the activation and after the pooling",
        "pool_px": "side of the max-pooling; 1 for none",
        "pool_after": "convolution that the pooling follows",
        "dropout": "share of the outputs that is set to 0 in training",
    },
    Dense: {"units": "outputs of the layer", "dropout": "share of the outputs that is set to 0 in training"},
    BlendSpec: {
        "members": "networks, two or more: see [Member](#member-of-several-networks)",
        "combine": "one head on the features of all, or the mean of their probabilities",
        "weights": "`none` for the weights that the members name, or a run of the same networks",
    },
    BlendMember: {
        "network": "network of the member, with its weights",
        "size_px": "input size of its weights; null for that of the recipe",
        "load_px": "size to which its images are resized; null for that of the recipe",
        "interpolation": "filter of the resizing; null for that of the recipe",
        "channels": "3 for colour, 1 for grey; null for those of the recipe",
        "mean": "mean of each channel; null for that of the recipe",
        "std": "standard deviation of each channel; null for that of the recipe",
        "share": "share in the mean of the probabilities, relative to the others",
        "temperature": "divisor of its logits before that mean",
    },
}

INTRODUCTION = f"""# Recipe keys

Every key of a recipe, with the values that it may take and its default. A dash means that the key has no default.
`--set KEY=VALUE` sets any of them for `loupe train`, `compare`, `tune` and `loupe recipes NAME`, which prints it;
`N` is the number of a stage or layer, from 0. [Recipes](../recipes.md) shows how they are used. {GENERATED}

An optimizer, a schedule or a loss is set by its name (`--set stages.0.schedule=cosine`), or by a mapping with its keys
(`--set stages.0.schedule='{{name: cosine, warmup_epochs: 1}}'`)."""


def recipe_keys() -> str:
    """Page of the keys of recipes."""
    lines = [INTRODUCTION]
    for title, path, model in SECTIONS:
        lines += ["", f"## {title}", "", "| key | meaning | values | default |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            values = _values(field.annotation, tuple(field.metadata)).replace("|", "\\|")
            lines.append(f"| `{path}{name}` | {MEANINGS[model][name]} | {values} | {_field_default(field)} |")
        lines += ["", *_docstring(model)]
    return "\n".join(lines) + "\n"


def _docstring(model: type[BaseModel]) -> list[str]:
    paragraphs = _paragraphs(inspect.getdoc(model) or "")
    return [line for text in paragraphs for line in (text.replace("[-", "\\[-"), "")][:-1]


def _field_default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined:
        return "–"
    if isinstance(default, BaseModel):
        own = getattr(default, "name", None)
        return f"`{own}`" if own else "see there"
    return f"`{_yaml(default)}`"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


NAMED = {size.SizePx: "pixels, or `[height, width]`", base.RGB: "three numbers", base.Levels: "`[low, high]`"}
BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))


def _values(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Values that a type allows, in words."""
    for known, words in NAMED.items():
        if annotation == known or (get_origin(known) is Annotated and annotation == get_args(known)[0] and metadata):
            return words
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _values(inner, (*metadata, *more))
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if all(inspect.isclass(_plain(part)[0]) and issubclass(_plain(part)[0], BaseModel) for part in parts):
            return "a section"
        texts = [_values(part, metadata if len(parts) == 1 else ()) for part in parts]
        return ", ".join(texts) + (", `null`" if type(None) in get_args(annotation) else "")
    if get_origin(annotation) is tuple:
        inner, *rest = get_args(annotation)
        if rest == [...]:
            return (
                "sections" if inspect.isclass(inner) and issubclass(inner, BaseModel) else f"list of {_plural(inner)}"
            )
        return f"{len(get_args(annotation))} numbers, {_values(inner)}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "a section"
    words = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}.get(annotation)
    assert words, annotation
    return words + _bounds(metadata)


def _plural(kind: Any) -> str:
    return _values(kind).replace("number", "numbers", 1)


def _bounds(metadata: tuple[Any, ...]) -> str:
    """Limits in words; an upper one of 2**63 only keeps a seed in a machine's integer."""
    found = []
    for item in metadata:
        for part in getattr(item, "metadata", None) or [item]:
            if getattr(part, "pattern", None):
                return ": `head`, `last-block`, `last-N`, `all`"
            for name, words in BOUNDS:
                limit = getattr(part, name, None)
                if limit is not None and limit < 2**62:
                    found.append(f"{words} {limit:g}" if limit < 1e6 else f"{words} {limit}")
    return "".join(f", {words}" for words in found)


# Keys of results.json

# Key in results.json under which the values of a class stand, and the class.
RESULTS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("results.json", "", results.RunResults),
    ("An evaluation", "`validation`, `test`", results.Evaluation),
    ("A figure", "each metric", Estimate),
    ("Scores of a class", "`per_class` of an evaluation", results.ClassScores),
    ("Accuracy of groups", "`per_group` of an evaluation", results.GroupAccuracies),
    ("Out-of-fold predictions", "`folds`: the keys of an evaluation, and", results.FoldEvaluation),
    ("Refit", "`refit`", results.RefitResult),
    ("Calibration", "`calibration`", Calibration),
    ("Selective classification", "`selective`", Selective),
    ("Images", "`images`", results.ImageCounts),
    ("Parameters", "`parameters`", results.Parameters),
    ("Layer", "`layers`", results.Layer),
    ("Stage", "`stages`", StageResult),
    ("Seconds", "`seconds`", results.SecondsSpent),
    ("Images that could not be read", "`unread`", results.UnreadImages),
    ("Diagnosis", "`diagnosis`", results.DiagnosisResult),
    ("Parent", "`parent`", ParentRun),
    ("Made of", "`made_of`", MadeOf),
    ("Blend", "`blend`; of a student beside its teacher, `distilled`", BlendVerdict),
)


# Meanings of keys of which the docstrings have none.
RESULT_MEANINGS: dict[type[BaseModel], dict[str, str]] = {
    results.RunResults: {
        "version": "version of Loupe",
        "name": "name of the run",
        "dataset": "name of the data",
        "recipe": "name of the recipe",
        "network": "name of the network",
        "seed": "random seed of the recipe",
        "classes": "names of the classes, in the order of all lists",
        "images": "images of each split",
        "parameters": "parameters of the network",
        "layers": "layers of the network",
        "seconds": "time of each part of the run",
        "precision": "precision of training",
        "frozen_precision": "precision of frozen blocks",
        "device": "device of the training",
        "diagnosis": "diagnosis of the learning curves",
    },
    results.Evaluation: {
        "images": "labelled images",
        **{metric.key: metric.meaning for metric in METRICS},
        "per_class": "scores of each class",
    },
    Estimate: {
        "value": "the figure",
        "low": "lower end of its 95 % interval",
        "high": "upper end of its 95 % interval",
        "why": "reason for a figure or an interval that is missing",
    },
    results.ClassScores: {
        "class": "name of the class",
        "precision": "share of the images predicted as this class that are of it",
        "recall": "share of its images that are predicted as this class",
        "f1": "harmonic mean of precision and recall",
        "why": "reason for a score that is missing",
    },
    results.GroupAccuracies: {
        "rows": "`group`, `images` and `accuracy` of each group",
        "left_out": "groups of too few images: their number (`groups`) and that of their `images`",
        "why": "reason for rows that are missing",
    },
    results.RefitResult: {"images": "images that the head learned from", "l2_strength": "strength of its L2 penalty"},
    Calibration: {
        "temperature": "`value`, its interval (`low`, `high`), `images` and `mistakes` of the fit; `why` it stays 1",
        "fitted_on": "`validation` or `folds`",
        "validation": "`log_loss` and `ece` before and after the temperature; `bins` of the reliability diagram",
        "test": "the same on test images",
    },
    Selective: {
        "validation": "risk–coverage curve (`points`) and the `area` under it",
        "test": "the same on test images",
        "thresholds": "for some values of `precision`: the `threshold`, its coverage and precision on both splits",
        "why": "reason for thresholds that are missing",
    },
    results.ImageCounts: {
        "train": "training images",
        "val": "validation images",
        "test": "test images",
    },
    results.Parameters: {
        "total": "all parameters",
        "trainable": "parameters that were trained",
        "non_trainable": "frozen parameters, and statistics of batch normalisation",
    },
    results.Layer: {
        "name": "name of the layer",
        "type": "type of the layer",
        "output": "shape of its output, without the batch",
        "parameters": "its parameters",
        "trainable": "true if they were trained",
    },
    results.SecondsSpent: {
        "load": "reading and decoding images, before the training",
        "train": "all stages, with their validation",
        "evaluate": "evaluation at the end",
        "total": "the whole run",
    },
    results.UnreadImages: {
        "label": "class of the files",
        "format": "their format",
        "images": "their number",
    },
    results.DiagnosisResult: {
        "verdict": "rule that applies: see [Metrics](metrics.md#diagnosis-of-learning-curves)",
        "epoch": "epoch of the evidence",
        "text": "verdict in words",
        "settings": "changes of the recipe that are advised, in the form of `--set`",
        "next": "command that follows the advice",
    },
}


def results_keys() -> str:
    """Page of the keys of results.json."""
    lines = [
        *("# Keys of results.json", ""),
        "What `results.json` in the folder of a run holds, and `loupe train --json` prints. Fractions, not percent;",
        "seconds. A figure that is undefined is null and has a `why`. A key is never renamed; a later version may add",
        f"keys. In Python the same is `run.results`, with the keys as attributes. {GENERATED}",
        "",
        "`schema` stands first and is the number of the form of the file: "
        f"{results.RunResults.SCHEMA}. [Metrics](metrics.md) has the formulas.",
    ]
    for title, where, model in RESULTS:
        lines += ["", f"## {title}", ""]
        start = len(lines)
        lines += [f"Under {where}:", ""] if where else []
        inherited = results.Evaluation.model_fields if model is results.FoldEvaluation else {}
        attributes = {**RESULT_MEANINGS.get(model, {}), **_attributes(model)}
        lines += ["| key | type | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            if name not in inherited:
                key = field.alias or name
                lines.append(
                    f"| `{key}` | {_json_type(field.annotation)} | {attributes[key if key in attributes else name]} |"
                )
        if model is not results.RunResults:
            lines[start:start] = [re.sub(r"\bNone\b", "null", _paragraphs(inspect.getdoc(model) or "")[0]), ""]
    return "\n".join(lines) + "\n"


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """Meaning of each attribute in the docstrings of a class and of those that it inherits from."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        text = inspect.cleandoc(kind.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        for names, meaning in re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", text, re.MULTILINE):
            words = re.sub(r"\bNone\b", "null", " ".join(meaning.split()).replace("|", "\\|"))
            found |= dict.fromkeys(names.split(", "), words.rstrip("."))
    return found


def _json_type(annotation: Any) -> str:
    """Type of a value in JSON, in words."""
    parts = [part for part in _plain_json(annotation) if part is not type(None)]
    words = ", ".join(dict.fromkeys(_json_word(part) for part in parts))
    return words + (", null" if type(None) in _plain_json(annotation) else "")


def _plain_json(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _plain_json(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _plain_json(part)]
    return [annotation]


def _json_word(kind: Any) -> str:
    if get_origin(kind) is tuple:
        inner, *rest = get_args(kind)
        return f"list of {_json_type(inner)}" if rest == [...] else f"list of {len(get_args(kind))}"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is dict:
        return "object"
    if is_dataclass(kind) or (inspect.isclass(kind) and issubclass(kind, BaseModel)):
        titles = {model: title for title, _, model in RESULTS}
        anchor = titles.get(kind, "").lower().replace(".", "").replace(" ", "-")
        return f"[object](#{anchor})" if anchor else "object"
    return {str: "text", int: "whole number", float: "number", bool: "true, false"}[kind]


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": command_line,
    "recipe-keys.md": recipe_keys,
    "results-keys.md": results_keys,
}
