"""The comparison of related methods: equal steps and labels, rising rows marked, and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness import Comparison
from benchmarks.pages import methods_pairs as page
from benchmarks.sets import SETS
from tests.helpers import write_jsonl

from benchmarks import methods_pairs
from distilmatch import PairRecipe
from distilmatch.objectives import objective_for

ROWS = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "entailment": "neutral"} for i in range(4500)]


@pytest.fixture
def trial(tmp_path: Path) -> methods_pairs.Trial:
    for split in ("train", "dev", "test"):
        (tmp_path / "tables").mkdir(exist_ok=True)
        write_jsonl(tmp_path / "tables" / f"{split}.jsonl", ROWS)
    return methods_pairs.Trial(
        comparison=Comparison(one=SETS["sick"], data=tmp_path, work=tmp_path, teacher=(tmp_path,)), steps=200
    )


def test_every_row_is_a_recipe_of_equal_steps(trial: methods_pairs.Trial) -> None:
    recipes = {
        name: PairRecipe.from_dict(trial.recipe(name, 1))
        for name, method in methods_pairs.METHODS.items()
        if "sick" in method.sets
    }
    for name, recipe in recipes.items():
        objective_for(recipe.objective, recipe.task)
        method = methods_pairs.METHODS[name]
        rows, size = method.rows or 4500, recipe.transfer.block_size
        steps = sum(stage.epochs * -(-rows // size) / stage.blocks_per_batch for stage in recipe.stages)
        assert abs(steps - 200) < 1.5 and recipe.seed == 1, name
        assert recipe.teacher is not None and recipe.teacher.budget == method.budget
        beside = recipes[method.beside]
        assert beside.teacher == recipe.teacher and beside.train == recipe.train
    assert len(Path(recipes["mixkd_500"].train).read_text().splitlines()) == 500
    assert recipes["ptp"].stages[0].learns == "teacher_predictions"


def test_a_row_that_gains_a_point_at_its_end_rises() -> None:
    assert methods_pairs.rises([0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.71])
    assert not methods_pairs.rises([0.5, 0.6, 0.7, 0.75, 0.7, 0.7, 0.7, 0.71])
    assert not methods_pairs.rises([0.5])


def test_the_page_says_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        "plain": [{"dev": 0.7, "test": 0.7, "minutes": 1.0, "dev_curve": [0.5, 0.6, 0.65, 0.7]}],
        "atkd": [{"dev": 0.6, "test": 0.65, "minutes": 1.0, "dev_curve": [0.5, 0.5, 0.6, 0.6]}],
        "mse_1000": [{"dev": 0.6, "test": value, "minutes": 1.0, "dev_curve": [0.6] * 4} for value in (0.5, 0.6)],
    }
    metrics = methods_pairs.figures("sick", rows)
    assert metrics["sick_atkd"] == 0.65 and metrics["sick_mse_1000_std"] == pytest.approx(0.0707, abs=1e-4)
    assert metrics["sick_atkd_rises"] == 1.0 and metrics["sick_mse_1000_rises"] == 0.0
    methods = {name: {"label": each.label, "beside": each.beside} for name, each in methods_pairs.METHODS.items()}
    notes = {
        "methods": methods,
        "main": {"sick": "accuracy"},
        "titles": {"sick": "SICK"},
        "steps": 200,
        "frozen": False,
    }
    result = {"command": "python -m benchmarks.methods_pairs", "metrics": metrics, "notes": notes}
    (tmp_path / "methods_pairs.json").write_text(json.dumps(result))
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    monkeypatch.setattr("benchmarks.pages.parts.FOLDER", tmp_path)
    text = page.render()
    assert "| ATKD | 0.650 | -5.0 | 0.600 | 1 | rising |" in text
    assert "| MSE, 1,000 labels | 0.550 ± 0.071 (0.500 to 0.600) |  | 0.600 | 2 |  |" in text
    picture = page.draw()
    assert picture is not None and picture.startswith(b"\x89PNG")
