"""The other distribution called `loupe` on PyPI, which installs a package of the same import name as ours."""

from importlib.metadata import PackageNotFoundError, metadata

OTHER = "loupe"
DISTRIBUTION = "loupe-vision"
OUR_AUTHOR = "The Loupe developers"  # an earlier installation of ours, from a clone, was called `loupe` too
REMEDY = f"run `pip uninstall {OTHER}`, then `pip install --force-reinstall --no-deps {DISTRIBUTION}`"


def other_project() -> str | None:
    """The version of the other project called `loupe`; None if it is not installed."""
    try:
        found = metadata(OTHER)
    except PackageNotFoundError:
        return None
    ours = "Author" in found and found["Author"] == OUR_AUTHOR
    return None if ours else found["Version"]


def warning(version: str) -> str:
    """One sentence for the terminal, with what to do."""
    return (
        f"Another project named {OTHER} ({version}) is installed here and overwrites files of {DISTRIBUTION}: {REMEDY}."
    )
