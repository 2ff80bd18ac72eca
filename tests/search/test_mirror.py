"""Probe for mirrored training images, on features whose mirror images are known."""

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from loupe.search.mirror import NEIGHBOURS, mirror_probe, nearest


def features(images: int = 300, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    label_N = np.arange(images) % 3
    centre_KC = np.eye(3, 8, dtype=np.float32) * 4
    return (centre_KC[label_N] + rng.normal(size=(images, 8))).astype(np.float32), label_N, np.arange(images) // 3 % 5


def test_mirror_images_that_look_alike_help():
    plain_NC, label_N, fold_N = features()
    probe = mirror_probe(plain_NC, plain_NC + 0.1, label_N, fold_N)
    assert probe.helps is True and abs(probe.difference.value) < 0.02


def test_mirror_images_of_another_class_do_not():
    plain_NC, label_N, fold_N = features()
    other_NC = plain_NC[:, [1, 2, 0, 3, 4, 5, 6, 7]]
    probe = mirror_probe(plain_NC, other_NC, label_N, fold_N)
    assert probe.helps is False and probe.difference.value < -0.8


def test_few_images_cannot_tell():
    plain_NC, label_N, fold_N = features(15)
    worse_NC = plain_NC.copy()
    worse_NC[0] = plain_NC[1]
    assert mirror_probe(plain_NC, worse_NC, label_N, fold_N).helps is None


def test_neighbours_are_those_of_scikit_learn_in_the_other_folds():
    plain_NC, label_N, fold_N = features(90)
    centred_NC = plain_NC - plain_NC.mean(axis=0)
    ours_N = nearest(plain_NC, plain_NC, label_N, fold_N)
    for fold in range(5):
        known_N, asked_N = fold_N != fold, fold_N == fold
        theirs = KNeighborsClassifier(NEIGHBOURS, metric="cosine", weights=lambda distance: 2 - distance)
        theirs.fit(centred_NC[known_N], label_N[known_N])
        np.testing.assert_array_equal(ours_N[asked_N], theirs.predict(centred_NC[asked_N]))
