"""Head of a network: pooling, hidden layers, logits."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from loupe.config.network import Dense
from loupe.models.layers import AveragePool, Dropout, Flatten, MaxPool


def head(pooling: str, hidden: Sequence[Dense], width: int, outputs: int) -> nn.Sequential:
    """Build a head with the layers `pool`, `hidden1` and so on, `logits`.

    Args:
        pooling: `average`, `max` or `flatten` for a map; `own` if the trunk pools.
        width: number of pooled features.
    """
    pools = {"average": AveragePool, "max": MaxPool, "flatten": Flatten, "own": nn.Identity}
    layers: OrderedDict[str, nn.Module] = OrderedDict(pool=pools[pooling]())
    for number, dense in enumerate(hidden, 1):
        layers[f"hidden{number}"] = nn.Linear(width, dense.units)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        if dense.dropout:
            layers[f"dropout{number}"] = Dropout(dense.dropout)
        width = dense.units
    layers["logits"] = nn.Linear(width, outputs)
    return nn.Sequential(layers)
