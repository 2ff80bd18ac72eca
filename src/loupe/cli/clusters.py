"""Connection of a command to the cluster of its option `--cluster`; Ray is imported only with this option."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loupe.errors import ConfigError
from loupe.log import terminal

if TYPE_CHECKING:
    from loupe.bulk.predict import PartsRunner
    from loupe.cluster.nodes import Cluster
    from loupe.comparison.trainings import TrainingRunner
    from loupe.export.predictor import ExportedModel
    from loupe.labels.cross_fit import HeadData, Solver
    from loupe.runs.run import Run


@contextmanager
def cluster_of(address: str | None, *, quiet: bool) -> Iterator["Cluster | None"]:
    """Cluster at the address for the block; None without an address.

    Raises:
        ConfigError: Ray is not installed, no cluster can be used, or this process is one of several ranks.
    """
    if address is None:
        yield None
        return
    from loupe import ranks
    from loupe.cluster.connection import connected

    if not ranks.in_environment().alone:
        raise ConfigError("--cluster and several processes (--processes, torchrun) exclude each other. Give one.")
    with terminal(quiet=quiet), connected(address) as cluster:
        yield cluster


@contextmanager
def runner_of(address: str | None, *, device: str, quiet: bool) -> Iterator["TrainingRunner | None"]:
    """Runner of trainings on the cluster at the address for the block; None without an address.

    Raises:
        ConfigError: as for `cluster_of`; or no node has the resources of a training on this device.
    """
    with cluster_of(address, quiet=quiet) as cluster:
        if cluster is None:
            yield None
            return
        from loupe.cluster.trainings import ClusterTrainings

        yield ClusterTrainings(cluster, device)


@contextmanager
def solver_of(address: str | None, *, quiet: bool) -> Iterator["Callable[[HeadData], Solver]"]:
    """Solver of the heads of `loupe labels`, on the cluster at the address for the block; without one, in this process.

    Raises:
        ConfigError: as for `cluster_of`.
    """
    from loupe.labels.cross_fit import in_turn

    with cluster_of(address, quiet=quiet) as cluster:
        if cluster is None:
            yield in_turn
            return
        from loupe.cluster.heads import ClusterHeads

        yield ClusterHeads(cluster)


@contextmanager
def parts_runner_of(
    address: str | None, opened: "Run | ExportedModel", *, device: str, tta: str | None
) -> Iterator["PartsRunner | None"]:
    """Runner of predictions in bulk on the cluster at the address for the block; None without an address.

    Args:
        opened: run or export.
        device, tta: with which it was opened.

    Raises:
        ConfigError: as for `cluster_of`.
    """
    with cluster_of(address, quiet=opened.quiet) as cluster:
        if cluster is None:
            yield None
            return
        from loupe.cluster.predictions import ClusterPredictions, ModelPlace
        from loupe.export.predictor import ExportedModel

        is_export = isinstance(opened, ExportedModel)
        yield ClusterPredictions(cluster, ModelPlace(opened.path.absolute(), is_export, device, tta))
