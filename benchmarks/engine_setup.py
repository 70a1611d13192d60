"""What the engine's benchmarks share: students with random weights and random representations.

Speed does not depend on the weights, so none are downloaded or trained.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations

ENCODER = "all-MiniLM-L6-v2"
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


def student(**shape: Any) -> DiPair:
    """A DiPair of this shape, one label; by default the paper's kind of head: nothing read beside the first position."""
    torch.manual_seed(0)
    kept = shape.get("kept_tokens", (8, 8))
    settings: dict[str, Any] = {"width": 256, "head_heads": 8, "head_start": "random", "kept_tokens": kept}
    if shape.get("head", "transformer") == "transformer":
        settings |= {"head_similarities": 0, "head_maxsim": 0}
    return DiPair.from_encoder(ENCODER, StudentConfig(**{**settings, **shape}), TaskConfig(kind="binary")).eval()


def representations(model: DiPair, side: int, texts: int, seed: int = 0) -> TokenRepresentations:
    """Random ones, every token real."""
    kept, width = model.student.kept_tokens[side], model.student.vector_width
    numbers = torch.randn(texts, kept, width, generator=torch.Generator().manual_seed(2 * seed + side))
    return TokenRepresentations(numbers, torch.ones(texts, kept, dtype=torch.bool))


def random_rows(left: int, right: int, pairs: int, seed: int = 0) -> np.ndarray:
    """(pairs, 2) int64."""
    return np.random.default_rng(seed).integers(0, [left, right], (pairs, 2))
