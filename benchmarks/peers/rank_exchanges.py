"""Time of exchanges between ranks: a plain value, as for an agreed stop, and a tensor as large as a gradient.

torchrun --standalone --nproc-per-node 2 benchmarks/peers/rank_exchanges.py --repeats 200 --floats 1000000
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from loupe import ranks


def median_seconds(exchange: Callable[[], object], joined: ranks.Ranks, repeats: int) -> float:
    """Median time of an exchange, begun by all ranks together."""
    taken = []
    for _ in range(repeats):
        joined.wait()
        began = time.perf_counter()
        exchange()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--floats", type=int, default=1_000_000)
    given = parser.parse_args()
    with ranks.joined() as joined:
        gradient, fewer = torch.ones(given.floats), max(1, given.repeats // 10)
        found = {
            "ranks": joined.count,
            "value_seconds": median_seconds(lambda: joined.any(False), joined, given.repeats),
            "tensor_bytes": gradient.numel() * 4,
            "tensor_seconds": median_seconds(lambda: ranks.sum_over(joined, gradient), joined, fewer),
        }
        if joined.is_main:
            print(json.dumps(found))


if __name__ == "__main__":
    main()
