"""Blend: several networks that read one input, as one classifier.

The trunk of a blend is one block, `members`. Each member sees the input as its own weights need it (`member_view`).
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from loupe.config.network import BlendMember, BlendSpec, Network
from loupe.config.recipe import Preprocessing
from loupe.models.classifier import Classifier
from loupe.models.heads import head
from loupe.models.member_view import view

Build = Callable[[Network, Preprocessing, int], Classifier]  # a member, from its number too
OWN = ("size_px", "load_px", "interpolation", "channels", "mean", "std")  # keys of the preprocessing of a member


class Member(nn.Module):
    """One network of a blend.

    Attributes:
        view: from the input of the blend to that of the member.
        classifier: the network with its own preprocessing. In a blend of features, its head only pools.
    """

    def __init__(self, view: nn.Module, classifier: Classifier) -> None:
        super().__init__()
        self.view = view
        self.classifier = classifier

    def forward(self, x_BCHW: Tensor) -> Tensor:
        outputs: Tensor = self.classifier(self.view(x_BCHW))
        return outputs

    @property
    def frozen(self) -> Classifier:
        """The classifier with all blocks of its trunk frozen; it shares the weights."""
        frozen = copy.copy(self.classifier)
        frozen.frozen = len(frozen.trunk)
        return frozen


class Members(nn.Module):
    """Members of a blend: their features side by side [B, ΣC], or their logits [B, M, K]."""

    def __init__(self, members: Sequence[Member], *, side_by_side: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.side_by_side = side_by_side

    def forward(self, x_BCHW: Tensor) -> Tensor:
        outputs = [member(x_BCHW) for member in self.members]
        return torch.cat(outputs, dim=1) if self.side_by_side else torch.stack(outputs, dim=1)


class MeanProbabilities(nn.Module):
    """Logarithm of the weighted mean of probabilities, [B, K], from the logits of the members, [B, M, K].

    Each member's logits are divided by its temperature first. The softmax of the result is the mean itself.
    """

    def __init__(self, shares: Sequence[float], temperatures: Sequence[float]) -> None:
        super().__init__()
        self.shares, self.temperatures = tuple(shares), tuple(temperatures)

    def forward(self, logits_BMK: Tensor) -> Tensor:
        weighted = [
            torch.log_softmax(logits_BMK[:, number].float() / temperature, dim=1) + math.log(share)
            for number, (share, temperature) in enumerate(zip(self.shares, self.temperatures, strict=True))
        ]
        return torch.logsumexp(torch.stack(weighted, dim=1), dim=1)

    def extra_repr(self) -> str:
        return f"shares={self.shares}, temperatures={self.temperatures}"


def blend(spec: BlendSpec, preprocessing: Preprocessing, classes: tuple[str, ...], build: Build) -> Classifier:
    """Assemble a blend from its members; a head on features has no memory for its weights (PyTorch's meta device).

    Args:
        build: builder of a member from its network, its preprocessing and its number, from 0.

    Raises:
        ConfigError: a member does not take the images, or there are no members with a head.
    """
    is_trained = spec.combine == "features"
    members = []
    for number, member in enumerate(spec.members):
        network = member.network.model_copy(update={"hidden": ()}) if is_trained else member.network
        own = own_preprocessing(member, preprocessing)
        classifier = build(network, own, number)
        if is_trained:
            classifier.head = classifier.head[:1]  # the pooling
        members.append(Member(view(own, preprocessing), classifier))
    trunk = nn.Sequential(OrderedDict(members=Members(members, side_by_side=is_trained)))
    if not is_trained:
        temperatures = [member.temperature for member in spec.members]
        top = nn.Sequential(OrderedDict(mean=MeanProbabilities(spec.shares, temperatures)))
        return Classifier(trunk, top, preprocessing, classes)
    with torch.device("meta"):
        return Classifier(trunk, head("own", (), sum(map(_width, members)), len(classes)), preprocessing, classes)


def members_of(model: Classifier) -> tuple[Member, ...]:
    """Members of a blend of features, whose frozen features are computed apart; empty for all other networks."""
    first = model.trunk[0]
    if isinstance(first, Members) and first.side_by_side:
        return tuple(member for member in first.members if isinstance(member, Member))
    return ()


def is_blend(model: Classifier) -> bool:
    """True for a network of several members."""
    return isinstance(model.trunk[0], Members)


def own_preprocessing(member: BlendMember, preprocessing: Preprocessing) -> Preprocessing:
    """Preprocessing of a member: that of the blend, with what the member has of its own."""
    changes = {key: value for key in OWN if (value := getattr(member, key)) is not None}
    return Preprocessing.model_validate({**preprocessing.model_dump(), **changes})


def _width(member: Member) -> int:
    """Number of features of a member, from a pass on the meta device, which computes nothing."""
    classifier = member.classifier
    state = {**dict(classifier.named_parameters()), **dict(classifier.named_buffers())}
    abstract = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    shape, training = (2, classifier.preprocessing.channels, *classifier.preprocessing.size), classifier.training
    with torch.no_grad():
        outputs = torch.func.functional_call(classifier.eval(), abstract, torch.empty(shape, device="meta"))
    classifier.train(training)
    return int(outputs.shape[1])
