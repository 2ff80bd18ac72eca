"""The networks by name."""

from collections.abc import Callable

from loupe.errors import unknown_name
from loupe.models import cnn
from loupe.recipe import CnnSpec

NETWORKS: dict[str, Callable[[], CnnSpec]] = {
    "simple-cnn": cnn.simple_cnn,
    "deep-cnn": cnn.deep_cnn,
    "catsdogs-cnn": cnn.catsdogs_cnn,
    "lecture-cnn": cnn.lecture_cnn,
    "lecture-dropout": cnn.lecture_dropout,
    "lecture-batchnorm": cnn.lecture_batchnorm,
    "project-cnn": cnn.project_cnn,
    "project-cnn-one": cnn.project_cnn_one,
    "digits-cnn": cnn.digits_cnn,
    "photo-cnn": cnn.photo_cnn,
}


def network(name: str) -> CnnSpec:
    """The network of that name; LoupeError with the nearest known names where there is none."""
    if name not in NETWORKS:
        raise unknown_name("model", name, NETWORKS)
    return NETWORKS[name]()
