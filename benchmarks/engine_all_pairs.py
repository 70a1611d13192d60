"""All of one side against all of the other with the ten best of each kept: pairs per second and the share of the limit.

Theory of the bottleneck. Feed-forward head: a pair is `m` additions, activations and multiply-adds in vectors of 16, with the
right text's numbers read from the cache: two vector instructions a vector with ReLU, whose addition is done once a text
(max(a + b, 0) = max(a, -b) + b), about 13 with GELU. The limit is the
rate of just these instructions on registers, nothing read and nothing kept, measured in the same run. Transformer head:
`18 d^2` operations a pair, nearly all in two products: its limit is the rate of bf16 products. Cosine: one product in fp32.

    python -m benchmarks.engine_all_pairs [--left N] [--right N] [--seconds S]

Peers: exact search of FAISS (a dot product a pair, in blocks, the ten best kept), and MaxSim over the same number of cached
tokens in PyTorch.
"""

from __future__ import annotations

import argparse
import importlib.util

import numpy as np
import torch

from benchmarks.engine_setup import HEADS, representations, student
from benchmarks.results import publish
from distilmatch.engine.heads.kinds import head_cost
from distilmatch.engine.ranking import BestRows, Ranking
from distilmatch.engine.scorer import Scorer
from distilmatch.planning.limits import activation_rate, multiply_rate, rate
from distilmatch.runtime import keep_freed_memory

TOP = 10
DTYPES = {"bf16_products_per_s": torch.bfloat16, "fp32_products_per_s": torch.float32}
SHAPES = ("transformer", "transformer_16_16", "transformer_default", "feed_forward", "feed_forward_relu", "cosine")
HIDDEN = 256


def engine_rate(name: str, left: int, right: int, kernel: str, seconds: float) -> float:
    """Pairs a second of the kernel's block loop, the right side folded before, heaps included."""
    model = student(**HEADS[name])
    scorer = Scorer(model, kernel=kernel)  # type: ignore[arg-type]
    if kernel == "auto" and scorer.kernel.name == "torch":
        return 0.0
    some = scorer.kernel.prepare(representations(model, 0, left), 0)
    others = scorer.kernel.prepare(representations(model, 1, right), 1)

    def work() -> None:
        best = scorer.kernel.best_rows(left, TOP)
        scorer.kernel.top_k(some, others, Ranking(), best, None, (0, 0))
        best.best()

    return rate(work, left * right, rounds=3, seconds=seconds)


def maxsim_rate(kept: int, width: int, left: int, right: int, seconds: float) -> float:
    """MaxSim of all pairs in PyTorch, bf16, a left text against blocks, the ten best kept."""
    one, other = (torch.nn.functional.normalize(torch.randn(n, kept, width), dim=-1).bfloat16() for n in (left, right))

    def work() -> None:
        best = BestRows(left, TOP)
        for start in range(0, left, 16):
            products = one[start : start + 16].flatten(0, 1) @ other.flatten(0, 1).T
            cosines = products.view(-1, kept, right, kept)
            best.add(start, cosines.amax(-1).float().sum(1), 0)

    return rate(work, left * right, rounds=3, seconds=seconds)


def machine_rates() -> dict[str, float]:
    """What the limits are made of; measured before each head and after the last, the best counts, because other work on the
    machine slows it down at times.
    """
    rates = {name: multiply_rate(dtype, seconds=0.5) for name, dtype in DTYPES.items()}
    for name in ("feed_forward", "feed_forward_relu"):
        found = activation_rate(student(**HEADS[name]), seconds=0.5)
        if found is not None:
            rates[f"{name}_numbers_per_s"] = found
    return rates


def main() -> None:
    """Measures each head and peer in turn, and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--left", type=int, default=4000)
    parser.add_argument("--right", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    keep_freed_memory()  # PyTorch's own steps are up to twice as fast
    seconds = arguments.seconds
    metrics = machine_rates()
    for name in SHAPES:
        fast = name.startswith(("feed", "cos"))
        left = arguments.left if fast else max(16, arguments.left // 250)
        metrics |= {key: max(metrics[key], found) for key, found in machine_rates().items()}
        found = engine_rate(name, left, arguments.right, "auto", seconds)
        plain = engine_rate(name, max(16, left // 20), min(2000, arguments.right), "torch", seconds / 2)
        metrics |= {f"{name}_native_pairs_per_s": found, f"{name}_torch_pairs_per_s": plain}
        print(f"{name}: native {found:,.0f}, torch {plain:,.0f} pairs/s", flush=True)
    metrics["maxsim_8_8_pairs_per_s"] = maxsim_rate(8, 256, 64, min(5000, arguments.right), seconds)
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(256)
        index.add(np.random.default_rng(0).standard_normal((arguments.right, 256), dtype=np.float32))
        queries = np.random.default_rng(1).standard_normal((arguments.left, 256), dtype=np.float32)
        metrics["faiss_flat_pairs_per_s"] = rate(
            lambda: index.search(queries, TOP), arguments.left * arguments.right, rounds=3, seconds=seconds
        )
    metrics |= {name: max(metrics[name], found) for name, found in machine_rates().items()}
    for name in SHAPES:
        operations = head_cost(student(**HEADS[name])).operations
        numbers = metrics.get(f"{name}_numbers_per_s")
        if operations is not None:
            limit = metrics["fp32_products_per_s" if name == "cosine" else "bf16_products_per_s"] / operations
        elif numbers is not None:
            limit = numbers / HIDDEN
        else:
            continue
        found = max(metrics[f"{name}_native_pairs_per_s"], metrics[f"{name}_torch_pairs_per_s"])
        metrics |= {f"{name}_limit_pairs_per_s": limit, f"{name}_fraction_of_limit": found / limit}
    best = max(("feed_forward", "feed_forward_relu"), key=lambda name: metrics[f"{name}_native_pairs_per_s"])
    metrics |= {
        "ffnn_pairs_per_s": metrics[f"{best}_native_pairs_per_s"] or metrics[f"{best}_torch_pairs_per_s"],
        "ffnn_fraction_of_limit": metrics.get(f"{best}_fraction_of_limit", 0.0),
        "transformer_pairs_per_s": max(
            metrics["transformer_native_pairs_per_s"], metrics["transformer_torch_pairs_per_s"]
        ),
    }
    notes = {"top_k": TOP, "threads": torch.get_num_threads(), "hidden": HIDDEN, "ffnn": best}
    publish("engine_all_pairs", metrics, [0], notes)


if __name__ == "__main__":
    main()
