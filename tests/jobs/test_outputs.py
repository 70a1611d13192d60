"""Outputs: never over an input or each other, in the form of their ending, whole or not at all, one line where they cannot be."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.helpers import read_jsonl, write_jsonl

from distilmatch.config.tables import TableConfig
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError, DistilmatchError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.outputs import JOB
from distilmatch.jobs.parts import PartWriter, job_of, parts_folder
from distilmatch.jobs.score import score_table
from distilmatch.jobs.vectors import folder_vectors
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder

from .conftest import Row, pair_rows

Folders = list[RepresentationFolder]
TABLE = TableConfig(text_columns=("query", "document"), id_columns=("qid", "did"))


@pytest.fixture(scope="module")
def folders(student: DiPair, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    where = tmp_path_factory.mktemp("outputs")
    return [
        encode_table(student, pair_rows(), where / name, side=name, text_column=name, id_column=id)
        for name, id in (("query", "qid"), ("document", "did"))
    ]


def content(*paths: Path) -> dict[str, bytes]:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return {str(file): file.read_bytes() for file in files if file.name != ".lock"}


# Outputs over inputs


def _places(path: Path, tmp_path: Path) -> list[Path]:
    """The place itself, and by other names: relative, by a link, by a hard link for a file."""
    link = tmp_path / f"{path.name}-link"
    link.symlink_to(path)
    found = [path, Path(os.path.relpath(path)), link, path.parent / "x" / ".." / path.name]
    (path.parent / "x").mkdir(exist_ok=True)
    if path.is_file():
        os.link(path, tmp_path / f"{path.name}-hard")
        found.append(tmp_path / f"{path.name}-hard")
    return found


def test_scores_never_replace_what_they_are_made_of(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "pairs.jsonl", pair_rows())
    before = content(table, *(folder.path for folder in folders))
    for place in [*_places(table, tmp_path), folders[0].path / "scores.parquet", folders[1].path / "a" / "s.csv"]:
        with pytest.raises(ConfigError, match="the output"):
            score_table(student, table, place, folders, table=TABLE, overwrite=True)
    (tmp_path / "scores.parquet.parts").mkdir()
    inside = tmp_path / "scores.parquet.parts" / "pairs.jsonl"
    inside.write_text(table.read_text())
    with pytest.raises(CacheError, match=r"holds other files \(pairs\.jsonl\)"):
        score_table(student, inside, tmp_path / "scores.parquet", folders, table=TABLE, overwrite=True)
    assert inside.exists() and content(table, *(folder.path for folder in folders)) == before


@pytest.mark.parametrize("dry_run", [False, True])
def test_matches_never_replace_what_they_are_made_of(
    student: DiPair, folders: Folders, tmp_path: Path, dry_run: bool
) -> None:
    before = content(*(folder.path for folder in folders))
    scorer = Scorer(student, kernel="torch")
    best = tmp_path / "best.parquet"
    pairs: list[tuple[Any, Any]] = [
        (best, best),
        (best, tmp_path / "x" / ".." / "best.parquet"),
        (best, f"{best}.parts"),
    ]
    pairs += [(folders[j].path / "best.parquet", None) for j in (0, 1)]
    pairs += [(best, folders[j].path / "shard-00000.safetensors") for j in (0, 1)]
    pairs += [(folders[0].path, None), (best, folders[1].path)]
    for output, reverse in pairs:
        with pytest.raises(ConfigError):
            match_folders(scorer, *folders, output, top_k=2, reverse_output=reverse, overwrite=True, dry_run=dry_run)
    assert content(*(folder.path for folder in folders)) == before and not best.exists()


def test_an_encode_never_replaces_its_table_or_model(student: DiPair, tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "pairs.jsonl", pair_rows())
    student.save_pretrained(tmp_path / "model")
    before = content(table, tmp_path / "model")
    for place in _places(table, tmp_path):
        with pytest.raises(DistilmatchError):
            encode_table(student, table, place, side=0, text_column="query", overwrite=True)
    with pytest.raises(CacheError, match="holds other files"):
        encode_table(student, table, tmp_path / "model", side=0, text_column="query", overwrite=True)
    assert content(table, tmp_path / "model") == before


def test_the_cache_of_vectors_is_no_input(folders: Folders, tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "pairs.jsonl", pair_rows())
    for cache in (table, folders[0].path, folders[0].path / "vectors", tmp_path / "encoder"):
        with pytest.raises(ConfigError, match="the cache of vectors"):
            folder_vectors(tmp_path / "encoder", table, folders[0], cache, text_column="query")


# Places where nothing can be written


@pytest.mark.parametrize("place", ["", ".", "..", "{folder}", "{folder}/", "{file}/x.parquet", "{file}/a/b.parquet", "a\0b",
                                   "x" * 300, "/dev/null/x", "/proc/x.parquet"])  # fmt: skip
def test_a_place_that_cannot_be_is_one_line(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    place = place.format(folder=tmp_path / "folder", file=tmp_path / "file")
    tries: list[Callable[[], Any]] = [
        lambda: score_table(student, pair_rows(), place, folders, table=TABLE),
        lambda: match_folders(Scorer(student, kernel="torch"), *folders, place, top_k=1),
        lambda: match_folders(Scorer(student, kernel="torch"), *folders, "ok.parquet", top_k=1, reverse_output=place),
        lambda: PartWriter(place, pa.schema([]), "job"),
    ]
    if "folder" not in place:
        tries.append(lambda: encode_table(student, pair_rows(), place, side=0, text_column="query"))
    for attempt in tries:
        with pytest.raises((ConfigError, CacheError)) as refused:
            attempt()
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "ok.parquet").exists() or place in ("x" * 300, "/proc/x.parquet")
    assert (tmp_path / "file").read_text() == "a file"


# Reads [limit, words] lines; runs each command in a fresh copy of a process that has imported all; answers [code, stderr].
_LIMITED = """
import json, os, resource, signal, sys
import torch
torch.set_num_threads(1)
import distilmatch.jobs.encode, distilmatch.jobs.match, distilmatch.jobs.score
from distilmatch.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
while line := sys.stdin.readline():
    limit, words = json.loads(line)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.close(writing)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        main(words)
        sys.exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as told:
        text = told.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text]), flush=True)
"""


@pytest.fixture
def limited() -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs a command whose files cannot grow beyond a limit, in bytes; gives its exit status and what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", _LIMITED], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        asks, answers = process.stdin, process.stdout

        def call(limit: int, *arguments: str) -> tuple[int, str]:
            asks.write(json.dumps([limit, arguments]) + "\n")
            asks.flush()
            code, told = json.loads(answers.readline())
            return code, told

        deadline = threading.Timer(300, process.kill)  # a command that hangs is no answer
        deadline.start()
        yield call
        deadline.cancel()
        asks.close()


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    student: DiPair, limited: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    student.save_pretrained(tmp_path / "model")
    rows = [{"query": f"query {'very ' * (i % 7)}{i}", "document": f"document {i}", "qid": f"q{i}"} for i in range(300)]
    table = write_jsonl(tmp_path / "pairs.jsonl", rows)
    places = {side: str(tmp_path / side) for side in ("query", "document")}
    scores, best, reverse = (str(tmp_path / name) for name in ("scores.csv", "best.parquet", "reverse.parquet"))
    sides = ["--left", places["query"], "--right", places["document"], "--kernel", "torch"]
    encode_table(student, str(table), places["document"], side="document", text_column="document")
    # Each command with limits that its first and its last files meet.
    encode = ["encode", str(tmp_path / "model"), str(table), "--side", "query", "--text-column", "query"]
    commands = [
        ([*encode, "--output", places["query"]], (300,)),
        (
            [
                "score",
                str(tmp_path / "model"),
                str(table),
                *sides,
                "--text-columns",
                "query,document",
                "--output",
                scores,
            ],
            (3_000,),
        ),
        (
            ["match", str(tmp_path / "model"), *sides, "--top-k", "5", "--output", best, "--reverse-output", reverse],
            (300, 3_000),
        ),
    ]
    free = 10**9
    for command, limits in commands:
        for limit in limits:
            code, told = limited(limit, *command)
            lines = [line for line in told.splitlines() if "weights" not in line and "Encode" not in line]
            assert code == 1 and "Traceback" not in told, told
            assert lines[-1].startswith("Error: cannot write ") and "disk is full" in lines[-1], told
        code, told = limited(free, *command)
        assert code == 0, told
    assert len(RepresentationFolder.open(places["query"])) == 300
    with open(scores, newline="") as file:
        assert len(list(csv.DictReader(file))) == 300
    assert len(pq.read_table(best)) == len(pq.read_table(reverse)) == 1500
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "model",
        "pairs.jsonl",
        "query",
        "document",
        "scores.csv",
        ".scores.csv.job.json",
        "best.parquet",
        "reverse.parquet",
    }


# The form that the ending asks for


def _awkward(rows: int = 12) -> list[Row]:
    made = pair_rows(rows)
    made[0]["query"] = 'a "quoted", one\nof two lines\tand a tab'
    made[1]["query"] = " padded é 日本 😀 "
    return made


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix in (".csv", ".tsv"):
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("name", ["scores.csv", "scores.tsv", "scores.jsonl", "scores.parquet", "scores", "SCORES.CSV"])
def test_the_form_is_that_of_the_ending(student: DiPair, tmp_path: Path, name: str) -> None:
    rows = _awkward()
    sides = [
        encode_table(student, rows, tmp_path / side, side=side, text_column=side, id_column=id)
        for side, id in (("query", "qid2"), ("document", "did"))
        for _ in [[row.setdefault("qid2", f"q{i}") for i, row in enumerate(rows)]]
    ]
    expected = tmp_path / "expected.parquet"
    score_table(student, rows, expected, sides, table=TABLE, batch_rows=5)
    output = tmp_path / "out" / name
    assert score_table(student, rows, output, [str(side.path) for side in sides], table=TABLE, batch_rows=5) == 12
    path = output.rename(output.with_suffix(output.suffix.lower())) if name.isupper() else output
    for row, wanted in zip(_read(path), pq.read_table(expected).to_pylist(), strict=True):
        assert list(row) == list(wanted)
        for key, value in wanted.items():
            if isinstance(value, float):
                assert np.float32(float(row[key])) == np.float32(value), "not the same fp32 number"
            else:
                assert row[key] == value
    assert content(tmp_path / "out").keys() <= {str(path), str(output.parent / f".{output.name}.job.json")}


def test_a_finished_csv_is_known_again_and_never_overwritten(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.csv"
    score_table(student, pair_rows(), output, folders, table=TABLE)
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", lambda *_, **__: pytest.fail("scored again"))
        assert score_table(student, pair_rows(), output, folders, table=TABLE) == 30
    before = output.read_bytes()
    with pytest.raises(CacheError, match="something else"):
        score_table(student, pair_rows(20), output, folders, table=TABLE)
    assert output.read_bytes() == before
    output.write_bytes(before.replace(b"q1", b"q7", 1))  # by hand
    with pytest.raises(CacheError, match="something else"):
        score_table(student, pair_rows(), output, folders, table=TABLE)
    assert score_table(student, pair_rows(20), output, folders, table=TABLE, overwrite=True) == 20
    assert len(_read(output)) == 20
    assert job_of(output) is not None and JOB not in output.read_bytes()


@pytest.mark.parametrize(
    "name", ["scores.xlsx", "scores.json", "scores.csv.gz", "scores.txt", "scores.v2", "scores.parquets"]
)
def test_other_forms_are_refused_with_the_list(student: DiPair, folders: Folders, tmp_path: Path, name: str) -> None:
    for attempt in (
        lambda: score_table(student, pair_rows(), tmp_path / name, folders, table=TABLE),
        lambda: match_folders(Scorer(student), *folders, tmp_path / name, top_k=1),
        lambda: match_folders(Scorer(student), *folders, tmp_path / "m", top_k=1, reverse_output=tmp_path / name),
    ):
        with pytest.raises(ConfigError, match=r"\.parquet, \.csv, \.tsv, \.jsonl"):
            attempt()
    assert not list(tmp_path.iterdir())


# Settings that cannot be used, and folders by their path


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 0}, {"batch_size": 1.5}, {"batch_size": True}, {"shard_rows": 0}, {"shard_rows": "9"}, {"dtype": "float8"},
     {"dtype": None}, {"dtype": "flaot16"}, {"precision": "fp16"}, {"on_bad_rows": "skip"}],
)  # fmt: skip
def test_settings_of_encode(student: DiPair, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        encode_table(student, pair_rows(), tmp_path / "out", side=0, text_column="query", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 0}, {"top_k": -1}, {"top_k": 2.0}, {"top_k": True}, {"threshold": float("nan")}, {"threshold": -0.1},
     {"top_k": 1, "num_candidates": 0}, {"top_k": 1, "rows_a_part": 0}, {"top_k": 1, "index": "tree"},
     {"top_k": 1, "texts": (["a"],)}],
)  # fmt: skip
def test_settings_of_match(student: DiPair, folders: Folders, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        match_folders(Scorer(student, kernel="torch"), *folders, tmp_path / "out.parquet", **settings)
    assert not list(tmp_path.iterdir())


def test_settings_of_score(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    paths = [str(folder.path) for folder in folders]
    for settings in ({"batch_rows": 0}, {"batch_rows": 2.5}, {"by": "row"}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            score_table(student, pair_rows(), tmp_path / "s.parquet", folders, table=TABLE, **settings)
    for wrong in (paths[0], folders[0], [None, None], [folders[0], 3]):
        with pytest.raises(ConfigError, match="folder"):
            score_table(student, pair_rows(), tmp_path / "s.parquet", wrong, table=TABLE)
    with pytest.raises(CacheError, match="no representation folder"):
        score_table(student, pair_rows(), tmp_path / "s.parquet", [tmp_path, tmp_path], table=TABLE)
    assert not list(tmp_path.iterdir())
    match_folders(Scorer(student, kernel="torch"), *paths, tmp_path / "by_path.parquet", top_k=2)
    match_folders(Scorer(student, kernel="torch"), *folders, tmp_path / "opened.parquet", top_k=2)
    assert pq.read_table(tmp_path / "by_path.parquet").equals(pq.read_table(tmp_path / "opened.parquet"))


# Parts that are not what they were


def test_damaged_and_swapped_parts_are_refused(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.parquet"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PartWriter, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        score_table(student, pair_rows(), output, folders, table=TABLE, batch_rows=7)
    one, other = (tmp_path / "scores.parquet.parts" / f"part-0000{i}.parquet" for i in (0, 1))
    whole = one.read_bytes(), other.read_bytes()
    one.write_bytes(whole[1])
    other.write_bytes(whole[0])
    with pytest.raises(CacheError, match="another part than its name says"):
        score_table(student, pair_rows(), output, folders, table=TABLE, batch_rows=7)
    other.write_bytes(whole[1])
    # A flipped bit is refused, or in what is not read (such as a statistic of the file).
    expected = tmp_path / "expected.parquet"
    score_table(student, pair_rows(), expected, folders, table=TABLE, batch_rows=7)
    refused = 0
    for place in range(4, len(whole[0]), len(whole[0]) // 40):
        content = bytearray(whole[0])
        content[place] ^= 1
        one.write_bytes(bytes(content))
        kept = {path.name: path.read_bytes() for path in one.parent.glob("part-*")}
        try:
            score_table(student, pair_rows(), output, folders, table=TABLE, batch_rows=7)
        except CacheError:
            refused += 1
        else:
            assert pq.read_table(output).equals(pq.read_table(expected))
            output.unlink()
            one.parent.mkdir()
        for name, part in kept.items():
            (one.parent / name).write_bytes(part)
    assert refused > 15
    one.write_bytes(whole[0])
    assert score_table(student, pair_rows(), output, folders, table=TABLE, batch_rows=7) == 30


def test_a_file_that_another_process_renames_meanwhile_is_not_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by `benchmarks.jobs_faults`: a second process said "other files" of the first one's half-written file."""
    folder = parts_folder(tmp_path / "out.parquet")
    folder.mkdir()
    half = folder / "reverse-00001.writing"
    half.write_bytes(b"")
    glob = Path.glob

    def renamed(place: Path, pattern: str) -> list[Path]:
        found = list(glob(place, pattern))
        if pattern == "*" and half.exists():
            half.rename(half.with_suffix(".safetensors"))
        return found

    monkeypatch.setattr(Path, "glob", renamed)
    with PartWriter(tmp_path / "out.parquet", pa.schema([("a", pa.int64())]), "job") as writer:
        assert writer.parts == 0
    assert not half.exists()
