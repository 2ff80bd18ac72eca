"""Overview of a model, without its weights."""

from typing import Any

from loupe.config.recipe import Preprocessing
from loupe.config.size import SizePx
from loupe.models.build import skeleton
from loupe.models.catalog import network
from loupe.models.pretrained import native_preprocessing
from loupe.models.summary import count_parameters, parameter_table

DEFAULT_PX = 32  # size of the images of a small network if none is given


def overview(name: str, *, part: str, classes: int, size_px: SizePx | None) -> dict[str, Any]:
    """Overview of a model: layers, with a flag for the trainable ones, blocks, parameter counts, preprocessing.

    Raises:
        ConfigError: the model has no such part, or does not take images of this size.
    """
    chosen = network(name, "none")
    own = native_preprocessing(chosen)
    size_px = size_px or (own.size_px if own else DEFAULT_PX)
    sizes: dict[str, Any] = {"size_px": size_px, "load_px": size_px}
    prepared = own.model_copy(update=sizes) if own else Preprocessing(**sizes)
    model = skeleton(chosen, prepared, tuple(str(number) for number in range(classes)))
    model.learn(part)
    return {
        "name": name,
        "part": part,
        "size_px": size_px,
        "classes": classes,
        "blocks": [label for label, _ in model.trunk.named_children()],
        "frozen_blocks": model.frozen,
        "parameters": count_parameters(model),
        "preprocessing": own.model_dump(mode="json") if own else None,
        "layers": parameter_table(model),
    }
