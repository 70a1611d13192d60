"""Pairs per second of cached pairs, beside every peer that scores pairs, and the share of the machine's own limit.

Theory of the bottleneck: a pair costs the folded one-layer head `18 d^2` operations, nearly all in two matrix products with
weights that stay in the cache, and some kilobytes read at random. The limit is the smaller of the machine's rate of bf16
products over the operations and its rate of memory over the bytes; both are measured in the same run.

    python -m benchmarks.engine_pairs [--texts N] [--pairs N] [--seconds S]

Peers run as their own packages run them, with random weights of the named shape; those whose package is not installed are left
out and named in the notes (`pip install onnxruntime optimum[onnxruntime] openvino pylate faiss-cpu`).
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from benchmarks.engine_setup import (
    ENCODER,
    random_rows,
    representations,
    student,
)
from benchmarks.results import publish
from distilmatch.engine.limits import head_operations, multiply_rate, rate, read_rate
from distilmatch.engine.scorer import Scorer
from distilmatch.models import DiPair
from distilmatch.runtime import resolve_model

SHAPES: dict[str, dict[str, Any]] = {
    "bert_base": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    "minilm_l6": dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "bert_tiny": dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512),
}
HEADS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "transformer_16_16": {"kept_tokens": (16, 16)},
    "transformer_default": {
        "kept_tokens": (16, 16),
        "width": 384,
        "head_heads": 12,
        "head_similarities": 48,
        "head_maxsim": 12,
    },
    "transformer_relu": {"head_activation": "relu"},
    "transformer_two_layers": {"head_layers": 2},
    "transformer_four_layers": {"head_layers": 4},
    "feed_forward": {"head": "feed_forward", "head_intermediate": 256},
    "feed_forward_relu": {"head": "feed_forward", "head_intermediate": 256, "head_activation": "relu"},
    "cosine": {"head": "cosine"},
}
TOKENS = (128, 256)
WORD = "a "


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


def cross_encoder_rate(place: Path, tokens: int, seconds: float, **settings: Any) -> float:
    """`CrossEncoder.predict` on pairs of `tokens` tokens."""
    model = CrossEncoder(str(place), max_length=tokens, **settings)
    text = WORD * (tokens // 2)
    count = 4
    while True:  # as many pairs as take about a second
        pairs = [(text, text)] * count
        found = rate(partial(model.predict, pairs, batch_size=32), count, rounds=3, seconds=seconds)
        if count / found > 0.5 or count >= 512:
            return found
        count *= 4


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
    for kernel in ("torch", "native"):
        scorer = Scorer(model, kernel="auto" if kernel == "native" else "torch")
        if scorer.kernel.name != kernel:
            continue
        prepared = [scorer.kernel.prepare(side, j) for j, side in enumerate(sides)]
        some = rows if kernel == "native" else few
        rates[f"folded_{kernel}"] = rate(partial(scorer.kernel.pairs, prepared, some), len(some), seconds=seconds)
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
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=400_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    texts, pairs, seconds = arguments.texts, arguments.pairs, arguments.seconds
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
                note(f"{peer}_fp32_{tokens}", cross_encoder_rate(place, tokens, seconds))
                bf16 = {"model_kwargs": {"dtype": torch.bfloat16}}
                note(f"{peer}_bf16_{tokens}", cross_encoder_rate(place, tokens, seconds, **bf16))
                for backend, package in (("onnx", "optimum.onnxruntime"), ("openvino", "optimum.intel")):
                    try:
                        found = importlib.util.find_spec(package) is not None
                    except ModuleNotFoundError:
                        found = False
                    if found:
                        note(f"{peer}_{backend}_{tokens}", cross_encoder_rate(place, tokens, seconds, backend=backend))
                    else:
                        left_out.append(f"{peer} with {backend}: {package} is not installed")
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
    operations = head_operations(model)
    assert operations is not None
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
        "cache_bytes_per_item": encode.tokens.numel() * 2 + encode.mask.numel(),
    }
    # Every text encoded once and used in 1,000 pairs: two texts a pair, so a thousandth of two encodings each.
    sentence = WORD * 126
    one = rate(lambda: model.encode([sentence] * 32, 0, show_progress_bar=False), 32, rounds=3, seconds=seconds)
    end_to_end = 1 / (1 / best + 2 / 1000 / one)
    metrics |= {"encoded_texts_per_s": one, "end_to_end_ratio_vs_bert_base_fp32_256": end_to_end / slowest}
    notes = {"texts": texts, "pairs": pairs, "threads": torch.get_num_threads(), "left_out": left_out}
    publish("engine_pairs", metrics, [0], notes)


if __name__ == "__main__":
    main()
