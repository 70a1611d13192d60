"""Pairs per second on one GPU, beside the GPU's own limit, and how long 10^12 pairs take.

Theory of the bottleneck: the folded one-layer transformer head costs `18 d^2` operations a pair in bf16 products, whose rate
is the limit; the attention and the activation, some 17,000 and 13,000 fp32 operations at 8 + 8 tokens and width 256, share the
same clock and hide behind the products only in part. A program reads 1.2 MB of weights for its 128 pairs, so that the
products' rate asks the GPU's cache for one byte in 128 operations. The feed-forward head has no products: an element costs
an addition, a comparison and a multiply-add with ReLU, about thirteen instructions with GELU, and the limit is how many the
GPU issues. What is kept of the scores, the best ten of each text, should cost neither head a tenth.

    python -m benchmarks.engine_gpu [--minutes M] [--seconds S]

The time of 10^12 pairs is extrapolated from as many blocks of all pairs as fit in the minutes, for each head; the number of
pairs measured stands beside it. Texts are random and made on the GPU; reading them from disk is not measured. Without CUDA
it says so and ends.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np
import torch

from benchmarks.engine_setup import HEADS, random_rows, student
from benchmarks.results import publish
from distilmatch.engine.heads.kinds import head_cost
from distilmatch.engine.kernels.torch import TorchKernel
from distilmatch.engine.kernels.triton import TritonKernel, why_not_triton
from distilmatch.engine.kernels.triton_heads import tiles_for
from distilmatch.engine.ranking import Ranking
from distilmatch.models import DiPair
from distilmatch.planning.limits import multiply_rate, rate, read_rate
from distilmatch.types import TokenRepresentations

NAMES = ("transformer", "transformer_16_16", "transformer_default", "feed_forward", "feed_forward_relu")
DEVICE = torch.device("cuda")
LONG = {"transformer": 2**10, "feed_forward": 2**15, "feed_forward_relu": 2**15}  # left texts a block
LEFT, RIGHT = 4096, 2**14
MANY = 2**18
FEWEST_PAIRS = 10**10  # of a feed-forward head, whatever the minutes
TOP_K = 10


def texts(model: DiPair, side: int, count: int, seed: int = 0) -> TokenRepresentations:
    """Random representations on the GPU, every token real."""
    kept, width = model.student.kept_tokens[side], model.student.vector_width
    generator = torch.Generator(DEVICE).manual_seed(2 * seed + side)
    numbers = torch.randn(count, kept, width, generator=generator, device=DEVICE)
    return TokenRepresentations(numbers, torch.ones(count, kept, dtype=torch.bool, device=DEVICE))


def all_pairs_rate(kernel: TorchKernel, model: DiPair, left: int, right: int, seconds: float) -> float:
    """Of all pairs, the best ten of each left text kept."""
    lefts, rights = (kernel.prepare(texts(model, side, count), side) for side, count in enumerate((left, right)))

    def work() -> None:
        kernel.top_k(lefts, rights, Ranking(), kernel.best_rows(left, TOP_K), None, (0, 0))

    return rate(work, left * right, rounds=3, seconds=seconds)


def largest_error(kernel: TorchKernel, model: DiPair) -> float:
    """Of 10,000 pairs' logits against PyTorch's, over the largest logit."""
    rows = random_rows(1000, 1000, 10_000)
    logits = []
    for one in (kernel, TorchKernel(model)):
        sides = [one.prepare(texts(model, side, 1000), side) for side in (0, 1)]
        logits.append(one.pairs(sides, rows))
    return float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max())


def fastest(model: DiPair, name: str, metrics: dict[str, float], seconds: float) -> TritonKernel:
    """The kernel with the best of the width's tiles; the rate of each goes into the metrics."""
    if model.student.head != "transformer":
        return TritonKernel(model)
    from triton.runtime.errors import OutOfResources

    best, kernel = 0.0, TritonKernel(model)
    for tile in tiles_for(model.student.vector_width):
        one = TritonKernel(model, tiles=[tile])
        try:
            found = all_pairs_rate(one, model, LEFT, RIGHT, seconds)
        except OutOfResources as error:
            print(f"{name}, {tile}: {error}", flush=True)
            continue
        metrics[f"{name}_tile_{tile.pairs}_{tile.hidden}_{tile.warps}_{tile.stages}_pairs_per_s"] = found
        print(f"{name}, {tile}: {found:,.0f} pairs/s", flush=True)
        if found > best:
            best, kernel = found, one
    return kernel


def long_run(kernel: TorchKernel, model: DiPair, left: int, minutes: float, fewest: int) -> tuple[int, float]:
    """Pairs scored, the best ten kept, and seconds: blocks of new left texts against the same right ones."""
    right = kernel.prepare(texts(model, 1, MANY), 1)
    ranking, pairs = Ranking(), 0
    torch.cuda.synchronize()
    started = time.perf_counter()
    while pairs < fewest or time.perf_counter() - started < 60 * minutes:
        some = kernel.prepare(texts(model, 0, left, seed=pairs), 0)
        best = kernel.best_rows(left, TOP_K)
        kernel.top_k(some, right, ranking, best, None, (0, 0))
        best.best()  # waits, as a job does that writes its results
        pairs += left * MANY
    return pairs, time.perf_counter() - started


def main() -> None:
    """Measures all, each in turn, and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="of the long run of each head")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each other measurement")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("engine_gpu: no CUDA here, nothing is measured")
        return
    seconds = arguments.seconds
    metrics: dict[str, float] = {
        "bf16_products_per_s": multiply_rate(torch.bfloat16, seconds=seconds, device=DEVICE),
        "memory_bytes_per_s": read_rate(megabytes=2048, seconds=seconds, device=DEVICE),
    }
    notes: dict[str, object] = {"gpu": torch.cuda.get_device_name(), "left": LEFT, "right": RIGHT, "top_k": TOP_K}
    for name in NAMES:
        shape = HEADS[name]
        model = student(**shape)
        model.to(DEVICE)  # type: ignore[arg-type]
        reason = why_not_triton(model)
        if reason is not None:
            notes[f"{name}_left_out"] = reason
            continue
        kernel = fastest(model, name, metrics, seconds)
        metrics[f"{name}_largest_error"] = largest_error(kernel, model)
        metrics[f"{name}_all_pairs_per_s"] = all_pairs_rate(kernel, model, LEFT, RIGHT, seconds)
        metrics[f"{name}_torch_all_pairs_per_s"] = all_pairs_rate(
            TorchKernel(model), model, LEFT // 16, RIGHT // 8, seconds
        )
        sides = [kernel.prepare(texts(model, side, RIGHT), side) for side in (0, 1)]
        rows = torch.from_numpy(random_rows(RIGHT, RIGHT, 2**22)).to(DEVICE)
        scored = partial(kernel.score_rows, sides, rows)
        metrics[f"{name}_row_pairs_per_s"] = rate(scored, len(rows), rounds=3, seconds=seconds)
        operations = head_cost(model).operations
        if operations is not None:
            limit = metrics["bf16_products_per_s"] / operations
            metrics[f"{name}_limit_pairs_per_s"] = limit
            metrics[f"{name}_fraction_of_limit"] = metrics[f"{name}_all_pairs_per_s"] / limit
        print(f"{name}: {metrics[f'{name}_all_pairs_per_s']:,.0f} pairs/s", flush=True)
        if name in LONG:
            fewest = FEWEST_PAIRS if shape.get("head") == "feed_forward" else 1
            pairs, took = long_run(kernel, model, LONG[name], arguments.minutes, fewest)
            metrics |= {f"{name}_long_pairs": pairs, f"{name}_long_s": took}
            metrics[f"{name}_1e12_pairs_s"] = took * 1e12 / pairs
            print(f"{name}: {pairs:,} pairs in {took:.0f} s, 1e12 in {took * 1e12 / pairs:,.0f} s", flush=True)
    publish("engine_gpu", metrics, [0], notes)


if __name__ == "__main__":
    main()
