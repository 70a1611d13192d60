"""The two-stage recipe on tiny models: it learns, resumes exactly, runs in two processes, and refuses bad settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import COLOURS, THINGS, Stopped, read_jsonl, write_jsonl
from transformers import AutoModel

from distilmatch.config.pairs import ObjectiveConfig, PairRecipe, StudentConfig, TeacherConfig, TransferConfig
from distilmatch.config.stages import StageConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.errors import ConfigError, DataError
from distilmatch.models import DiPair
from distilmatch.teachers import CrossEncoderTeacher
from distilmatch.training.averaging import WeightAverage
from distilmatch.training.curves import training_curves
from distilmatch.training.pairs.batches import BlockDataset, CachedCollator, TextCollator
from distilmatch.training.pairs.distil import distil_pairs, label_transfer_set, new_student, plan_transfer_set
from distilmatch.training.pairs.frozen import cache_kept_outputs
from distilmatch.training.pairs.run import RunFolder
from distilmatch.training.pairs.stage import highest_grade, run_stage
from distilmatch.training.pairs.starts import better_start, possible_starts, stages_from
from distilmatch.training.pairs.throughput import epochs_for, seconds_per_step
from distilmatch.training.pairs.trainer import DevSet
from distilmatch.training.processes import Processes
from distilmatch.types import TupleTable

_COLOURS = COLOURS[:3]


def _write_table(path: Path, rows: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        thing = rng.choice(THINGS)
        left, right = rng.choice(_COLOURS), rng.choice(_COLOURS)
        made.append({"a": f"the {left} {thing}", "b": f"a {right} {thing} is small", "label": int(left == right)})
    return write_jsonl(path, made)


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path) -> PairRecipe:
    return PairRecipe(
        train=str(_write_table(tmp_path / "train.jsonl", 60, 0)),
        dev=str(_write_table(tmp_path / "dev.jsonl", 30, 1)),
        output=str(tmp_path / "run"),
        task=TaskConfig(kind="binary"),
        table=TableConfig(label_column="label"),
        teacher=TeacherConfig(models=(str(tiny_cross_encoder),), precision="fp32"),
        encoder=(str(tiny_encoder),),
        transfer=TransferConfig(rounds=2, block_size=4, cells_per_block=24),
        student=StudentConfig(width=16, head_heads=2, head_layers=1, kept_tokens=(4, 6), max_lengths=(16, 16)),
        stage1=StageConfig(epochs=2, learning_rate=5e-3, evaluations=2, precision="fp32"),
        stage2=StageConfig(epochs=2, learning_rate=2e-3, evaluations=2, precision="fp32"),
        device="cpu",
    )


def test_a_run_learns_and_leaves_its_records(recipe: PairRecipe) -> None:
    untrained = new_student(recipe)
    student = distil_pairs(recipe)
    table = label_transfer_set(recipe)
    assert table.teacher is not None and len(table) > 120
    pairs = table.tuples()

    def error(model: DiPair) -> float:
        return float(np.mean((model.logits(pairs) - table.teacher) ** 2))

    assert error(student) < 0.5 * error(untrained)
    output = Path(recipe.output)
    for name in ("recipe.yaml", "environment.json", "student/recipe.yaml", "student/environment.json"):
        assert (output / name).is_file(), name
    assert PairRecipe.from_yaml(output / "recipe.yaml") == recipe
    facts = json.loads((output / "student" / "environment.json").read_text())
    assert facts["data"]["train"] and facts["versions"]["torch"]
    for stage in ("stage1", "stage2"):
        summary = json.loads((output / stage / "stage.json").read_text())
        assert summary["steps"] > 0 and summary["metric"] == "average_precision" and summary["best_metric"] is not None
        assert list((output / stage / "tensorboard").iterdir())
        assert not (output / stage / "checkpoints").exists()
    curves = training_curves(output / "student")
    assert [curve.name for curve in curves] == ["stage1", "stage2"]
    assert all(len(curve.dev) == 2 and curve.loss and curve.metric == "average_precision" for curve in curves)
    (output / "student" / "training.json").unlink()  # as of an older version: the stages' own summaries are there
    assert training_curves(output / "student") == curves
    again = distil_pairs(recipe)  # everything is done: nothing is trained again
    assert training_curves(student.name_or_path) == curves
    np.testing.assert_array_equal(again.logits(pairs), student.logits(pairs))


def test_stage_1_leaves_the_encoder_alone_and_stage_2_does_not(recipe: PairRecipe) -> None:
    recipe = recipe.replaced(start="encoder")
    start = new_student(recipe).encoders[0].state_dict()
    distil_pairs(recipe)
    folders = [Path(recipe.output) / stage / "student" for stage in ("stage1", "stage2")]
    first, last = (DiPair.from_pretrained(folder).encoders[0].state_dict() for folder in folders)
    assert all(torch.equal(start[name], first[name]) for name in start)
    assert any(not torch.equal(start[name], last[name]) for name in start)


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_has_as_many_stages_as_its_recipe_names(recipe: PairRecipe, count: int) -> None:
    settle = {"name": "settle", "frozen_encoders": True, "epochs": 1, "evaluations": 1, "precision": "fp32"}
    learn = {"epochs": 1, "evaluations": 1, "precision": "fp32", "learning_rate": 2e-3}
    named = [settle, {**learn, "name": "learn"}, {**learn, "name": "polish", "averaging": 0.5}][-count:]
    usual = {"stage1": StageConfig(epochs=1.0, evaluations=2), "stage2": StageConfig(epochs=5.0)}
    own = recipe.replaced(start="encoder", stages=named, **usual)
    student = distil_pairs(own)
    root = Path(own.output)
    card = (root / "student" / "README.md").read_text()
    for stage in named:
        assert json.loads((root / str(stage["name"]) / "stage.json").read_text())["steps"] > 0
        assert str(stage["name"]) in card
    assert not (root / "stage1").exists() and not (root / "stage2").exists()
    pairs = [("red car", "a red car"), ("blue dog", "a green house")]
    np.testing.assert_array_equal(distil_pairs(own).logits(pairs), student.logits(pairs))  # all are done


def test_a_student_starts_from_a_teacher_of_its_architecture(
    recipe: PairRecipe, tiny_cross_encoder: Path, tiny_encoder: Path
) -> None:
    own = recipe.replaced(student=recipe.student.replaced(width=32, head_intermediate=64))
    teacher = AutoModel.from_pretrained(tiny_cross_encoder, dtype=torch.float32)
    encoder = AutoModel.from_pretrained(tiny_encoder, dtype=torch.float32)
    assert possible_starts(own) == ("encoder", "teacher")
    assert possible_starts(own.replaced(dev=None)) == ("encoder",)
    for start, source, layers in (("teacher", teacher, 1), ("encoder", encoder, 2)):
        student = new_student(own.replaced(start=start))
        assert student.student.encoder_layers in (None, layers)
        assert len(student.encoders[0].encoder.layer) == layers  # type: ignore[union-attr,arg-type]
        for got, layer in (
            (student.encoders[0].encoder.layer[0].attention.self.query, source.encoder.layer[0]),  # type: ignore
            (student.head.layers[0].query, source.encoder.layer[1]),  # type: ignore[union-attr,index]
        ):
            torch.testing.assert_close(got.weight, layer.attention.self.query.weight)
    cosine = own.replaced(student=own.student.replaced(head="cosine"))
    assert possible_starts(cosine) == ("encoder",)
    with pytest.raises(ConfigError, match="start: encoder"):
        possible_starts(cosine.replaced(start="teacher"))


@pytest.mark.parametrize(
    ("encoder", "from_teacher", "teacher", "expected"),
    [
        (0.86, 0.76, 0.86, "encoder"),  # makes up for nearly all that the other lacks
        (0.68, 0.61, 0.88, "teacher"),  # ahead, but both far from the teacher
        (0.60, 0.70, 0.90, "teacher"),
        (0.92, 0.91, 0.90, "encoder"),  # both above the teacher: the better
        (0.70, 0.69, None, "encoder"),  # the teacher's quality is not known
        (0.70, 0.70, 0.70, "teacher"),
    ],
)
def test_the_encoder_must_be_clearly_ahead(
    encoder: float, from_teacher: float, teacher: float | None, expected: str
) -> None:
    assert better_start({"encoder": encoder, "teacher": from_teacher}, teacher) == expected


def test_a_student_from_the_encoder_learns_gently(recipe: PairRecipe) -> None:
    own = recipe.replaced(stage1=StageConfig(epochs=1), stage2=StageConfig(epochs=1, learning_rate=1e-3))

    def rates(start: str, **changes: object) -> list[float | None]:
        stages = stages_from(own.replaced(**changes), start)
        return [rate for stage in stages for rate in (stage.learning_rate, stage.encoder_learning_rate)]

    assert rates("teacher") == [5e-4, 2e-4, 1e-3, 2e-4]
    assert rates("encoder") == [5e-4, 2e-4, 1e-3, 1e-4]  # what the recipe names stays
    assert rates("encoder", stage1=StageConfig(epochs=0)) == [5e-4, 2e-4, 1e-3, 2e-4]  # nothing has settled yet


def test_a_dev_set_knows_the_quality_of_its_teacher() -> None:
    gold = np.array([0.0, 1.0, 1.0, 0.0])
    perfect = TupleTable(
        texts=["a", "b"], rows=np.array([[0, 1]] * 4), gold=gold, teacher=gold[:, None].astype(np.float32)
    )

    def quality(**changes: object) -> float | None:
        return DevSet(table=replace(perfect, **changes), task=TaskConfig(kind="binary")).teacher_quality()

    assert quality() == 1.0 and quality(teacher=1 - perfect.teacher) == 0.0
    assert quality(gold=None) == 1.0 and quality(teacher=None) is None
    assert quality(gold=np.array([0.0, 1.0, np.nan, np.nan]), teacher=np.float32([[0], [1], [0], [1]])) == 1.0


def test_the_chosen_start_goes_on(recipe: PairRecipe) -> None:
    own = recipe.replaced(student=recipe.student.replaced(width=32, head_intermediate=64))
    student = distil_pairs(own)
    root = Path(own.output)
    chosen = json.loads((root / "start.json").read_text())
    assert set(chosen["dev"]) == {"encoder", "teacher"}
    assert set(chosen["dev"]) == {"encoder", "teacher"}
    stage1 = json.loads((root / "stage1" / "stage.json").read_text())
    assert stage1["best_metric"] == chosen["dev"][chosen["start"]] and not (root / "starts").exists()
    layers = {"teacher": 1, "encoder": 2}[chosen["start"]]
    assert len(student.encoders[0].encoder.layer) == layers  # type: ignore[union-attr,arg-type]
    assert f"the {chosen['start']}" in (root / "student" / "README.md").read_text()


def test_students_of_several_seeds_share_a_transfer_set(recipe: PairRecipe) -> None:
    shared = recipe.replaced(transfer=recipe.transfer.replaced(seed=5))
    tables = [plan_transfer_set(shared.replaced(seed=seed)).tuples() for seed in (0, 1)]
    assert tables[0] == tables[1]
    assert plan_transfer_set(recipe.replaced(seed=1)).tuples() != plan_transfer_set(recipe).tuples()
    assert RunFolder(shared.replaced(seed=1)).transfer_fingerprint() == RunFolder(shared).transfer_fingerprint()


def test_averaged_weights_against_a_loop(recipe: PairRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = label_transfer_set(recipe)
    model = new_student(recipe)
    name = "classifier.weight"
    seen = [model.state_dict()[name].clone()]
    step_end = WeightAverage.on_step_end

    def watched(self: WeightAverage, *arguments: object, **settings: object) -> None:
        seen.append(self.model.state_dict()[name].clone())
        step_end(self, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(WeightAverage, "on_step_end", watched)
    stage = recipe.stage2.replaced(averaging=0.7)
    summary = run_stage(
        model, table, tmp_path / "stage", stage, recipe.objective, frozen_encoders=False, dev_set=None,
        processes=Processes(cpu=True), device="cpu",
    )  # fmt: skip
    expected = seen[0]
    for step, weight in enumerate(seen[1:], start=1):
        keep = min(0.7, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * weight
    assert summary["averaged"] and len(seen) == summary["steps"] + 1
    torch.testing.assert_close(model.state_dict()[name], expected)
    torch.testing.assert_close(DiPair.from_pretrained(tmp_path / "stage" / "student").state_dict()[name], expected)


def test_an_average_is_kept_where_it_is_better_and_resumes(
    recipe: PairRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    averaged = recipe.replaced(stage2=recipe.stage2.replaced(averaging=0.9))
    whole = distil_pairs(averaged)
    summary = json.loads((tmp_path / "run" / "stage2" / "stage.json").read_text())
    assert summary["averaged"] in (True, False)
    save, calls = WeightAverage.on_save, []

    def stop(self: WeightAverage, *arguments: object, **settings: object) -> None:
        save(self, *arguments, **settings)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(WeightAverage, "on_save", stop)
    again = averaged.replaced(output=str(tmp_path / "again"))
    with pytest.raises(KeyboardInterrupt):
        distil_pairs(again)
    resumed = distil_pairs(again)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor)


def test_a_step_is_measured_and_the_model_left_alone(recipe: PairRecipe) -> None:
    table = label_transfer_set(recipe)
    model = new_student(recipe)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seconds = seconds_per_step(
        model, table, recipe.stage2, recipe.objective, frozen_encoders=False, processes=Processes(cpu=True), steps=5
    )
    assert 0 < seconds < 60
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    blocks = len(np.unique(table.blocks))
    stage = recipe.stage2.replaced(blocks_per_batch=2)
    assert epochs_for(1.0, 0.5, table, stage) == pytest.approx(120 * 2 / blocks)


def test_the_better_stage_on_dev_is_kept(recipe: PairRecipe, caplog: pytest.LogCaptureFixture) -> None:
    broken = recipe.stage2.replaced(learning_rate=5.0, encoder_learning_rate=5.0, warmup_ratio=0.0)
    student = distil_pairs(recipe.replaced(stage2=broken))
    root = Path(recipe.output)
    metrics = [json.loads((root / f"stage{k}" / "stage.json").read_text())["best_metric"] for k in (1, 2)]
    kept = DiPair.from_pretrained(root / ("stage1" if metrics[0] > metrics[1] else "stage2") / "student")
    assert metrics[0] > metrics[1] and "the student of stage 1 is kept" in caplog.text
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(tensor, kept.state_dict()[name])


def test_a_stopped_run_resumes_to_the_same_student(recipe: PairRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = distil_pairs(recipe)
    expected = whole.state_dict()
    shutil.rmtree(recipe.output)
    from distilmatch.training.pairs import trainer as module

    original = module.BlockTrainer.compute_loss
    seen = {"steps": 0}

    def breaks(self: object, *args: object, **kwargs: object) -> object:
        seen["steps"] += 1
        if seen["steps"] in (9, 30, 45):
            raise Stopped
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module.BlockTrainer, "compute_loss", breaks)
    stops = 0
    for _ in range(5):
        try:
            resumed = distil_pairs(recipe)
            break
        except Stopped:
            stops += 1
    assert stops >= 2
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("lexical", [False, True])
def test_the_cached_stage_sees_what_the_encoder_gives(recipe: PairRecipe, tmp_path: Path, lexical: bool) -> None:
    table = label_transfer_set(recipe)
    recipe = recipe.replaced(student=recipe.student.replaced(lexical=lexical))
    model = new_student(recipe).eval()
    model.count_terms(table.texts)
    outputs = cache_kept_outputs(model, table, tmp_path / "kept", "fp32")
    blocks = [BlockDataset(table)[i] for i in (0, 3)]
    cached, text = CachedCollator(table, outputs)(blocks), TextCollator(table, model)(blocks)
    with torch.no_grad():
        from_cache = model(rows=cached["rows"], kept=cached["kept"]).logits
        from_text = model(rows=text["rows"], streams=text["streams"]).logits
    torch.testing.assert_close(from_cache, from_text, atol=5e-3, rtol=5e-3)  # the cache is fp16
    torch.testing.assert_close(cached["teacher"], text["teacher"])
    pairs = [table.tuples()[i] for i in np.concatenate(blocks)]
    np.testing.assert_allclose(from_text.numpy(), model.logits(pairs), atol=1e-5)


def test_a_batch_encodes_each_text_once(recipe: PairRecipe) -> None:
    table = label_transfer_set(recipe)
    batch = TextCollator(table, new_student(recipe))([BlockDataset(table)[i] for i in range(4)])
    encoded = sum(len(chunk["input_ids"]) for stream in batch["streams"] for chunk in stream)
    pairs = len(batch["rows"])
    rows = np.concatenate([BlockDataset(table)[i] for i in range(4)])
    streams = len(batch["streams"])
    assert encoded == (len(np.unique(table.rows[rows])) if streams == 1 else encoded)
    assert pairs > encoded


def test_given_labels_need_no_teacher_and_no_dev_set(recipe: PairRecipe, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = read_jsonl(recipe.train)
    labelled = write_jsonl(tmp_path / "labelled.jsonl", [row | {"logit": float(rng.normal())} for row in rows])
    settings = recipe.to_dict() | {
        "train": str(labelled),
        "dev": None,
        "teacher": None,
        "table": {"label_column": "label", "teacher_columns": ["logit"]},
        "transfer": {"rounds": 0, "cells_per_block": 8},
    }
    student = distil_pairs(PairRecipe.from_dict(settings))
    assert student.logits([("the red car", "a red car is small")]).shape == (1, 1)


def test_given_labels_are_kept_and_the_teacher_is_asked_for_the_others(
    recipe: PairRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_jsonl(recipe.train)
    known = {(row["a"], row["b"]): 20.0 + number for number, row in enumerate(rows)}
    given = [row | {"logit": known[row["a"], row["b"]]} for row in rows]
    labelled = write_jsonl(tmp_path / "labelled.jsonl", given)
    asked: list[tuple[str, str]] = []
    logits = CrossEncoderTeacher.logits

    def watched(self: CrossEncoderTeacher, pairs: list[tuple[str, str]], *more: object, **other: object) -> np.ndarray:
        asked.extend(pairs)
        return logits(self, pairs, *more, **other)  # type: ignore[arg-type]

    monkeypatch.setattr(CrossEncoderTeacher, "logits", watched)
    columns = TableConfig(label_column="label", teacher_columns=("logit",))
    table = label_transfer_set(recipe.replaced(train=str(labelled), table=columns, dev=None))
    assert table.teacher is not None and len(table) > len(rows)
    found = dict(zip(map(tuple, table.tuples()), table.teacher[:, 0].tolist(), strict=True))
    assert {pair: found[pair] for pair in known} == known and not set(asked) & set(known)
    assert set(asked) == {pair for pair in found if pair not in known} and max(map(abs, found.values())) < 100


def test_a_ranking_stage_knows_the_highest_grade_of_its_table(recipe: PairRecipe) -> None:
    table = TupleTable(texts=["a", "b"], rows=np.array([[0, 1]] * 3), gold=np.float32([1, np.nan, 4]))
    assert highest_grade(table) == 4.0
    assert highest_grade(replace(table, gold=np.float32([0, np.nan, 0]))) == 1.0
    assert highest_grade(replace(table, gold=None)) == highest_grade(replace(table, gold=np.float32([np.nan] * 3))) == 1


def test_a_dev_set_with_some_teacher_labels_is_measured_on_those(recipe: PairRecipe) -> None:
    table = replace(label_transfer_set(recipe), gold=None)
    assert table.teacher is not None
    teacher = table.teacher.copy()
    teacher[1::2] = np.nan
    model = new_student(recipe)
    part = DevSet(table=replace(table, teacher=teacher), task=recipe.task)
    expected = DevSet(table=table.take(np.arange(0, len(table), 2)), task=recipe.task).measure(model, "fp32")
    assert part.measure(model, "fp32") == pytest.approx(expected, abs=1e-5) and part.teacher_quality() is None


def test_three_sides_and_classes(recipe: PairRecipe, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        a, b, c = rng.choice(_COLOURS, 3)
        logits = [3.0 * (a == b), 3.0 * (b == c)]
        rows.append({"x": f"the {a} car", "y": f"a {b} car", "z": f"{c} car", "soft": logits})
    path = write_jsonl(tmp_path / "triples.jsonl", rows)
    settings = recipe.to_dict() | {
        "train": str(path),
        "dev": None,
        "teacher": None,
        "task": {"kind": "classification", "classes": ["first", "second"]},
        "table": {"sides": 3, "teacher_columns": ["soft"]},
        "transfer": {"rounds": 0, "cells_per_block": 8},
        "student": {
            "side_names": ["x", "y", "z"],
            "kept_tokens": [3, 3, 3],
            "max_lengths": [8, 8, 8],
            "width": 16,
            "head_heads": 2,
        },
    }
    student = distil_pairs(PairRecipe.from_dict(settings))
    assert student.predict([("the red car", "a red car", "blue car")]).shape == (1, 2)


@pytest.mark.parametrize(("kind", "pool"), [("margin_mse", "separate"), ("listwise", "auto"), ("mse", "merged")])
def test_ranking(recipe: PairRecipe, tmp_path: Path, kind: str, pool: str) -> None:
    rng = np.random.default_rng(0)
    paths = {}
    for name, queries in (("train", 12), ("dev", 4)):
        rows = []
        for query in range(queries):
            wanted = rng.choice(_COLOURS)
            for document in range(5):
                colour = rng.choice(_COLOURS)
                row = {"q": f"the {wanted} car {query}", "d": f"{colour} car {document}", "qid": query, "did": document}
                rows.append(row | {"grade": 3 if colour == wanted or document == 0 else 0})
        paths[name] = write_jsonl(tmp_path / f"{name}-ranking.jsonl", rows)
    settings = recipe.to_dict() | {
        "train": str(paths["train"]),
        "dev": str(paths["dev"]),
        "task": {"kind": "ranking"},
        "table": {"text_columns": ["q", "d"], "label_column": "grade", "id_columns": ["qid", "did"]},
        "objective": {"kind": kind, "gold_weight": 0.2},
        "stage1": {"epochs": 1, "evaluations": 3, "patience": 1},
        "transfer": {"rounds": 1, "block_size": 4, "hard_negatives": 1, "cells_per_block": 24, "pool": pool},
    }
    student = distil_pairs(PairRecipe.from_dict(settings))
    summary = json.loads((Path(recipe.output) / "stage2" / "stage.json").read_text())
    assert summary["metric"] == "ndcg@10" and 0 < summary["best_metric"] <= 1
    assert len(student.rank("the red car", ["red car 1", "blue car 1"])) == 2


def test_triplets(recipe: PairRecipe, tmp_path: Path) -> None:
    rows = [{"a": f"the {c} car", "p": f"{c} car {i}", "n": f"house {i}"} for i in range(10) for c in _COLOURS]
    path = write_jsonl(tmp_path / "triplets.jsonl", rows)
    settings = recipe.to_dict() | {
        "train": str(path),
        "dev": None,
        "task": {"kind": "ranking"},
        "table": {"layout": "triplets"},
    }
    table = label_transfer_set(PairRecipe.from_dict(settings))
    assert table.queries is not None and table.gold is not None and set(table.gold[~np.isnan(table.gold)]) == {0.0, 1.0}
    assert distil_pairs(PairRecipe.from_dict(settings)).predict([("the red car", "red car 1")]).shape == (1,)


def test_a_folder_of_another_recipe_is_refused(recipe: PairRecipe) -> None:
    distil_pairs(recipe)
    other = recipe.replaced(stage2=StageConfig(epochs=3))
    with pytest.raises(ConfigError, match="different: stage2"):
        distil_pairs(other)


def test_settings_that_do_not_go_together_are_refused(recipe: PairRecipe, tiny_cross_encoder_3: Path) -> None:
    with pytest.raises(ConfigError, match="gives 3 l"):
        distil_pairs(recipe.replaced(teacher=TeacherConfig(models=(str(tiny_cross_encoder_3),))))
    with pytest.raises(ConfigError, match="kl needs two or more labels"):
        distil_pairs(recipe.replaced(output=recipe.output + "2", objective=ObjectiveConfig(kind="kl")))
    assert not Path(recipe.output + "2").exists()
    bad = Path(recipe.train).with_name("bad-dev.jsonl")
    bad.write_text('{"a": "", "b": "x", "label": 1}\n')
    with pytest.raises(DataError, match="bad-dev.jsonl, row 1"):
        distil_pairs(recipe.replaced(dev=str(bad), output=recipe.output + "4"))
    assert not Path(recipe.output + "4").exists()
    with pytest.raises(ConfigError, match="0 epochs"):
        distil_pairs(
            recipe.replaced(output=recipe.output + "3", stage1=StageConfig(epochs=0), stage2=StageConfig(epochs=0))
        )


def test_a_table_without_labels_or_blocks_is_refused() -> None:
    table = TupleTable(texts=["a", "b"], rows=np.array([[0, 1]]))
    with pytest.raises(DataError, match="label_transfer_set"):
        BlockDataset(table)
    with pytest.raises(DataError, match="1 of 1 rows"):
        BlockDataset(
            TupleTable(
                texts=["a", "b"],
                rows=np.array([[0, 1]]),
                teacher=np.array([[np.nan]], dtype=np.float32),
                blocks=np.array([0]),
            )
        )


@pytest.mark.distributed
def test_two_processes_train_one_student(recipe: PairRecipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    recipe.to_yaml(path)
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "from distilmatch.config import PairRecipe\n"
        "from distilmatch.training.pairs.distil import distil_pairs\n"
        "distil_pairs(PairRecipe.from_yaml(sys.argv[1]))\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(script),
        str(path),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-12000:]
    summary = json.loads((Path(recipe.output) / "stage2" / "stage.json").read_text())
    blocks = len(BlockDataset(label_transfer_set(recipe)))
    assert summary["steps"] == -(-blocks // (2 * recipe.stage2.blocks_per_batch)) * 2
    assert DiPair.from_pretrained(Path(recipe.output) / "student").logits([("the red car", "a house")]).shape == (1, 1)
