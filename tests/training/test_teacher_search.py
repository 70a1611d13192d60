"""The search for a teacher's settings: what is tried, how the minutes are spent, and that a stopped search goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from sklearn.metrics import f1_score
from tests.training.test_teacher import toy

from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import CacheError, ConfigError, ModelError
from distilmatch.metrics.decisions import load_decision
from distilmatch.teachers import CrossEncoderTeacher
from distilmatch.training.teacher import search as search_module
from distilmatch.training.teacher.beside import compared
from distilmatch.training.teacher.choices import BaseModel, base_model, count, moves, usual_choices
from distilmatch.training.teacher.dev import DevEvaluator, dev_rows
from distilmatch.training.teacher.fine_tune import fine_tune_teacher
from distilmatch.training.teacher.fit import Choices, fit, loss_of, new_cross_encoder
from distilmatch.training.teacher.rows import LabelledRows, labelled_pairs, needed_length, smallest_share
from distilmatch.training.teacher.search import Search, planned
from distilmatch.types import TupleTable

_BINARY = TaskConfig(kind="binary")
_CLASSES = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
_BASE = BaseModel(width=384, layers=6, positions=512, readouts=("mean", "first"), dropout=True, tokenizer=None)


def config(base: Path, **changes: Any) -> FineTuneConfig:
    settings = {"batch_size": 8, "precision": "fp32", "minutes": 1.0, "epochs": 2, "learning_rate": 2e-3}
    return FineTuneConfig(base_model=str(base), **(settings | changes))


def rows_of(table: TupleTable, task: TaskConfig) -> LabelledRows:
    pairs, targets = labelled_pairs(table, task, "train")
    return LabelledRows(pairs=pairs, targets=targets)


def test_a_search_tries_changes_and_keeps_the_best_on_dev(tiny_encoder: Path, tmp_path: Path) -> None:
    output = fine_tune_teacher(
        toy(_BINARY, 160), _BINARY, tmp_path / "teacher", config(tiny_encoder), toy(_BINARY, 64, seed=1)
    )
    record = json.loads((output / "fine_tuning.json").read_text())
    short = [done for done in record["tries"] if done["kind"] == "short"]
    assert [done["name"] for done in short] == [
        "the usual settings",
        "the base model's dropout",
        "the score from the first token",
    ]
    assert short[0]["choices"]["readout"] == "mean" and short[2]["choices"]["readout"] == "first"
    kept = [done for done in short if done["kept"]]
    assert kept[-1]["score"] == max(done["score"] for done in short)
    chosen = [done for done in record["tries"] if done["chosen"]]
    assert len(chosen) == 1 and chosen[0]["kind"] == "whole" and record["dev"] == chosen[0]["metrics"]
    assert chosen[0]["score"] == max(done["score"] for done in record["tries"] if done["kind"] == "whole")
    assert {"readout", "dropout", "learning_rate", "epochs"} <= set(record["chosen"])
    assert CrossEncoder(str(output)).num_labels == 1
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_a_stopped_search_goes_on(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Choices] = []
    stop_at = 4

    def counted(rows: Any, task: Any, settings: Any, choices: Choices, *args: Any, **more: Any) -> Any:
        calls.append(choices)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return fit(rows, task, settings, choices, *args, **more)

    monkeypatch.setattr(search_module, "fit", counted)
    given = toy(_BINARY, 160), _BINARY, tmp_path / "teacher", config(tiny_encoder), toy(_BINARY, 64, seed=1)
    with pytest.raises(KeyboardInterrupt):
        fine_tune_teacher(*given)
    assert [path.name for path in tmp_path.iterdir()] == [".teacher.search"]
    assert len(calls) == 4  # steps timed, a whole training, a short one, and the one that was stopped
    stop_at = -1
    fine_tune_teacher(*given)
    record = json.loads((tmp_path / "teacher" / "fine_tuning.json").read_text())
    assert len(calls) == 4 + len(record["tries"]) - 2
    assert calls[4].dropout == "model"  # not the usual settings again
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_another_call_does_not_take_a_stopped_ones_trainings(tmp_path: Path) -> None:
    folder = search_module.SearchFolder(tmp_path / "search", "one")
    folder.planned(lambda: planned(1.0, _usual(), 2, FineTuneConfig(), rows=1000, dev_rows=100))
    assert search_module.SearchFolder(tmp_path / "search", "one")._state["plan"] is not None
    assert search_module.SearchFolder(tmp_path / "search", "two")._state["plan"] is None


def _usual(**changes: Any) -> Choices:
    settings: dict[str, Any] = {
        "readout": "mean",
        "learning_rate": 1e-4,
        "dropout": 0.0,
        "encoder_layers": None,
        "balanced": False,
        "max_length": 32,
        "epochs": 5.0,
    }
    return Choices(**(settings | changes))


@given(
    step=st.floats(0.01, 3),
    minutes=st.floats(0.5, 120),
    rows=st.integers(50, 200_000),
    dev=st.integers(50, 20_000),
    options=st.integers(0, 7),
)
def test_a_plan_keeps_to_its_minutes(step: float, minutes: float, rows: int, dev: int, options: int) -> None:
    plan = planned(step, _usual(), options, FineTuneConfig(minutes=minutes), rows=rows, dev_rows=dev)
    fewest = 16 * 32 / rows * (step * -(-rows // 32) + dev * step / 96)  # sixteen steps and their share of dev
    wholes = 2 if plan.tries else 1
    assert plan.tries * plan.try_seconds + wholes * plan.whole_seconds <= max(60 * minutes, fewest) * 1.001
    assert plan.tries != 1 and plan.tries <= 1 + options
    assert 0 < plan.whole_epochs <= 5.01 or rows < 512
    assert 0 <= plan.try_rows <= rows and (plan.try_rows > 0) == (plan.tries > 0)


def test_a_fixed_number_of_epochs_stays(tiny_encoder: Path) -> None:
    plan = planned(1.0, _usual(epochs=7.0), 3, FineTuneConfig(minutes=1, epochs=7), rows=10_000, dev_rows=100)
    assert plan.whole_epochs == 7 and plan.tries == 0


def test_only_what_is_open_is_tried() -> None:
    table = toy(_BINARY, 64)
    assert table.gold is not None
    table.gold[:] = 0
    table.gold[:4] = 1
    rows = rows_of(table, _BINARY)
    open_settings = FineTuneConfig()
    names = [
        move.name
        for move in moves(usual_choices(rows, _BINARY, open_settings, _BASE), rows, _BINARY, open_settings, _BASE)
    ]
    assert names == [
        "twice the learning rate",
        "four times the learning rate",
        "half the learning rate",
        "the base model's dropout",
        "balanced classes",
        "the score from the first token",
        "the first 5 of 6 layers",
    ]
    fixed = FineTuneConfig(learning_rate=1e-5, readout="first", dropout=0.1, class_weights="none", encoder_layers=3)
    usual = usual_choices(rows, _BINARY, fixed, _BASE)
    assert not moves(usual, rows, _BINARY, fixed, _BASE)
    assert (usual.learning_rate, usual.readout, usual.dropout, usual.encoder_layers) == (1e-5, "first", 0.1, 3)


@pytest.mark.parametrize(("width", "rate"), [(384, 1e-4), (768, 3e-5), (1024, 1.8e-5)])
def test_the_usual_rate_falls_with_the_width(width: int, rate: float) -> None:
    base = BaseModel(width=width, layers=6, positions=512, readouts=("first",), dropout=True, tokenizer=None)
    rows = rows_of(toy(_BINARY, 8000), _BINARY)
    usual = usual_choices(rows, _BINARY, FineTuneConfig(), base)
    assert usual.learning_rate == pytest.approx(rate, rel=0.05) and usual.epochs == 5 and usual.max_length == 512


def test_a_trained_cross_encoder_keeps_its_head(tiny_cross_encoder: Path, tiny_encoder: Path) -> None:
    assert base_model(FineTuneConfig(base_model=str(tiny_cross_encoder)), 1).readouts == ("first",)
    found = base_model(FineTuneConfig(base_model=str(tiny_encoder)), 1)
    assert found.readouts == ("mean", "first") and found.layers == 2 and found.positions == 64 and found.dropout


def test_the_length_is_what_the_pairs_need(tiny_encoder: Path) -> None:
    tokenizer = base_model(FineTuneConfig(base_model=str(tiny_encoder)), 1).tokenizer
    pairs = [("red " * count, "car") for count in range(1, 41)]
    lengths = sorted(len(tokenizer(*pair)["input_ids"]) for pair in pairs)
    needed = needed_length(tokenizer, pairs, 64)
    assert needed % 8 == 0 and lengths[-1] <= needed < lengths[-1] + 8
    assert needed_length(tokenizer, pairs, 24) == 24 and needed_length(None, pairs, 24) == 24


@pytest.mark.parametrize("task", [_BINARY, _CLASSES], ids=["binary", "classes"])
def test_balanced_classes_weigh_the_same_together(tiny_encoder: Path, task: TaskConfig) -> None:
    model = new_cross_encoder(task, FineTuneConfig(base_model=str(tiny_encoder), device="cpu"), _usual())
    if task is _CLASSES:
        targets = np.array([0] * 6 + [1] * 3 + [2])
        weights = loss_of(model, task, targets, True).ce_loss.weight
        np.testing.assert_allclose(weights.numpy() * np.bincount(targets), 10 / 3, rtol=1e-6)
        assert loss_of(model, task, targets, False).ce_loss.weight is None
    else:
        targets = np.array([1, 0, 0, 0], dtype=np.float32)
        assert float(loss_of(model, task, targets, True).pos_weight) == pytest.approx(3.0)
        assert loss_of(model, task, targets, False).pos_weight is None


def test_fewer_layers_and_the_mean_are_kept_on_disk(tiny_encoder: Path, tmp_path: Path) -> None:
    table = toy(_CLASSES, 24)
    output = fine_tune_teacher(
        table, _CLASSES, tmp_path / "teacher", config(tiny_encoder, minutes=0, encoder_layers=1, epochs=1)
    )
    assert json.loads((output / "config.json").read_text())["num_hidden_layers"] == 1
    teacher = CrossEncoderTeacher(output, precision="fp32", device="cpu")
    assert teacher.class_names == _CLASSES.classes
    # The slow way: the mean of the outputs under the mask, then the linear layer.
    model = CrossEncoder(str(output), device="cpu")
    features = model.preprocess(table.tuples()[:5])
    with torch.inference_mode():
        names = {"input_ids", "attention_mask", "token_type_ids"} & set(features)
        outputs = model[0].model(**{name: features[name] for name in names})
        mask = features["attention_mask"].unsqueeze(-1)
        mean = (outputs.last_hidden_state * mask).sum(1) / mask.sum(1)
        expected = model[2].linear(mean).numpy()
    np.testing.assert_allclose(teacher.logits(table.tuples()[:5]), expected, atol=1e-5)


def test_too_many_layers_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model has 2"):
        fine_tune_teacher(
            toy(_BINARY), _BINARY, tmp_path / "teacher", config(tiny_encoder, minutes=0, encoder_layers=3)
        )


def test_a_training_without_progress_ends_early(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = rows_of(toy(_BINARY, 32), _BINARY)
    settings = config(tiny_encoder, patience=2)
    evaluator = DevEvaluator(toy(_BINARY, 32, seed=1), _BINARY, settings)
    fitted = fit(rows, _BINARY, settings, _usual(learning_rate=1e-12, epochs=9.0), tmp_path, evaluator=evaluator)
    assert len(evaluator.history) == 3 and fitted.steps == 12


def test_several_seeds_are_an_ensemble_of_folders(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    original = DevEvaluator.__call__

    def stopped(evaluator: DevEvaluator, *args: Any, **more: Any) -> Any:
        made.append("evaluated")
        if len(made) == stop_at:
            raise KeyboardInterrupt
        return original(evaluator, *args, **more)

    monkeypatch.setattr(DevEvaluator, "__call__", stopped)
    given = toy(_BINARY, 64), _BINARY, tmp_path / "teachers", config(tiny_encoder, seeds=2, seed=4, dropout=0, epochs=1)
    stop_at = 0
    fine_tune_teacher(*given, toy(_BINARY, 32, seed=1))
    output = tmp_path / "teachers"
    members = sorted(output.iterdir())
    assert [path.name for path in members] == ["seed-4", "seed-5"]
    first, second = (json.loads((member / "fine_tuning.json").read_text()) for member in members)
    assert len(first["tries"]) > 1 and len(second["tries"]) == 1 and first["chosen"] == second["chosen"]
    logits = [CrossEncoderTeacher(path, precision="fp32").logits([("red car", "hot dog")]) for path in members]
    assert np.abs(logits[0] - logits[1]).max() > 1e-4
    # Stopped in the second: the first is not made again.
    shutil.rmtree(output)
    whole, made[:] = len(made), []
    stop_at = whole  # the one evaluation of the second
    with pytest.raises(KeyboardInterrupt):
        fine_tune_teacher(*given, toy(_BINARY, 32, seed=1))
    assert (tmp_path / ".teachers.seeds" / "seed-4").is_dir()
    stop_at = 0
    made.clear()
    fine_tune_teacher(*given, toy(_BINARY, 32, seed=1))
    assert 0 < len(made) < whole and [path.name for path in tmp_path.iterdir()] == ["teachers"]


def test_two_processes_do_not_make_one_teacher(tiny_encoder: Path, tmp_path: Path) -> None:
    with (
        filelock.FileLock(tmp_path / ".teacher.lock"),
        pytest.raises(CacheError, match="written by another process"),
    ):
        fine_tune_teacher(toy(_BINARY, 32), _BINARY, tmp_path / "teacher", config(tiny_encoder, minutes=0))


@pytest.mark.parametrize("most", [10, 33, 500])
def test_some_rows_of_dev_keep_the_share_of_each_class(most: int) -> None:
    table = toy(_CLASSES, 300)
    assert table.gold is not None
    table.gold[::3] = np.nan
    some = dev_rows(table, _CLASSES, most)
    assert some.gold is not None
    labelled = table.gold[~np.isnan(table.gold)]
    assert len(some) == (most if most < len(labelled) else len(table))
    if most < len(labelled):
        for label in range(3):
            assert abs((some.gold == label).mean() - (labelled == label).mean()) <= 1.0 / most + 1e-9


def test_some_queries_of_dev_are_whole() -> None:
    task = TaskConfig(kind="ranking")
    table = toy(task, 96)
    some = dev_rows(table, task, 20)
    assert some.queries is not None and table.queries is not None
    assert all((some.queries == query).sum() == (table.queries == query).sum() for query in np.unique(some.queries))
    assert 8 <= len(some) <= 20


def test_rare_matches_are_compared_by_average_precision(tiny_encoder: Path) -> None:
    table = toy(_BINARY, 64)
    assert DevEvaluator(table, _BINARY, config(tiny_encoder)).primary_metric == "auc"
    assert table.gold is not None
    table.gold[:] = 0
    table.gold[:4] = 1
    assert DevEvaluator(table, _BINARY, config(tiny_encoder)).primary_metric == "average_precision"
    assert smallest_share(table.gold, _BINARY) == 4 / 64


def test_what_dev_says_of_a_teacher_is_kept_with_it(tiny_encoder: Path, tmp_path: Path) -> None:
    output = fine_tune_teacher(
        toy(_BINARY, 96), _BINARY, tmp_path / "teacher", config(tiny_encoder, minutes=0), toy(_BINARY, 64, seed=1)
    )
    record = json.loads((output / "fine_tuning.json").read_text())
    assert "TF-IDF words" in record["baselines"] and "auc" in record["baselines"]["BM25"]
    dev = toy(_BINARY, 64, seed=1)
    logits = CrossEncoderTeacher(output, precision="fp32", device="cpu").logits(dev.tuples())[:, 0]
    decision = load_decision(output)
    assert dev.gold is not None
    at = f1_score(dev.gold > 0.5, logits >= decision.threshold("best_f1").logit)
    assert at == pytest.approx(max(f1_score(dev.gold > 0.5, logits >= cut) for cut in logits), abs=1e-6)
    # The layer that gives the logits is part of what the thresholds belong to.
    weights = output / "2_Dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01"[:1])
    changed = weights.read_bytes()
    weights.write_bytes(changed[:-2] + bytes([changed[-2] ^ 1]) + changed[-1:])
    with pytest.raises(ModelError, match="other weights"):
        load_decision(output)


@pytest.mark.parametrize(("value", "warned"), [(0.99, False), (0.2, True)])
def test_a_teacher_like_a_simple_baseline_is_said(caplog: pytest.LogCaptureFixture, value: float, warned: bool) -> None:
    table = toy(_BINARY, 64)
    found = compared(table, table, _BINARY, FineTuneConfig(minutes=0), {"auc": value}, "auc", {})
    best = max(metrics["auc"] for metrics in found["baselines"].values())
    assert best > 0.2 and ("warning" in found) == warned == ("no better on dev than" in caplog.text)
    if warned:
        assert f"{best:.4f}" in found["warning"]


@pytest.mark.parametrize(
    ("scores", "tried", "best"),
    [
        ([0.3, 0.5, 0.4], ["twice the learning rate", "four times the learning rate"], "twice the learning rate"),
        ([0.3, 0.5, 0.6], ["twice the learning rate", "four times the learning rate"], "four times the learning rate"),
        ([0.3, 0.2, 0.4], ["twice the learning rate", "half the learning rate"], "half the learning rate"),
        ([0.3, 0.2, 0.1], ["twice the learning rate", "half the learning rate"], "the usual settings"),
    ],
)
def test_the_learning_rate_goes_where_it_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: list[float], tried: list[str], best: str
) -> None:
    settings = FineTuneConfig(readout="mean", dropout=0, class_weights="none", encoder_layers=6)
    rows = rows_of(toy(_BINARY, 640), _BINARY)
    usual = usual_choices(rows, _BINARY, settings, _BASE)
    seen: list[tuple[str, float]] = []

    def short(search: Search, name: str, rows: Any, choices: Choices, best: float) -> Any:
        seen.append((name, choices.learning_rate))
        made = dict.fromkeys(("choices", "metric", "metrics"))
        return search_module.Try(
            name=name, kind="short", steps=1, seconds=1.0, score=scores[len(seen) - 1], kept=True, chosen=False, **made
        )

    monkeypatch.setattr(Search, "_short", short)
    search = Search(
        rows=rows,
        task=_BINARY,
        config=settings,
        evaluator=lambda rows: pytest.fail("nothing is scored here"),
        dev_rows=100,
        folder=search_module.SearchFolder(tmp_path / "search", "key"),
        work=tmp_path,
    )
    options = moves(usual, rows, _BINARY, settings, _BASE)
    assert count(options) == 2
    plan = planned(0.1, usual, count(options), settings, rows=20_000, dev_rows=100)
    found = search._short_tries(usual, options, plan)
    assert [name for name, _ in seen] == ["the usual settings", *tried]
    rates = {"twice": 2e-4, "four": 4e-4, "half": 5e-5, "the": 1e-4}
    assert all(rate == pytest.approx(rates[name.split()[0]]) for name, rate in seen)
    assert found[0] == best and found[1].learning_rate == pytest.approx(rates[best.split()[0]])
