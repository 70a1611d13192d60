"""The parts of a student that compute in fp32 whatever its encoders do: small, and what a score is read from.

Half precision rounds a logit to eight or eleven bits, so that different pairs tie; a head has so few weights that nothing is
saved by it.

Shape legend: p tuples; m features; c labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Names of such parts of a `DiPair`; the start of a weight's name tells them from an encoder's own.
FP32_PARTS = ["^head_inputs.", "^head.", "^classifier."]


class Fp32Module(nn.Module):
    """A module whose weights follow a change of device and never one of dtype (`half`, `bfloat16`, `double`, `to`)."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        def moved(tensor: torch.Tensor) -> torch.Tensor:
            changed = fn(tensor)
            if changed.dtype == torch.float32 or not changed.is_floating_point():
                return changed
            return tensor.to(changed.device, torch.float32)

        return super()._apply(moved, recurse)


class Logits(Fp32Module, nn.Linear):
    """The last layer: (p, c) fp32 logits of (p, m) features of any dtype, in fp32 under autocast too."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(p, c) float32."""
        with torch.autocast(features.device.type, enabled=False):
            return nn.functional.linear(features.float(), self.weight, self.bias)
