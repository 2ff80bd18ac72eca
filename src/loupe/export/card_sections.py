"""Sections of a model card: each yields its blocks of Markdown, from the recorded facts of a run."""

from collections.abc import Iterator

from loupe.config.size import Size
from loupe.errors import counted
from loupe.evaluate.results import RunResults
from loupe.export.card_facts import CardFacts, last_part
from loupe.export.markdown import code, fenced, plain
from loupe.export.parity import ParityReport
from loupe.log import command_line
from loupe.models.pretrained import WeightsOrigin
from loupe.report import content, texts
from loupe.report.confidence import reliability_words
from loupe.report.receipt import receipt as run_receipt

# Rows of the receipt that name folders of the machine, and those that the card says elsewhere.
FOLDERS = {"started from the weights of", "learned from"}
LEFT_OUT = {"read from", "folder of the images", "test-set evaluations"}


def head(facts: CardFacts) -> Iterator[str]:
    results, images = facts.results, facts.results.images
    yield f"# {code(facts.name)}: image classifier of {counted(len(results.classes), 'class')}"
    yield (
        f"The network {code(results.network or facts.recipe.model.name)}, of "
        f"{counted(results.parameters.total, 'parameter')}, trained with Loupe {results.version} on the data set "
        f"{code(results.dataset)}: {images.train:,} training, {images.val:,} validation and {images.test:,} test "
        "images."
    )
    if facts.judged:
        split, block = facts.judged
        yield (
            f"Accuracy on {counted(block.images, f'{split} image')}: "
            f"{texts.estimate(block.accuracy, as_percent=True)} (95 % interval "
            f"{texts.interval(block.accuracy, as_percent=True) or 'not known'})."
        )


def comparison(report: ParityReport) -> Iterator[str]:
    images = {engine.images for engine in report.engines}
    yield (
        f"The exported model was compared with the run ({plain(report.compared_with)}) on "
        f"{counted(max(images, default=0), 'image')}, from the files on: {plain(last_part(report.source))}."
    )
    rows = [
        (
            plain(engine.engine),
            f"{engine.same_top1:,} of {engine.images:,}",
            f"{max(engine.largest_difference, engine.largest_difference_in_batches):.1g}",
            f"{engine.differing_pixel_values:,} of {engine.pixel_values:,}"
            if engine.pixel_values
            else "prepared images",
        )
        for engine in report.engines
    ]
    header = ("engine", "same class", "largest difference of a probability", "differing pixel values")
    yield "\n".join(texts.markdown_table(header, rows))
    for engine in report.engines:
        if engine.loss is not None:
            yield plain(f"{engine.engine}: {engine.loss}.")


def results(facts: CardFacts) -> Iterator[str]:
    results = facts.results
    if not results.judged:
        yield texts.unevaluated(results)
        return
    header = ["metric", *(f"{name}, {counted(block.images, 'image')}" for name, block in results.judged.items())]
    rows = [
        [row.name, *(_figure(cell.value, cell.interval or plain(cell.why or "")) for cell in row.cells)]
        for row in content.metric_rows(results)
    ]
    yield "\n".join(texts.markdown_table(header, rows))
    chosen = " The weights were chosen on the validation images: figures on these may be too good."
    yield (
        "In brackets: 95 % intervals, for this network and other images of the same kind. Probabilities are those "
        f"before calibration.{chosen if results.validation and not results.refit else ''}"
    )
    for words in (texts.folded(results), texts.refitted(results)):
        if words:
            yield plain(words)
    if results.test:
        yield f"Evaluations of these test images recorded beside the run: {facts.looks}."
    else:
        yield "The test images were not evaluated." if results.images.test else "No images were held out for a test."


def _figure(value: str, detail: str | None) -> str:
    """Value with its interval, or with the reason why it has none."""
    return f"{value} ({detail})" if detail else value


def classes(facts: CardFacts) -> Iterator[str]:
    names = facts.results.classes
    if not facts.judged:
        named = ((str(index), code(name)) for index, name in enumerate(names))
        yield "\n".join(texts.markdown_table(("output", "class"), named))
        return
    split, block = facts.judged
    yield f"In the order of the outputs, with the scores on the {split} images. In brackets: 95 % intervals."
    header = ("output", "class", f"{split} images", "precision", "recall", "F1")
    rows = []
    for index, (name, row) in enumerate(zip(names, block.per_class, strict=True)):
        span = texts.between(row.recall_low, row.recall_high, as_percent=True)
        recall = _figure(texts.percent(row.recall), span)
        cells = (texts.count(row.support), texts.percent(row.precision), recall, texts.number(row.f1))
        rows.append((str(index), code(name), *cells))
    yield "\n".join(texts.markdown_table(header, rows))


def calibration(facts: CardFacts) -> Iterator[str]:
    yield (
        f"Calibrated probabilities are the softmax of the logits divided by the temperature {facts.temperature:.6g}."
    )
    found = facts.results.calibration
    for split in ("test", "validation"):
        if found and (compared := getattr(found, split)):
            yield plain(reliability_words(found, compared, split))
            return


def thresholds(results: RunResults) -> Iterator[str]:
    found = results.selective
    if not found or not found.thresholds:
        yield plain(f"No threshold is known: {found.why}." if found and found.why else "No threshold is known.")
        return
    yield (
        "An image whose highest calibrated probability is below the threshold counts as `unclassified`. Each threshold "
        f"is the lowest that guarantees the precision among the others with {texts.percent(found.confidence, 0)} "
        "confidence, for images like those of validation, on which it was chosen."
    )
    splits = ("validation", "test") if found.test else ("validation",)
    rows = []
    for row in found.thresholds:
        cells = [texts.percent(row.precision), "none" if row.threshold is None else f"{row.threshold:.4f}"]
        for split in splits:
            block = getattr(row, split)
            for figure in (block.coverage, block.precision) if block else ():
                span = texts.interval(figure, as_percent=True)
                cells.append(_figure(texts.estimate(figure, as_percent=True), span))
        rows.append(cells + [texts.UNDEFINED] * (2 + 2 * len(splits) - len(cells)))
    beside = (f"{figure}, {split}" for split in splits for figure in ("coverage", "precision"))
    yield "\n".join(texts.markdown_table(("wanted precision", "threshold", *beside), rows))
    yield (
        f"The highest precision that these validation images guarantee is {texts.percent(found.highest_precision)}."
        if found.highest_precision
        else "These validation images guarantee no precision."
    )


def limits(facts: CardFacts) -> Iterator[str]:
    results, prepared = facts.results, facts.preprocessing
    colour = "grey" if prepared.channels == 1 else "RGB"
    learned = results.refit.images if results.refit else results.images.train
    points = [
        f"It was trained on {counted(learned, 'image')} of the data set {code(results.dataset)}. The "
        "figures hold for other images of the same kind. Images from other cameras, places or sources were not "
        "measured.",
        f"Every image gets one of the {counted(len(results.classes), 'class')}, also one that shows none of them. A "
        "threshold leaves out images that the network is unsure of. It does not recognise images of another kind: the "
        "network may be sure of them.",
        f"The network sees {_sides(prepared.size)} of each image, in {colour}, after resizing to "
        f"{_sides(prepared.load_size)} ({prepared.resize}, {prepared.interpolation}). Smaller detail is lost.",
        *_recorded_limits(facts),
    ]
    yield "\n".join(f"- {point}" for point in points)


def _sides(size: Size) -> str:
    return f"{size.height_px} x {size.width_px} px"


def _recorded_limits(facts: CardFacts) -> Iterator[str]:
    """Limits of these data: images left out, the group with the lowest accuracy, the learning curves."""
    results = facts.results
    if results.damaged:
        yield f"Damaged images that were left out: {results.damaged:,}."
    if unread := sum(row.images for row in results.unread):
        yield f"Image files that could not be read and were left out: {unread:,}."
    if started := texts.started(results):
        yield plain(started)
    split, block = facts.judged or ("", None)
    if block and block.per_group and block.per_group.rows:
        worst = min(block.per_group.rows, key=lambda row: row.accuracy.value or 0.0)
        value, span = (text(worst.accuracy, as_percent=True) for text in (texts.estimate, texts.interval))
        yield (
            f"Lowest accuracy of a group: {_figure(value or texts.UNDEFINED, span)}, on "
            f"{counted(worst.images, f'{split} image')} of {code(worst.group)}."
        )
    if results.diagnosis:
        yield f"Learning curves: {plain(results.diagnosis.text)}"


def licence(origin: WeightsOrigin | None) -> Iterator[str]:
    if origin is None:
        yield "Trained from random weights. The licence of this model is for its owner to state."
        return
    source = f"the repository {code(origin.repository)}" if origin.repository else "a file"
    stated = f"stated as {code(origin.licence)}" if origin.licence else "unknown"
    yield f"Pretrained weights: {source}. Their licence is {stated}; whoever passes this model on must follow it."


def receipt(facts: CardFacts) -> Iterator[str]:
    rows = [
        (row.name, code(last_part(row.value) if row.name in FOLDERS else row.value))
        for group in run_receipt(facts.results, facts.environment)
        if group.title != "Other"  # keys of other versions, which may hold anything
        for row in group.rows
        if row.name not in LEFT_OUT
    ]
    yield "\n".join(texts.markdown_table(("fact", "value"), rows))
    yield "Hashes are SHA-256. Equal hashes of images and split are equal images with equal labels, wherever they lie."


def repeat(facts: CardFacts) -> Iterator[str]:
    same = "With the same images and the versions above, on a machine of the same kind, this gives the same figures. "
    if facts.environment.made_of:
        yield f"{same}The names of the runs stand for where they lie, and their blend has the recipe below."
    else:
        yield f"{same}The name of the images stands for where they lie, and `recipe.yaml` is the text below."
    yield fenced(command_line(facts.command), "sh")
    yield fenced(facts.published_recipe.to_yaml(), "yaml")
