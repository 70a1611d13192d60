"""Which library runs the folded head fastest on this CPU: the candidates that the engine's kernel was chosen from.

Theory of the bottleneck: two products of 8 d^2 operations with weights that stay in the cache. A library that writes the
hidden layer to memory between them, or gathers the texts into new tensors first, pays for that in bandwidth.

    python -m benchmarks.engine_kernels [--texts N] [--pairs N] [--seconds S]

Every candidate scores the same random pairs from the same folded texts, gathering included; those that take tensors in batches
of the size that suits each best. Candidates whose packages are missing are left out
(`pip install onnx onnxscript onnxruntime openvino`).
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.engine_setup import random_rows, representations, student
from benchmarks.results import publish
from distilmatch.engine.heads.base import FoldedTexts, take
from distilmatch.engine.heads.kinds import fold_head, head_cost
from distilmatch.engine.heads.transformer import FoldedTransformer
from distilmatch.engine.kernels.native import NativeKernel, why_not_native
from distilmatch.planning.limits import multiply_rate, rate
from distilmatch.runtime import keep_freed_memory

BATCHES = (256, 1024, 4096)
LEFT = ("query", "own_top", "own_sum", "own_mixed", "residual")
RIGHT = ("key", "value")
Scores = Callable[..., Any]


class PairPart(nn.Module):
    """What is left of the folded head for pairs whose operands are gathered: tensors in, logits out; no masks."""

    def __init__(self, folded: FoldedTransformer) -> None:
        super().__init__()
        self.layer, self.read, self.bias = folded.layers[0], nn.Parameter(folded.read.clone()), folded.bias

    def forward(
        self,
        query: torch.Tensor,
        own_top: torch.Tensor,
        own_sum: torch.Tensor,
        own_mixed: torch.Tensor,
        residual: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """(p, c) logits."""
        scores = query @ key.transpose(-1, -2)
        top = torch.maximum(own_top, scores.amax(-1))
        shares = (scores - top[..., None]).exp()
        kept = (own_top - top).exp()
        total = kept * own_sum + shares.sum(-1)
        attended = (kept[..., None] * own_mixed + shares @ value) / total[..., None]
        tokens = residual + nn.functional.linear(attended.transpose(1, 2).flatten(2), self.layer.output.weight)
        return nn.functional.linear(self.layer.after_attention(tokens)[:, 0], self.read, self.bias)


def in_batches(run: Scores, sides: list[FoldedTexts], rows: torch.Tensor, batch: int) -> Callable[[], object]:
    """Gathers each batch's operands and scores it."""

    def work() -> None:
        for part in rows.split(batch):
            left, right = (take(side, part[:, j]) for j, side in enumerate(sides))
            run(*(left[name] for name in LEFT), *(right[name] for name in RIGHT))

    return work


def onnx_model(part: PairPart, example: list[torch.Tensor], folder: Path) -> Path:
    """The pair part as ONNX, any number of pairs."""
    path = folder / "pairs.onnx"
    batch = torch.export.Dim("pairs")
    torch.onnx.export(
        part, tuple(example), str(path), dynamo=True, dynamic_shapes=tuple({0: batch} for _ in example),
        input_names=[*LEFT, *RIGHT],
    )  # fmt: skip
    return path


def onnx_runs(part: PairPart, example: list[torch.Tensor], folder: Path) -> dict[str, Scores]:
    """ONNX Runtime in fp32 and with int8 weights and activations, and OpenVINO with what precision it takes."""
    found: dict[str, Scores] = {}
    if importlib.util.find_spec("onnxscript") is None:
        return found
    path = onnx_model(part, example, folder)
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnx
        import onnxruntime
        from onnxruntime.quantization import quantize_dynamic

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        bare, small = folder / "pairs-bare.onnx", folder / "pairs-int8.onnx"
        graph = onnx.load(str(path))
        del graph.graph.value_info[:]  # the quantiser takes them for other shapes than it infers
        onnx.save(graph, str(bare))
        quantize_dynamic(bare, small)
        for name, file in (("onnx_runtime_fp32", path), ("onnx_runtime_int8", small)):
            session = onnxruntime.InferenceSession(str(file), options)
            found[name] = lambda *tensors, session=session: session.run(  # type: ignore[misc]
                None, dict(zip([*LEFT, *RIGHT], (tensor.numpy() for tensor in tensors), strict=True))
            )
    if importlib.util.find_spec("openvino") is not None:
        import openvino

        settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        for name in ("f32", "bf16"):
            compiled = openvino.Core().compile_model(str(path), "CPU", settings | {"INFERENCE_PRECISION_HINT": name})
            found[f"openvino_{name}"] = lambda *tensors, compiled=compiled: compiled([t.numpy() for t in tensors])  # type: ignore[misc]
    return found


def main() -> None:
    """Measures every candidate, checks that it gives the same logits, and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=65_536)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    keep_freed_memory()  # PyTorch's own steps are up to twice as fast
    model = student()
    folded = fold_head(model.head, model.classifier)
    assert isinstance(folded, FoldedTransformer)
    texts = [representations(model, side, arguments.texts) for side in (0, 1)]
    sides = [folded.fold(side, j) for j, side in enumerate(texts)]
    half = [{name: tensor.bfloat16() for name, tensor in side.items()} for side in sides]
    rows = torch.from_numpy(random_rows(arguments.texts, arguments.texts, arguments.pairs))
    part = PairPart(folded).eval()
    narrow = copy.deepcopy(part).bfloat16()
    runs: dict[str, tuple[Scores, list[FoldedTexts]]] = {
        "eager_fp32": (part, sides),
        "eager_bf16": (narrow, half),
        "torch_compile_fp32": (torch.compile(part, dynamic=True), sides),
        "torch_compile_bf16": (torch.compile(narrow, dynamic=True), half),
    }
    few = rows[:64]
    left, right = (take(side, few[:, j]) for j, side in enumerate(sides))
    example = [*(left[name] for name in LEFT), *(right[name] for name in RIGHT)]
    metrics: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        expected = part(*example)
        spread = float(expected.std())
        runs |= {name: (run, sides) for name, run in onnx_runs(part, example, Path(folder)).items()}
        for name, (run, used) in runs.items():
            given = [
                *(take(used[0], few[:, 0])[key] for key in LEFT),
                *(take(used[1], few[:, 1])[key] for key in RIGHT),
            ]
            got = run(*given)
            logits = got if isinstance(got, torch.Tensor) else torch.from_numpy(np.asarray(got[0]))
            metrics[f"{name}_error"] = float((logits.float() - expected).abs().max()) / spread
            rates = {
                batch: rate(in_batches(run, used, rows, batch), len(rows), rounds=3, seconds=arguments.seconds)
                for batch in BATCHES
            }
            metrics[f"{name}_batch"] = max(rates, key=rates.__getitem__)
            metrics[f"{name}_pairs_per_s"] = max(rates.values())
            print(name, {key: value for key, value in metrics.items() if key.startswith(name)}, flush=True)
    if why_not_native(model) is None:
        kernel = NativeKernel(model)
        prepared = [kernel.prepare(side, j) for j, side in enumerate(texts)]
        numbers = rows.numpy()
        found = torch.from_numpy(kernel.pairs(prepared, numbers[:64]))
        metrics["native_error"] = float((found - expected).abs().max()) / spread
        metrics["native_pairs_per_s"] = rate(
            lambda: kernel.pairs(prepared, numbers), len(rows), rounds=3, seconds=arguments.seconds
        )
        print("native", metrics["native_pairs_per_s"], flush=True)
    operations = head_cost(model).operations
    assert operations is not None
    metrics["limit_pairs_per_s"] = multiply_rate(torch.bfloat16) / operations
    notes = {"batches": BATCHES, "threads": torch.get_num_threads(), "error": "largest, over the logits' deviation"}
    publish("engine_kernels", metrics, [0], notes)


if __name__ == "__main__":
    main()
