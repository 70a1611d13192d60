"""Fine-tuning a teacher: it learns, keeps the best weights, and leaves a whole folder or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from tests.helpers import interrupt

from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, DataError
from distilmatch.metrics import task_metrics
from distilmatch.teachers import CrossEncoderTeacher
from distilmatch.training.teacher import dev as dev_module
from distilmatch.training.teacher import fine_tune as fine_tune_module
from distilmatch.training.teacher.dev import DevEvaluator
from distilmatch.training.teacher.fine_tune import fine_tune_teacher
from distilmatch.training.teacher.fit import Choices, training_arguments
from distilmatch.training.teacher.rows import LengthGroupedBatches
from distilmatch.types import TupleTable

_FIRST = ["red", "blue", "green", "black"]
_REST = ["car", "dog", "tree", "book", "a small house", "the man runs"]
_CLASSES = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))


def toy(task: TaskConfig, n: int = 96, seed: int = 0) -> TupleTable:
    """Pairs whose label is which of three words the right text starts with."""
    random = np.random.default_rng(seed)
    lefts = [f"{random.choice(_FIRST)} {random.choice(_REST)}" for _ in range(n)]
    grades = random.integers(0, 3, n)
    rights = [f"{('cold', 'wet', 'hot')[grade]} {random.choice(_REST)}" for grade in grades]
    low, high = task.label_range
    gold = {
        "classification": grades,
        "binary": grades > 0,
        "regression": low + (high - low) * grades / 2,
        "ranking": grades,
    }[task.kind]
    texts = [*lefts, *rights]
    rows = np.stack([np.arange(n), np.arange(n) + n], axis=1)
    queries = np.arange(n) // 8 if task.kind == "ranking" else None
    return TupleTable(texts=texts, rows=rows, gold=gold.astype(np.float32), queries=queries)


def settings(base: Path, **changes: Any) -> FineTuneConfig:
    defaults = {
        "epochs": 10,
        "batch_size": 8,
        "learning_rate": 2e-3,
        "max_length": 32,
        "precision": "fp32",
        "minutes": 0,
    }
    return FineTuneConfig(base_model=str(base), **(defaults | changes))


@pytest.mark.parametrize(
    ("task", "metric", "floor"),
    [
        (_CLASSES, "accuracy", 0.9),
        (TaskConfig(kind="binary"), "auc", 0.8),
        (TaskConfig(kind="regression", label_range=(1, 5)), "spearman", 0.6),
        (TaskConfig(kind="ranking"), "ndcg@10", 0.9),
    ],
    ids=lambda value: value.kind if isinstance(value, TaskConfig) else None,
)
def test_it_learns_each_kind_of_task(
    tiny_encoder: Path, tmp_path: Path, task: TaskConfig, metric: str, floor: float
) -> None:
    output = fine_tune_teacher(toy(task, 192), task, tmp_path / "teacher", settings(tiny_encoder))
    teacher = CrossEncoderTeacher(output, precision="fp32", device="cpu")
    assert teacher.num_labels == task.num_labels
    assert teacher.class_names == (task.classes or None)
    assert teacher.max_length == 32
    test = toy(task, seed=1)
    assert test.gold is not None
    assert task_metrics(task, test.gold, teacher.logits(test.tuples()), test.queries)[metric] > floor
    assert CrossEncoder(str(output)).num_labels == task.num_labels
    assert (output / "README.md").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]  # no checkpoints, no working folder


def test_the_best_weights_on_dev_are_kept(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    dev = toy(_CLASSES, 32, seed=2)
    scores = iter([0.0, 0.0, 0.5, 0.9, 0.1])  # the first two are of random numbers: checks of labels

    def measured(task: TaskConfig, gold: np.ndarray, logits: np.ndarray, queries: Any) -> dict[str, float]:
        seen.append(logits)
        return {"accuracy": next(scores)}

    monkeypatch.setattr(dev_module, "task_metrics", measured)
    output = fine_tune_teacher(toy(_CLASSES), _CLASSES, tmp_path / "teacher", settings(tiny_encoder, epochs=3), dev)
    kept = CrossEncoderTeacher(output, precision="fp32", device="cpu").logits(dev.tuples())
    assert len(seen) == 5
    np.testing.assert_allclose(kept, seen[3], atol=1e-5)
    assert np.abs(kept - seen[4]).max() > 1e-3
    record = json.loads((output / "fine_tuning.json").read_text())
    assert record["dev"] == {"accuracy": 0.9}
    assert [entry["accuracy"] for entry in record["dev_history"]] == [0.5, 0.9, 0.1]


def test_the_same_seed_gives_the_same_teacher(tiny_encoder: Path, tmp_path: Path) -> None:
    outputs = [
        fine_tune_teacher(toy(_CLASSES, 32), _CLASSES, tmp_path / name, settings(tiny_encoder, epochs=1))
        for name in ("one", "two")
    ]
    first, second = (CrossEncoderTeacher(output, precision="fp32", device="cpu") for output in outputs)
    pairs = toy(_CLASSES, 8).tuples()
    np.testing.assert_allclose(first.logits(pairs), second.logits(pairs), atol=1e-5)


def test_only_rows_with_gold_labels_are_used(tiny_encoder: Path, tmp_path: Path) -> None:
    table = toy(_CLASSES, 40)
    assert table.gold is not None
    table.gold[::2] = np.nan
    output = fine_tune_teacher(table, _CLASSES, tmp_path / "teacher", settings(tiny_encoder, epochs=1))
    assert json.loads((output / "fine_tuning.json").read_text())["rows"] == 20


def test_a_length_beyond_the_positions_is_cut(
    tiny_encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(tiny_encoder, epochs=1, max_length=256)
    with caplog.at_level("WARNING"):
        output = fine_tune_teacher(toy(_CLASSES, 16), _CLASSES, tmp_path / "teacher", config)
    assert "max_length 256 is cut" in caplog.text
    assert CrossEncoderTeacher(output).max_length == 64


def test_an_unfinished_teacher_leaves_no_folder(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fine_tune_module, "write_json", interrupt
    )  # the last thing before the folder is moved into place
    with pytest.raises(KeyboardInterrupt):
        fine_tune_teacher(toy(_CLASSES, 16), _CLASSES, tmp_path / "teacher", settings(tiny_encoder, epochs=1))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="exists already"):
        fine_tune_teacher(toy(_CLASSES, 16), _CLASSES, tmp_path, settings(tiny_encoder))
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def _bad(**changes: Any) -> TupleTable:
    parts = {"texts": ["a", "b", "c"], "rows": np.array([[0, 1], [1, 2]]), "gold": np.array([0, 1], dtype=np.float32)}
    return TupleTable(**(parts | changes))


@pytest.mark.parametrize(
    ("task", "table", "message"),
    [
        (_CLASSES, _bad(gold=None), "label_column"),
        (_CLASSES, _bad(gold=np.full(2, np.nan, dtype=np.float32)), "no row with a gold label"),
        (_CLASSES, _bad(gold=np.array([0, 3], dtype=np.float32)), "between 0 and 2"),
        (_CLASSES, _bad(gold=np.array([0, 0.5], dtype=np.float32)), "class indices"),
        (TaskConfig(kind="binary"), _bad(gold=np.array([0, 2], dtype=np.float32)), "between 0 and 1"),
        (TaskConfig(kind="ranking"), _bad(gold=np.zeros(2, dtype=np.float32)), "relevance above 0"),
        (_CLASSES, _bad(rows=np.array([[0, 1, 2], [1, 2, 0]]), side_names=("a", "b", "c")), "3 texts a row"),
    ],
)
def test_labels_that_teach_nothing_are_explained(
    tiny_encoder: Path, tmp_path: Path, task: TaskConfig, table: TupleTable, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fine_tune_teacher(table, task, tmp_path / "teacher", settings(tiny_encoder))
    assert not (tmp_path / "teacher").exists()


def test_a_dev_set_without_a_metric_stops_before_training(tiny_encoder: Path) -> None:
    dev = _bad(gold=np.ones(2, dtype=np.float32))  # no negative row: no AUC
    with pytest.raises(DataError, match="AUC"):
        DevEvaluator(dev, TaskConfig(kind="binary"), settings(tiny_encoder))


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_of_like_length_cover_every_row(drop_last: bool) -> None:
    words = np.random.default_rng(0).integers(1, 60, 500)
    dataset = Dataset.from_dict({"left": ["x" * word for word in words], "right": ["y"] * 500, "label": [0] * 500})
    sampler = LengthGroupedBatches(dataset, batch_size=16, drop_last=drop_last, seed=3)
    first, again = list(sampler), list(sampler)
    assert first == again and len(first) == len(sampler) == (31 if drop_last else 32)
    flat = [row for batch in first for row in batch]
    assert len(set(flat)) == len(flat) == (496 if drop_last else 500)
    assert max(np.ptp(words[batch]) for batch in first) < 12
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert torch.tensor([len(batch) for batch in first]).max() == 16


def test_a_base_models_head_goes_on_at_its_own_classes(tiny_cross_encoder_3: Path, tmp_path: Path) -> None:
    base = CrossEncoder(str(tiny_cross_encoder_3), device="cpu")
    names = ("yes", "no", "Maybe")
    base.config.id2label = dict(enumerate(names))
    base.config.label2id = {name: number for number, name in enumerate(names)}
    base.save_pretrained(str(tmp_path / "base"))
    config = settings(tmp_path / "base", epochs=1, learning_rate=1e-9)
    output = fine_tune_teacher(toy(_CLASSES, 8), _CLASSES, tmp_path / "teacher", config)
    pairs = toy(_CLASSES, 8).tuples()
    before, after = (CrossEncoderTeacher(path, precision="fp32").logits(pairs) for path in (tmp_path / "base", output))
    np.testing.assert_allclose(after, before[:, [1, 2, 0]], atol=1e-4)
    other = TaskConfig(kind="classification", classes=("a", "b", "c"))  # classes of its own: it learns them
    output = fine_tune_teacher(toy(_CLASSES, 8), other, tmp_path / "other", config)
    np.testing.assert_allclose(CrossEncoderTeacher(output, precision="fp32").logits(pairs), before, atol=1e-4)


def test_two_visible_gpus_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainingArguments

    made = TrainingArguments.__post_init__

    def with_two(args: TrainingArguments) -> None:
        made(args)
        args._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_two)
    config = FineTuneConfig(batch_size=8, precision="fp32")
    choices = Choices(
        readout="first",
        learning_rate=1e-4,
        dropout=0.0,
        encoder_layers=None,
        balanced=False,
        max_length=32,
        epochs=1.0,
    )
    args = training_arguments(tmp_path, config, choices, torch.device("cpu"), 0, 100, None, None)
    assert args.n_gpu == 1 and args.train_batch_size == 8
