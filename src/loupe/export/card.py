"""Model card of an export: classes, data, figures with their intervals, limits, and the command that repeats it.

All of it is recorded in the run, or measured by the export. Facts that are not known are left out, or said to be
unknown. It names no folder of the machine that trained the model, so that it can be published. Its YAML front matter is
that of the Hugging Face hub (https://huggingface.co/docs/hub/model-cards).
"""

from collections.abc import Mapping
from typing import Any

import yaml

from loupe.evaluate.metrics import METRICS
from loupe.export import card_sections as sections
from loupe.export.card_facts import CardFacts
from loupe.export.markdown import one_line
from loupe.export.parity import ParityReport

# Identifiers of the hub. Any other licence is `other` there, with its name.
HUB_LICENCES = frozenset(
    ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "apple-ascl", "apple-amlr", "gemma", "unknown")
)
HUB_METRICS: dict[str, tuple[str, dict[str, str]]] = {
    "accuracy": ("accuracy", {}),
    "macro_f1": ("f1", {"average": "macro"}),
    "roc_auc": ("roc_auc", {}),
}


def card(facts: CardFacts, usage: str, front: Mapping[str, Any], parity: ParityReport | None = None) -> str:
    """Text of `card.md`.

    Args:
        usage: the section on using the model, in Markdown.
        front: keys of the front matter that depend on the target, such as `library_name`; `tags` are added to its own.
        parity: comparison of the exported model with the run.
    """
    matter = yaml.safe_dump(front_matter(facts, front), sort_keys=False, allow_unicode=True, width=1000)
    bodies = {
        "Use": [usage.strip()],
        "Comparison with the run": sections.comparison(parity) if parity else [],
        "Results": sections.results(facts),
        "Classes": sections.classes(facts),
        "Calibration": sections.calibration(facts),
        "Threshold for `unclassified`": sections.thresholds(facts.results),
        "Limits": sections.limits(facts),
        "Licence": sections.licence(facts.origin),
        "Data, code and machine": sections.receipt(facts),
        "Repeat the training": sections.repeat(facts),
    }
    blocks = [f"---\n{matter}---", *sections.head(facts)]
    for title, body in bodies.items():
        blocks += [f"## {title}", *texts] if (texts := list(body)) else []
    return "\n\n".join(blocks) + "\n"


def front_matter(facts: CardFacts, front: Mapping[str, Any]) -> dict[str, Any]:
    """Front matter for the hub. Keys whose value is not known are left out."""
    mine: dict[str, Any] = {"pipeline_tag": "image-classification", "tags": ["image-classification", "loupe"]}
    if facts.origin:
        licence = facts.origin.licence or "unknown"
        mine |= {"license": licence} if licence in HUB_LICENCES else {"license": "other", "license_name": licence}
        mine |= {"base_model": facts.origin.repository} if facts.origin.repository else {}
    mine |= _evaluations(facts)
    tags = [*mine["tags"], *front.get("tags", ())]
    return {**mine, **front, "tags": list(dict.fromkeys(tags))}


def _evaluations(facts: CardFacts) -> dict[str, Any]:
    """Metrics on the test images for the hub; empty if they were not evaluated, as others choose the model."""
    results = facts.results
    if results.test is None or not results.test.images:
        return {}
    titles = {metric.key: metric.heading for metric in METRICS}
    found = [
        {"type": name, "value": value, "name": titles[key], **({"args": args} if args else {})}
        for key, (name, args) in HUB_METRICS.items()
        if (value := results.test.metric(key).value) is not None
    ]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": one_line(results.dataset), "type": "imagefolder", "split": "test"},
        "metrics": found,
    }
    return {
        "metrics": [metric["type"] for metric in found],
        "model-index": [{"name": one_line(facts.name), "results": [result]}],
    }
