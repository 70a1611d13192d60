"""Attention for short sequences, in the form that is fastest where it runs.

Shape legend: b sequences; a attention heads; q queries; l keys; e width of one attention head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention (Vaswani et al. 2017, eq. 1) of queries over keys; returns (b, a, q, e).

    PyTorch's fused attention on a CPU has a slow backward pass for short sequences (14 times the time of two matrix
    products at 14 tokens in bf16), so there gradients go through the plain products.

    Args:
        query: (b, a, q, e).
        key, value: (b, a, l, e).
        mask: bool, broadcastable to (b, a, q, l), True where a key is seen; every query must see one.
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(value.dtype) @ value


@contextmanager
def trained_attention(encoders: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Inside, encoders on a CPU attend by plain products, whose gradients are faster there (see `attend`)."""
    before = [cast(Any, encoder).config._attn_implementation for encoder in encoders]
    if device.type == "cpu":
        _set_attention(encoders, ["eager"] * len(encoders))
    try:
        yield
    finally:
        _set_attention(encoders, before)


def _set_attention(encoders: Sequence[nn.Module], names: Sequence[str | None]) -> None:
    for encoder, name in zip(encoders, names, strict=True):
        if name is not None and name != cast(Any, encoder).config._attn_implementation:
            cast(Any, encoder).set_attn_implementation(name)
