"""A finished run that goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.training.test_distil import recipe as recipe

from distilmatch import DiPair, PairRecipe
from distilmatch.cli.train import _with_more
from distilmatch.errors import ConfigError
from distilmatch.training.pairs.distil import distil_pairs
from distilmatch.training.pairs.trainer import DevSet

PAIRS = [("the red ball", "a blue ball is small"), ("the red cup", "a red ball is small")]


def _stamp(recipe: PairRecipe, stage: str) -> int:
    return (Path(recipe.output) / stage / "stage.json").stat().st_mtime_ns


def test_a_finished_run_goes_on_behind_its_stages(recipe: PairRecipe) -> None:
    recipe = recipe.replaced(metric_for_best="teacher_spearman", start="encoder")
    first = distil_pairs(recipe)
    before = _stamp(recipe, "stage2")
    more = _with_more(recipe, 1.0)
    assert more.further == (1.0,)
    stage2, further = more.all_stages[-2:]
    assert further.name == "more1" and further.epochs == 1.0
    assert further.learning_rate == pytest.approx((stage2.with_rates().learning_rate or 0) / 2)
    went_on = distil_pairs(more)
    assert _stamp(recipe, "stage2") == before
    learnt = DiPair.from_pretrained(Path(recipe.output) / "more1" / "student")
    assert np.abs(learnt.logits(PAIRS) - first.logits(PAIRS)).max() > 0
    # The recipe alone keeps what was added, and trains nothing again.
    at = _stamp(recipe, "more1")
    again = distil_pairs(recipe)
    np.testing.assert_array_equal(again.logits(PAIRS), went_on.logits(PAIRS))
    assert _stamp(recipe, "more1") == at
    assert _with_more(recipe, 2.0).further == (1.0, 2.0)


def test_a_stopped_further_stage_is_finished_first(recipe: PairRecipe) -> None:
    distil_pairs(recipe.replaced(start="encoder"))
    more = _with_more(recipe.replaced(start="encoder"), 1.0)
    more.to_yaml(Path(recipe.output) / "recipe.yaml")  # as a run leaves it that was stopped before the stage's end
    assert _with_more(recipe.replaced(start="encoder"), 3.0).further == (1.0,)


@pytest.mark.parametrize("rows", [1, 10_000])
@pytest.mark.parametrize("teacher", [-2.0, 2.0])
def test_a_student_as_good_as_its_teacher_is_done(
    recipe: PairRecipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, teacher: float, rows: int
) -> None:
    monkeypatch.setattr("distilmatch.training.pairs.trainer._FEWEST_DEV_ROWS", rows)
    monkeypatch.setattr(DevSet, "teacher_quality", lambda _: teacher)
    recipe = recipe.replaced(start="encoder")
    with caplog.at_level("INFO"):
        first = distil_pairs(recipe)
    left_out = teacher < 0 and rows == 1
    assert (Path(recipe.output) / "stage1" / "stage.json").is_file()
    assert (Path(recipe.output) / "stage2" / "stage.json").is_file() != left_out
    assert ("stage 2 is left out" in caplog.text) == left_out
    if not left_out:
        return
    again = distil_pairs(recipe)  # what was left out is left out
    np.testing.assert_array_equal(again.logits(PAIRS), first.logits(PAIRS))
    more = _with_more(recipe, 1.0)  # what is asked for is trained
    distil_pairs(more)
    assert (Path(recipe.output) / "more1" / "stage.json").is_file()
    assert not (Path(recipe.output) / "stage2" / "stage.json").is_file()
    distil_pairs(recipe.replaced(stop_at_teacher=False, output=f"{recipe.output}_whole"))
    assert (Path(f"{recipe.output}_whole") / "stage2" / "stage.json").is_file()


def test_no_epochs_are_refused(recipe: PairRecipe) -> None:
    with pytest.raises(ConfigError, match="further"):
        recipe.replaced(further=(0.0,))
