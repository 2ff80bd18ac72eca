"""Trained classifier from whose weights another training starts: that of a run, or one exported for timm.

Nothing here reads weights, nor needs PyTorch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loupe import records
from loupe.config.network import BackboneSpec, BlendSpec, Network
from loupe.config.recipe import Preprocessing
from loupe.data.class_names import same_forms
from loupe.errors import ConfigError, RunStateError
from loupe.log import command_line
from loupe.models.bundle_config import CONFIG, WEIGHTS, BundleConfig

TIMM_WEIGHTS = "model.safetensors"
EXPORTED = "loupe"  # key of config.json in a folder for timm, below which it is that of a bundle

HeadUse = Literal["same", "reordered", "new"]


@dataclass(frozen=True)
class Parent:
    """Trained classifier in a folder.

    Attributes:
        folder: absolute path of the model folder of a run, or of an export for timm.
        shown: the run or the folder, as the user names it.
        config: network, preprocessing, classes, and the hash of the weights.
        of_timm: weights under timm's names.
    """

    folder: Path
    shown: Path
    config: BundleConfig
    of_timm: bool

    @property
    def network(self) -> Network:
        return self.config.network

    @property
    def preprocessing(self) -> Preprocessing:
        return self.config.preprocessing

    @property
    def weights(self) -> Path:
        """File of the weights."""
        return self.folder / (TIMM_WEIGHTS if self.of_timm else WEIGHTS)

    @property
    def run(self) -> Path | None:
        """Absolute path of the run that trained it; None for a model folder or an export outside its run."""
        run = self.folder.parents[1] if self.of_timm and self.folder.parent.name == "exports" else self.folder.parent
        return run if (run / "recipe.yaml").is_file() and self.of_timm == (run != self.folder.parent) else None

    @property
    def name(self) -> str:
        """Name of the run that trained it, as far as that is known, else of the folder."""
        exported = _content(self.folder / "export.json").get("run")
        return self.run.name if self.run else exported if isinstance(exported, str) else self.folder.name


def find(weights: str) -> Parent | None:
    """Trained classifier that `weights` of a network name: a run, its model folder, or a folder exported for timm.

    Returns:
        None for all other weights, and for a folder that is missing.

    Raises:
        RunStateError: the run is not finished, or the config beside the weights is damaged.
    """
    if weights in {"timm", "none"} or weights.startswith("hf-hub:"):
        return None
    given = Path(weights.removeprefix("local-dir:"))
    is_run = (given / "recipe.yaml").is_file()
    folder = given / "model" if is_run else given
    if is_run and not (folder / CONFIG).is_file():
        raise RunStateError(
            f"--weights {given}: this run is not finished, so that it has no weights yet. Continue it first: "
            f"{command_line(['loupe', 'train', '--resume', str(given)])}"
        )
    content = _content(folder / CONFIG)
    of_timm = isinstance(content.get(EXPORTED), dict)
    if not of_timm and "weights_blake2b" not in content:
        return None
    folder = folder.resolve()
    shown = given.parent if given.name == "model" and (given.parent / "recipe.yaml").is_file() else given
    return Parent(folder, shown, BundleConfig.of(content[EXPORTED] if of_timm else content, folder / CONFIG), of_timm)


def _content(file: Path) -> dict[str, Any]:
    """Keys of a config.json; empty if there is none, or none of ours."""
    try:
        content = records.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def same_trunk(one: Network, other: Network) -> bool:
    """True if weights of one trunk are weights of the other, and mean the same there."""
    return _trunk(one) == _trunk(other)


def check_trainable(parent: Parent) -> None:
    """Check that another training can start from the weights.

    Raises:
        ConfigError: they are those of a blend of trained runs.
    """
    if isinstance(parent.network, BlendSpec) and parent.network.combine == "probabilities":
        raise ConfigError(
            f"--weights {parent.shown}: a blend of trained runs cannot be trained on. Train on from one of its "
            "members, which `loupe report` lists."
        )


def check_trunk(parent: Parent, network: Network) -> None:
    """Check that a network can take the trunk of a trained one.

    Raises:
        ConfigError: its trunk is another.
    """
    if same_trunk(parent.network, network):
        return
    mine, theirs = _trunk(network), _trunk(parent.network)
    key = next(key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key))
    names = f"{parent.network.name}, and this training is of {network.name}"
    if parent.network.name == network.name:
        names = f"{network.name} with {key} {theirs.get(key)}, and this training has {key} {mine.get(key)}"
    raise ConfigError(f"--weights {parent.shown}: its network is {names}. {_remedy(parent)}")


def _remedy(parent: Parent) -> str:
    if isinstance(parent.network, BackboneSpec):
        return f"Give --recipe features or finetune, without --model or with --model {parent.network.name}."
    recipe = f" or with --recipe {parent.run / 'recipe.yaml'}" if parent.run else ""
    return f"Give --weights without --recipe and --model{recipe}."


def _trunk(network: Network) -> dict[str, Any]:
    """Settings of the layers of a trunk, by key; those of training alone are left out."""
    if isinstance(network, BackboneSpec):
        return {"backbone": network.backbone.partition(".")[0], "pooling": network.pooling}
    if isinstance(network, BlendSpec):
        trunks = {f"members.{number}": _trunk(member.network) for number, member in enumerate(network.members)}
        return {"combine": network.combine} | {
            f"{member}.{key}": value for member, trunk in trunks.items() for key, value in trunk.items()
        }
    of_others = {"name", "weights", "pooling", "hidden", "init", "norm_momentum"}
    return dict(_leaves(network.model_dump(mode="json", exclude=of_others)))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping | list):
        yield key, value
        return
    for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        if name != "dropout":
            yield from _leaves(item, f"{key}.{name}" if key else str(name))


def head_use(
    parent: Parent, network: Network, preprocessing: Preprocessing, classes: tuple[str, ...]
) -> tuple[HeadUse, str]:
    """Use of the trained head in a network: as it is, with its outputs in another order, or none, with the reason."""
    mine, theirs = same_forms(classes), same_forms(parent.config.classes)
    if sorted(mine) != sorted(theirs):
        return "new", "the classes differ"
    if _hidden(network) != _hidden(parent.network):
        return "new", "its layers differ"
    if network.pooling == "flatten" and preprocessing.size != parent.preprocessing.size:
        return "new", "the size of the images differs"
    return ("same", "") if mine == theirs else ("reordered", "")


def _hidden(network: Network) -> tuple[Any, ...]:
    return (network.pooling, *(dense.units for dense in network.hidden))
