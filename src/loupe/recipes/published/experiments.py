"""Published experiments of course notes and project reports by name: one row of data each.

The figures are those of the documents, each from a single run. Details that a document leaves open are marked (assumed)
in its wording, and counts that follow from the layers, without being printed, are `derived`. Accuracy is that of the
test set unless `judged_on` says otherwise, F1 is micro, AUC one-versus-rest and macro, loss that of the test set.
"""

from loupe.errors import unknown_name
from loupe.recipes.published.lecture_experiments import LECTURE
from loupe.recipes.published.project_experiments import PROJECT
from loupe.recipes.published.publication import Published
from loupe.recipes.published.tutorial_experiments import CATS_VS_DOGS, CIFAR10

EXPERIMENTS: dict[str, Published] = {row.name: row for row in (*CIFAR10, *LECTURE, *PROJECT, *CATS_VS_DOGS)}


def experiment(name: str) -> Published:
    """Experiment of that name.

    Raises:
        ConfigError: unknown name; the error has the nearest known ones.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
