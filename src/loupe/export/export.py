"""Export of a run: a folder with the model, its card, and the proof that it predicts as the run does."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from loupe import __version__
from loupe.data.dataset import open_dataset
from loupe.data.remote.redaction import redacted_word
from loupe.data.sources.folders import from_paths
from loupe.data.sources.read_options import ReadOptions
from loupe.data.table import match_classes
from loupe.devices import Compute
from loupe.errors import ConfigError, DataError, disk_error, enumerated, unknown_name
from loupe.export.card import card
from loupe.export.card_facts import CardFacts
from loupe.export.folder import CARD, MANIFEST, PARITY, Manifest, hashes
from loupe.export.job import Job, Options, Written
from loupe.export.parity import EngineParity, ParityReport, Reference, compare
from loupe.export.runners import Floats
from loupe.export.samples import Samples
from loupe.export.targets import PRECISIONS_OF, TARGETS
from loupe.log import command_line, logger, progress_bar, terminal
from loupe.models.classifier import Classifier
from loupe.models.torch_network import TorchNetwork
from loupe.rundir import open_run
from loupe.runs.run import Run

COMPARED_WITH = "PyTorch, fp32"


def export_model(
    run: Run | str | Path,
    to: str,
    *,
    folder: str | Path | None = None,
    images: str | Path | None = None,
    options: Options = Options(),  # noqa: B008 - a frozen value
    quiet: bool = True,
) -> Path:
    """Export a run, once the exported model has been compared with it image by image.

    Args:
        run: finished run, its folder or its name in `runs`.
        to: target (`TARGETS`).
        folder: new folder for the export; by default `exports/TARGET` in that of the run.
        images: images to compare on, in place of the run's validation images. A lower precision needs their labels.
        options: options of the target.
        quiet: print warnings only.

    Returns:
        The folder: the model, `card.md`, `parity.json` and `export.json`.

    Raises:
        ConfigError: the target is unknown or needs a package, the network cannot be exported, or the folder exists.
        ExportRefusedError: the exported model does not predict as the run does.
        DataError: there are no images to compare on.
    """
    if to not in TARGETS:
        raise unknown_name("target", to, TARGETS)
    if options.precision not in PRECISIONS_OF[to]:
        raise ConfigError(f"--to {to} has the precision {enumerated(PRECISIONS_OF[to])}, and not {options.precision}.")
    opened = run if isinstance(run, Run) else Run(open_run(run), device="cpu", quiet=quiet)
    place = Path(folder) if folder else default_folder(opened, to, options)
    if place.exists():
        raise ConfigError(f"{place} exists. Remove it, or choose another with --folder.")
    with terminal(quiet=quiet), _new_folder(place) as made:
        model = in_fp32(opened)
        samples = samples_of(opened, images, labelled=options.precision != "fp32")
        logger.info(f"writing {to}")
        written = TARGETS[to](Job(opened, model, made, options))
        report = _compared(to, written, samples, model)
        report.write(made / PARITY)
        if opened.config.precision != "fp32":
            logger.info(
                f"compared in fp32: the run itself predicts in {opened.config.precision}, so that classes that are "
                "nearly as probable can be exchanged"
            )
        text = card(CardFacts.of(opened), written.usage, {"tags": [to], **written.front}, report)
        (made / CARD).write_text(text, encoding="utf-8")
        manifest = Manifest(
            target=to,
            precision=options.precision,
            model=written.model,
            files={name: digest for name, digest in hashes(made).items() if name not in {PARITY, CARD}},
            classes=opened.classes,
            preprocessing=opened.preprocessing,
            temperature=opened.temperature,
            threshold=options.threshold,
            run=opened.path.name,
            weights_blake2b=opened.config.weights_blake2b,
            loupe=__version__,
        )
        manifest.write(made / MANIFEST)
        _tell(report, options)
        if written.page is not None:
            logger.info(f"To try it, open in a browser: {place / written.page}")
        elif written.model is not None:
            logger.info(f"To try it: {command_line(['loupe', 'predict', str(place), 'IMAGES'])}")
    return place


def _tell(report: ParityReport, options: Options) -> None:
    """Log the comparison with each engine."""
    for engine in report.engines:
        if engine.loss is not None:
            logger.info(f"{engine.engine}, {options.precision}: {engine.loss}")
        logger.info(
            f"{engine.engine}: {engine.same_top1:,} of {engine.images:,} images get the same class; probabilities "
            f"differ by at most {max(engine.largest_difference, engine.largest_difference_in_batches):.1g}"
            f"{_of_pixels(engine)}"
        )


def default_folder(run: Run, to: str, options: Options) -> Path:
    """Folder of an export in that of its run."""
    return run.path / "exports" / (to if options.precision == "fp32" else f"{to}-{options.precision}")


def _of_pixels(engine: EngineParity) -> str:
    if engine.pixel_values:
        return f"; {engine.differing_pixel_values:,} of {engine.pixel_values:,} pixel values differ"
    if engine.largest_logit_difference is None:
        return ""
    return f", logits of prepared images by at most {engine.largest_logit_difference:.1g} of the largest"


@contextmanager
def _new_folder(place: Path) -> Iterator[Path]:
    """Folder beside the place that becomes it once everything is in it; nothing is left after an error."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise disk_error(error, place, "choose another with --folder") or error from None
    try:
        yield made
        made.chmod(0o755)
        made.rename(place)
    except OSError as error:
        raise disk_error(error, place, "choose another with --folder") or error from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def in_fp32(run: Run) -> Classifier:
    """Network of a run in evaluation mode, in fp32, on the CPU."""
    from loupe.models import bundle

    return bundle.load(run.directory.model, torch.device("cpu"))[0].float()


def samples_of(run: Run, images: str | Path | None, *, labelled: bool = False) -> Samples:
    """Images to compare on: all validation images of the run, or the given ones.

    Raises:
        DataError: there are none, they need labels and have none, or those of the run are missing or have changed.
    """
    shown = redacted_word(str(images))
    if images is not None and labelled:
        table = open_dataset(images, ReadOptions.of(None, None, False), announce=False).table
        label_N = match_classes(table, run.classes)
        if not len(table) or (label_N < 0).any():
            raise DataError(f"{shown}: accuracy is compared on images with labels. Give folders of classes, or a list.")
        return Samples(table.with_classes(run.classes), range(len(table)), run.preprocessing, shown)
    if images is not None:
        table = from_paths([str(images)])
        return Samples(table, range(len(table)), run.preprocessing, shown)
    own, split = run.own_images()
    rows_N = split.rows("val")
    if not len(rows_N):
        raise DataError(f"{run.path} has no validation images. Give images to compare on with --images.")
    return Samples(own.table, rows_N.tolist(), run.preprocessing, "validation images of the run")


def reference_of(model: Classifier) -> Reference:
    """Calibrated probabilities of a network by PyTorch in fp32."""
    network = TorchNetwork(model, Compute(torch.device("cpu"), "fp32"))

    def probabilities(pixels_NHWC: np.ndarray) -> Floats:
        (logits_NK,) = network.run(iter([pixels_NHWC]))
        scaled = torch.from_numpy(logits_NK).double() / model.temperature
        return np.asarray(torch.softmax(scaled, dim=1), dtype=np.float32)

    return probabilities


def _compared(to: str, written: Written, samples: Samples, model: Classifier) -> ParityReport:
    reference = reference_of(model)
    with progress_bar() as progress:
        task = progress.add_task("comparing", total=len(samples), note="")
        report = compare(
            to,
            written.gates,
            samples,
            reference,
            COMPARED_WITH,
            lambda images: progress.advance(task, images),
        )
    checked = [found for check in written.checks if (found := check(samples, reference)) is not None]
    return report.model_copy(update={"engines": (*report.engines, *checked)})
