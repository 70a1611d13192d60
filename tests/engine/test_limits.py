"""What the machine can do: the rates that shares of the limit are taken of."""

from __future__ import annotations

from pathlib import Path

import pytest

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.models import DiPair
from distilmatch.planning.limits import activation_rate

from .shared import needs_native

SHAPE = {"width": 32, "head": "feed_forward", "kept_tokens": (3, 4), "max_lengths": (24, 24)}


@needs_native
def test_gelu_costs_more_instructions_than_relu(tiny_encoder: Path) -> None:
    rates = []
    for activation in ("gelu", "relu"):
        student = StudentConfig(**SHAPE, head_activation=activation)  # type: ignore[arg-type]
        model = DiPair.from_encoder(tiny_encoder, student, TaskConfig(kind="binary"))
        found = activation_rate(model, threads=1, seconds=0.05)
        assert found is not None
        rates.append(found)
    assert 1e6 < rates[0] < rates[1]


def test_no_rate_without_the_kernels(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distilmatch.planning.limits.runs_native", lambda: False)
    model = DiPair.from_encoder(tiny_encoder, StudentConfig(**SHAPE), TaskConfig(kind="binary"))  # type: ignore[arg-type]
    assert activation_rate(model) is None
