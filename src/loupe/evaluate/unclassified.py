"""Name of images of which the best class is less probable than the threshold."""

from collections.abc import Sequence

from loupe.errors import ConfigError

UNCLASSIFIED = "unclassified"


def check_threshold(threshold: float, classes: Sequence[str]) -> None:
    """Check that no class has the name of images below the threshold.

    Raises:
        ConfigError: a class has it, and there is a threshold.
    """
    if threshold > 0 and UNCLASSIFIED in classes:
        raise ConfigError(
            f"a class of this model has the name {UNCLASSIFIED!r}, which images below the threshold get. Rename that "
            "class and train again, or predict without a threshold."
        )
