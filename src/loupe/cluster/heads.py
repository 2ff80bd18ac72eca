"""Heads of the search for wrong labels as tasks of Ray; the features are sent to each node once."""

import warnings
from collections.abc import Iterator, Sequence

import torch

from loupe.cluster.nodes import Cluster
from loupe.cluster.worker import CommandPlace, lost_error
from loupe.errors import counted
from loupe.labels.cross_fit import HeadData, HeadTask, Solver
from loupe.log import logger
from loupe.training.axes import Floats
from loupe.training.logistic import Solution

RETRIES = 3  # of a head whose worker or node is lost


class ClusterHeads:
    """Function from the images to a solver on a cluster, for `loupe.labels.cross_fit.cross_fit`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def __call__(self, data: HeadData) -> Solver:
        """Solver of heads on the nodes, as many at a time as they have cores for the threads of this process.

        Raises:
            ConfigError: no node has as many cores.
        """
        import ray

        threads = torch.get_num_threads()
        self.cluster.check_slots(threads, 0)
        logger.info(
            f"Ray: {counted(len(self.cluster.nodes), 'node')}, {self.cluster}. Up to "
            f"{self.cluster.slots(threads, 0)} heads at a time, each on {counted(threads, 'CPU')}."
        )
        sent, place = ray.put(data), CommandPlace.here(threads)
        call = ray.remote(solve_on_node).options(num_cpus=threads, max_retries=RETRIES, retry_exceptions=False)

        def solve(tasks: Sequence[HeadTask]) -> Iterator[tuple[Floats, Solution]]:
            answers = [call.remote(place, sent, task) for task in tasks]
            try:
                for answer in answers:
                    yield ray.get(answer)
            except ray.exceptions.RayTaskError:
                raise  # a defect of Loupe, with its traceback
            except ray.exceptions.RayError as error:
                remedy = "Give the same command again, or leave out --cluster."
                raise lost_error("a head", error, RETRIES + 1, remedy) from None

        return solve


def solve_on_node(place: CommandPlace, data: HeadData, task: HeadTask) -> tuple[Floats, Solution]:
    """Probabilities and head of one task, in a worker of Ray."""
    with place.taken(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is Ray's copy, and only read
        return data.solve(task)
