"""Pairs per second of cached pairs, beside every peer that scores pairs, and the share of the machine's own limit.

Theory of the bottleneck: a pair costs the folded one-layer head `18 d^2` operations, nearly all in two matrix products with
weights that stay in the cache, and some kilobytes read at random. The limit is the smaller of the machine's rate of bf16
products over the operations and its rate of memory over the bytes; both are measured in the same run.

    python -m benchmarks.engine_pairs --table FILE [--texts N] [--pairs N] [--seconds S] [--peer-seconds S] [--peers-python PATH]

Peers run as their own packages run them, with random weights of the named shape, on the pairs of `--table` (JSON lines; its
first two columns of texts), each for `--peer-seconds` of work and cut to a number of tokens. Ours score representations of
as many tokens as they keep, which a short text does not have: that is their slowest case. ONNX Runtime and OpenVINO need an
environment of their own (`benchmarks.engine_peers` says which); without it they are left out and named in the notes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from benchmarks.engine_peers import cross_encoder_rate, read_pairs
from benchmarks.engine_setup import (
    ENCODER,
    HEADS,
    random_rows,
    representations,
    student,
)
from benchmarks.results import publish
from distilmatch.engine.heads.kinds import head_cost
from distilmatch.engine.kernels.choice import KernelName
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError
from distilmatch.models import DiPair
from distilmatch.planning.limits import multiply_rate, rate, read_rate
from distilmatch.pretrained.names import resolve_model
from distilmatch.runtime import keep_freed_memory

SHAPES: dict[str, dict[str, Any]] = {
    "bert_base": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    "minilm_l6": dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "bert_tiny": dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512),
}
TOKENS = (128, 256)


def cross_encoder(shape: str, folder: Path) -> Path:
    """A folder with a cross-encoder of random weights and the tokenizer of MiniLM."""
    place = folder / shape
    if not place.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(ENCODER))
        config = BertConfig(**SHAPES[shape], vocab_size=len(tokenizer))
        config.num_labels = 1
        BertForSequenceClassification(config).save_pretrained(place)
        tokenizer.save_pretrained(place)
    return place


def torch_rate(place: Path, tokens: int, pairs: list[tuple[str, str]], seconds: float, **settings: Any) -> float:
    """`CrossEncoder.predict` in PyTorch on pairs that are cut to `tokens` tokens."""
    return cross_encoder_rate(CrossEncoder(str(place), max_length=tokens, **settings), pairs, seconds)


def mean_tokens(pairs: list[tuple[str, str]], tokens: int) -> float:
    """Of the pairs when they are cut to `tokens` tokens."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(ENCODER))
    found = tokenizer([left for left, _ in pairs], [right for _, right in pairs], verbose=False)["input_ids"]
    return float(np.mean([min(len(one), tokens) for one in found]))


def peers_environment() -> dict[str, str]:
    """As many threads as this process has, and no hub."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}


def engine_rates(model: DiPair, texts: int, pairs: int, seconds: float) -> dict[str, float]:
    """Plain and folded, PyTorch and native, as far as each goes."""
    sides = [representations(model, side, texts) for side in (0, 1)]
    rows = random_rows(texts, texts, pairs)
    few = rows[: max(1024, pairs // 50)]
    rates = {
        "plain_fp32": rate(lambda: model.score(*sides, rows=few, show_progress_bar=False), len(few), seconds=seconds),
        "plain_bf16": rate(
            lambda: model.score(*sides, rows=few, precision="bf16", show_progress_bar=False), len(few), seconds=seconds
        ),
    }
    kernels: tuple[KernelName, ...] = ("torch", "torch-bf16", "native", "native-int8")
    for kernel in kernels:
        try:
            scorer = Scorer(model, kernel=kernel)
        except ConfigError:
            continue  # not for this head, or not here
        prepared = [scorer.kernel.prepare(side, j) for j, side in enumerate(sides)]
        some = rows if kernel.startswith("native") else few
        name = kernel.replace("-", "_")
        rates[f"folded_{name}"] = rate(partial(scorer.kernel.pairs, prepared, some), len(some), seconds=seconds)
        if kernel == "native":
            rates["folded_bytes_per_text"] = sum(side.nbytes for side in prepared) / (2 * texts)
    return rates


def maxsim_rate(kept: int, width: int, texts: int, pairs: int, seconds: float) -> float:
    """ColBERT's MaxSim of cached token vectors, PyLate's formula, in batches of pairs."""
    left, right = (torch.nn.functional.normalize(torch.randn(texts, kept, width), dim=-1) for _ in range(2))
    rows = torch.from_numpy(random_rows(texts, texts, pairs))

    def work() -> None:
        for part in rows.split(4096):
            torch.einsum("pid,pjd->pij", left[part[:, 0]], right[part[:, 1]]).amax(-1).sum(-1)

    return rate(work, pairs, seconds=seconds)


def main() -> None:
    """Measures all, each in turn, and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="JSON lines with two columns of texts")
    parser.add_argument("--peer-seconds", type=float, default=10.0, help="work of each peer")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=400_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--peers-python", type=Path, help="interpreter with sentence-transformers[onnx,openvino]")
    arguments = parser.parse_args()
    keep_freed_memory()  # PyTorch's own steps are up to twice as fast
    texts, pairs, seconds = arguments.texts, arguments.pairs, arguments.seconds
    real, peer_seconds = read_pairs(arguments.table), arguments.peer_seconds
    metrics: dict[str, float] = {
        "bf16_products_per_s": multiply_rate(torch.bfloat16),
        "fp32_products_per_s": multiply_rate(torch.float32),
        "memory_bytes_per_s": read_rate(),
    }
    left_out: list[str] = []

    def note(name: str, found: float) -> None:
        metrics[f"{name}_pairs_per_s"] = found
        print(f"{name}: {found:,.1f} pairs/s", flush=True)

    for name, shape in HEADS.items():
        model = student(**shape)
        for way, found in engine_rates(model, texts, pairs, seconds).items():
            if way == "folded_bytes_per_text":
                metrics[f"{name}_{way}"] = found
            else:
                note(f"{name}_{way}", found)
    with tempfile.TemporaryDirectory() as folder:
        for peer in SHAPES:
            place = cross_encoder(peer, Path(folder))
            for tokens in TOKENS:
                note(f"{peer}_fp32_{tokens}", torch_rate(place, tokens, real, peer_seconds))
                bf16 = {"model_kwargs": {"dtype": torch.bfloat16}}
                note(f"{peer}_bf16_{tokens}", torch_rate(place, tokens, real, peer_seconds, **bf16))
            if arguments.peers_python is None:
                left_out.append(f"{peer} with ONNX Runtime and OpenVINO: no --peers-python")
                continue
            command = [str(arguments.peers_python), "-m", "benchmarks.engine_peers", str(place)]
            command += [str(arguments.table), str(peer_seconds)]
            answer = subprocess.run(
                [*command, *map(str, TOKENS)], capture_output=True, text=True, check=True, env=peers_environment()
            )
            for name, found in json.loads(answer.stdout.strip().splitlines()[-1]).items():
                note(f"{peer}_{name}", found)
    note("maxsim_8_8", maxsim_rate(8, 256, texts, pairs // 10, seconds))
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        index = faiss.IndexFlatIP(256)
        index.add(np.random.default_rng(0).standard_normal((texts, 256), dtype=np.float32))
        queries = np.random.default_rng(1).standard_normal((256, 256), dtype=np.float32)
        note("faiss_flat", rate(lambda: index.search(queries, 10), 256 * texts, seconds=seconds))
    model = student()
    best = metrics.get("transformer_folded_native_pairs_per_s", metrics["transformer_folded_torch_pairs_per_s"])
    bytes_per_pair = metrics.get("transformer_folded_bytes_per_text", 0.0) * 2
    operations = head_cost(model).operations
    assert operations is not None
    metrics["bf16_products_per_s"] = max(metrics["bf16_products_per_s"], multiply_rate(torch.bfloat16))
    limits = [metrics["bf16_products_per_s"] / operations]
    if bytes_per_pair:
        limits.append(metrics["memory_bytes_per_s"] / bytes_per_pair)
    encode = representations(model, 0, 1)  # the cache that a text takes in fp16
    slowest = metrics["bert_base_fp32_256_pairs_per_s"]
    metrics |= {
        "transformer_pairs_per_s": best,
        "transformer_limit_pairs_per_s": min(limits),
        "transformer_fraction_of_limit": best / min(limits),
        "ratio_vs_bert_base_fp32_256": best / slowest,
        "ratio_vs_plain_head_fp32": best / metrics["transformer_plain_fp32_pairs_per_s"],
        "int8_ratio_vs_plain_head_fp32": metrics.get("transformer_folded_native_int8_pairs_per_s", 0.0)
        / metrics["transformer_plain_fp32_pairs_per_s"],
        "cache_bytes_per_item": encode.tokens.numel() * 2 + encode.mask.numel(),
    }
    # Every text encoded once and used in 1,000 pairs: two texts a pair, so a thousandth of two encodings each.
    sentences = [right for _, right in real[:512]]
    one = rate(lambda: model.encode(sentences, 0, show_progress_bar=False), len(sentences), rounds=3, seconds=seconds)
    end_to_end = 1 / (1 / best + 2 / 1000 / one)
    metrics |= {"encoded_texts_per_s": one, "end_to_end_ratio_vs_bert_base_fp32_256": end_to_end / slowest}
    notes = {"texts": texts, "pairs": pairs, "threads": torch.get_num_threads(), "left_out": left_out}
    notes |= {"table": arguments.table.name, "mean_tokens": {tokens: mean_tokens(real, tokens) for tokens in TOKENS}}
    publish("engine_pairs", metrics, [0], notes)


if __name__ == "__main__":
    main()
