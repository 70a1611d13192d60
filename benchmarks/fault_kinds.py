"""The jobs that `benchmarks.jobs_faults` ends and damages: small, of tiny models, and each of some seconds."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import xxhash

from benchmarks.tiny_models import tiny_student, tiny_teacher
from distilmatch.config.tables import TableConfig
from distilmatch.data.tables import load_table
from distilmatch.engine.scorer import Scorer
from distilmatch.files import checksum
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.matching import exact
from distilmatch.jobs.score import score_table
from distilmatch.jobs.store import add_to_store, create_store
from distilmatch.models import DiPair
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.versions import Store, verify_store
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher
from distilmatch.teachers.label_cache import SoftLabelCache

_SHARD = 200
_TABLE = TableConfig(text_columns=None, id_columns=("left_id", "right_id"))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What jobs read.

    Attributes:
        place: a folder: `items.jsonl`, `changes.jsonl`, `pairs.jsonl`, `asked.jsonl`; the representation folders `left` and
            `right`; the versioned store `store`.
        student, teacher: models of any weights.
    """

    place: Path
    student: DiPair
    teacher: CrossEncoderTeacher

    def at(self, place: Path) -> Inputs:
        """The same of a copy of the folder."""
        return Inputs(place=place, student=self.student, teacher=self.teacher)

    def copied(self, place: Path) -> Inputs:
        """A copy of the folder."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.place, place)
        return self.at(place)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of job.

    Attributes:
        run: does it, or goes on with it: of inputs, into a folder.
        rows: what it wrote, a row each, in order.
        table, binary: files of the inputs that it reads, as a pattern: a table of text, and what has checksums; "" without.
        starts_from: what lies in the folder before it begins, by a name in the inputs; a job that changes it.
        shares: several processes may do it at once.
    """

    run: Callable[[Inputs, Path], None]
    rows: Callable[[Path], Iterator[bytes]]
    table: str = ""
    binary: str = ""
    starts_from: str = ""
    shares: bool = False

    def begin(self, inputs: Inputs, place: Path) -> None:
        """Makes the folder anew."""
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if self.starts_from:
            shutil.copytree(inputs.place / self.starts_from, place / self.starts_from)


def made_inputs(place: Path, size: int) -> Inputs:
    """Models, and tables of about `size` rows; what is made by jobs comes from `finish_inputs`."""
    place.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)

    def text(number: int) -> str:
        return " ".join([f"thing{number}", *("abcdefgh"[i] * 3 for i in draw.integers(0, 8, int(draw.integers(1, 8))))])

    def write(name: str, rows: Iterator[dict[str, object]]) -> None:
        (place / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    write("items.jsonl", ({"id": f"i{i}", "text": text(i % (size - 50)), "price": i % 97} for i in range(size)))
    write("asked.jsonl", ({"id": f"q{i}", "text": text(i)} for i in range(size)))
    write(
        "changes.jsonl",
        ({"id": f"i{i}", "text": text(i + size // 9), "price": i % 89} for i in range(size // 2, 3 * size // 2)),
    )
    write("pairs.jsonl", ({"left": text(i), "right": text(i + 1), "label": i % 2} for i in range(size)))
    write(
        "named.jsonl",
        ({"left_id": f"q{draw.integers(0, size)}", "right_id": f"i{draw.integers(0, size)}"} for _ in range(10 * size)),
    )
    shape = {"kept_tokens": (4, 8), "width": 64, "head": "feed_forward", "head_intermediate": 64}
    student = tiny_student(place, head_activation="relu", side_names=("query", "item"), **shape)
    return Inputs(place=place, student=student, teacher=CrossEncoderTeacher(str(tiny_teacher(place)), precision="fp32"))


def finish_inputs(inputs: Inputs) -> None:
    """Encodes both sides, and makes a store of some versions."""
    place = inputs.place
    _encode(inputs, place / "left", "asked.jsonl", "query")
    _encode(inputs, place / "right", "items.jsonl", "item")
    create_store(
        inputs.student, place / "store", side="item", columns={"price": "number"}, dtype="fp16", shard_rows=_SHARD
    )
    _add(inputs, place / "store", "items.jsonl", "append")
    store = Store.open(place / "store")
    store.delete(condition="price < 30")


def _encode(inputs: Inputs, output: Path, table: str, side: str) -> None:
    encode_table(
        inputs.student, inputs.place / table, output, side=side, text_column="text", id_column="id", dtype="fp16",
        shard_rows=_SHARD, show_progress_bar=False,
    )  # fmt: skip


def _add(inputs: Inputs, store: Path, table: str, change: str) -> None:
    add_to_store(
        inputs.student, store, inputs.place / table, id_column="id", text_column="text", change=change,  # type: ignore[arg-type]
        show_progress_bar=False,
    )  # fmt: skip


def _encode_job(inputs: Inputs, place: Path) -> None:
    _encode(inputs, place / "folder", "items.jsonl", "item")


def _label_job(inputs: Inputs, place: Path) -> None:
    table = load_table(inputs.place / "pairs.jsonl", TableConfig(label_column="label"))
    pairs = [(left, right) for left, right in table.tuples()]
    SoftLabelCache(place / "labels").label(inputs.teacher, pairs, show_progress_bar=False, chunk_pairs=64)


def _score_job(inputs: Inputs, place: Path) -> None:
    folders = [inputs.place / name for name in ("left", "right")]
    score_table(
        Scorer(inputs.student), inputs.place / "named.jsonl", place / "scores.parquet", folders, table=_TABLE, by="id",
        batch_rows=1000, show_progress_bar=False,
    )  # fmt: skip


def _match_job(inputs: Inputs, place: Path) -> None:
    exact._SAVE_SECONDS, exact._SAVES_SHARE = 0.02, 0.5  # as often as a job of hours saves
    match_folders(
        Scorer(inputs.student, kernel="torch"), inputs.place / "left", inputs.place / "right", place / "matches.parquet",
        top_k=5, rows_a_part=500, reverse_output=place / "reverse.parquet", show_progress_bar=False,
    )  # fmt: skip


def _pairs_job(inputs: Inputs, place: Path) -> None:
    # About half of the pairs lie above the threshold: random weights tell them hardly apart.
    exact._SAVE_SECONDS, exact._SAVES_SHARE = 0.02, 0.5
    match_folders(
        Scorer(inputs.student, kernel="torch"), inputs.place / "left", inputs.place / "right", place / "matches.csv",
        threshold=0.49362, one_to_one=True, show_progress_bar=False,
    )  # fmt: skip


def _commit_job(inputs: Inputs, place: Path) -> None:
    _add(inputs, place / "store", "changes.jsonl", "upsert")


def _compact_job(inputs: Inputs, place: Path) -> None:
    store = Store.open(place / "store")
    store.compact()
    store.expire(store.versions()[-1].number)


def _folder_rows(place: Path) -> Iterator[bytes]:
    folder = RepresentationFolder.open(place / "folder")
    yield from _items(folder, len(folder.items()[0]))
    for path in sorted((place / "folder").iterdir()):
        if not path.name.startswith("."):
            yield f"{path.name} {checksum(path)}".encode()


def _items(folder: RepresentationFolder, count: int) -> Iterator[bytes]:
    _, texts, ids = folder.items()
    for start in range(0, count, 1024):
        tokens = folder.read(texts[start : start + 1024]).tokens.numpy()
        for id, numbers in zip(ids[start : start + 1024], tokens, strict=True):
            yield f"{id} {xxhash.xxh3_128_hexdigest(numbers.tobytes())}".encode()


def _label_rows(place: Path) -> Iterator[bytes]:
    connection = sqlite3.connect(place / "labels" / "soft_labels.sqlite")
    for key, logits in connection.execute("select key, logits from checked_labels order by key"):
        yield key + logits
    connection.close()


def _parquet_rows(name: str) -> Callable[[Path], Iterator[bytes]]:
    def rows(place: Path) -> Iterator[bytes]:
        for batch in pq.ParquetFile(place / name).iter_batches():
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield repr(row).encode()

    return rows


def _match_rows(place: Path) -> Iterator[bytes]:
    for name in ("matches.parquet", "reverse.parquet"):
        yield from _parquet_rows(name)(place)


def _lines(place: Path) -> Iterator[bytes]:
    yield from (place / "matches.csv").read_bytes().splitlines()


def _store_rows(place: Path) -> Iterator[bytes]:
    for problem in verify_store(place / "store"):
        yield problem.encode()
    store = Store.open(place / "store")
    for version in store.versions():
        yield f"{version.number} {version.change} {version.added} {version.removed} {version.items}".encode()
        prices = store.column("price", version.number)
        items = _items(store.version(version.number), version.items)
        for price, item in zip(prices, items, strict=True):
            yield item + f" {price}".encode()


# A kind that runs elsewhere, such as on a cluster, is one more entry here: its `run` waits until all of it is done.
KINDS: dict[str, Kind] = {
    "encode": Kind(run=_encode_job, rows=_folder_rows, table="items.jsonl"),
    "label": Kind(run=_label_job, rows=_label_rows, table="pairs.jsonl", shares=True),
    "score": Kind(run=_score_job, rows=_parquet_rows("scores.parquet"), table="named.jsonl", binary="left/shard-*"),
    "match": Kind(run=_match_job, rows=_match_rows, binary="right/shard-*"),
    "match_pairs": Kind(run=_pairs_job, rows=_lines, binary="left/shard-*"),
    "store_commit": Kind(run=_commit_job, rows=_store_rows, table="changes.jsonl", starts_from="store"),
    "store_compaction": Kind(
        run=_compact_job, rows=_store_rows, binary="store/segments/000001/shard-*", starts_from="store"
    ),
}
