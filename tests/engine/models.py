"""Tiny students with random heads and sides of random tokens, and which kernels score them here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.engine.kernels.native_module import native_module, runs_native
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations

HEADS: dict[str, dict[str, Any]] = {
    "transformer": {"head_similarities": 0, "head_maxsim": 0},
    "compared": {"head_similarities": 8, "head_maxsim": 3, "head_gaps": 2},
    "lexical": {"head_similarities": 8, "head_maxsim": 3, "lexical": True},
    "lexical_alone": {"head_similarities": 0, "head_maxsim": 0, "lexical": True},
    "pre_norm": {"head_norm": "pre", "head_activation": "relu"},
    "two_layers": {"head_layers": 2},
    "feed_forward": {"head": "feed_forward"},
    "feed_forward_compared": {"head": "feed_forward", "head_similarities": 8, "lexical": True},
    "feed_forward_two": {"head": "feed_forward", "head_layers": 2},
    "lite": {"head": "lite", "head_heads": 2},
    "cosine": {"head": "cosine"},
}
_NATIVE = ("transformer", "compared", "lexical", "pre_norm", "feed_forward", "feed_forward_compared")


def kernels_for(*heads: str) -> list[Any]:
    """(head, kernel) of every kernel of the CPU that scores a head; those that this machine lacks are skipped."""
    cases = []
    for head in heads:
        products = head not in ("feed_forward", "feed_forward_compared", "cosine")
        names = ["torch"] + ["torch-bf16"] * products
        names += ["native"] * (head in _NATIVE) + ["native-int8"] * (head in _NATIVE and products)
        for name in names:
            runs = not name.startswith("native") or (
                runs_native() and (name == "native" or bool(native_module().has_bytes()))
            )
            marks = [] if runs else [pytest.mark.skip(reason=f"no {name} kernel here")]
            cases.append(pytest.param(head, name, marks=marks, id=f"{head}-{name}"))
    return cases


def make_model(encoder: Path, head: str, task: TaskConfig, seed: int = 1, **shape: Any) -> DiPair:
    """A student of width 32 with a head of random weights."""
    torch.manual_seed(seed)
    settings = {"width": 32, "head_heads": 2, "kept_tokens": (3, 5), "max_lengths": (24, 24), **HEADS[head], **shape}
    model = DiPair.from_encoder(encoder, StudentConfig(**settings), task).eval()
    for parameter in [*model.head.parameters(), *model.classifier.parameters()]:
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def make_sides(model: DiPair, left: int, right: int) -> list[TokenRepresentations]:
    """Random tokens, with holes; nobody said what encoded them."""
    sides = []
    for count, kept in zip((left, right), model.student.kept_vectors, strict=True):
        mask = torch.arange(kept)[None, :] < torch.randint(1, kept + 1, (count,))[:, None]
        tokens = torch.randn(count, kept, model.student.vector_width) * mask[:, :, None]
        sides.append(TokenRepresentations(tokens, mask))
    return sides
