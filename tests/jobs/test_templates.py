"""From tables of several columns to a student, its representations, scores and matches."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from tests.docs.pages import link_models
from tests.helpers import COLOURS, THINGS, call, next_command, read_jsonl, write_jsonl

from distilmatch.config.ladder import MatchSideConfig
from distilmatch.config.tables import TableConfig
from distilmatch.data.corpus import TextCorpus
from distilmatch.data.tables import load_table
from distilmatch.errors import ConfigError, DataError
from distilmatch.jobs.encode import encode_table, rehearse_encode
from distilmatch.jobs.folder_texts import folder_texts
from distilmatch.jobs.ladder import count_items
from distilmatch.jobs.vectors import folder_vectors
from distilmatch.models.dipair import DiPair
from distilmatch.models.trained_texts import check_reading

PAIRS: list[dict[str, Any]] = [
    {
        "left_name": f"{colour} {thing}",
        "left_price": float(price),
        "right_name": f"a {colour} {other}",
        "right_price": None if price % 2 else price + 0.5,
        "lid": f"l{colour}{thing}{price}",
        "rid": f"r{colour}{other}{price}",
        "label": int(thing == other),
    }
    for price, colour in enumerate(COLOURS[:4])
    for thing in THINGS[:3]
    for other in THINGS[:3]
]
SHARED = "{name} ; {price}"


def _catalogue(side: str) -> list[dict[str, Any]]:
    rows = {row[f"{side[0]}id"]: row for row in PAIRS}
    return [{"id": id, "name": row[f"{side}_name"], "price": row[f"{side}_price"]} for id, row in rows.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_cross_encoder: Path) -> Path:
    """A folder with tables of several columns, and a student that was trained on one of them."""
    folder = tmp_path_factory.mktemp("templates")
    write_jsonl(folder / "pairs.jsonl", PAIRS)
    for side in ("left", "right"):
        write_jsonl(folder / f"{side}.jsonl", _catalogue(side))
    link_models(folder, {"encoder": tiny_encoder, "teacher": tiny_cross_encoder})
    stage = {"epochs": 1, "evaluations": 1}
    recipe = {
        "task": {"kind": "binary"},
        "train": str(folder / "pairs.jsonl"),
        "dev": str(folder / "pairs.jsonl"),
        "output": str(folder / "run"),
        "table": {"text_templates": SHARED, "label_column": "label", "id_columns": ["lid", "rid"]},
        "encoder": str(folder / "encoder"),
        "teacher": {"models": [str(folder / "teacher")]},
        "transfer": {"rounds": 1, "cells_per_block": 32},
        "student": {"kept_tokens": [2, 2], "max_lengths": [16, 16]},
        "stage1": stage,
        "stage2": stage,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert call("train", folder / "recipe.yaml", "--device", "cpu") == 0
    return folder


def _encode(folder: Path, side: str) -> None:
    if not (folder / f"{side}-representations").exists():
        student, table = folder / "run" / "student", folder / f"{side}.jsonl"
        template = ["--text-template", SHARED, "--id-column", "id"]
        assert (
            call("encode", student, table, "--side", side, *template, "--output", folder / f"{side}-representations")
            == 0
        )


def test_a_student_keeps_its_templates(trained: Path) -> None:
    student = DiPair.from_pretrained(trained / "run" / "student")
    assert student.config.text_templates == [SHARED]
    card = (trained / "run" / "student" / "README.md").read_text(encoding="utf-8")
    assert f"| each side | `{SHARED}` |" in card and "--text-template" in card
    held = yaml.safe_load((trained / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    assert held["table"]["text_templates"] == [SHARED]


def test_scores_and_matches_of_records(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = trained / "run" / "student"
    for side in ("left", "right"):
        _encode(trained, side)
    folders = ["--left", trained / "left-representations", "--right", trained / "right-representations"]
    scored = ["score", student, trained / "pairs.jsonl", *folders, "--text-templates", SHARED, "--kernel", "torch"]
    assert call(*scored, "--output", trained / "scores.parquet") == 0
    scores = pq.read_table(trained / "scores.parquet")
    assert scores.column_names == ["left", "right", "logit_0", "score"]
    assert scores["left"][0].as_py() == "red car ; 0" and scores["right"][0].as_py() == "a red car ; 0.5"
    assert call(*scored, "--by", "id", "--id-columns", "lid,rid", "--output", trained / "by-id.parquet") == 0
    by_id = pq.read_table(trained / "by-id.parquet")
    assert by_id.column_names == ["lid", "rid", "left", "right", "logit_0", "score"]
    assert by_id["score"].to_pylist() == scores["score"].to_pylist()
    model = DiPair.from_pretrained(student).eval()
    texts = list(zip(scores["left"].to_pylist(), scores["right"].to_pylist(), strict=True))
    assert model.predict(texts) == pytest.approx(scores["score"].to_pylist(), abs=1e-5)
    tables = ["--left-table", trained / "left.jsonl", "--right-table", trained / "right.jsonl"]
    made = ["--text-templates", SHARED, "--texts", "--top-k", 2, "--output", trained / "matches.jsonl"]
    assert call("match", student, *folders, *tables, *made) == 0
    known = {row["id"]: row for row in _catalogue("left")}
    for match in read_jsonl(trained / "matches.jsonl"):
        row = known[match["left_id"]]
        assert match["left_text"] == f"{row['name']} ; {row['price']:g}"


def test_a_report_of_records_and_what_is_said(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    student, pairs = trained / "run" / "student", trained / "pairs.jsonl"
    command = ["evaluate", student, pairs, "--label-column", "label", "--no-speed"]
    assert call(*command, "--text-templates", SHARED, "--output", trained / "report") == 0
    assert "was trained on" not in caplog.text
    assert call(*command, "--output", trained / "plain") == 0
    assert "trained on texts made of several columns" in caplog.text
    assert (trained / "report" / "report.html").exists()


def test_the_next_command_has_the_templates(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", trained / "recipe.yaml", "--device", "cpu") == 0
    words = next_command(capsys.readouterr().out)
    assert words[words.index("--text-templates") + 1] == SHARED


def test_texts_of_folders_and_their_vectors(trained: Path, tiny_sentence_encoder: Path) -> None:
    _encode(trained, "right")
    folder, table = trained / "right-representations", trained / "right.jsonl"
    texts = folder_texts(table, folder, text_template=SHARED, id_column="id")
    expected = dict.fromkeys(
        text for _, text in load_table(trained / "pairs.jsonl", TableConfig(text_templates=(SHARED,))).tuples()
    )
    assert set(texts) == set(expected)
    vectors = folder_vectors(tiny_sentence_encoder, table, folder, trained / "vectors", text_template=SHARED)
    assert vectors.shape[0] == len(texts)


def test_a_dry_run_shows_the_texts(trained: Path) -> None:
    model = DiPair.from_pretrained(trained / "run" / "student").eval()
    rehearsal = rehearse_encode(
        model, trained / "left.jsonl", trained / "nothing", side=0, text_template=SHARED, id_column="id"
    )
    assert rehearsal.sample[0] == {"id": "lredcar0", SHARED: "red car ; 0"}
    assert not (trained / "nothing").exists()


def test_another_form_is_said(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = DiPair.from_pretrained(trained / "run" / "student").eval()
    with caplog.at_level(logging.WARNING):
        check_reading(model, "t", ["{title} ; {cost}"], (0,))
        check_reading(model, "t", [SHARED])
        check_reading(model, "t", ["{a} ; {b}", "{c} ; {d}"])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        check_reading(model, "t", ["{title}, {cost}"], (0,))
        encode_table(model, [{"text": "red car"}], trained / "plain-texts", side=0, show_progress_bar=False)
    told = [record.getMessage() for record in caplog.records if "trained" in record.getMessage()]
    assert "'{name} ; {price}', these are made by '{title}, {cost}'" in told[0]
    assert "the table: the student was trained on texts made of several columns ('{name} ; {price}')" in told[1]


def test_a_side_is_a_column_or_a_template(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = trained / "run" / "student"
    both = ["--text-column", "name", "--text-template", SHARED, "--side", "left", "--output", trained / "both"]
    assert call("encode", student, trained / "left.jsonl", *both) != 0
    assert "not both" in capsys.readouterr().err
    wrong = ["--text-template", "{nme}", "--side", "left", "--output", trained / "wrong"]
    assert call("encode", student, trained / "left.jsonl", *wrong) != 0
    assert "no column 'nme'; did you mean 'name'" in capsys.readouterr().err


def test_fine_tuning_reads_templates(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--task", "binary", "--label-column", "label", "--base-model", trained / "encoder", "--dry-run"]
    templates = ["--text-templates", "{left_name} ({left_price})", "--text-templates", "{right_name} ({right_price})"]
    assert call("finetune-teacher", trained / "pairs.jsonl", *settings, *templates, "--output", trained / "t") == 0
    assert "red car (0)" in capsys.readouterr().out


def test_a_side_of_a_ladder_takes_a_template(trained: Path) -> None:
    side = MatchSideConfig(source=str(trained / "left.jsonl"), text_template=SHARED)
    assert count_items(side) == len(_catalogue("left"))
    with pytest.raises(ConfigError, match="leave one of them out"):
        MatchSideConfig(source="t", text_template=SHARED, text_column="name")
    with pytest.raises(DataError, match="no column 'nme'; did you mean 'name'"):
        count_items(side.replaced(text_template="{nme}"))


def test_an_embedding_student_says_what_made_its_texts(trained: Path, tiny_sentence_encoder: Path) -> None:
    recipe = {
        "corpus": {"sources": [str(trained / "left.jsonl")], "text_templates": SHARED},
        "labelled": [{"source": str(trained / "pairs.jsonl"), "kind": "pairs", "text_templates": SHARED}],
        "teacher": {"models": [str(tiny_sentence_encoder)]},
        "student": {"layers": 1, "max_length": 16},
        "stage1": {"epochs": 1, "batch_size": 8, "evaluations": 1},
        "stage2": {"epochs": 1, "batch_size": 8, "evaluations": 1},
        "output": str(trained / "embedding"),
    }
    (trained / "embedding.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert call("embed-train", trained / "embedding.yaml", "--device", "cpu") == 0
    corpus = TextCorpus(trained / "embedding" / "corpus")
    assert corpus[0] == "red car ; 0" and len(corpus) == len({row["id"] for row in _catalogue("left")})
    card = (trained / "embedding" / "student" / "README.md").read_text(encoding="utf-8")
    assert f"| made of columns by | `{SHARED}` |" in card and f"made of columns by `{SHARED}`)" in card
