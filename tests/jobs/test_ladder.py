"""The ladder: vectors of a sentence encoder find the candidates of a match; the whole recipe, run, resumed and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from sentence_transformers import SentenceTransformer
from tests.helpers import COLOURS, THINGS, call, read_jsonl, write_jsonl

from distilmatch.cli import main
from distilmatch.config.ladder import LadderRecipe, MatchSideConfig
from distilmatch.engine.candidates import CandidateIndex
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError, DataError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.folder_texts import folder_texts
from distilmatch.jobs.ladder import count_items, distil_ladder
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.vectors import folder_vectors
from distilmatch.models import DiPair
from distilmatch.store.folder import RepresentationFolder

from .conftest import make_matcher

_COLOURS, _THINGS = COLOURS[:3], THINGS[:6]
LEFT = [f"the {colour} {thing}" for colour in _COLOURS for thing in _THINGS]
RIGHT = [f"a {colour} {thing} {place}" for colour in _COLOURS for thing in _THINGS for place in ("here", "in the rain")]


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    """Texts of both sides, some of them twice and with white space around them."""
    left = [{"id": f"l{i}", "text": text} for i, text in enumerate([*LEFT, LEFT[3], f" {LEFT[5]} "])]
    right = [{"id": f"r{i}", "title": text, "note": "x"} for i, text in enumerate(RIGHT)]
    return [write_jsonl(tmp_path / "left.jsonl", left), write_jsonl(tmp_path / "right.jsonl", right)]


@pytest.fixture
def student(tiny_encoder: Path) -> DiPair:
    return make_matcher(tiny_encoder)


@pytest.fixture
def folders(student: DiPair, tables: list[Path], tmp_path: Path) -> list[RepresentationFolder]:
    return [
        encode_table(student, str(table), tmp_path / f"side{side}", side=side, text_column=column, id_column="id")
        for side, (table, column) in enumerate(zip(tables, ("text", "title"), strict=True))
    ]


def test_vectors_stand_row_by_row(
    tables: list[Path], folders: list[RepresentationFolder], tmp_path: Path, tiny_sentence_encoder: Path
) -> None:
    found = folder_vectors(
        tiny_sentence_encoder, tables[0], folders[0], tmp_path / "v", text_column="text", precision="fp32", device="cpu"
    )
    texts = [*LEFT, LEFT[5]]  # the one with white space is a text of its own to the student
    assert len(folders[0]) == len(texts)
    expected = SentenceTransformer(str(tiny_sentence_encoder), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(found, expected, atol=2e-3)  # kept in fp16
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    with pytest.raises(DataError, match=r"lacks 19 of the 19 texts .*such as l0, l1, l2"):
        folder_vectors(tiny_sentence_encoder, tables[1], folders[0], tmp_path / "w", text_column="title", device="cpu")


def test_candidates_by_other_vectors(
    student: DiPair,
    tables: list[Path],
    folders: list[RepresentationFolder],
    tmp_path: Path,
    tiny_sentence_encoder: Path,
) -> None:
    vectors = tuple(
        folder_vectors(tiny_sentence_encoder, table, folder, tmp_path / f"v{i}", text_column=column, device="cpu")
        for i, (table, folder, column) in enumerate(zip(tables, folders, ("text", "title"), strict=True))
    )
    scorer = Scorer(student, kernel="torch")
    report = match_folders(
        scorer, *folders, tmp_path / "m.parquet", top_k=2, num_candidates=5, index="flat",
        vectors=(vectors[0], vectors[1]), rows_a_part=4,
    )  # fmt: skip
    assert report.pairs == len(folders[0]) * 5 and report.recall is not None
    nearest = np.argsort(-(vectors[0] @ vectors[1].T), axis=1, kind="stable")[:, :5]
    texts = [*LEFT, LEFT[5]]
    table = pq.read_table(tmp_path / "m.parquet")
    for row in range(len(texts)):
        scores = np.asarray(student.predict([(texts[row], RIGHT[other]) for other in nearest[row]]))
        best = nearest[row][np.argsort(-scores, kind="stable")[:2]]
        # The last text stands in row 19 of the table; the text of row 3 is that of row 18 too, under another id.
        for item in {3: (3, 18), 18: (19,)}.get(row, (row,)):
            mine = table["document_row"].to_numpy()[table["query_row"].to_numpy() == item]
            np.testing.assert_array_equal(mine, best)
    assert table["query_id"].to_pylist() == [f"l{i}" for i in range(20) for _ in range(2)]
    sides = [folder.read(np.arange(len(folder))) for folder in folders]
    with pytest.raises(ConfigError, match=r"shape \(4, 32\) do not fit 19 texts"):
        scorer.candidates(*sides, top_k=1, index=CandidateIndex(vectors[1]), vectors=vectors[0][:4])
    with pytest.raises(ConfigError, match="index is of 19 texts, there are 36"):
        scorer.candidates(*sides, top_k=1, index=CandidateIndex(vectors[0]), vectors=vectors[0])
    with pytest.raises(ConfigError, match="19 and 3 vectors for 19 and 36 texts"):
        match_folders(
            scorer, *folders, tmp_path / "n.parquet", top_k=2, num_candidates=5, vectors=(vectors[0], vectors[1][:3])
        )
    with pytest.raises(ConfigError, match="say how many"):
        match_folders(scorer, *folders, tmp_path / "n.parquet", top_k=2, vectors=(vectors[0], vectors[1]))


def test_match_by_a_sentence_encoder_at_the_command_line(
    student: DiPair,
    tables: list[Path],
    folders: list[RepresentationFolder],
    tmp_path: Path,
    tiny_sentence_encoder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    student.save_pretrained(tmp_path / "student")
    asked = ["match", tmp_path / "student", "--left", tmp_path / "side0", "--right", tmp_path / "side1", "--output"]
    asked += [tmp_path / "m.parquet", "--top-k", 1, "--candidates", 4, "--index", "flat"]
    more = ["--candidate-encoder", tiny_sentence_encoder, "--left-table", tables[0], "--right-table", tables[1]]

    assert call(*asked, *more[:4]) == 1
    assert "needs --candidates N, --left-table and --right-table" in capsys.readouterr().err
    assert call(*asked, *more[2:]) == 1
    assert call(*asked, *more, "--text-columns", "text") == 1
    assert call(*asked, *more, "--text-columns", "text,title") == 0
    assert pq.read_table(tmp_path / "m.parquet")["query_id"].to_pylist() == [f"l{i}" for i in range(20)]
    assert "recall" in capsys.readouterr().out


def test_items_without_an_id_are_counted_row_by_row(student: DiPair, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "red"},
        {"id": "", "text": "green"},
        {"id": None, "text": "blue"},
        {"id": "a", "text": "red"},
    ]
    table = write_jsonl(tmp_path / "table.jsonl", [*rows, {"id": None, "text": "green"}])
    side = MatchSideConfig(source=str(table), text_column="text", id_column="id")
    folder = encode_table(student, str(table), tmp_path / "f", side=0, text_column="text", id_column="id")
    assert count_items(side) == len(folder.items()[0]) == 4


def test_tables_of_a_match_are_read_as_they_were_encoded(
    student: DiPair, tmp_path: Path, tiny_sentence_encoder: Path
) -> None:
    table = tmp_path / "t.tsv"
    table.write_text('text\tnote\n"I sold the table\tx\na blue lamp\tx\nand the chair."\tx\n')
    read = {"text_column": "text", "quoting": "none"}
    folder = encode_table(student, str(table), tmp_path / "f", side=0, **read)
    assert len(folder) == 3
    assert folder_texts(str(table), folder, **read) == ['"I sold the table', "a blue lamp", 'and the chair."']
    assert len(folder_vectors(tiny_sentence_encoder, str(table), folder, tmp_path / "v", device="cpu", **read)) == 3
    with pytest.raises(DataError):
        folder_vectors(tiny_sentence_encoder, str(table), folder, tmp_path / "w", device="cpu", text_column="text")
    encode_table(student, str(table), tmp_path / "g", side=1, **read)
    student.save_pretrained(tmp_path / "student")
    asked = ["match", tmp_path / "student", "--left", tmp_path / "f", "--right", tmp_path / "g", "--output"]
    asked += [tmp_path / "m.jsonl", "--top-k", 1, "--texts", "--left-table", table, "--right-table", table]
    asked += ["--text-columns", "text,text"]
    for more, code in (([], 1), (["--quoting", "none"], 0)):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in [*asked, *more]])
        assert (stopped.value.code or 0) == code
    lines = read_jsonl(tmp_path / "m.jsonl")
    assert [line["query_text"] for line in lines] == ['"I sold the table', "a blue lamp", 'and the chair."']


@pytest.fixture
def ladder(tmp_path: Path, tables: list[Path], tiny_sentence_encoder: Path, tiny_cross_encoder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        one, other = rng.choice(_COLOURS), rng.choice(_COLOURS)
        rows.append({"a": f"the {one} {rng.choice(_THINGS)}", "b": f"a {other} car here", "label": int(one == other)})
    (tmp_path / "texts.txt").write_text("\n".join([*LEFT, *RIGHT]))
    return {
        "embedding": {
            "corpus": {"sources": [str(tmp_path / "texts.txt")]},
            "teacher": {"models": [str(tiny_sentence_encoder)]},
            "student": {"layers": 2, "max_length": 24},
            "stage1": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
        },
        "pair": {
            "train": str(write_jsonl(tmp_path / "train.jsonl", rows)),
            "task": {"kind": "binary"},
            "table": {"label_column": "label"},
            "teacher": {"models": [str(tiny_cross_encoder)], "precision": "fp32"},
            "transfer": {"rounds": 1, "block_size": 4, "cells_per_block": 8},
            "student": {"kept_tokens": [2, 3], "max_lengths": [16, 16], "side_names": ["query", "item"]},
            "stage1": {"epochs": 1, "precision": "fp32"},
            "stage2": {"epochs": 1, "precision": "fp32"},
        },
        "match": {
            "left": {"source": str(tables[0]), "id_column": "id"},
            "right": {"source": str(tables[1]), "text_column": "title", "id_column": "id"},
            "top_k": 3,
            "candidates": 6,
        },
        "output": str(tmp_path / "ladder"),
        "device": "cpu",
        "seed": 4,
    }


def test_a_ladder_from_one_recipe(ladder: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = LadderRecipe.from_dict(ladder)
    assert recipe.embedding.seed == recipe.pair.seed == 4 and recipe.pair.device == "cpu"
    report = distil_ladder(recipe)
    encoder = SentenceTransformer(str(report.embedding_student), device="cpu")
    pair = DiPair.from_pretrained(report.pair_student)
    assert pair.encoders[0].config.num_hidden_layers == encoder[0].model.config.num_hidden_layers == 2
    # Before it was trained, the pair student's encoder was the embedding student.
    kept = DiPair.from_pretrained(tmp_path / "ladder" / "pair" / "stage1" / "student").encoders[0].state_dict()
    for name, weight in encoder[0].model.state_dict().items():
        if name in kept:
            torch.testing.assert_close(kept[name], weight)
    assert sum(name in kept for name in encoder[0].model.state_dict()) > 20
    assert report.matches is not None and report.report is not None
    table = pq.read_table(report.matches)
    assert report.report.pairs == 19 * 6 and table.num_rows == 20 * 3
    assert table.column_names == ["query_row", "query_id", "item_row", "item_id", "rank", "logit", "score"]
    # A second call finds all of it done, and says the same.
    monkeypatch.setattr("distilmatch.training.pairs.stage.run_stage", None)
    again = distil_ladder(recipe)
    assert again.matches == report.matches and pq.read_table(report.matches).equals(table)


def test_what_is_ranked_is_passed_on(ladder: dict[str, Any], tiny_cross_encoder_3: Path) -> None:
    rows = read_jsonl(ladder["pair"]["train"])
    for row in rows:
        row["label"] = "no" if row["label"] else "yes"
    write_jsonl(Path(ladder["pair"]["train"]), rows)
    ladder["pair"]["task"] = {"kind": "classification", "classes": ["no", "maybe", "yes"]}
    ladder["pair"]["teacher"]["models"] = [str(tiny_cross_encoder_3)]
    ladder["match"] |= {"rank_by": "expectation", "values": [0, 1, 2], "candidates": None}
    report = distil_ladder(LadderRecipe.from_dict(ladder))
    assert report.matches is not None and report.report is not None and report.report.pairs == 19 * 36
    pair = DiPair.from_pretrained(report.pair_student)
    chances = np.asarray(pair.predict([(LEFT[0], text) for text in RIGHT], apply_softmax=True))
    best = pq.read_table(report.matches)["score"].to_numpy()[0]
    assert best == pytest.approx((chances @ [0, 1, 2]).max(), abs=0.01)  # in fp16 and by the fastest kernel


def test_what_a_ladder_refuses(ladder: dict[str, Any]) -> None:
    for part, change, message in (
        ("embedding", {"output": "elsewhere"}, "embedding.output. is .*: leave it out"),
        ("pair", {"encoder": ["another"]}, "pair.encoder. is the embedding student"),
        ("embedding", {"student": {"start": "static"}}, "no transformer for the pair student"),
        ("match", {"candidates": 2}, "fewer than the 3"),
        ("match", {"candidates_by": "luck"}, "candidates_by"),
    ):
        with pytest.raises(ConfigError, match=message):
            LadderRecipe.from_dict({**ladder, part: {**ladder[part], **change}})


def test_the_ladder_command(ladder: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ladder.yaml"
    path.write_text(yaml.safe_dump({name: part for name, part in ladder.items() if name != "match"}))
    with pytest.raises(SystemExit) as stopped:
        main(["ladder", str(path), "--dry-run"])
    told = capsys.readouterr().out
    assert not stopped.value.code and "The pair student:" in told and "labelled rows" in told
    assert not (tmp_path / "ladder").exists()
    with pytest.raises(SystemExit) as stopped:
        main(["ladder", str(path), "--set", "embedding.stage1.epochs=2"])
    assert not stopped.value.code
    told = capsys.readouterr().out
    assert str(tmp_path / "ladder" / "pair" / "student") in told and "matches" not in told
