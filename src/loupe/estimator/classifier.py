"""Scikit-learn's face of Loupe: an estimator for images, for its pipelines, searches and cross-validation."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, column_or_1d

from loupe.config.network import BackboneSpec
from loupe.config.recipe import Recipe
from loupe.data.dataset import Dataset
from loupe.data.sources.in_memory import ALLOWED
from loupe.data.table import ImageTable
from loupe.errors import ConfigError, DataError, InterruptedRunError
from loupe.estimator import inputs, request
from loupe.estimator.head import FEW_C, Features, Floats, Head, Ints, sample_weights, solved
from loupe.estimator.models import FrozenBackbone, HeadOnBackbone, TrainedNetwork
from loupe.log import terminal
from loupe.runs.train import train

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn before 1.6

    def validate_data(_estimator: Any, /, X: Any, y: Any = "no_validation", **given: Any) -> Any:
        return _estimator._validate_data(X, y, **given)


NUMBERS = [np.float64, np.float32]
OF_TRAINING = ("model", "weights", "epochs", "batch_size", "lr", "settings")  # of no meaning for a table of numbers


class LoupeClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Image classifier with the interface of scikit-learn.

    `X` is an array of images [N, H, W] or [N, H, W, C] (uint8, or floats from 0 to 1 or to 255); a list of paths, PIL
    images or arrays; or, with `image_shape`, an array of rows of pixels [N, H · W · C]. Any other array [N, F] is a
    table of features, which a linear head is fitted to, without a network: multinomial logistic regression, as
    scikit-learn's LogisticRegression. Scale such features before, as for that one.

    With recipe `features`, the default, and others that solve a head on a frozen backbone without augmentation, the
    features of each image are computed once and kept in the cache, for all folds, settings and processes. All of `X`
    trains the head. Other recipes train the network as `loupe.train` does, in a temporary folder; a tenth of `X`
    validates it, if the recipe does not say otherwise. Nothing is printed, and no network is used: pretrained weights
    must be on this machine.

    Args:
        recipe: name of a recipe, YAML file or Recipe.
        model, weights, epochs, batch_size, lr, settings: values in place of the recipe's, as for `loupe.train`.
        C: inverse of the L2 strength of a solved head, as in LogisticRegression. auto: for images, that with the lowest
            log loss in out-of-fold predictions within `X` (5 folds, or as many as a class has distinct images; with one
            image, 1); for a table of features, 1.
        class_weight: None, `balanced`, or a dict of weights by class. Trained recipes take no dict.
        image_shape: (height, width) or (height, width, channels) of an image in a row of a flat array.
        device: auto, cpu, cuda, cuda:N or mps.
        cache: folder of the features; None for that of Loupe (LOUPE_CACHE).
        random_state: seed of splits, weights, order and augmentation; None is 0. A solved head needs none.
        verbose: above 0, show messages and progress.

    Attributes:
        classes_: labels, in the order of the columns of `predict_proba`.
        C_: C of the solved head; None for a trained network.
        model_: fitted model: a Head, a HeadOnBackbone or a TrainedNetwork.
        recipe_: ResolvedRecipe of the images; None for a table of features.
        n_features_in_: number of columns, of flat arrays.

    Example:
        >>> from sklearn.model_selection import GridSearchCV
        >>> search = GridSearchCV(loupe.LoupeClassifier(), {"C": [0.01, 0.1, 1.0]}, n_jobs=2)
        >>> search.fit(paths, labels)  # the features of an image are computed once
    """

    model_: Head | HeadOnBackbone | TrainedNetwork
    C_: float | None

    def __init__(
        self,
        recipe: str | Path | Recipe = "features",
        *,
        model: str | None = None,
        weights: str | Path | None = None,
        C: float | str = "auto",
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        settings: Mapping[str, Any] | Sequence[str] | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        image_shape: Sequence[int] | None = None,
        device: str = "auto",
        cache: str | Path | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.weights = weights
        self.C = C
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.settings = settings
        self.class_weight = class_weight
        self.image_shape = image_shape
        self.device = device
        self.cache = cache
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the classifier.

        Args:
            X: images, or a table of features; see the class.
            y: label of each: numbers or texts.
            sample_weight: weight of each; for solved heads.

        Raises:
            ValueError: `X`, `y` or a parameter cannot be used; Loupe's own errors (LoupeError) are ValueErrors.
        """
        with terminal(quiet=not self.verbose):
            return self._fit(X, y, sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        shape, c = inputs.checked_shape(self.image_shape), self._checked_c()
        takes_images = inputs.are_images(X, shape)
        if takes_images:
            y = self._checked_labels(X, y)
        else:
            X, y = validate_data(self, X, y, dtype=NUMBERS)
        check_classification_targets(y)
        self.classes_, label_N = np.unique(y, return_inverse=True)
        weight_N = np.asarray(_check_sample_weight(sample_weight, X), np.float64)
        each_N = sample_weights(weight_N, label_N, self.classes_.tolist(), self.class_weight)
        if len(np.unique(label_N[each_N > 0])) < 2:
            raise DataError(
                f"y has one class with a weight above 0: {self.classes_.tolist()[:1]}. Two classes are needed."
                if len(self.classes_) > 1
                else f"y has one class: {self.classes_.tolist()}. Two classes are needed."
            )
        self.takes_images_, self.recipe_ = takes_images, None
        if not takes_images:
            self._fit_features(X, label_N, each_N, c)
            return self
        self.unit_range_ = inputs.has_unit_range(X)
        table = inputs.table_of(X, shape, self.unit_range_, label_N, request.names(self.classes_.tolist()))
        if shape is not None and getattr(X, "ndim", 0) == 2:
            self.n_features_in_ = int(X.shape[1])
        self.recipe_ = request.resolved(request.of(self), table)
        if request.is_solved_once(self.recipe_):
            self._fit_head(table, label_N, each_N, c)
        else:
            self._train(table, weight_N, c)
        return self

    def _fit_features(self, x: npt.NDArray[Any], label_N: Ints, each_N: Floats, c: Any) -> None:
        given = [name for name in OF_TRAINING if getattr(self, name) is not None]
        if given or self.recipe != "features":
            raise ConfigError(
                f"X is a table of {x.shape[1]} features, for which {given[0] if given else 'recipe'} has no meaning. "
                "If its rows are pixels, give image_shape=(HEIGHT, WIDTH) or (HEIGHT, WIDTH, CHANNELS)."
            )
        features_NC = _in_float32(x)
        content = [sha256(row.tobytes()).hexdigest() for row in features_NC]
        self.model_ = self._solved(features_NC, label_N, content, each_N, FEW_C if c == "auto" else c)

    def _fit_head(self, table: ImageTable, label_N: Ints, each_N: Floats, c: Any) -> None:
        recipe = self.recipe_
        assert recipe is not None and isinstance(recipe.model, BackboneSpec)
        if self.epochs is not None:
            raise ConfigError(f"epochs={self.epochs}: recipe {recipe.name} solves a head for one strength. Give C.")
        cache = None if self.cache is None else str(self.cache)
        backbone = FrozenBackbone(recipe.model, recipe.preprocessing, self.device, cache)
        features_NC, content = backbone.features(table)
        self.model_ = HeadOnBackbone(backbone, self._solved(features_NC, label_N, content, each_N, c))

    def _solved(self, features_NC: Features, label_N: Ints, content: Sequence[str], each_N: Floats, c: Any) -> Head:
        head = solved(features_NC, label_N, content, each_N, len(self.classes_), c)
        self.C_ = head.c
        return head

    def _train(self, table: ImageTable, weight_N: Floats, c: Any) -> None:
        """Train the network of the recipe by the usual loop, in a temporary folder."""
        name = self.recipe_.name if self.recipe_ else ""
        if c != "auto":
            raise ConfigError(f"C={c}: recipe {name} trains in steps. Leave C out, or give recipe='features'.")
        if len(np.unique(weight_N)) > 1 or isinstance(self.class_weight, Mapping):
            raise ConfigError(
                f"recipe {name} trains in steps, and takes no weights of samples and no dict of class weights. Leave "
                "them out, give class_weight='balanced', or recipe='features'."
            )
        if self.cache is not None:
            raise ConfigError(f"cache: recipe {name} uses the cache of Loupe. Set LOUPE_CACHE in its place.")
        try:
            with TemporaryDirectory(prefix="loupe-fit-") as folder:
                run = train(
                    Dataset(None, table),
                    **request.of(self),
                    device=self.device,
                    output=folder,
                    name="fit",
                    open_test=False,
                    quiet=not self.verbose,
                )
                self.model_ = TrainedNetwork.of(run.directory.model, self.device)
        except InterruptedRunError:  # its run is gone with the folder
            raise KeyboardInterrupt from None
        self.C_ = None

    def _checked_c(self) -> float | Literal["auto"]:
        if isinstance(self.C, str) and self.C == "auto":
            return "auto"
        if isinstance(self.C, Real) and not isinstance(self.C, bool) and 0 < self.C < np.inf:
            return float(self.C)
        raise ConfigError(f"C={self.C!r}: give a number above 0, or 'auto'.")

    def _checked_labels(self, x: Any, y: Any) -> npt.NDArray[Any]:
        """Labels of images, one for each."""
        if y is None:
            raise ValueError("LoupeClassifier requires y to be passed, but the target y is None.")
        label_N = column_or_1d(y, warn=True)
        check_consistent_length(x, label_N)
        return np.asarray(label_N)

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Predict the label of each image or row of `X`, of the kind that `fit` had."""
        best_N = self._logits(X).argmax(axis=1)
        labels_N: npt.NDArray[Any] = self.classes_[best_N]
        return labels_N

    def predict_proba(self, X: Any) -> Floats:
        """Predict probabilities, float64 [N, K], with columns in the order of `classes_`."""
        probability_NK: Floats = softmax(self._logits(X), axis=1)
        return probability_NK

    def _logits(self, x: Any) -> Floats:
        check_is_fitted(self)
        with terminal(quiet=not self.verbose):
            if isinstance(self.model_, Head):
                return self.model_.logits(_in_float32(validate_data(self, x, reset=False, dtype=NUMBERS)))
            assert isinstance(self.model_, HeadOnBackbone | TrainedNetwork)
            shape = inputs.checked_shape(self.image_shape)
            if not inputs.are_images(x, shape):
                raise DataError(f"X holds no images, as it did in fit; got the type {type(x).__name__}. {ALLOWED}.")
            return self.model_.logits(inputs.table_of(x, shape, self.unit_range_))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _in_float32(x: npt.NDArray[Any]) -> Features:
    """Features in the precision of heads; ValueError for those beyond its range."""
    with np.errstate(over="ignore"):
        features_NC = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(features_NC).all():
        raise DataError("X has values beyond the range of float32 (3.4e38). Scale them first.")
    return features_NC
