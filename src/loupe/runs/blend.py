"""Blend of trained runs: a new run, whose network is the weighted mean of their calibrated probabilities."""

from collections.abc import Sequence
from pathlib import Path

from loupe.config.network import BlendMember, BlendSpec
from loupe.config.recipe import InputSpec, Recipe
from loupe.config.resolved import ResolvedRecipe
from loupe.data.splits import split_file
from loupe.errors import ConfigError, counted, enumerated
from loupe.models.build import build
from loupe.models.pretrained import shared_preprocessing
from loupe.runs import made
from loupe.runs.run import Run

OF_INPUT = ("size_px", "load_px", "resize", "interpolation", "channels", "range", "pixel_definition")


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

    The images, the split and the normalisation of the input are those of the first member. The temperature of the blend
    is fitted on its validation images, as for any run.

    Args:
        members: finished runs on images of the same classes, whose networks take the same input.
        shares: share of each member, relative to the others; those with 0 are left out. None: equal shares.
        output: folder of the runs.
        name: name of the new run. Default: DATA-blend.
        open_test: evaluate test images; if False, they stay unused until `loupe.runs.finalize.open_test`.
        device: auto, cpu, cuda, cuda:N or mps.
        quiet: print nothing.

    Raises:
        ConfigError: fewer than two members with a share, or members of other classes, another input or another split.
        DataError: the images of the first member are missing or have changed.
    """
    kept = _with_share(members, shares)
    runs = [run for run, _ in kept]
    check_together(runs)
    spec = BlendSpec(members=tuple(_member(run, share) for run, share in kept), combine="probabilities")
    first = runs[0]
    recipe = Recipe(
        name="blend",
        description=f"Mean of the probabilities of {counted(len(kept), 'run')}: "
        + ", ".join(f"{share:.2f} {run.directory.name}" for (run, _), share in zip(kept, spec.shares, strict=True)),
        input=InputSpec.model_validate(first.recipe.input.model_dump()),
        split=first.recipe.split,
        model=spec,
        stages=(),
        seed=first.recipe.seed,
    )
    records = [made.record(run, share) for run, share in zip(runs, spec.shares, strict=True)]
    model = build(spec, first.config.preprocessing, first.classes, recipe.seed)
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


def check_together(runs: Sequence[Run]) -> None:
    """Check that runs have the same classes and the same input, and that none was trained on images kept apart here.

    Raises:
        ConfigError: they differ.
    """
    first, names = runs[0], [run.directory.name for run in runs]
    for run in runs[1:]:
        if run.classes != first.classes:
            raise ConfigError(
                f"{run.directory.name} has the classes {enumerated(list(run.classes[:5]))}, and {names[0]} has "
                f"{enumerated(list(first.classes[:5]))}. Give runs with the same classes in the same order."
            )
    shared_preprocessing(names, [run.config.preprocessing for run in runs], OF_INPUT)
    apart = {digest for _, split, digest in _rows(first) if split in {"val", "test"}}
    for run in runs[1:]:
        seen = len(apart & made.trained_on(run))
        if seen:
            raise ConfigError(
                f"{run.directory.name} was trained on {counted(seen, 'validation or test image')} of {names[0]}, so "
                "that its figures would be too high. Give runs with the same split: --set split.seed=0 for all."
            )


def _rows(run: Run) -> list[tuple[str, str, str]]:
    return list(split_file.stored(run.directory.file("split.csv")).values())


def _member(run: Run, share: float) -> BlendMember:
    network = run.config.network.model_copy(update={"weights": str(run.directory.model.resolve())})
    own = run.config.preprocessing
    return BlendMember(network=network, mean=own.mean, std=own.std, share=share, temperature=run.temperature)
