"""Weights of a model folder: that they are numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from distilmatch.errors import ModelError


def check_finite_weights(name: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuses weights that are no numbers.

    Args:
        name: what messages call the model.

    Raises:
        ModelError: the first tensor with NaN or Inf is named.
    """
    for problem in not_finite(name, tensors.items()):
        raise ModelError(problem)


def not_finite(name: str | Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterable[str]:
    """A sentence for each tensor with NaN or Inf."""
    for key, tensor in tensors:
        if not tensor.is_floating_point() or tensor.device.type == "meta":
            continue
        # A sum is not finite where a number is not, and needs no memory; it may overflow where all numbers are.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            yield f"{name}: the weights {key} hold NaN or Inf, so that no score would be a number: train or copy the model again"
