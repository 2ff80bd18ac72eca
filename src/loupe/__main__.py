"""`python -m loupe` is `loupe`."""

from loupe.cli.main import process

process()
