"""Blend of trained runs: a new run, whose network is the weighted mean of their calibrated probabilities."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from loupe.config.network import BlendMember, BlendSpec
from loupe.config.recipe import InputSpec, Preprocessing, Recipe
from loupe.config.resolved import ResolvedRecipe
from loupe.data.splits import split_file
from loupe.data.splits.split import SPLITS
from loupe.errors import ConfigError, counted, enumerated
from loupe.models.blend import OWN
from loupe.models.build import build
from loupe.models.member_view import shared_input
from loupe.runs import made
from loupe.runs.run import Run

BySplit = Mapping[str, AbstractSet[str]]


def blend(
    members: Sequence[Run],
    shares: Sequence[float] | None = None,
    *,
    output: str | Path = "runs",
    name: str | None = None,
    open_test: bool = False,
    device: str = "auto",
    quiet: bool = True,
) -> Run:
    """Make a run of trained runs, without training: it predicts the weighted mean of their calibrated probabilities.

    The images and the split are those of all members. Images are read in the resolution of the finest member, and
    resized for the others (`models.member_view`). The temperature of the blend is fitted on its validation images, as
    for any run.

    Args:
        members: finished runs on the same images and the same split.
        shares: share of each member, relative to the others; those with 0 are left out. None: equal shares.
        output: folder of the runs.
        name: name of the new run. Default: DATA-blend.
        open_test: evaluate test images; if False, they stay unused until `loupe.runs.finalize.open_test`.
        device: auto, cpu, cuda, cuda:N or mps.
        quiet: print nothing.

    Raises:
        ConfigError: fewer than two members with a share, or members of other classes, of another
            split, or with inputs that cannot be shared.
        DataError: the images of the first member are missing or have changed.
    """
    kept = _with_share(members, shares)
    runs = [run for run, _ in kept]
    shared = check_together(runs)
    spec = BlendSpec(members=tuple(_member(run, share, shared) for run, share in kept), combine="probabilities")
    first = runs[0]
    pixels = shared.model_dump(exclude={"range"}) | {"normalise": "given", "range": shared.range or "full"}
    recipe = Recipe(
        name="blend",
        description=f"Mean of the probabilities of {counted(len(kept), 'run')}: "
        + ", ".join(f"{share:.2f} {run.directory.name}" for (run, _), share in zip(kept, spec.shares, strict=True)),
        input=InputSpec.model_validate(pixels),
        split=first.recipe.split,
        model=spec,
        stages=(),
        seed=first.recipe.seed,
    )
    records = [made.record(run, share) for run, share in zip(runs, spec.shares, strict=True)]
    model = build(spec, shared, first.classes, recipe.seed)
    return made.write(
        model,
        ResolvedRecipe.of(recipe),
        runs,
        records,
        output=Path(output),
        name=name,
        open_test=open_test,
        device=device,
        quiet=quiet,
    )


def _with_share(members: Sequence[Run], shares: Sequence[float] | None) -> list[tuple[Run, float]]:
    given = [1.0] * len(members) if shares is None else list(shares)
    if len(given) != len(members) or any(not 0 <= share < float("inf") for share in given):
        raise ConfigError(
            f"a blend needs one share of 0 or more for each of {counted(len(members), 'run')}; got "
            f"{', '.join(f'{share:g}' for share in given) or 'none'}."
        )
    kept = [(run, share) for run, share in zip(members, given, strict=True) if share > 0]
    if len(kept) < 2:
        raise ConfigError(f"a blend needs two runs or more with a share above 0; got {len(kept)}. Use the run itself.")
    return kept


def check_together(runs: Sequence[Run]) -> Preprocessing:
    """Check that runs have the same classes and the same split, and return the input that they can share.

    Raises:
        ConfigError: they differ.
    """
    first, names = runs[0], [run.directory.name for run in runs]
    for number, run in enumerate(runs):
        if any(run.path.resolve() == other.path.resolve() for other in runs[:number]):
            raise ConfigError(f"{run.directory.name} is given twice. Give each run once; --shares weights them.")
    for run in runs[1:]:
        if run.classes != first.classes:
            raise ConfigError(
                f"{run.directory.name} has the classes {enumerated(list(run.classes[:5]))}, and {names[0]} has "
                f"{enumerated(list(first.classes[:5]))}. Give runs with the same classes in the same order."
            )
    shared = shared_input(names, [run.config.preprocessing for run in runs])
    own = _by_split(first)
    for run in runs:
        _check_split(run, _by_split(run), names[0], own)
        seen = len((own["val"] | own["test"]) & made.trained_on(run))
        if seen:
            raise ConfigError(
                f"{run.directory.name}, or a run that it started from, was trained on "
                f"{counted(seen, 'validation or test image')}, so that the figures of a blend would be too high. Train "
                "it again, without --refit and from weights that have not seen them."
            )
    return shared


def _check_split(
    run: Run, theirs: Mapping[str, AbstractSet[str]], name: str, own: Mapping[str, AbstractSet[str]]
) -> None:
    for split, noun in (("val", "validation image"), ("test", "test image")):
        if theirs[split] != own[split]:
            both = len(theirs[split] & own[split])
            raise ConfigError(
                f"{run.directory.name} and {name} have other {noun}s: {counted(len(theirs[split]), noun)} and "
                f"{len(own[split]):,}, {both:,} of them in both. A blend needs runs on the same data with the same "
                "split: train with the same --set split.seed and fractions."
            )


def _by_split(run: Run) -> BySplit:
    """Hashes of the images of each split."""
    found = {name: set[str]() for name in SPLITS}
    for _, split, digest in split_file.stored(run.directory.file("split.csv")).values():
        if split:
            found[split].add(digest)
    return found


def _member(run: Run, share: float, shared: Preprocessing) -> BlendMember:
    network = run.config.network.model_copy(update={"weights": str(run.directory.model.resolve())})
    own = {key: getattr(run.config.preprocessing, key) for key in OWN}
    other = {key: value for key, value in own.items() if value != getattr(shared, key)}
    return BlendMember(network=network, share=share, temperature=run.temperature, **other)
