"""The command line: help, exit codes, errors without a traceback, dry runs, and the whole round on tiny models."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from tests.helpers import COLOURED_THINGS, call, interrupt, next_command, read_jsonl, write_jsonl

from distilmatch.cli import main
from distilmatch.config.pairs import StudentConfig
from distilmatch.evaluation.pairs.report import PairReport
from distilmatch.models import DiPair
from distilmatch.store.folder import RepresentationFolder

COMMANDS = {
    "demo": {"--output", "--seed", "--quick", "--full", "--encoder"},
    "init": {"--output", "--dev", "--teacher", "--label-column", "--text-columns", "--dry-run"},
    "finetune-teacher": {"--output", "--task", "--classes", "--label-column", "--label-range", "--dev", "--base-model"},
    "label": {"--output", "--seed", "--set", "--on-bad-rows", "--device", "--dry-run"},
    "train": {"--output", "--seed", "--set", "--on-bad-rows", "--device", "--dry-run"},
    "tune": {
        "--output",
        "--minutes",
        "--trials",
        "--min-pairs-per-s",
        "--max-bytes-per-item",
        "--set",
        "--device",
        "--dry-run",
    },
    "embed-train": {"--output", "--seed", "--set", "--on-bad-rows", "--device", "--dry-run"},
    "ladder": {"--output", "--seed", "--set", "--device", "--dry-run"},
    "encode": {"--output", "--side", "--text-column", "--id-column", "--dtype", "--on-bad-rows", "--dry-run"},
    "score": {
        "--output",
        "--left",
        "--right",
        "--folder",
        "--by",
        "--threshold",
        "--calibrated",
        "--text-columns",
        "--id-columns",
        "--kernel",
        "--dry-run",
    },
    "match": {
        "--left",
        "--right",
        "--output",
        "--top-k",
        "--threshold",
        "--calibrated",
        "--reverse-output",
        "--candidates",
        "--candidate-encoder",
        "--left-table",
        "--right-table",
        "--text-columns",
        "--index",
        "--rank-by",
        "--label",
        "--values",
        "--kernel",
        "--threads",
        "--distinct-texts",
        "--texts",
        "--dry-run",
    },
    "verify": set(),
    "plan": {
        "--left",
        "--right",
        "--candidates",
        "--top-k",
        "--encoded",
        "--sample",
        "--words",
        "--dtype",
        "--machines",
        "--no-smaller",
        "--json",
        "--kernel",
        "--threads",
    },
    "evaluate": {
        "--output",
        "--teacher",
        "--label-column",
        "--text-columns",
        "--simple-baselines",
        "--train-table",
        "--base-encoder",
        "--dev",
        "--write-decision",
        "--no-speed",
        "--dry-run",
    },
    "evaluate-sts": {
        "--data",
        "--mteb",
        "--output",
        "--tasks",
        "--retrieval",
        "--simple-baselines",
        "--split",
        "--no-speed",
        "--precision",
        "--device",
        "--dry-run",
    },
    "info": set(),
}


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def _rows(path: Path, count: int) -> Path:
    rows = [
        {
            "q": f"the {COLOURED_THINGS[i % 6]}",
            "p": f"a {COLOURED_THINGS[(i * 5) % 6]} is {i % 4}",
            "label": i % 2,
            "qid": f"q{i % 6}",
        }
        for i in range(count)
    ]
    return write_jsonl(path, rows)


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path) -> Path:
    settings = {
        "train": str(_rows(tmp_path / "train.jsonl", 40)),
        "dev": str(_rows(tmp_path / "dev.jsonl", 12)),
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


def test_the_commands_and_their_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    listed = capsys.readouterr().out
    for command, flags in COMMANDS.items():
        assert f" {command} " in listed
        assert call(command, "--help") == 0
        told = capsys.readouterr().out
        for flag in flags:
            assert flag in told, f"{command} has no {flag}"


def test_the_whole_round(recipe: Path, tiny_cross_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recipe.parent
    assert call("label", recipe) == 0
    assert "labelled set" in capsys.readouterr().out
    assert call("train", recipe) == 0
    student = folder / "run" / "student"
    assert str(student) in capsys.readouterr().out
    test = folder / "dev.jsonl"
    for side, column in (("left", "q"), ("right", "p")):
        assert call("encode", student, test, "--side", side, "--text-column", column, "--output", folder / side) == 0
    scores = folder / "scores.parquet"
    columns = ["--text-columns", "q,p"]
    kernel = ["--kernel", "torch"]
    assert (
        call(
            "score",
            student,
            test,
            "--left",
            folder / "left",
            "--right",
            folder / "right",
            *columns,
            *kernel,
            "--output",
            scores,
        )
        == 0
    )
    table = pq.read_table(scores).to_pydict()
    rows = read_jsonl(test)
    expected = DiPair.from_pretrained(student).logits([(row["q"], row["p"]) for row in rows])[:, 0]
    assert table["q"] == [row["q"] for row in rows]
    assert table["logit_0"] == pytest.approx(expected.tolist(), abs=1e-4)
    _match_and_plan(folder, student, capsys)
    report = folder / "report"
    asked = ["--teacher", tiny_cross_encoder, "--label-column", "label", "--no-speed", "--output", report]
    assert call("evaluate", student, test, *columns, *asked) == 0
    assert "student" in capsys.readouterr().out
    assert {path.name for path in report.iterdir()} == {"report.html", "report.json", "report.md", "report.png"}
    assert PairReport.load(report).rows == len(rows)
    train = folder / "train.jsonl"
    assert call("evaluate", student, test, *columns, *asked, "--train-table", train) == 1
    assert "are for --simple-baselines" in capsys.readouterr().err
    asked += ["--simple-baselines", "--train-table", train, "--base-encoder", tiny_cross_encoder]
    assert call("evaluate", student, test, *columns, *asked, "--dry-run") == 0
    assert call("evaluate", student, test, *columns, *asked) == 0
    assert "encoder MaxSim" in capsys.readouterr().out
    assert sum(system.simple for system in PairReport.load(report).systems) == 7
    _decide(folder, student, capsys)


def _decide(folder: Path, student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained with labelled dev rows, the student has a decision, which can be made anew."""
    decision, dev, table = student / "decision.json", folder / "dev.jsonl", folder / "train.jsonl"
    first = decision.read_text()
    sides = ["--left", folder / "left", "--right", folder / "right"]
    asked = ["--threshold", "recall=0.9", "--calibrated", "--kernel", "torch"]
    assert call("score", student, dev, *sides, "--text-columns", "q,p", *asked, "--output", folder / "said.csv") == 0
    assert "match" in (folder / "said.csv").read_text().splitlines()[0].split(",")
    assert call("match", student, *sides, *asked, "--output", folder / "kept.parquet") == 0
    evaluate = ["evaluate", student, dev, "--text-columns", "q,p", "--label-column", "label", "--no-speed"]
    evaluate += ["--output", folder / "decided"]
    assert call(*evaluate, "--write-decision") == 1
    assert "--write-decision needs --dev" in capsys.readouterr().err
    assert call(*evaluate, "--dev", table, "--dry-run") == 0
    assert not (folder / "decided").exists() and decision.read_text() == first
    assert call(*evaluate, "--dev", table) == 0
    assert "best_f1" in capsys.readouterr().out and decision.read_text() == first
    assert call(*evaluate, "--dev", table, "--write-decision") == 0
    assert str(decision) in capsys.readouterr().out.replace("\n", "") and decision.read_text() != first
    assert call("verify", student) == 0
    assert PairReport.load(folder / "decided").decisions[0].name == "student"
    decision.unlink()
    capsys.readouterr()
    assert call("match", student, *sides, *asked, "--output", folder / "more.parquet") == 1
    assert "has no decision.json" in capsys.readouterr().err


def _match_and_plan(folder: Path, student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = ["--left", folder / "left", "--right", folder / "right"]
    matches, reverse = folder / "matches.parquet", folder / "reverse.parquet"
    wanted = ["match", student, *sides, "--output", matches, "--top-k", "2", "--reverse-output", reverse]
    before = sorted(folder.rglob("*"))
    assert call(*wanted, "--dry-run") == 0
    assert sorted(folder.rglob("*")) == before
    capsys.readouterr()
    assert call(*wanted) == 0
    assert "rows" in capsys.readouterr().out
    for path in (matches, reverse):
        found = pq.read_table(path).to_pydict()
        assert set(found["rank"]) == {1, 2}
        assert len(found["score"]) == 2 * len(set(found[next(iter(found))]))
    few = folder / "few.parquet"
    assert call("match", student, *sides, "--output", few, "--top-k", "1", "--candidates", "3", "--index", "flat") == 0
    assert "of the exact top 1" in capsys.readouterr().out
    planned = folder / "plan.json"
    sizes = ["--left", "1e3", "--right", "2_000", "--machines", "2", "--words", "5", "--json", planned]
    assert call("plan", student, *sizes) == 0
    told = capsys.readouterr().out
    assert "2,000,000" in told and "bottleneck" in told and "a feed-forward head" in told
    plan = json.loads(planned.read_text())
    assert plan["total_seconds"] == pytest.approx(sum(plan["seconds"].values()))
    assert call("plan", student, "--left", "many", "--right", "3") == 1
    assert "--left must be a number" in capsys.readouterr().err
    assert call("plan", student, *sides, "--candidates", "2", "--no-smaller", "--json", planned) == 0
    plan = json.loads(planned.read_text())
    assert plan["seconds"]["encode"] == 0 and plan["pairs"] == 2 * len(RepresentationFolder.open(folder / "left"))
    assert call("plan", student, "--left", folder / "left", "--right", "3") == 1
    assert "the folders of both sides, or the numbers of both" in capsys.readouterr().err


def test_a_setting_from_the_command_line(recipe: Path) -> None:
    output = recipe.parent / "other"
    assert (
        call("train", recipe, "--output", output, "--set", "stage2.epochs=0", "--set", "student.width=8", "--seed", "3")
        == 0
    )
    saved = yaml.safe_load((output / "recipe.yaml").read_text())
    assert (saved["stage2"]["epochs"], saved["student"]["width"], saved["seed"]) == (0.0, 8, 3)
    assert not (output / "stage2").exists()


@pytest.mark.parametrize("command", ["label", "train"])
def test_a_dry_run_writes_nothing(recipe: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(recipe.parent.rglob("*"))
    assert call(command, recipe, "--dry-run") == 0
    assert sorted(recipe.parent.rglob("*")) == before
    assert "blocks" in capsys.readouterr().out


def test_dry_runs_of_the_others(recipe: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recipe.parent
    assert call("train", recipe) == 0
    student = folder / "run" / "student"
    assert (
        call("encode", student, folder / "dev.jsonl", "--side", "0", "--text-column", "q", "--output", folder / "left")
        == 0
    )
    assert (
        call("encode", student, folder / "dev.jsonl", "--side", "1", "--text-column", "p", "--output", folder / "right")
        == 0
    )
    before = sorted(folder.rglob("*"))
    out = folder / "new"
    table = folder / "dev.jsonl"
    assert call("encode", student, table, "--side", "left", "--text-column", "q", "--output", out, "--dry-run") == 0
    pair = ["--text-columns", "q,p", "--output", out, "--dry-run"]
    assert call("score", student, table, "--left", folder / "left", "--right", folder / "right", *pair) == 0
    assert call("evaluate", student, table, "--label-column", "label", *pair) == 0
    tuning = ["--task", "binary", "--label-column", "label", "--base-model", tiny_encoder]
    assert call("finetune-teacher", table, *tuning, *pair) == 0
    assert sorted(folder.rglob("*")) == before
    assert capsys.readouterr().out.count("--dry-run") == 4


def test_embed_train_and_evaluate_sts(
    tmp_path: Path, tiny_sentence_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("the red car\na small dog\n\nthe red car\nan old book\n")
    (tmp_path / "data" / "stsb").mkdir(parents=True)
    rows = [{"sentence1": f"the red car {i}", "sentence2": f"a dog {i * i}", "score": i / 2} for i in range(8)]
    write_jsonl(tmp_path / "data" / "stsb" / "test.jsonl", rows)
    settings = {
        "corpus": {"sources": [str(tmp_path / "texts.txt")]},
        "teacher": {"models": [str(tiny_sentence_encoder)]},
        "student": {"layers": 2, "max_length": 16},
        "stage1": {"epochs": 2, "batch_size": 2},
        "output": str(tmp_path / "run"),
        "device": "cpu",
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    before = sorted(tmp_path.rglob("*"))
    assert call("embed-train", recipe, "--dry-run", "--set", "stage1.epochs=4") == 0
    told = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "repeated texts      1" in told and "stage1 steps        6" in told
    assert call("embed-train", recipe) == 0
    student = tmp_path / "run" / "student"
    assert str(student) in capsys.readouterr().out
    asked = ["--data", tmp_path / "data", "--output", tmp_path / "sts", "--device", "cpu", "--no-speed"]
    assert call("evaluate-sts", tiny_sentence_encoder, student, *asked, "--dry-run") == 0
    assert not (tmp_path / "sts").exists()
    assert call("evaluate-sts", tiny_sentence_encoder, student, *asked) == 0
    assert "STS-B" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "sts" / "sts.json").read_text())["results"]) == 2
    assert call("evaluate-sts", student, *asked, "--simple-baselines") == 0
    assert "TF-IDF letters" in capsys.readouterr().out
    assert call("evaluate-sts", student, *asked, "--tasks", "sts11") == 1
    assert call("evaluate-sts", student, *asked, "--mteb") == 1
    assert call("evaluate-sts", student, "--output", tmp_path / "sts") == 1
    assert "either --data FOLDER or --mteb" in capsys.readouterr().err
    assert call("embed-train", recipe, "--set", "student.layers=9", "--output", tmp_path / "other") == 1
    assert "the model has 4" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["encode", "plan"])
def test_the_stored_dtypes_are_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command, "--help") == 0
    assert "fp32|fp16|bf16|int8" in capsys.readouterr().out


def test_encode_int8(tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = DiPair.from_encoder(tiny_encoder, StudentConfig(kept_tokens=(3, 3), max_lengths=(16, 16)))
    student.save_pretrained(tmp_path / "student")
    table = _rows(tmp_path / "table.jsonl", 12)
    capsys.readouterr()
    asked = ["encode", tmp_path / "student", table, "--side", "0", "--text-column", "q", "--output", tmp_path / "left"]
    assert call(*asked, "--dtype", "int8", "--dry-run") == 0
    told = capsys.readouterr().out.split()
    assert call(*asked, "--dtype", "int8") == 0
    folder = RepresentationFolder.open(tmp_path / "left")
    assert folder.manifest.dtype == "int8" and len(folder) == 6
    assert {"6", str(folder.manifest.bytes_per_item())} <= set(told)
    texts = [row["q"] for row in read_jsonl(table)[:6]]
    expected, got = student.encode(texts, 0).tokens, folder.read(folder.row_of_text(texts)).tokens
    assert 0 < (got - expected).abs().max() <= expected.abs().max() / 254 + 1e-5
    assert call(*asked) == 1
    assert "dtype: 'int8', 'float32'" in capsys.readouterr().err
    assert call(*asked, "--dtype", "int4") == 1
    assert "fp32, fp16, bf16, int8" in capsys.readouterr().err


def test_finetune_teacher(recipe: Path, tiny_encoder: Path) -> None:
    output = recipe.parent / "teacher"
    arguments = ["--task", "classification", "--classes", "0,1", "--label-column", "label", "--text-columns", "q,p"]
    tuned = call("finetune-teacher", recipe.parent / "train.jsonl", *arguments, "--base-model", tiny_encoder, "--epochs", "1",
                 "--max-length", "32", "--output", output)  # fmt: skip
    assert tuned == 0
    assert (output / "model.safetensors").is_file()
    page = (output / "teacher.html").read_text()
    assert "Training loss" in page and "no dev table" in page
    assert (
        call("finetune-teacher", recipe.parent / "train.jsonl", *arguments, "--dropout", "lots", "--output", "x") == 1
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("studnt.width=8", "studnt: no such setting"),
        ("student.width=-1", "student.width"),
        ("student.width", "must be KEY=VALUE"),
        ("train=missing.jsonl", "missing.jsonl"),
        ("task={kind: classification}", "classification needs `classes`"),
    ],
)
def test_wrong_settings(recipe: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", recipe, "--set", change) == 1
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told and told.count("\n") <= 3


def test_bad_rows_stop_before_work_or_are_set_aside(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = recipe.parent / "train.jsonl"
    train.write_text(train.read_text() + '{"q": "", "p": "x", "label": 1}\n{"q": "a", "p": "b", "label": 7}\n{broken\n')
    assert call("train", recipe) == 1
    told = capsys.readouterr().err
    assert "3 bad row(s)" in told and "train.jsonl, row 41" in told and "quarantine" in told
    assert not (recipe.parent / "run" / "stage1").exists()
    assert call("train", recipe, "--on-bad-rows", "quarantine") == 0
    aside = read_jsonl(recipe.parent / "train.bad_rows.jsonl")
    assert [row["row"] for row in aside] == [41, 42, 43]


def test_debug_shows_the_traceback(recipe: Path) -> None:
    from distilmatch.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["train", str(recipe), "--set", "studnt=1", "--debug"])


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("no-such-command") == 2
    assert call("encode") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_interrupt_is_130(recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from distilmatch.training.pairs import distil

    monkeypatch.setattr(distil, "distil_pairs", interrupt)
    assert call("train", recipe) == 130
    assert "same command" in capsys.readouterr().err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("info") == 0
    told = capsys.readouterr().out
    assert "torch" in told and "kernel" in told


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == f"distilmatch {version('distilmatch')}"


def test_commands_are_grouped_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    told = capsys.readouterr().out
    places = [told.index(f"─ {group} ") for group in ("Start here", "Train", "Score and match", "Check")]
    assert places == sorted(places)


def test_a_run_says_student_beside_teacher_and_the_command_that_follows(
    recipe: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="distilmatch")
    assert call("label", recipe) == 0
    assert next_command(capsys.readouterr().out) == ["train", str(recipe)]
    assert call("train", recipe) == 0
    command = next_command(capsys.readouterr().out)
    assert re.search(r"dev \w+: the student [\d.]+, the teacher [\d.]+ \([\d.]+% of it\)", caplog.text)
    assert command[0] == "evaluate" and call(*command, "--no-speed") == 0
    command = next_command(capsys.readouterr().out)
    table = yaml.safe_load(recipe.read_text())["train"]
    filled = {"TABLE": table, "COLUMN": "q", "FOLDER": str(recipe.parent / "left")}
    assert call(*[filled.get(word, word) for word in command]) == 0
    assert next_command(capsys.readouterr().out)[:1] == ["match"]
