"""Forward and backward pass of a network on a CPU, each slice of the batch in a thread of its own.

oneDNN's threads spin for each other inside a gradient in bf16, whatever OpenMP is told: beside a process at full load
such a step takes ten times as long (results/busy.md). The threads here wait for each other asleep, and only where batch
normalisation needs the whole batch.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from loupe.devices import Compute, has_bf16_matrix_units
from loupe.models.classifier import Classifier
from loupe.models.slices import Meeting, Slice, can_be_sliced

LEAST_IMAGES = 8  # in a slice


def sliced(model: Classifier, compute: Compute, first: int) -> "SlicedNetwork | None":
    """Network computed in slices, where that was measured to pay: bf16 on a CPU without matrix units; else None."""
    spins = compute.device.type == "cpu" and compute.precision == "bf16" and not has_bf16_matrix_units(compute.device)
    threads = torch.get_num_threads()
    return SlicedNetwork(model, compute, first, threads) if spins and threads > 1 and can_be_sliced(model) else None


class SlicedNetwork:
    """Network whose passes are shared out among threads; the number of threads decides the last bits.

    Attributes:
        model: the network, whose trainable weights get gradients.
        first: block that receives the inputs.
    """

    def __init__(self, model: Classifier, compute: Compute, first: int, threads: int) -> None:
        self.model = model
        self.first = first
        self._compute = compute
        self._threads = threads
        self._pool = _single_threads(threads)
        self._meeting = Meeting(1)
        self._logits: list[Tensor] = []

    def forward(self, x_BCHW: Tensor, seed: int) -> Tensor:
        """Logits [B, K], whose gradient `backward` takes; `seed` is that of all random numbers."""
        count = max(1, min(self._threads, len(x_BCHW) // LEAST_IMAGES))
        self._meeting = Meeting(count)
        cuts = [number * len(x_BCHW) // count for number in range(count + 1)]

        def part(index: int) -> Tensor:
            begin, end = cuts[index : index + 2]
            with Slice(index, end - begin, self._meeting, (seed + index) % 2**63), self._compute.autocast():
                logits_BK: Tensor = self.model(x_BCHW[begin:end], self.first)
                return logits_BK

        self._logits = self._each(part)
        return torch.cat([logits_BK.detach() for logits_BK in self._logits]).requires_grad_()

    def backward(self, logits_BK: Tensor) -> None:
        """Set the gradients of all trainable weights, given the logits of `forward` with their gradient."""
        assert logits_BK.grad is not None
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        gradients = torch.split(logits_BK.grad, [len(part_BK) for part_BK in self._logits])

        def part(index: int) -> tuple[Tensor | None, ...]:
            # A sum, because PyTorch imports sympy for a gradient that is given, which takes a second.
            total = (self._logits[index] * gradients[index]).sum()
            return torch.autograd.grad(total, weights, allow_unused=True)

        first, *others = self._each(part)
        self._logits = []
        for number, weight in enumerate(weights):
            weight.grad = first[number]
            for other in others:
                if weight.grad is not None:
                    weight.grad += other[number]

    def _each(self, work: Callable[[int], Any]) -> list[Any]:
        """Results of all slices, in their order; if one fails, its error."""

        def attempt(index: int) -> Any:
            try:
                return work(index)
            except BaseException:
                self._meeting.abort()
                raise

        running = [self._pool.submit(attempt, index) for index in range(self._meeting.slices)]
        errors = [error for error in (future.exception() for future in running) if error]
        for error in errors:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [future.result() for future in running]


def _single_threads(threads: int) -> ThreadPoolExecutor:
    """Threads that compute with one thread of OpenMP each."""

    def alone() -> None:
        torch.get_num_threads()  # PyTorch sets the number of a new thread when it is first asked
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="loupe-slice", initializer=alone)
    together = threading.Barrier(threads)  # so that all of them begin now
    for begun in [pool.submit(together.wait) for _ in range(threads)]:
        begun.result()
    torch.set_num_threads(threads)  # of this thread, and of those that begin later
    return pool
