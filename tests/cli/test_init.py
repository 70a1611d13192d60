"""`init`: what a table is taken for, what is shown of it, and a recipe that can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.helpers import call, next_command, read_jsonl, write_jsonl

from distilmatch.config.pairs import PairRecipe
from distilmatch.data.guess import guess_table
from distilmatch.errors import DataError

TEXTS = [(f"red car {i}", f"a car in red, number {i}") for i in range(30)]


def _table(path: Path, name: str, values: list[Any], **more: list[Any]) -> Path:
    rows = [
        {"query": left, "product": right, name: value} | {key: column[i] for key, column in more.items()}
        for i, ((left, right), value) in enumerate(zip(TEXTS, values, strict=False))
    ]
    return write_jsonl(path, rows)


@pytest.mark.parametrize(
    ("name", "values", "task", "why"),
    [
        ("label", [0, 1] * 10, {"kind": "binary"}, "0 or 1"),
        ("is_match", [True, False] * 10, {"kind": "binary"}, "0 or 1"),
        ("label", ["0", "1"] * 10, {"kind": "binary"}, "0 or 1"),
        ("relevance", [0.2, 0.9, 0.5, 1] * 5, {"kind": "binary"}, "between 0 and 1"),
        ("similarity score", [0.0, 2.5, 5.0, 4.2] * 5, {"kind": "regression", "label_range": (0.0, 5.0)}, "0 to 5"),
        ("score", [-3.2, 8.1] * 10, {"kind": "regression", "label_range": (-4.0, 9.0)}, "-3.2 to 8.1"),
        (
            "entailment",
            ["yes", "no", "maybe", "yes"] * 5,
            {"kind": "classification", "classes": ("maybe", "no", "yes")},
            "50%",
        ),
        ("gold", [1, 2, 3, 4, 5] * 4, {"kind": "regression", "label_range": (1.0, 5.0)}, "1 to 5"),
        ("label", [None] * 20, {"kind": "binary"}, "empty"),
        ("colour", ["red"] * 20, {"kind": "binary"}, "no column looks like a label"),
    ],
)
def test_a_table_is_taken_for_what_it_is(
    name: str, values: list[Any], task: dict[str, Any], why: str, tmp_path: Path
) -> None:
    guess = guess_table(str(_table(tmp_path / "t.jsonl", name, values)))
    assert guess.texts == ("query", "product") and guess.label == (None if name == "colour" else name)
    assert {key: getattr(guess.task, key) for key in task} == task and why in guess.why
    assert len(guess.rows) == 5 and guess.rows[1]["product"] == TEXTS[1][1] and guess.looked_at == 20


def test_grades_of_repeated_queries_are_a_ranking(tmp_path: Path) -> None:
    rows = [{"query": f"query {i // 5}", "title": f"a product {i}", "relevance": i % 4} for i in range(20)]
    guess = guess_table(rows)
    assert guess.task.kind == "ranking" and guess.texts == ("query", "title") and "0 to 3" in guess.why


def test_ids_are_taken_where_there_is_one_a_side() -> None:
    rows = pd.DataFrame(
        [{"qid": f"q{i}", "query": "a", "pid": f"p{i}", "product": "b", "label": i % 2} for i in range(9)]
    )
    assert guess_table(rows).ids == ("qid", "pid")
    assert guess_table(rows.drop(columns="pid")).ids == ()


def test_words_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    table = _table(tmp_path / "t.jsonl", "label", [f"word {i}" for i in range(25)])
    with pytest.raises(DataError, match="25 different words .*too many to be classes.*--label-column"):
        guess_table(str(table))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_the_recipe_is_one_and_its_commands_can_be_pasted(
    ending: str, tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"query": left, "product": right, "label": i % 2} for i, (left, right) in enumerate(TEXTS)]
    writers = {"csv": "to_csv", "parquet": "to_parquet"}
    if ending == "jsonl":
        write_jsonl(tmp_path / "t.jsonl", rows)
    else:
        getattr(pd.DataFrame(rows), writers[ending])(tmp_path / f"t.{ending}", index=False)
    assert call("init", f"t.{ending}", "--dev", f"t.{ending}") == 0
    told = capsys.readouterr().out
    assert "row 5\n  query: red car 4\n  product: a car in red, number 4\n  label: 0" in told
    recipe = PairRecipe.from_yaml("recipe.yaml")
    assert recipe.train == recipe.dev == f"t.{ending}" and recipe.task.kind == "binary"
    assert recipe.table.label_column == "label" and recipe.student.side_names == ("query", "product")
    assert call(*next_command(told), "--base-model", tiny_encoder, "--epochs", "0.5", "--max-length", "32") == 0
    following = next_command(capsys.readouterr().out)
    assert following[:2] == ["train", "RECIPE.yaml"] and (tmp_path / "teacher" / "model.safetensors").is_file()
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    assert (
        call(
            "train",
            "recipe.yaml",
            "--dry-run",
            "--set",
            f"encoder={tiny_encoder}",
            "--set",
            "student.max_lengths=[32,32]",
        )
        == 0
    )


def test_with_a_teacher_training_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table(tmp_path / "t.jsonl", "label", [0, 1] * 10)
    place = tmp_path / "made" / "r.yaml"
    assert call("init", table, "--teacher", "some/teacher", "--output", place) == 0
    assert next_command(capsys.readouterr().out) == ["train", str(place), "--dry-run"]
    assert PairRecipe.from_yaml(place).teacher.models == ("some/teacher",)  # type: ignore[union-attr]
    assert call("init", table, "--output", place) == 1
    assert "exists already" in capsys.readouterr().err
    assert call("init", table, "--dry-run", "--output", tmp_path / "y.yaml") == 0
    told = capsys.readouterr().out
    assert "train: " in told and "Nothing was written" in told and not (tmp_path / "y.yaml").exists()
    assert call("init", tmp_path / "none.csv", "--output", tmp_path / "x.yaml") == 1
    assert "none.csv" in capsys.readouterr().err and not (tmp_path / "x.yaml").exists()


def test_without_a_teacher_the_recipe_explains_the_choice(tmp_path: Path) -> None:
    table = _table(tmp_path / "t.jsonl", "label", [0, 1] * 10)
    assert call("init", table, "--output", tmp_path / "r.yaml") == 0
    text = (tmp_path / "r.yaml").read_text()
    assert "finetune-teacher makes the folder below" in text and "table.teacher_columns" in text
    assert "learns from the column label alone" in text
    alone = tmp_path / "alone.yaml"
    alone.write_text(text.replace("teacher: {models: [teacher]}\n", ""))
    assert PairRecipe.from_yaml(alone).learns_gold_alone
    unlabelled = _table(tmp_path / "u.jsonl", "colour", ["red"] * 20)
    assert call("init", unlabelled, "--output", tmp_path / "u.yaml") == 0
    text = (tmp_path / "u.yaml").read_text()
    assert "alone" not in text and "finetune-teacher" not in text and "table.teacher_columns" in text


def test_three_commands_from_a_table_to_a_report(
    tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"query": f"{colour} {thing} {number}", "product": f"a {other} {thing}", "label": int(colour == other)}
        for number in range(40)
        for colour in ("red", "blue")
        for other in ("red", "blue", "green")
        for thing in ("shoe", "lamp", "coat")
    ]
    pd.DataFrame(rows).to_csv("pairs.csv", index=False)
    assert call("init", "pairs.csv") == 0
    told = capsys.readouterr().out
    recipe = PairRecipe.from_yaml("recipe.yaml")
    assert (recipe.train, recipe.dev, recipe.test) == tuple(f"recipe-data/{n}.jsonl" for n in ("train", "dev", "test"))
    counts = [len(read_jsonl(str(table))) for table in (recipe.train, recipe.dev, recipe.test)]
    assert sum(counts) == len(rows) and f"{counts[1]:,} in recipe-data/dev.jsonl" in told
    small = ["--base-model", tiny_encoder, "--epochs", "1", "--max-length", "32"]
    assert call(*next_command(told), *small) == 0
    following = next_command(capsys.readouterr().out)
    assert following[:2] == ["train", "RECIPE.yaml"]
    changes = [f"encoder={tiny_encoder}", "student.max_lengths=[32,32]", "transfer.rounds=0", "stage1.epochs=1"]
    changes += ["stage2.epochs=1", "stage2.evaluations=1"]
    command = ["train", "recipe.yaml", *following[2:], *(word for change in changes for word in ("--set", change))]
    assert call(*command, "--dry-run") == 0
    assert "report on the test table" in capsys.readouterr().out and not Path("run").exists()
    assert call(*command) == 0
    told = capsys.readouterr().out
    assert "report   run/report/report.html" in told and "of its teacher's ROC AUC" in told
    assert f"{counts[2]} rows" in Path("run/report/report.html").read_text(encoding="utf-8")
    assert next_command(told)[:2] == ["encode", "run/student"]


@pytest.mark.parametrize("more", [("--hold-out", "0"), ("--dry-run",)])
def test_nothing_is_held_out_unless_it_is_asked_for(more: tuple[str, ...], tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "t.jsonl", [{"query": f"q {i}", "product": "p", "label": i % 2} for i in range(900)])
    assert call("init", table, "--output", tmp_path / "made" / "r.yaml", *more) == 0
    assert not list(tmp_path.glob("**/*-data"))


def test_tables_that_are_there_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_jsonl(tmp_path / "t.jsonl", [{"query": f"q {i}", "product": "p", "label": i % 2} for i in range(900)])
    (tmp_path / "r-data").mkdir()
    assert call("init", table, "--output", tmp_path / "r.yaml") == 1
    assert "r-data exists already" in capsys.readouterr().err and not (tmp_path / "r.yaml").exists()


def test_more_columns_of_each_side_are_offered_as_a_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "left_id": i,
            "left_title": f"red car {i % 7}",
            "left_brand": "Acme",
            "left_price": i + 0.5,
            "right_id": i,
            "right_title": f"car {i}",
            "right_brand": None,
            "right_price": float(i),
            "label": i % 2,
        }
        for i in range(900)
    ]
    table, place = write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "r.yaml"
    left, right = (f"{{{s}_title}} ; {{{s}_brand}} ; {{{s}_price}}" for s in ("left", "right"))
    assert guess_table(rows).offered == (left, right)
    assert call("init", table, "--output", place) == 0
    assert f'# text_templates: ["{left}", "{right}"]' in place.read_text(encoding="utf-8")
    assert f"{left} and {right}" in capsys.readouterr().out
    assert guess_table(str(_table(tmp_path / "two.jsonl", "label", [0, 1] * 10))).offered is None

    templated = tmp_path / "templated" / "r.yaml"
    assert call("init", table, "--text-templates", "{title} ; {price}", "--output", templated) == 0
    told = capsys.readouterr().out
    assert "{left_title} ; {left_price}: red car 0 ; 0.5" in told
    recipe = PairRecipe.from_yaml(templated)
    assert recipe.table.text_templates == ("{left_title} ; {left_price}", "{right_title} ; {right_price}")
    assert recipe.student.side_names == ("left", "right") and recipe.dev is not None
    words = next_command(told)
    assert [words[i + 1] for i, word in enumerate(words) if word == "--text-templates"] == list(
        recipe.table.text_templates
    )
