"""Parts of a run that a notebook shows, each on its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loupe.evaluate.results import RunResults
from loupe.rundir import RunDirectory

if TYPE_CHECKING:
    from loupe.notebook.display import Display


class RunDisplays:
    """Displays of a finished run, from its files. They are imported lazily: matplotlib takes a second to import."""

    directory: RunDirectory
    results: RunResults

    def _repr_html_(self) -> str:
        """Summary for notebooks, as HTML."""
        from loupe.report.run_page import in_notebook

        return in_notebook(self.directory.path)

    @property
    def curves(self) -> "Display":
        """Learning curves: loss and accuracy for training and validation, with the diagnosis."""
        from loupe.notebook import run_parts

        return run_parts.curves(self.directory, self.results)

    @property
    def confusion(self) -> "Display":
        """Confusion matrix of the test images, or without a test of the validation images; most frequent errors.

        Raises:
            RunStateError: neither were evaluated.
        """
        from loupe.notebook import run_parts

        return run_parts.confusion(self.directory, self.results)

    @property
    def missed(self) -> "Display":
        """First misclassified images of the same split, those with the highest loss first.

        Raises:
            RunStateError: no images were evaluated.
        """
        from loupe.notebook import run_parts

        return run_parts.missed(self.directory, self.results)

    @property
    def layers(self) -> "Display":
        """Layers with output shapes, parameters and a flag for the trainable ones."""
        from loupe.notebook import run_parts

        return run_parts.layers(self.directory, self.results)

    @property
    def published(self) -> "Display":
        """Figures of the published experiment that the recipe repeats, beside those of this run.

        Raises:
            RunStateError: the recipe repeats none.
        """
        from loupe.notebook import run_parts

        return run_parts.published(self.directory, self.results)

    def differences(self, others: "Sequence[RunDisplays]") -> "Display":
        """Differences in accuracy between other runs and this one, on the same validation images, and all curves.

        Each difference has a paired 95 % interval and an exact McNemar test, corrected for the number of others.

        Args:
            others: runs with the same validation images, for example of the same recipe with one setting changed.

        Raises:
            ConfigError: no other run is given, or two have the same name.
            RunStateError: a run has no predictions of validation images.
            DataError: the runs have different validation images.
        """
        from loupe.notebook.differences import differences

        return differences(self.directory, [other.directory for other in others])
