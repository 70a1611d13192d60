"""Students in half precision and in double: encoders take the dtype, the head stays in fp32, scores stay near fp32's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.models import DiPair

PAIRS = [("red car", "a big blue house"), ("the dog runs", "a dog sleeps in the sun"), ("old tea", "old tea")]

WAYS: dict[str, tuple[Callable[[Path], DiPair], torch.dtype]] = {
    "from_pretrained(bfloat16)": (lambda p: DiPair.from_pretrained(p, dtype=torch.bfloat16), torch.bfloat16),
    "from_pretrained(float16)": (lambda p: DiPair.from_pretrained(p, dtype=torch.float16), torch.float16),
    "from_pretrained('float16')": (lambda p: DiPair.from_pretrained(p, dtype="float16"), torch.float16),
    "from_pretrained(float64)": (lambda p: DiPair.from_pretrained(p, dtype=torch.float64), torch.float64),
    "half()": (lambda p: DiPair.from_pretrained(p).half(), torch.float16),
    "bfloat16()": (lambda p: DiPair.from_pretrained(p).bfloat16(), torch.bfloat16),
    "to(float16)": (lambda p: DiPair.from_pretrained(p).to(torch.float16), torch.float16),
    "to(dtype=bfloat16)": (lambda p: DiPair.from_pretrained(p).to(dtype=torch.bfloat16), torch.bfloat16),
    "to('cpu', bfloat16)": (lambda p: DiPair.from_pretrained(p).to("cpu", torch.bfloat16), torch.bfloat16),
    "double()": (lambda p: DiPair.from_pretrained(p).double(), torch.float64),
    "half() in training mode": (lambda p: DiPair.from_pretrained(p).train().half(), torch.float16),
}
HEADS = ("transformer", "feed_forward", "lite", "cosine")


@pytest.fixture(scope="module", params=HEADS)
def folder(request: pytest.FixtureRequest, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    shape = StudentConfig(max_lengths=(24, 24), kept_tokens=(3, 5), head=request.param)
    model = DiPair.from_encoder(tiny_encoder, shape, TaskConfig(kind="binary"))
    path = tmp_path_factory.mktemp("student")
    model.save_pretrained(path)
    return path


def _head_dtypes(model: DiPair) -> set[torch.dtype]:
    parts = (model.head_inputs, model.head, model.classifier)
    return {tensor.dtype for part in parts for tensor in part.parameters()}


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_near_those_of_fp32(folder: Path, way: str, tmp_path: Path) -> None:
    full = DiPair.from_pretrained(folder)
    make, dtype = WAYS[way]
    model = make(folder)
    assert {weight.dtype for weight in model.encoders.parameters()} == {dtype}
    assert _head_dtypes(model) == {torch.float32}
    for name, weight in full.named_parameters():  # the head was not rounded on its way
        if not name.startswith("encoders."):
            assert torch.equal(weight, model.get_parameter(name)), name
    tolerance = 1e-5 if dtype == torch.float64 else 0.06
    logits = model.logits(PAIRS)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, full.logits(PAIRS), atol=tolerance)
    for precision in ("fp32", "bf16"):
        np.testing.assert_allclose(model.logits(PAIRS, precision=precision), full.logits(PAIRS), atol=0.08)
    sides = [model.encode([pair[j] for pair in PAIRS], j) for j in (0, 1)]
    assert {side.tokens.dtype for side in sides} == {torch.float32}
    np.testing.assert_allclose(model.score(*sides), logits, atol=1e-5)
    np.testing.assert_allclose(model.score(*(side.to(torch.float16) for side in sides)), logits, atol=0.05)
    # Saved and loaded again it is the same student in the same dtype.
    model.save_pretrained(tmp_path)
    again = DiPair.from_pretrained(tmp_path)
    assert again.encoders[0].dtype == dtype and _head_dtypes(again) == {torch.float32}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    np.testing.assert_allclose(again.logits(PAIRS), logits, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_step_of_training_outside_autocast(folder: Path, dtype: torch.dtype) -> None:
    model = DiPair.from_pretrained(folder, dtype=dtype).train()
    tokens = model.tokenizers[0](["red car", "a big house"], padding=True, return_tensors="pt")
    stream = [{name: tokens[name] for name in ("input_ids", "attention_mask")}]
    streams = [stream] * len(model.streams)
    logits = model(rows=torch.tensor([[0, 1], [1, 0]]), streams=streams).logits
    assert logits.dtype == torch.float32
    logits.sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and torch.isfinite(weight.grad).all(), name
