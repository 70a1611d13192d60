"""Dry runs: they say what is resolved and read, promise minutes and bytes, fail as the run does, and write nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.helpers import COLOURED_THINGS, call, write_jsonl

from distilmatch.cli.options import load_recipe
from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.saved import read_saved_table
from distilmatch.data.tables import load_table
from distilmatch.estimates import disk_bytes, spread_batches
from distilmatch.evaluation.sts.tasks import load_sts_tasks
from distilmatch.models import DiPair
from distilmatch.planning.evaluation import _lexical_seconds, plan_evaluation, plan_sts
from distilmatch.planning.labels import plan_labels
from distilmatch.planning.mining import MiningPlan, plan_mining
from distilmatch.runtime import busy_cores
from distilmatch.store.folder import RepresentationFolder
from distilmatch.teachers import CrossEncoderTeacher, SoftLabelCache
from distilmatch.teachers.label_cache import known_labels
from distilmatch.training.pairs.distil import new_student, plan_transfer_set
from distilmatch.training.pairs.run import RunFolder
from distilmatch.types import TupleTable

BINARY = TaskConfig(kind="binary")


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def _table(path: Path, count: int) -> Path:
    rows = [
        {"q": f"the {COLOURED_THINGS[i % 6]}", "p": f"a {COLOURED_THINGS[(i * 5) % 6]} is {i % 4}", "label": i % 2}
        for i in range(count)
    ]
    return write_jsonl(path, rows)


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path) -> Path:
    """A recipe of two tables; the train table has a pair with both labels."""
    rows = [{"q": "the red car", "p": "a small dog", "label": label} for label in (0, 1)]
    train = _table(tmp_path / "train.jsonl", 38)
    train.write_text(train.read_text() + write_jsonl(tmp_path / "more.jsonl", rows).read_text())
    settings = {
        "train": str(train),
        "dev": str(_table(tmp_path / "dev.jsonl", 12)),
        "output": str(tmp_path / "run"),
        "task": {"kind": "binary"},
        "table": {"text_columns": ["q", "p"], "label_column": "label"},
        "teacher": {"models": [str(tiny_cross_encoder)]},
        "encoder": [str(tiny_encoder)],
        "transfer": {"rounds": 1, "cells_per_block": 16},
        "student": {"width": 16, "head_heads": 2, "kept_tokens": [3, 3], "max_lengths": [16, 16]},
        "stage1": {"epochs": 1, "evaluations": 1},
        "stage2": {"epochs": 1, "evaluations": 1},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def student(tmp_path: Path, tiny_encoder: Path) -> Path:
    """A student with random weights."""
    config = StudentConfig(kept_tokens=(3, 3), max_lengths=(16, 16))
    DiPair.from_encoder(tiny_encoder, config, TaskConfig(kind="binary")).save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def _everything(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of each file and folder; what is only read is unchanged."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


class _Dry:
    """A dry run that is over: what it said."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.minutes = float(self.fact(r"minutes +([\d.]+)"))
        self.bytes = int(self.fact(r"bytes +([\d,]+)").replace(",", ""))

    def fact(self, pattern: str) -> str:
        said = re.search(f"^{pattern}$", self.out, re.MULTILINE)
        assert said is not None, f"no line {pattern} in:\n{self.out}"
        return said.group(1)


def _dry(folder: Path, capsys: pytest.CaptureFixture[str], *command: object) -> _Dry:
    capsys.readouterr()
    before = _everything(folder)
    assert call(*command, "--dry-run") == 0, capsys.readouterr().err
    assert _everything(folder) == before
    out = capsys.readouterr().out
    assert re.search(r"Nothing was .* or written \(--dry-run\)\.\n$", out)
    return _Dry(out)


def test_train_says_what_it_reads_and_what_it_takes(
    recipe: Path, tiny_cross_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = _dry(recipe.parent, capsys, "train", recipe)
    assert str(tiny_cross_encoder) in dry.out and "device" in dry.out and re.search("stage1 (fp32|bf16)", dry.out)
    assert "  q: the red car\n  p: a red car is 0\n  label: 0\n" in dry.out
    assert dry.fact("labels +(.*)") == "20 of 40 positive (50.0%)"
    assert "1 pairs with unequal labels, in 2 rows" in dry.out
    asked = int(dry.fact("labels to ask +(.*)"))
    assert asked > 0 and dry.fact("labels in the cache +(.*)") == "0"
    assert "stage1" in dry.out and "stage2" in dry.out and dry.minutes > 0
    assert call("train", recipe) == 0
    assert dry.bytes == pytest.approx(disk_bytes(recipe.parent / "run"), rel=0.3)
    again = _dry(recipe.parent, capsys, "train", recipe)
    assert again.fact("labels to ask +(.*)") == "0"


def test_label_counts_what_is_cached(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = _dry(recipe.parent, capsys, "label", recipe)
    asked = int(dry.fact("labels to ask +(.*)"))
    assert call("label", recipe) == 0
    assert dry.bytes == pytest.approx(disk_bytes(recipe.parent / "run"), rel=0.3)
    # Another cells_per_block needs another transfer set, of which some pairs are labelled.
    more = _dry(recipe.parent, capsys, "label", recipe, "--set", "transfer.cells_per_block=24")
    cached = int(more.fact("labels in the cache +(.*)"))
    assert 0 < cached <= asked


def test_tune_and_ladder_name_their_parts(
    recipe: Path, tiny_sentence_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recipe.parent
    dry = _dry(folder, capsys, "tune", recipe, "--minutes", "7", "--trials", "3", "--output", folder / "tuned")
    assert dry.minutes > 7 and "labels to ask" in dry.out
    (folder / "texts.txt").write_text("the red car\na small dog\nan old book\na green house\n")
    settings = yaml.safe_load(recipe.read_text())
    pair = {name: value for name, value in settings.items() if name not in ("output", "encoder")}
    ladder = {
        "embedding": {
            "corpus": {"sources": [str(folder / "texts.txt")]},
            "teacher": {"models": [str(tiny_sentence_encoder)]},
            "student": {"layers": 2, "max_length": 16},
            "stage1": {"epochs": 1, "batch_size": 2},
        },
        "pair": pair,
        "output": str(folder / "ladder"),
    }
    (folder / "ladder.yaml").write_text(yaml.safe_dump(ladder))
    dry = _dry(folder, capsys, "ladder", folder / "ladder.yaml")
    assert "embeddings to ask" in dry.out and "labels to ask" in dry.out and dry.bytes > 0
    dry = _dry(folder, capsys, "embed-train", _embedding_recipe(folder, ladder))
    assert dry.fact("embeddings to ask +(.*)") == "4"
    assert "  text: the red car" in dry.out
    assert call("embed-train", folder / "embedding.yaml") == 0
    assert dry.bytes == pytest.approx(disk_bytes(folder / "embedding"), rel=0.3)


def _embedding_recipe(folder: Path, ladder: dict[str, object]) -> Path:
    settings = {**ladder["embedding"], "output": str(folder / "embedding"), "device": "cpu"}  # type: ignore[dict-item]
    (folder / "embedding.yaml").write_text(yaml.safe_dump(settings))
    return folder / "embedding.yaml"


def test_finetune_teacher(recipe: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recipe.parent
    asked = ["finetune-teacher", folder / "train.jsonl", "--dev", folder / "dev.jsonl", "--task", "classification"]
    asked += ["--classes", "0,1", "--label-column", "label", "--text-columns", "q,p", "--base-model", tiny_encoder]
    asked += ["--epochs", "1", "--max-length", "32", "--quick", "--output", folder / "teacher"]
    dry = _dry(folder, capsys, *asked)
    assert dry.fact("labels +(.*)") == "0: 20, 1: 20" and "dev " in dry.out
    assert call(*asked) == 0
    assert dry.bytes == pytest.approx(disk_bytes(folder / "teacher"), rel=0.3)


def test_encode_score_match_and_evaluate(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table(tmp_path / "table.jsonl", 60)
    left, right = tmp_path / "left", tmp_path / "right"
    for side, column, folder in (("left", "q", left), ("right", "p", right)):
        asked = ["encode", student, table, "--side", side, "--text-column", column, "--output", folder]
        dry = _dry(tmp_path, capsys, *asked)
        assert f"  {column}: " in dry.out
        texts = int(dry.fact("texts to encode +(.*)"))
        assert call(*asked) == 0
        assert texts == len(RepresentationFolder.open(folder))
        assert dry.bytes == pytest.approx(disk_bytes(folder), rel=0.3)
        assert _dry(tmp_path, capsys, *asked).fact("texts to encode +(.*)") == "0"
    sides = ["--left", left, "--right", right, "--kernel", "torch"]
    scores, best = tmp_path / "scores.csv", tmp_path / "best.parquet"
    asked = ["score", student, table, *sides, "--text-columns", "q,p", "--output", scores]
    dry = _dry(tmp_path, capsys, *asked)
    assert dry.fact("rows to score +(.*)") == "60" and "kernel" in dry.out
    assert call(*asked) == 0
    assert dry.bytes == pytest.approx(disk_bytes(scores), rel=0.3)
    asked = ["match", student, *sides, "--top-k", "2", "--reverse-output", tmp_path / "reverse.csv", "--output", best]
    dry = _dry(tmp_path, capsys, *asked)
    assert dry.fact("pairs +(.*)") == "72"
    assert call(*asked) == 0
    assert dry.bytes == pytest.approx(disk_bytes(best) + disk_bytes(tmp_path / "reverse.csv"), rel=0.3)
    few = ["match", student, *sides, "--top-k", "1", "--candidates", "3", "--index", "flat", "--output"]
    assert _dry(tmp_path, capsys, *few, tmp_path / "few.parquet").bytes > 0  # index and recall are rehearsed too
    asked = ["evaluate", student, table, "--text-columns", "q,p", "--label-column", "label", "--output"]
    dry = _dry(tmp_path, capsys, *asked, tmp_path / "report")
    assert dry.fact("labels +(.*)") == "30 of 60 positive (50.0%)"


def test_evaluate_sts(
    tmp_path: Path, tiny_sentence_encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "stsb").mkdir(parents=True)
    rows = [{"sentence1": f"the red car {i}", "sentence2": f"a dog {i * i}", "score": i / 2} for i in range(8)]
    write_jsonl(tmp_path / "data" / "stsb" / "test.jsonl", rows)
    asked = ["evaluate-sts", tiny_sentence_encoder, "--data", tmp_path / "data", "--output", tmp_path / "sts"]
    dry = _dry(tmp_path, capsys, *asked, "--device", "cpu")
    assert dry.fact("stsb +(.*)") == "8" and "  left: the red car 0" in dry.out
    monkeypatch.setattr("distilmatch.planning.evaluation._lexical_seconds", lambda table: 60.0 * len(table))
    with_baselines = _dry(tmp_path, capsys, *asked, "--device", "cpu", "--simple-baselines")
    assert "simple baselines" not in dry.out and with_baselines.minutes > 8
    assert re.search("simple baselines +480.0 s", with_baselines.out)


def _same_refusal(capsys: pytest.CaptureFixture[str], folder: Path, *command: object) -> str:
    """What a command refuses with, which its dry run must do in the same words, with nothing written."""
    capsys.readouterr()
    before = _everything(folder)
    assert call(*command, "--dry-run") == 1
    assert _everything(folder) == before
    dry = capsys.readouterr().err
    assert call(*command) == 1
    real = capsys.readouterr().err
    errors = [told[told.index("Error: ") :] for told in (dry, real)]
    assert errors[0] == errors[1]
    return errors[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("teacher.models=[no/such/teacher]", "no model folder"),
        ("encoder=[./none]", "no model folder"),
        ("table.text_columns=[q,x]", "bad row(s)"),
        ("output=train.jsonl/run", "is no folder"),
        ("device=gpu9", "not known"),
    ],
)
@pytest.mark.parametrize("command", ["train", "label"])
def test_recipes_are_refused_as_by_the_run(
    recipe: Path, command: str, change: str, message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(recipe.parent)
    assert message in _same_refusal(capsys, recipe.parent, command, recipe, "--set", change)


def test_jobs_are_refused_as_by_the_run(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, left, right = _table(tmp_path / "table.jsonl", 20), tmp_path / "left", tmp_path / "right"
    encode = ["encode", student, table, "--side", "left", "--output"]
    assert "bad row(s)" in _same_refusal(capsys, tmp_path, *encode, left, "--text-column", "x")
    assert "no model folder" in _same_refusal(
        capsys, tmp_path, "encode", "./none", table, "--side", "left", "--output", left
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    assert "holds other files" in _same_refusal(capsys, tmp_path, *encode, tmp_path / "other", "--text-column", "q")
    assert call(*encode, left, "--text-column", "q") == 0
    assert call("encode", student, table, "--side", "right", "--text-column", "p", "--output", right) == 0
    assert "other settings" in _same_refusal(capsys, tmp_path, *encode, left, "--text-column", "p")
    sides = ["--left", left, "--right", right, "--output"]
    score = ["score", student, table, "--text-columns"]
    assert "are in no folder" in _same_refusal(capsys, tmp_path, *score, "p,q", *sides, tmp_path / "scores.parquet")
    (tmp_path / "held.parquet").write_text("mine")
    assert "holds something else" in _same_refusal(capsys, tmp_path, *score, "q,p", *sides, tmp_path / "held.parquet")
    match = ["match", student, "--top-k", "1", *sides]
    assert "holds something else" in _same_refusal(capsys, tmp_path, *match, tmp_path / "held.parquet")


def test_quarantined_rows_are_counted_and_not_written(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = _table(tmp_path / "table.jsonl", 20)
    table.write_text(table.read_text() + '{"q": "", "p": "x"}\n{broken\n')
    asked = ["encode", student, table, "--side", "left", "--text-column", "q", "--output", tmp_path / "left"]
    assert "2 bad row(s)" in _same_refusal(capsys, tmp_path, *asked)
    dry = _dry(tmp_path, capsys, *asked, "--on-bad-rows", "quarantine")
    assert dry.fact("texts to encode +(.*)") == "6"
    assert call(*asked, "--on-bad-rows", "quarantine") == 0
    assert (tmp_path / "table.bad_rows.jsonl").is_file()


def test_known_labels_reads_a_cache_without_touching_it(tmp_path: Path, tiny_cross_encoder: Path) -> None:
    teacher = CrossEncoderTeacher(tiny_cross_encoder, device="cpu")
    pairs = [(f"the red car {i}", "a dog") for i in range(6)]
    assert known_labels(tmp_path / "none", teacher, pairs) == 0 and not (tmp_path / "none").exists()
    SoftLabelCache(tmp_path / "labels").label(teacher, pairs[:4], show_progress_bar=False)
    before = _everything(tmp_path)
    assert known_labels(tmp_path / "labels", teacher, [*pairs, pairs[0]]) == 4
    assert _everything(tmp_path) == before


@pytest.mark.parametrize(("count", "batch_size", "batches"), [(1000, 10, 7), (25, 10, 7), (3, 10, 1)])
def test_spread_batches_have_like_lengths_and_stand_for_all(count: int, batch_size: int, batches: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 500, count)
    chosen = spread_batches(lengths, batch_size, batches)
    assert len(chosen) == min(batches, -(-count // batch_size))
    places = np.concatenate(chosen)
    assert len(set(places.tolist())) == len(places)
    ordered = [batch for batch in np.array_split(-np.sort(-lengths), np.arange(batch_size, count, batch_size))]
    assert all(any(np.array_equal(lengths[batch], whole) for whole in ordered) for batch in chosen)
    assert abs(lengths[places].mean() - lengths.mean()) <= 0.1 * lengths.mean()


def test_busy_cores_counts_other_processes_only() -> None:
    assert 0 <= busy_cores(0.05) < 1024


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from distilmatch.planning import embeddings, evaluation, labels, training

    for module in (embeddings, evaluation, labels, training):
        monkeypatch.setattr(module, "_SECONDS", 0.1)
    yield


def test_a_dry_run_counts_the_simple_baselines(recipe: Path, tiny_encoder: Path) -> None:
    table = load_table(
        str(recipe.parent / "dev.jsonl"), TableConfig(text_columns=("q", "p"), label_column="label"), BINARY
    )
    student = DiPair.from_encoder(
        tiny_encoder, StudentConfig(width=16, head_heads=2, max_lengths=(16, 16)), BINARY
    ).eval()
    planned: dict[str, Any] = {"device": "cpu", "precision": "fp32", "speed": False, "start": 0.0}
    plain = plan_evaluation(student, table, None, **planned).seconds
    seconds = plan_evaluation(
        student,
        table,
        None,
        simple_baselines=True,
        baselines_train=table,
        baselines_encoder=str(tiny_encoder),
        **planned,
    ).seconds
    assert set(seconds) - set(plain) == {"simple baselines"} and seconds["simple baselines"] > 0


def test_a_dry_run_of_sts_counts_the_simple_baselines(
    tmp_path: Path, tiny_sentence_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stsb").mkdir()
    rows = [{"sentence1": f"the red car {i}", "sentence2": f"a dog {i * i}", "score": i / 2} for i in range(8)]
    write_jsonl(tmp_path / "stsb" / "test.jsonl", rows)
    (task,) = load_sts_tasks(tmp_path)
    planned: dict[str, Any] = {"device": "cpu", "precision": "fp32", "speed": False, "start": 0.0}
    models, texts = [str(tiny_sentence_encoder)], task.table.texts
    plain = plan_sts(models, texts, **planned).seconds
    seconds = plan_sts(models, texts, baseline_tables=[task.table], **planned).seconds
    assert set(seconds) - set(plain) == {"simple baselines"} and seconds["simple baselines"] > 0
    # Of a long task some rows are scored, in both units, and all of them are counted.
    scored: list[tuple[int, str]] = []

    class OneSecond:
        def __init__(self, table: TupleTable, unit: str) -> None:
            scored.append((len(table), unit))

        def scores(self, table: TupleTable) -> None:
            clock.append(clock[-1] + 1.0)

    clock = [0.0]
    monkeypatch.setattr("distilmatch.planning.evaluation.LexicalScores", OneSecond)
    monkeypatch.setattr("distilmatch.planning.evaluation.time.perf_counter", lambda: clock[-1])
    long = replace(task.table, rows=np.tile(task.table.rows, (500, 1)), gold=None, ids=None)
    assert _lexical_seconds(long) == pytest.approx(2.0 * 4000 / 1000)
    assert scored == [(1000, "words"), (1000, "characters")]


def test_a_dry_run_counts_what_is_mined(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    settings = load_recipe(str(recipe), ["transfer.mined=2"], {})
    run = RunFolder(settings)
    table = plan_transfer_set(settings)
    mined = plan_mining(settings, run, table, new_student(settings, table), plan_labels(settings, run, table))
    assert mined.seconds > 0 and mined.disk_bytes > 0
    assert call("train", recipe, "--set", "transfer.mined=2") == 0
    made = read_saved_table(run.mined)
    assert made.blocks is not None
    assert 0 < len(np.unique(made.blocks)) <= mined.blocks and len(made) <= mined.labels
    assert (
        plan_mining(settings, run, table, new_student(settings, table), plan_labels(settings, run, table))
        == MiningPlan()
    )
