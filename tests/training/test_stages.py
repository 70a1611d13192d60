"""A run is a list of named stages: any number of them, run once each, the best of them kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.config.pairs import PairRecipe
from distilmatch.errors import ConfigError
from distilmatch.training.stages import DONE, Stage, best_stage, run_stages

PAIR: dict[str, Any] = {"train": "t.jsonl", "output": "run", "task": {"kind": "binary"}, "teacher": {"models": ["m"]}}


def _stage(folder: Path, name: str, metric: float | None, seen: list[Any]) -> Stage:
    def train(latest: Path | None) -> None:
        seen.append((name, latest))
        (folder / name / "student").mkdir(parents=True)
        summary = {"steps": 1, "seconds": 1.0, "best_metric": metric, "metric": "auc"}
        (folder / name / DONE).write_text(json.dumps(summary))

    return Stage(name=name, title="learns", folder=folder / name, train=train)


def test_stages_run_one_after_another_and_only_once(tmp_path: Path) -> None:
    seen: list[Any] = []
    stages = [_stage(tmp_path, name, 0.5, seen) for name in ("one", "two", "three")]
    assert run_stages(stages[:2]) == tmp_path / "two" / "student"
    assert run_stages(stages) == tmp_path / "three" / "student"
    assert seen == [("one", None), ("two", tmp_path / "one" / "student"), ("three", tmp_path / "two" / "student")]
    assert stages[2].described() == "1 steps, 1 s, best dev auc 0.5000"


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ((0.5, 0.6, 0.7), "c"),
        ((0.5, 0.8, 0.7), "b"),
        ((0.9, 0.8, 0.7), "a"),
        ((0.7, 0.7, 0.7), "c"),  # of equals the last
        ((None, 0.8, 0.7), "b"),
        ((0.9, 0.9, None), "c"),  # nothing to compare with
    ],
)
def test_the_best_stage_on_dev_is_kept(
    tmp_path: Path, metrics: tuple[float | None, ...], best: str, caplog: pytest.LogCaptureFixture
) -> None:
    stages = [_stage(tmp_path, name, metric, []) for name, metric in zip("abc", metrics, strict=True)]
    run_stages(stages)
    with caplog.at_level(logging.WARNING, logger="distilmatch"):
        assert best_stage(stages, "try less") == tmp_path / best / "student"
    assert ("try less" in caplog.text) == (best != "c")


def test_two_stages_are_what_a_recipe_has_without_a_list() -> None:
    recipe = PairRecipe.from_dict({**PAIR, "stage1": {"epochs": 3}})
    first, second = recipe.all_stages
    assert (first.name, first.frozen_encoders, first.epochs) == ("stage1", True, 3.0)
    assert (second.name, second.frozen_encoders, second.epochs) == ("stage2", False, 5.0)
    assert PairRecipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [{"name": "a"}], "stage2": {"epochs": 2}}, "take the place of `stage1` and `stage2`"),
        ({"stages": [{"name": "a"}, {"name": "A"}]}, "cannot both be called a"),
        ({"stages": [{"name": "student"}]}, "cannot both be called student"),
        ({"stages": [{"name": "../a"}]}, "stages.0.name"),
        ({"stages": [{"epochs": 1}]}, "name"),
    ],
)
def test_lists_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PairRecipe.from_dict({**PAIR, **changes})
    embedding = {"teacher": {"models": ["m"]}, "corpus": {"sources": ["c.txt"]}, "output": "run"}
    stages = [{"kind": "distillation", **stage} for stage in changes["stages"]]
    with pytest.raises(ConfigError, match=message):
        EmbeddingRecipe.from_dict({**embedding, **changes, "stages": stages})


def test_a_stage_without_its_data_is_refused() -> None:
    base: dict[str, Any] = {"teacher": {"models": ["m"]}, "corpus": {"sources": ["c.txt"]}, "output": "run"}
    with pytest.raises(ConfigError, match="a stage of contrastive needs `labelled` tables"):
        EmbeddingRecipe.from_dict({**base, "stages": [{"name": "a", "kind": "contrastive"}]})
    with pytest.raises(ConfigError, match="a stage of distillation needs a `corpus`"):
        EmbeddingRecipe.from_dict({**base, "corpus": None, "stages": [{"name": "a", "kind": "distillation"}]})
