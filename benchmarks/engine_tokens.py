"""What kept tokens cost a pair: all pairs of the default head by the compiled kernel, with each unit of the CPU.

    python -m benchmarks.engine_tokens [--tokens K ...] [--left N] [--right N] [--threads T] [--seconds S]

Texts are packed before; each left text keeps its ten best right ones. Theory of the bottleneck, for a width d of 384: the
feed-forward layer takes 18 d^2 operations a pair whatever is kept; attention 4 d a right token; the largest similarities 2 d
for each two tokens, two thirds of the feed-forward layer at 48 + 48. A right text of k tokens is 6 k d bytes, read once for
eight left ones.
"""

from __future__ import annotations

import argparse

from benchmarks.engine_setup import HEADS, representations, student
from benchmarks.results import publish
from distilmatch.engine.kernels.native import Multiplier, NativeKernel, best_multiplier
from distilmatch.engine.ranking import Ranking
from distilmatch.planning.limits import rate

KEPT = 10


def pairs_per_s(kept: int, multiplier: Multiplier, arguments: argparse.Namespace) -> float:
    """Pairs a second of `kept` tokens a side."""
    model = student(**(HEADS["transformer_default"] | {"kept_tokens": (kept, kept)}))
    kernel = NativeKernel(model, threads=arguments.threads, multiplier=multiplier)
    counts = (arguments.left, arguments.right)
    left, right = (kernel.prepare(representations(model, side, count), side) for side, count in enumerate(counts))
    ranking = Ranking.of(model.task)

    def work() -> None:
        kernel.top_k(left, right, ranking, kernel.best_rows(arguments.left, KEPT), None, (0, 0))

    return rate(work, arguments.left * arguments.right, rounds=3, seconds=arguments.seconds)


def main() -> None:
    """Measures every number of tokens in vectors and, where the CPU has one, with the matrix unit; publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8, 16, 32, 48])
    parser.add_argument("--left", type=int, default=64)
    parser.add_argument("--right", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    units: dict[str, Multiplier] = {"vector": "vector"}
    if best_multiplier() == "amx":
        units["amx"] = "amx"
    metrics: dict[str, float] = {}
    for kept in arguments.tokens:
        for name, multiplier in units.items():
            metrics[f"{name}_{kept}_pairs_per_s"] = pairs_per_s(kept, multiplier, arguments)
            print(name, kept, f"{metrics[f'{name}_{kept}_pairs_per_s']:,.0f}", flush=True)
    notes = {"tokens": arguments.tokens, "threads": arguments.threads, "texts": [arguments.left, arguments.right]}
    publish("engine_tokens", metrics, [0], notes)


if __name__ == "__main__":
    main()
