"""Without a teacher: a student learns from the scores of the table, or from its gold labels alone, and that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.helpers import COLOURS, THINGS, call, write_jsonl

from distilmatch import PairRecipe, TaskConfig, distil_pairs
from distilmatch.config.pairs import TransferConfig
from distilmatch.data.blocks import build_blocks
from distilmatch.errors import ConfigError, DataError
from distilmatch.models import DiPair
from distilmatch.objectives import gold_alone_loss, gold_items, listwise_gold
from distilmatch.training.pairs.distil import check_pair_recipe, label_transfer_set
from distilmatch.types import TupleTable


def _rows(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        thing, (left, right) = rng.choice(THINGS), rng.choice(COLOURS[:2], 2)
        rows.append({"a": f"{left} {thing}", "b": f"{right} {thing}", "good": right == COLOURS[0]})
    return rows


TRAIN, DEV = _rows(160, 0), _rows(60, 1)
CLASSES = ("good", "other")


def _labelled(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The rows with a label of `kind`; those of a ranking are grouped by an id."""
    made = []
    for number, row in enumerate(rows):
        texts = {"a": row["a"], "b": row["b"]}
        if kind == "ranking":
            for i, colour in enumerate(COLOURS[:2]):
                ids = {"q": f"q{number}", "p": f"p{number}-{i}"}
                made.append({"a": row["a"], "b": f"{colour} {row['a'].split()[1]}", "label": int(i == 0)} | ids)
        elif kind == "classification":
            made.append(texts | {"label": CLASSES[0] if row["good"] else CLASSES[1]})
        elif kind == "regression":
            made.append(texts | {"label": 5.0 if row["good"] else 1.0})
        else:
            made.append(texts | {"label": int(row["good"])})
    return made


def _settings(kind: str, encoder: Path, output: Path) -> dict[str, Any]:
    task: dict[str, Any] = {"kind": kind}
    if kind == "classification":
        task["classes"] = list(CLASSES)
    if kind == "regression":
        task["label_range"] = [1, 5]
    ids = {"id_columns": ["q", "p"]} if kind == "ranking" else {}
    stage = {
        "learning_rate": 3e-3,
        "encoder_learning_rate": 2e-3,
        "evaluations": 2,
        "blocks_per_batch": 1,
        "precision": "fp32",
    }
    return {
        "output": str(output),
        "task": task,
        "table": {"text_columns": ["a", "b"], "label_column": "label", **ids},
        "encoder": [str(encoder)],
        "student": {"width": 16, "head_heads": 2, "kept_tokens": [4, 4], "max_lengths": [16, 16]},
        "stage1": stage | {"epochs": 1},
        "stage2": stage | {"epochs": 4},
        "device": "cpu",
    }


@pytest.mark.parametrize("kind", ["binary", "classification", "regression", "ranking"])
def test_gold_labels_alone_teach_a_student(
    kind: str, tmp_path: Path, tiny_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    distil_pairs(
        _settings(kind, tiny_encoder, tmp_path / "run"),
        train=_labelled(TRAIN, kind),
        dev=pd.DataFrame(_labelled(DEV, kind)),
    )
    assert "There is no teacher: the student learns from the gold labels alone" in caplog.text
    assert "no round of them is made" in caplog.text
    stages = [json.loads((tmp_path / "run" / name / "stage.json").read_text()) for name in ("stage1", "stage2")]
    reached = max(stage["best_metric"] for stage in stages)
    chance = {"binary": 0.5, "classification": 0.5, "regression": 0.0, "ranking": 0.82}[kind]
    assert reached > chance + 0.1, reached
    assert "none, gold labels alone" in (tmp_path / "run" / "student" / "README.md").read_text()


def test_the_command_trains_on_gold_labels_and_goes_on(
    tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    settings = _settings("binary", tiny_encoder, tmp_path / "run")
    settings |= {"train": str(write_jsonl(tmp_path / "t.jsonl", _labelled(TRAIN[:40], "binary")))}
    PairRecipe.from_dict(settings).to_yaml(tmp_path / "r.yaml")
    for more in (["--dry-run"], [], []):
        caplog.clear()
        assert call("train", tmp_path / "r.yaml", *more, "--set", "stage2.epochs=1") == 0
        assert caplog.text.count("There is no teacher") == 1
    assert DiPair.from_pretrained(tmp_path / "run" / "student").logits([("red car", "red car")]).shape == (1, 1)
    assert call("label", tmp_path / "r.yaml", "--output", tmp_path / "other") == 1
    assert "no teacher to label with" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["logit", "probability"])
def test_scores_of_the_table_teach_a_student_without_a_teacher(
    scale: str, tmp_path: Path, tiny_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scored = {"logit": (4.0, -4.0), "probability": (0.98, 0.02)}[scale]
    train, dev = ([{"a": r["a"], "b": r["b"], "t": scored[not r["good"]]} for r in rows] for rows in (TRAIN, DEV))
    settings = _settings("binary", tiny_encoder, tmp_path / "run")
    settings["table"] = {"text_columns": ["a", "b"], "teacher_columns": ["t"]}
    student = distil_pairs(settings, train=train, dev=dev)
    assert "The teacher's labels are those of the table (t)" in caplog.text
    assert "no round of them is made" in caplog.text
    logits = student.logits([(r["a"], r["b"]) for r in DEV])[:, 0]
    good = np.array([r["good"] for r in DEV])
    assert logits[good].mean() > logits[~good].mean() + 0.5
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["teacher_scale"] == {"train": scale, "dev": scale}


def test_rows_without_a_label_are_left_out(
    tmp_path: Path, tiny_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = _settings("binary", tiny_encoder, tmp_path / "run")
    rows = _labelled(TRAIN[:20], "binary")
    for row in rows[:5]:
        row["label"] = None
    settings["stage2"] |= {"epochs": 0}
    distil_pairs(settings, train=rows)
    assert "5 of 20 rows have no gold label and are left out" in caplog.text
    with pytest.raises(DataError, match="no row of the train table has a gold label"):
        distil_pairs(settings | {"output": str(tmp_path / "o")}, train=[row | {"label": None} for row in rows])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": {"text_columns": ["a", "b"]}}, "nothing to learn from: name a `teacher`"),
        ({"transfer": {"rounds": 2}}, "`transfer.rounds: 2` makes new pairs, which need a `teacher`"),
        ({"objective": {"kind": "mse"}}, "`objective.kind: mse` compares the student with a teacher"),
        ({"start": "teacher"}, "cannot start from the teacher"),
    ],
)
def test_what_needs_a_teacher_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, tiny_encoder: Path
) -> None:
    settings = _settings("binary", tiny_encoder, tmp_path / "run") | changes
    with pytest.raises(ConfigError, match=message):
        distil_pairs(settings, train=_labelled(TRAIN[:20], "binary"))


def test_a_ranking_of_relevant_rows_alone_is_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    settings = _settings("ranking", tiny_encoder, tmp_path / "run")
    alone = [row | {"q": f"q{i}"} for i, row in enumerate(_labelled(TRAIN[:10], "ranking"))]
    with pytest.raises(DataError, match="give irrelevant candidates"):
        distil_pairs(settings, train=alone)


def test_labelling_without_a_teacher_is_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    settings = _settings("binary", tiny_encoder, tmp_path / "run")
    with pytest.raises(ConfigError, match="no teacher to label with"):
        label_transfer_set(settings, train=_labelled(TRAIN[:10], "binary"))
    given = check_pair_recipe(
        PairRecipe.from_dict(
            settings | {"train": str(write_jsonl(tmp_path / "t.jsonl", _labelled(TRAIN[:10], "binary")))}
        )
    )
    assert given.train is not None and len(given.train) == 10


def test_the_listwise_loss_is_the_slow_one() -> None:
    rng = np.random.default_rng(0)
    student = torch.from_numpy(rng.normal(size=(12, 1))).requires_grad_()
    gold = torch.tensor([2.0, 0, 1, 0, 0, 3, 1, 0, 0, 0, 1, 5])
    queries = torch.tensor([7, 7, 7, 1, 1, 2, 2, 2, 2, 4, 4, 9])  # 1 has nothing relevant, 9 one row
    lists = []
    for query in (7, 2, 4):
        chosen = queries == query
        share = (gold[chosen] / gold[chosen].sum()).double()
        lists.append(-(share * torch.log_softmax(student[chosen, 0], 0)).sum())
    loss = listwise_gold(student, gold, queries)
    assert float(loss.detach()) == pytest.approx(float(torch.stack(lists).mean().detach()), rel=1e-5)
    assert gold_items(TaskConfig(kind="ranking"), gold, queries) == 3
    loss.backward()
    assert student.grad is not None and (student.grad[[3, 4, 11]] == 0).all() and (student.grad[:3] != 0).all()
    nothing = listwise_gold(student, torch.zeros(12), queries)
    assert float(nothing.detach()) == 0 and nothing.requires_grad


@pytest.mark.parametrize("kind", ["binary", "regression", "ranking", "classification"])
def test_batches_of_a_step_add_up_to_one_batch(kind: str) -> None:
    rng = np.random.default_rng(1)
    task = TaskConfig(kind=kind, classes=("a", "b", "c") if kind == "classification" else ())
    student = torch.from_numpy(rng.normal(size=(10, task.num_labels)).astype(np.float32))
    gold = torch.tensor([1.0, 0, 1, 0, 1, 0, 0, 1, 1, 0])
    queries = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
    whole = gold_alone_loss(student, gold, task, queries)
    parts = [slice(0, 5), slice(5, 10)]
    items = [gold_items(task, gold[part], queries[part]) for part in parts]
    summed = sum(
        gold_alone_loss(student[part], gold[part], task, queries[part], count / sum(items))
        for part, count in zip(parts, items, strict=True)
    )
    assert float(summed) == pytest.approx(float(whole), rel=1e-5)


def test_the_lists_of_a_ranking_stay_whole() -> None:
    rng = np.random.default_rng(0)
    queries = rng.permutation(np.repeat(np.arange(12), [1, 2, 3, 5, 8, 13, 20, 4, 4, 4, 300, 2]))
    rows = np.stack([queries, np.arange(len(queries)) + 12], axis=1)
    table = TupleTable(texts=[str(i) for i in range(12 + len(rows))], rows=rows, queries=queries)
    vectors = rng.normal(size=(len(table.texts), 4)).astype(np.float32)
    made = build_blocks(table, vectors, TransferConfig(rounds=0, cells_per_block=16), 0)
    assert made.blocks is not None and made.queries is not None
    assert sorted(made.rows[:, 1].tolist()) == sorted(rows[:, 1].tolist())
    for query in range(12):
        assert len(np.unique(made.blocks[made.queries == query])) == (3 if query == 10 else 1)
    sizes = np.bincount(made.blocks)
    assert sizes.max() == 128 and len(sizes) <= 16
