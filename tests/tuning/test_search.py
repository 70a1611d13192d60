"""The search keeps to its time and targets, finds the frontier, and goes on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.helpers import COLOURED_THINGS, write_jsonl

from distilmatch.config.pairs import PairRecipe, StudentConfig, TeacherConfig
from distilmatch.config.stages import StageConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.training.pairs.distil import stages_from
from distilmatch.tuning import search
from distilmatch.tuning.plots import plot_frontier
from distilmatch.tuning.search import shape, tune

pytest.importorskip("optuna")


def _rows(path: Path, count: int) -> str:
    rows = [
        {"q": f"the {COLOURED_THINGS[i % 6]}", "p": f"a {COLOURED_THINGS[(i * 5) % 6]} is {i % 4}", "label": i % 2}
        for i in range(count)
    ]
    return str(write_jsonl(path, rows))


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path) -> PairRecipe:
    return PairRecipe(
        train=_rows(tmp_path / "train.jsonl", 40),
        dev=_rows(tmp_path / "dev.jsonl", 12),
        output=str(tmp_path / "run"),
        task=TaskConfig(kind="binary"),
        table=TableConfig(text_columns=("q", "p"), label_column="label"),
        teacher=TeacherConfig(models=(str(tiny_cross_encoder),)),
        encoder=(str(tiny_encoder),),
        student=StudentConfig(kept_tokens=(3, 3), max_lengths=(16, 16)),
        stage1=StageConfig(epochs=1, evaluations=1),
        stage2=StageConfig(epochs=7, evaluations=1),
        device="cpu",
    )


def test_a_search_finds_the_frontier_and_a_recipe(recipe: PairRecipe, tmp_path: Path) -> None:
    output = tmp_path / "search"
    found = tune(recipe, output, minutes=0.02, trials=3, max_bytes_per_item=10_000_000)
    assert [trial.quality for trial in found.trials] == sorted((t.quality for t in found.trials), reverse=True)
    for trial in found.trials:
        beaten = any(
            other.quality >= trial.quality
            and other.pairs_per_s >= trial.pairs_per_s
            and other.bytes_per_item <= trial.bytes_per_item
            and (other.quality, other.pairs_per_s, -other.bytes_per_item)
            != (trial.quality, trial.pairs_per_s, -trial.bytes_per_item)
            for other in found.trials
        )
        assert trial.on_frontier != beaten and trial.fits
        kept = max(trial.student["kept_tokens"])
        assert trial.bytes_per_item == 2 * kept * (trial.student["width"] or 32)
    assert found.best == found.trials[0] and found.recipe is not None
    chosen = PairRecipe.from_yaml(found.recipe)
    assert chosen.student.to_dict() == found.best.student
    assert chosen.stage2.epochs == recipe.stage2.epochs
    for own, stage in zip((chosen.stage1, chosen.stage2), stages_from(recipe, found.best.start), strict=True):
        assert own.learning_rate == pytest.approx(found.best.rate * stage.learning_rate)
        assert own.encoder_learning_rate == pytest.approx(found.best.rate * stage.encoder_learning_rate)
    told = json.loads((output / "frontier.json").read_text())
    assert len(told["trials"]) == len(found.trials) and told["best"] == found.best.number
    assert plot_frontier(found, tmp_path / "frontier.png").stat().st_size > 10_000
    again = tune(recipe, output, minutes=0.02, trials=3, min_pairs_per_s=1e12)
    assert len(again.trials) == len(found.trials) and again.best is None and again.recipe is None


def test_a_stopped_search_goes_on(recipe: PairRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "search"
    train, calls = search._train, []

    def stop_at_the_second(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "_train", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, output, minutes=0.02, trials=2)
    found = tune(recipe, output, minutes=0.02, trials=2)
    assert len(calls) == 3 and 1 <= len(found.trials) <= 2
    assert found.trials[-1].number == 0 or found.trials[0].number == 0


def test_every_possible_start_is_tried(recipe: PairRecipe, tmp_path: Path, tiny_encoder: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    twin = tmp_path / "twin"  # a teacher of the encoder's own architecture
    AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1).save_pretrained(twin)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(twin)
    both = recipe.replaced(teacher=TeacherConfig(models=(str(twin),)))
    found = tune(both, tmp_path / "search", minutes=0.02, trials=2)
    assert {trial.start for trial in found.trials} == {"encoder", "teacher"}
    assert found.best is not None and found.recipe is not None
    assert PairRecipe.from_yaml(found.recipe).start == found.best.start


def test_a_trial_keeps_what_is_not_searched(recipe: PairRecipe) -> None:
    parameters = {"kept_0": 8, "kept_1": 32, "head": "feed_forward", "width": 64}
    own = recipe.student.replaced(side_names=("query", "document"), head="transformer", lexical=True)
    student = shape(recipe.replaced(student=own), parameters)
    assert not student.lexical  # which a feed-forward head does not read
    assert shape(recipe.replaced(student=own), parameters | {"head": "transformer 1"}).lexical
    assert student.kept_tokens == (8, 16)  # no more than the input has
    assert student.head == "feed_forward" and student.width == 64 and student.side_names == ("query", "document")


def test_what_a_search_needs(recipe: PairRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dev"):
        tune(recipe.replaced(dev=None), tmp_path, minutes=1)
    with pytest.raises(ConfigError, match="minutes"):
        tune(recipe, tmp_path, minutes=0)


def test_a_recipe_round_trips_through_its_own_yaml(recipe: PairRecipe, tmp_path: Path) -> None:
    recipe.to_yaml(tmp_path / "recipe.yaml")
    assert PairRecipe.from_dict(yaml.safe_load((tmp_path / "recipe.yaml").read_text())) == recipe


@pytest.mark.parametrize(("first", "second", "trained"), [(1, 7, [True, False]), (0, 7, [False]), (1, 0, [True])])
def test_a_trial_trains_the_stages_that_the_recipe_has(
    recipe: PairRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: float,
    second: float,
    trained: list[bool],
) -> None:
    run_stage, frozen = search.run_stage, []

    def watched(*args: object, **settings: object) -> object:
        frozen.append(settings["frozen_encoders"])
        return run_stage(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "run_stage", watched)  # the measuring of steps has its own
    changed = recipe.replaced(stage1=recipe.stage1.replaced(epochs=first), stage2=recipe.stage2.replaced(epochs=second))
    tune(changed, tmp_path / "search", minutes=0.01, trials=1)
    assert frozen == trained
