"""Offline mode: the environment variables that forbid every use of the network."""

import os

VARIABLES = ("LOUPE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE = {"1", "on", "yes", "true"}


def offline_variable() -> str | None:
    """Variable that forbids the network, as `NAME=VALUE`; None if it may be used."""
    for name in VARIABLES:
        value = os.environ.get(name, "").strip()
        if value.lower() in TRUE:
            return f"{name}={value}"
    return None
