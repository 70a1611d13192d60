"""The stage before the others that learns what kind of prediction the teacher's is."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import Stopped
from tests.training.test_distil import recipe as recipe

from distilmatch import DiPair, PairRecipe
from distilmatch.config.stages import NamedStageConfig
from distilmatch.errors import ConfigError, DataError
from distilmatch.training.pairs import trainer as module
from distilmatch.training.pairs.distil import distil_pairs
from distilmatch.training.pairs.predictions import KINDS, prediction_kinds, predictions_table
from distilmatch.types import TupleTable

STAGE = NamedStageConfig(name="ptp", learns="teacher_predictions", epochs=2, precision="fp32")


def _teacher(pairs: list[tuple[str, str]]) -> list[float]:
    """Right or wrong of the colours, sure of it or barely, as the pair's checksum has it."""
    scores = []
    for left, right in pairs:
        kind = zlib.crc32(f"{left} {right}".encode()) % 4
        sure = 3.0 if kind % 2 else 0.3
        scores.append(sure if (left.split()[1:2] == right.split()[1:2]) == (kind < 2) else -sure)
    return scores


_teacher.name = "kinds"  # type: ignore[attr-defined]  # a run that goes on needs one


def _with(recipe: PairRecipe, **ptp: Any) -> PairRecipe:
    settings = {"epochs": 1, "evaluations": 1, "precision": "fp32", "blocks_per_batch": 4}
    stages = [
        STAGE.replaced(**ptp).to_dict(),
        {"name": "settle", "frozen_encoders": True, **settings},
        {"name": "learn", **settings},
    ]
    usual = {name: PairRecipe.model_fields[name].default for name in ("stage1", "stage2")}
    return recipe.replaced(teacher={"models": ["in a test"]}, stages=stages, **usual)


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3]), st.floats(0.4, 0.9), st.floats(0.4, 0.9))
def test_kinds_against_a_loop(seed: int, labels: int, right: float, wrong: float) -> None:
    rng = np.random.default_rng(seed)
    teacher = (2 * rng.normal(size=(12, labels))).astype(np.float32)
    gold = rng.integers(max(2, labels), size=12).astype(np.float32)
    stage = STAGE.replaced(confident_right=right, confident_wrong=wrong)
    for kind, own, logits in zip(prediction_kinds(gold, teacher, stage), gold, teacher.tolist(), strict=True):
        powers = [math.exp(logit) for logit in ([0.0, *logits] if labels == 1 else logits)]
        best = powers.index(max(powers))
        limit = right if best == own else wrong
        sure = "confident" if max(powers) / sum(powers) >= limit else "unsure"
        assert KINDS[kind] == f"{'right' if best == own else 'wrong'}, {sure}"


def test_each_labelled_pair_stands_there_once() -> None:
    gold = np.float32([0, 1, np.nan, 0, 1, 1, 1])
    teacher = np.float32([[-3], [3], [1], [0.1], [0.1], [-3], [3]])
    rows = np.array([[0, 1], [2, 3], [0, 3], [4, 5], [4, 1], [0, 5], [2, 3]])
    table = TupleTable(
        texts=list("abcdef"), rows=rows, gold=gold, teacher=teacher, blocks=np.array([0, 0, 0, 1, 1, 1, 2])
    )
    made = predictions_table(table, STAGE)
    assert made.rows.tolist() == [[0, 1], [2, 3], [4, 5], [4, 1], [0, 5]] and made.teacher is None
    assert made.gold is not None and made.blocks is not None
    assert made.gold.tolist() == [0, 0, 3, 1, 2] and made.blocks.tolist() == [0, 0, 1, 1, 1]
    with pytest.raises(DataError, match="stage ptp learns four kinds.*wrong, confident: 0; wrong, unsure: 1.*0.6"):
        predictions_table(table.take(np.arange(5)), STAGE)


def test_the_stage_teaches_the_student_and_leaves_its_own_layer(
    recipe: PairRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _with(recipe, epochs=3)
    student = distil_pairs(own, teacher=_teacher)
    output = Path(own.output)
    ptp = json.loads((output / "ptp" / "stage.json").read_text())
    losses = [entry["loss"] for entry in ptp["history"] if "loss" in entry]
    assert ptp["metric"] is None and ptp["steps"] > 0 and losses[-1] < losses[0]
    prepared = DiPair.from_pretrained(output / "ptp" / "student")
    assert prepared.task.kind == "binary" and prepared.classifier.weight.shape[0] == 1
    assert json.loads((output / "settle" / "stage.json").read_text())["best_metric"] is not None
    again = own.replaced(output=f"{own.output}-again")
    calls = {"steps": 0}
    original = module.BlockTrainer.compute_loss

    def breaks(self: object, *args: object, **kwargs: object) -> object:
        calls["steps"] += 1
        if calls["steps"] in (ptp["steps"] - 1, ptp["steps"] + 6):
            raise Stopped
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module.BlockTrainer, "compute_loss", breaks)
    for _ in range(2):
        with pytest.raises(Stopped):
            distil_pairs(again, teacher=_teacher)
    resumed = distil_pairs(again, teacher=_teacher)
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, student.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


def test_bad_places(recipe: PairRecipe) -> None:
    own = _with(recipe)
    stages = [stage.to_dict() for stage in own.stages]
    for wrong in ([stages[1], stages[0], stages[2]], stages[:1]):
        with pytest.raises(ConfigError, match="put it before all others"):
            own.replaced(stages=wrong)
    with pytest.raises(ConfigError, match="regression task has no right class"):
        own.replaced(task={"kind": "regression"})
    with pytest.raises(ConfigError, match="needs both"):
        own.replaced(table={"text_columns": ["a", "b"]})
