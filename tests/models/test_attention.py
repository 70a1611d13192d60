"""Attention with gradients equals PyTorch's own, and the encoders get their own attention back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModel

from distilmatch.models.attention import attend, trained_attention


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    sequences=st.integers(1, 4),
    queries=st.integers(1, 5),
    keys=st.integers(1, 7),
    masked=st.booleans(),
)
def test_attention_and_its_gradients_equal_the_fused_ones(
    seed: int, sequences: int, queries: int, keys: int, masked: bool
) -> None:
    torch.manual_seed(seed)
    shapes = [(sequences, 2, queries, 4), (sequences, 2, keys, 4), (sequences, 2, keys, 4)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    mask = None
    if masked:
        lengths = torch.randint(1, keys + 1, (sequences,))
        mask = (torch.arange(keys)[None, :] < lengths[:, None])[:, None, None, :]
    weights = torch.randn(shapes[0])
    own = attend(*inputs, mask=mask)
    expected = scaled_dot_product_attention(*inputs, attn_mask=mask)
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-4)
    gradients = torch.autograd.grad((own * weights).sum(), inputs)
    for gradient, other in zip(gradients, torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-4)


def test_encoders_attend_as_before_after_training(tiny_encoder: Path) -> None:
    encoder = AutoModel.from_pretrained(tiny_encoder, dtype=torch.float32).eval()
    batch = {
        "input_ids": torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]),
        "attention_mask": torch.tensor([[1] * 4, [1] * 3 + [0]]),
    }
    before = encoder.config._attn_implementation
    with torch.no_grad():
        expected = encoder(**batch).last_hidden_state
        with trained_attention([encoder], torch.device("cpu")):
            assert encoder.config._attn_implementation == "eager"
            own = encoder(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(own[real], expected[real], atol=1e-5, rtol=1e-4)
    assert encoder.config._attn_implementation == before
    with pytest.raises(RuntimeError), trained_attention([encoder], torch.device("cpu")):
        raise RuntimeError("stopped")
    assert encoder.config._attn_implementation == before
