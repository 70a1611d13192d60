"""A match counts items: each id, each row without one; against a brute force over the rows of the tables, ties included."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import call, write_jsonl

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.engine.matches import BestMatches, Matches
from distilmatch.engine.ranking import Ranking
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError, DataError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.folder_texts import folder_texts
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.matching import output as match_output
from distilmatch.jobs.matching.output import MatchedSide, MatchTables
from distilmatch.jobs.matching.reverse import ReverseMatches
from distilmatch.jobs.parts import PartWriter
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.items import Items

from .conftest import make_matcher

Row = dict[str, Any]


def items_of(rows: list[Row]) -> list[tuple[int, str, str | None]]:
    """The oracle's items: row of the table, text, id; an id once, at its first row."""
    seen: set[str] = set()
    found = []
    for number, row in enumerate(rows):
        id = row.get("id")
        if id is not None and id in seen:
            continue
        seen.add(id)
        found.append((number, row["text"], id))
    return found


def best(left: list[Row], right: list[Row], score: Callable[[str, str], float], k: int) -> list[tuple[Any, ...]]:
    """The oracle: all items against all, sorted by score, then by row; (left row, left id, right row, right id, rank)."""
    found = []
    for row, text, id in items_of(left):
        ranked = sorted(items_of(right), key=lambda item, text=text: (-score(text, item[1]), item[0]))
        found += [(row, id, other[0], other[2], rank) for rank, other in enumerate(ranked[:k], 1)]
    return found


def above(left: list[Row], right: list[Row], score: Callable[[str, str], float], limit: float) -> list[tuple[Any, ...]]:
    return [
        (row, id, other, other_id)
        for row, text, id in items_of(left)
        for other, other_text, other_id in items_of(right)
        if score(text, other_text) > limit
    ]


def read(path: Path, sides: tuple[str, str] = ("query", "document"), ranked: bool = True) -> list[tuple[Any, ...]]:
    table = pq.read_table(path)
    names = [f"{side}_{what}" for side in sides for what in ("row", "id")] + (["rank"] if ranked else [])
    columns = [table[name].to_pylist() if name in table.column_names else [None] * len(table) for name in names]
    return list(zip(*columns, strict=True))


# The expansion alone, on log-odds with many ties

PROBABILITY = Ranking(by="probability")
_SATURATED = 20.0  # log-odds from which on probabilities are one number in fp32
_TEXT = st.integers(0, 5)


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Rows of few texts, each under several ids, with rows that repeat an id and rows without one."""
    rows: list[Row] = []
    for text, id in draw(st.lists(st.tuples(_TEXT, st.none() | st.integers(0, 2)), min_size=1, max_size=14)):
        rows.append({"text": f"t{text}", "id": None if id is None else f"{text}.{id}"})
    return rows


def side_of(name: str, rows: list[Row]) -> tuple[MatchedSide, list[str]]:
    texts = list(dict.fromkeys(row["text"] for row in rows))
    items = items_of(rows)
    return MatchedSide(
        name,
        Items(
            rows=np.array([item[0] for item in items]),
            texts=np.array([texts.index(item[1]) for item in items]),
            ids=pa.chunked_array([[item[2] for item in items]], pa.string()),
        ),
    ), texts


def top_texts(scores: np.ndarray, k: int) -> BestMatches:
    k = min(k, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    ranked = np.take_along_axis(scores, order, 1)
    return BestMatches(scores=PROBABILITY.shown(ranked), rows=order, ranked=ranked)


@settings(max_examples=300, deadline=None)
@given(
    left=tables(),
    right=tables(),
    k=st.integers(1, 9),
    step=st.integers(1, 4),
    turn=st.integers(1, 5),
    level=st.sampled_from([0.0, _SATURATED]),
    data=st.data(),
)
def test_k_texts_are_enough_for_k_items(
    left: list[Row], right: list[Row], k: int, step: int, turn: int, level: float, data: st.DataObject
) -> None:
    (one, texts), (other, others) = side_of("left", left), side_of("right", right)
    numbers = data.draw(st.lists(st.integers(0, 2), min_size=36, max_size=36))
    scores = np.array(numbers[: len(texts) * len(others)], dtype=np.float32).reshape(len(texts), len(others)) + level

    def score(a: str, b: str) -> float:
        return float(scores[texts.index(a), others.index(b)])

    made = MatchTables(one, other, k, PROBABILITY, one_label=False)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(match_output, "_FOUND_A_TURN", turn)
        patch.setattr(match_output, "_ROWS_A_TURN", turn)
        with PartWriter(Path(folder) / "best.parquet", made.schema, "job") as writer:
            reverse = ReverseMatches(writer, len(others), min(k, len(texts)), Path(folder) / "reverse.parquet", "job")
            for start in range(0, len(texts), step):
                block = scores[start : start + step]
                of_right = top_texts(block.T, min(k, len(texts), len(block)))
                reverse.add((of_right.ranked, of_right.rows), start)
                writer.append(made.of_block(top_texts(block, k), start, len(block)))
            reverse.finish(made)
            writer.finish(made.order)
        sides = ("left", "right")
        assert read(Path(folder) / "best.parquet", sides) == best(left, right, score, k)
        turned = read(Path(folder) / "reverse.parquet", sides[::-1])
        assert turned == best(right, left, lambda a, b: score(b, a), k)
        pairs = MatchTables(one, other, None, PROBABILITY, one_label=False)
        with PartWriter(Path(folder) / "pairs.parquet", pairs.schema, "job") as writer:
            for start in range(0, len(texts), step):
                block = scores[start : start + step]
                rows = np.argwhere(block > level + 0.5)
                ranked = block[rows[:, 0], rows[:, 1]]
                found = Matches(rows=rows, scores=PROBABILITY.shown(ranked), ranked=ranked)
                writer.append(pairs.of_block(found, start, len(block)))
            writer.finish(pairs.order)
        assert read(Path(folder) / "pairs.parquet", sides, ranked=False) == above(left, right, score, level + 0.5)


# The whole way: tables, folders, kernels, files


_LONG = " ".join(["word"] * 40)
_QUERIES = [*(f"query {'very ' * (i % 5)}{i}" for i in range(9)), f"{_LONG} one", f"{_LONG} two"]
_DOCUMENTS = [*(f"document {'long ' * (i % 7)}{i}" for i in range(13)), f"{_LONG} one", f"{_LONG} two"]


def _table(texts: list[str], name: str, ids: bool) -> list[Row]:
    """Every text several times, under two ids of its own, once under none, and an id twice; not in the order of the texts."""
    rows: list[Row] = []
    for turn in range(3):
        for i, text in enumerate(texts if turn != 1 else texts[::-1]):
            id = f"{name}{i if turn != 1 else len(texts) - 1 - i}"
            rows.append({"id": [id, f"{id}b", id][turn] if (i + turn) % 5 else None, "text": text})
    return rows if ids else [{"text": row["text"]} for row in rows]


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    return make_matcher(tiny_encoder)


@pytest.fixture(scope="module")
def sides(student: DiPair, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[Any]]:
    """With ids and without: the two tables, and their folders."""
    made: dict[bool, list[Any]] = {}
    for ids in (True, False):
        where = tmp_path_factory.mktemp(f"items{ids}")
        rows = [_table(_QUERIES, "q", ids), _table(_DOCUMENTS, "d", ids)]
        folders = [
            encode_table(student, some, where / name, side=name, id_column="id" if ids else None, shard_rows=4)
            for some, name in zip(rows, ("query", "document"), strict=True)
        ]
        made[ids] = [*rows, *folders]
    return made


def exact_scores(student: DiPair, left: RepresentationFolder, right: RepresentationFolder) -> np.ndarray:
    """The kernel's own logits of all texts, with the ties that truncated texts have."""
    found = Scorer(student, kernel="torch").best(left, right, top_k=len(right))
    assert isinstance(found, BestMatches)
    scores = np.empty(found.scores.shape, dtype=np.float32)
    np.put_along_axis(scores, found.rows, found.scores, axis=1)
    return scores


def scorer_of(rows: list[Row], others: list[Row], scores: np.ndarray) -> Callable[[str, str], float]:
    row_of = [{text: i for i, text in enumerate(dict.fromkeys(row["text"] for row in some))} for some in (rows, others)]
    return lambda a, b: float(scores[row_of[0][a], row_of[1][b]])


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("k", [1, 4, 20])
def test_every_item_has_its_own_rows(
    student: DiPair, sides: dict[bool, list[Any]], tmp_path: Path, ids: bool, k: int
) -> None:
    left, right, *folders = sides[ids]
    scores = exact_scores(student, *folders)
    assert (scores[:, -1] == scores[:, -2]).all(), "texts that are alike where they are cut must tie"
    output, reverse = tmp_path / "best.parquet", tmp_path / "reverse.parquet"
    # In one part: blocks of another shape may give equal texts another last bit. Parts are in the test of the expansion.
    report = match_folders(Scorer(student, kernel="torch"), *folders, output, top_k=k, reverse_output=reverse)
    assert read(output) == best(left, right, scorer_of(left, right, scores), k)
    assert read(reverse, ("document", "query")) == best(right, left, scorer_of(right, left, scores.T), k)
    assert report.rows == k * len(items_of(left)) and report.pairs == scores.size
    found = pq.read_table(output)
    assert ("query_id" in found.column_names) == ids
    logits = found["logit"].to_numpy()
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(
        found["score"].to_numpy(), torch.from_numpy(logits.copy()).double().sigmoid().float().numpy()
    )
    if ids:
        # What was lost before: every id of both sides can be in a match.
        assert set(found["query_id"].to_pylist()) == {item[2] for item in items_of(left)}


@pytest.mark.parametrize("ids", [True, False])
def test_a_threshold_gives_all_pairs_of_items(
    student: DiPair, sides: dict[bool, list[Any]], tmp_path: Path, ids: bool
) -> None:
    left, right, *folders = sides[ids]
    scores = exact_scores(student, *folders)
    limit = float(np.sort(scores.ravel())[scores.size // 2 : scores.size // 2 + 2].mean())
    threshold = float(1 / (1 + np.exp(-np.float64(limit))))
    match_folders(
        Scorer(student, kernel="torch"), *folders, tmp_path / "pairs.parquet", threshold=threshold, rows_a_part=3
    )
    found = read(tmp_path / "pairs.parquet", ranked=False)
    assert found == above(left, right, scorer_of(left, right, scores), limit)


@pytest.mark.parametrize("bias", [0.0, 40.0])
def test_probabilities_that_are_one_number_keep_their_order_in_parts(
    tiny_encoder: Path, tmp_path: Path, bias: float
) -> None:
    torch.manual_seed(0)
    shape = StudentConfig(
        width=16, kept_tokens=(3, 3), max_lengths=(16, 16), head_heads=2, side_names=("query", "document")
    )
    task = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
    model = DiPair.from_encoder(tiny_encoder, shape, task).eval()
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    with torch.no_grad():
        model.classifier.bias[2] += bias
    sides = ("query", "document")
    rows = [_table(texts, name, False) for texts, name in zip((_QUERIES[:9], _DOCUMENTS[:13]), sides, strict=True)]
    folders = [
        encode_table(model, some, tmp_path / name, side=name, shard_rows=4)
        for some, name in zip(rows, sides, strict=True)
    ]
    scorer = Scorer(model, kernel="torch")
    pairs = np.stack(np.divmod(np.arange(9 * 13), 13), 1)
    logits = scorer.score(*folders, rows=pairs).astype(np.float64)
    odds = (logits[:, 2] - np.logaddexp(logits[:, 0], logits[:, 1])).reshape(9, 13)
    match_folders(
        scorer, *folders, tmp_path / "best.parquet", top_k=5, reverse_output=tmp_path / "reverse.parquet",
        by="probability", label="yes", rows_a_part=2,
    )  # fmt: skip
    for name, matrix, own, other in (("best", odds, *sides), ("reverse", odds.T, *sides[::-1])):
        found = pq.read_table(tmp_path / f"{name}.parquet")
        assert (len(set(found["score"].to_pylist())) == 1) == (bias > 0)
        columns = [found[f"{side}_row"].to_numpy() for side in (own, other)]
        texts_of = [dict(enumerate(_texts_of(some))) for some in (rows if own == "query" else rows[::-1])]
        got = np.array([matrix[texts_of[0][a], texts_of[1][b]] for a, b in zip(*columns, strict=True)]).reshape(-1, 5)
        expected = [_best_odds(matrix[texts_of[0][a]], texts_of[1], 5) for a in columns[0][::5]]
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


def _texts_of(rows: list[Row]) -> list[int]:
    # The number of each row's text.
    numbers = {text: i for i, text in enumerate(dict.fromkeys(row["text"] for row in rows))}
    return [numbers[row["text"]] for row in rows]


def _best_odds(odds: np.ndarray, text_of: dict[int, int], k: int) -> np.ndarray:
    return np.sort([odds[text] for text in text_of.values()])[::-1][:k]


def test_distinct_texts_are_counted_as_texts(student: DiPair, sides: dict[bool, list[Any]], tmp_path: Path) -> None:
    left, right, *folders = sides[True]
    output = tmp_path / "best.parquet"
    match_folders(Scorer(student, kernel="torch"), *folders, output, top_k=3, distinct_texts=True)
    firsts = [list({row["text"]: row | {"number": i} for i, row in reversed(list(enumerate(some)))}.values())
              for some in (left, right)]  # fmt: skip
    assert len(pq.read_table(output)) == 3 * len(firsts[0]) == 3 * len(_QUERIES)
    number_of = [{row["number"]: row["id"] for row in some} for some in firsts]
    for row, id, other, other_id, _ in read(output):
        assert number_of[0][row] == id and number_of[1][other] == other_id


def test_the_texts_beside_the_ids(student: DiPair, sides: dict[bool, list[Any]], tmp_path: Path) -> None:
    left, right, *folders = sides[True]
    texts = folder_texts(left, folders[0], text_column="text"), folder_texts(right, folders[1], text_column="text")
    assert texts == (_QUERIES, _DOCUMENTS)
    scorer, output = Scorer(student, kernel="torch"), tmp_path / "best.parquet"
    match_folders(scorer, *folders, output, top_k=2, texts=texts)
    for row in pq.read_table(output).to_pylist():
        assert row["query_text"] == left[row["query_row"]]["text"]
        assert row["document_text"] == right[row["document_row"]]["text"]
    with pytest.raises(DataError, match=r"item 0 is not the text of row 0"):
        match_folders(scorer, *folders, output, top_k=2, texts=(texts[0][::-1], texts[1]), overwrite=True)
    with pytest.raises(DataError, match="10 texts for the 11"):
        match_folders(scorer, *folders, output, top_k=2, texts=(texts[0][:-1], texts[1]), overwrite=True)
    with pytest.raises(DataError, match=r"^the rows given lack 9 of the 11 texts of .*\(such as row 0, q1, q2\)"):
        folder_texts(right, folders[0], text_column="text")


def test_more_items_than_there_are(student: DiPair, sides: dict[bool, list[Any]], tmp_path: Path) -> None:
    left, right, *folders = sides[True]
    most = len(items_of(right))
    assert most > len(_DOCUMENTS)
    scorer = Scorer(student, kernel="torch")
    with pytest.raises(ConfigError, match=f"top_k is {most + 1}, there are {most} items to choose from"):
        match_folders(scorer, *folders, tmp_path / "out.parquet", top_k=most + 1)
    with pytest.raises(ConfigError, match=f"there are {len(_DOCUMENTS)} texts to choose from"):
        match_folders(scorer, *folders, tmp_path / "out.parquet", top_k=most, distinct_texts=True)
    assert not list(tmp_path.iterdir())
    report = match_folders(scorer, *folders, tmp_path / "out.parquet", top_k=most)
    assert report.rows == most * len(items_of(left))


def test_candidates_count_items_too(student: DiPair, sides: dict[bool, list[Any]], tmp_path: Path) -> None:
    left, right, *folders = sides[True]
    scorer = Scorer(student, kernel="torch")
    match_folders(scorer, *folders, tmp_path / "exact.parquet", top_k=4)
    report = match_folders(
        scorer, *folders, tmp_path / "few.parquet", top_k=4, num_candidates=len(_DOCUMENTS), index="flat"
    )
    assert read(tmp_path / "few.parquet") == read(tmp_path / "exact.parquet")
    assert report.recall == 1.0


def test_a_stopped_match_of_items_goes_on(
    student: DiPair, sides: dict[bool, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, *folders = sides[True]
    scorer = Scorer(student, kernel="torch")
    whole, parts = tmp_path / "whole.parquet", tmp_path / "parts.parquet"
    match_folders(scorer, *folders, whole, top_k=3, reverse_output=tmp_path / "w.parquet", rows_a_part=3)
    append, calls = PartWriter.append, 0

    def stop(writer: PartWriter, table: Any, place: str = "") -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        append(writer, table, place)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PartWriter, "append", stop)
        match_folders(scorer, *folders, parts, top_k=3, reverse_output=tmp_path / "p.parquet", rows_a_part=3)
    state = next(iter(sorted((tmp_path / "parts.parquet.parts").glob("reverse-*.safetensors"))))
    kept = {path: path.read_bytes() for path in state.parent.glob("reverse-*")}
    for path in kept:
        path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    with pytest.raises(CacheError, match=r"reverse-[\d-]+\.safetensors is damaged"):
        match_folders(scorer, *folders, parts, top_k=3, reverse_output=tmp_path / "p.parquet", rows_a_part=3)
    for path, content in kept.items():
        path.write_bytes(content)
    with pytest.raises(CacheError, match="parts of another job"):
        match_folders(scorer, *folders, parts, top_k=3, reverse_output=tmp_path / "p.parquet", rows_a_part=3,
                      distinct_texts=True)  # fmt: skip
    match_folders(scorer, *folders, parts, top_k=3, reverse_output=tmp_path / "p.parquet", rows_a_part=3)
    assert read(parts) == read(whole)
    turned = ("document", "query")
    assert read(tmp_path / "p.parquet", turned) == read(tmp_path / "w.parquet", turned)


def test_a_folder_of_format_1_matches_by_its_texts_and_ids(
    student: DiPair, sides: dict[bool, list[Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left, right, *folders = sides[True]
    old = []
    for folder in folders:
        place = tmp_path / folder.path.name
        shutil.copytree(folder.path, place)
        settings = json.loads((place / "manifest.json").read_text())
        del settings["checksums"], settings["checksum"]
        (place / "manifest.json").write_text(json.dumps({**settings, "format_version": 1}))
        (place / "items.parquet").unlink()
        old.append(place)
    with caplog.at_level(logging.WARNING):
        match_folders(Scorer(student, kernel="torch"), *old, tmp_path / "best.parquet", top_k=3)
        RepresentationFolder.open(old[0])
    told = [record.getMessage() for record in caplog.records if "format 1" in record.getMessage()]
    assert len(told) == 2 and all("encode the texts again" in message for message in told)
    found = pq.read_table(tmp_path / "best.parquet")
    assert set(found["query_id"].to_pylist()) >= {row["id"] for row in left if row["id"] is not None}
    assert set(found["query_row"].to_pylist()) == set(range(len(_QUERIES)))
    rows = found.filter(pa.compute.field("rank") == 1)["query_row"].to_pylist()
    assert rows == sorted(rows)


def test_match_from_the_command_line(
    student: DiPair, sides: dict[bool, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right, *folders = sides[True]
    student.save_pretrained(tmp_path / "model")
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", rows) for name, rows in (("left", left), ("right", right))]
    capsys.readouterr()
    asked = ["match", str(tmp_path / "model"), "--left", str(folders[0].path), "--right", str(folders[1].path)]
    asked += ["--top-k", "2", "--kernel", "torch", "--output", str(tmp_path / "best.csv")]
    texts = ["--texts", "--left-table", str(paths[0]), "--right-table", str(paths[1]), "--text-columns", "text,text"]

    def ask(*more: str) -> tuple[int, str]:
        return call(*asked, *more), capsys.readouterr().err

    assert ask("--texts") == (
        1,
        "Error: --texts needs --left-table and --right-table, from which the folders were encoded\n",
    )
    assert ask("--left-table", str(paths[0]))[0] == 1
    assert ask(*texts, "--reverse-output", str(paths[0]))[0] == 1
    assert ask(*texts)[0] == 0
    with (tmp_path / "best.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(items_of(left))
    for row in rows:
        assert left[int(row["query_row"])] == {"id": row["query_id"] or None, "text": row["query_text"]}
    assert ask(*texts)[0] == 0, "the finished job is known again"
    assert ask(*texts, "--distinct-texts")[0] == 1, "and nothing else replaces it"
    assert ask(*texts, "--distinct-texts", "--overwrite")[0] == 0
    with (tmp_path / "best.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(_QUERIES)
