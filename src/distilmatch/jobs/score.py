"""Bulk score: from a table of pairs and the folders of their representations to a file of scores, resumable.

Shape legend: n rows of the table; m rows of a batch; s sides; c labels.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from distilmatch.arguments import one_of, whole_number
from distilmatch.config.tables import TableConfig
from distilmatch.data.column_rows import in_batches, iter_columns, rereadable, tuple_columns
from distilmatch.data.columns import Columns
from distilmatch.data.tables import iter_rows, table_fingerprint
from distilmatch.data.values import shown
from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sides import LoadedSide
from distilmatch.engine.sources import FolderRows
from distilmatch.errors import ConfigError, DataError
from distilmatch.estimates import disk_bytes
from distilmatch.files import check_outputs
from distilmatch.fingerprint import fingerprint, fingerprint_tensors
from distilmatch.jobs.outputs import output_file
from distilmatch.jobs.parts import PartWriter, parts_folder
from distilmatch.jobs.rehearsal import Rehearsal
from distilmatch.metrics.reading import Reading
from distilmatch.models.dipair import DiPair
from distilmatch.models.trained_texts import check_reading
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.opened import opened_folder
from distilmatch.types import TableRow

_CHECKED_ROWS = 16_384
_NAMED_PROBLEMS = 5


def score_table(
    scorer: Scorer | DiPair,
    source: Any,
    output_parquet: str | Path,
    folders: Sequence[RepresentationFolder | str | Path],
    *,
    table: TableConfig | None = None,
    by: Literal["text", "id"] = "text",
    threshold: float | str | None = None,
    calibrated: bool = False,
    batch_rows: int = 65536,
    resume: bool = True,
    overwrite: bool = False,
    show_progress_bar: bool | None = None,
) -> int:
    """Scores every row of a table from cached representations; the encoders are not used.

    The table is read twice: the first pass checks every row and looks it up, so that nothing is started on a table
    with bad or unknown rows. Killed and called again in the same way, it goes on after the last whole batch; an
    output that the same call finished before costs nothing. Memory does not grow with the table, but with
    the texts of the folders, by about 120 bytes a text, 420 where rows are looked up by id (docs/reference/files.md).

    Args:
        scorer: the model with its kernel, or the model alone, for which the best kernel here is taken.
        source: a file, a Hugging Face dataset, or a table in memory (pandas, polars, Arrow, `datasets`, rows as mappings).
        output_parquet: the scores, as Parquet or in the form of its ending (.csv, .tsv, .jsonl), a row for each row of the
            table and in its order: the ids and texts under their
            names in the table (the side names for triplets), `logit_0` to `logit_{c-1}` (raw, fp32), and `score`.
            With one label `score` is the sigmoid of the logit, as `predict` gives it. A classification has `label`,
            the most probable class, and its probability as `score`. With a `threshold` there is `match`, true or false.
        folders: a representation folder for each side, or its path, in the order of the model's sides.
        table: how the table is read. By id, texts are read (and written) only where `text_columns` or `text_templates` name
            them. Texts that templates make stand under the names of the model's sides in the output.
        by: what rows are looked up by.
        threshold: of a binary task or two classes, whose second is a match: "best_f1", "precision=0.95", "recall=0.9" of the
            model's decision, or a number that the score of a match is above.
        calibrated: scores (and a threshold that is a number) are probabilities by the decision's calibration.
        batch_rows: rows a part file, the step in which a killed job goes on.
        resume: go on with the part files that are there; False starts anew.
        overwrite: replace an output that holds something else.
        show_progress_bar: None shows one in a terminal.

    Returns:
        the number of rows in the output.

    Raises:
        ConfigError: a setting that cannot be used, or an output that is the table or a folder; nothing was started.
        BadRowsError, DataError: the table cannot be used, or a text or id is in no folder; nothing was started.
        ModelError: a folder was made by another model or for another side.
        CacheError: the output holds something else, is being written by another process or cannot be written; or a folder is
            damaged.
    """
    asked = threshold, calibrated
    scorer, folders, lookup, job = _prepared(scorer, source, output_parquet, folders, table, by, batch_rows, asked)
    model = scorer.model
    with PartWriter(output_parquet, lookup.schema(model), job, resume=resume, overwrite=overwrite) as writer:
        if writer.finished_rows is not None:
            return writer.finished_rows
        total = lookup.check()
        sides = [scorer.load(folder, j, uses=total) for j, folder in enumerate(folders)]
        quiet = None if show_progress_bar is None else not show_progress_bar
        with tqdm(total=total, desc="Score", unit="row", disable=quiet) as bar:
            for number, rows in enumerate(in_batches(lookup.rows(), batch_rows)):
                if number >= writer.parts:  # those before stand in the parts of a run that was stopped
                    writer.append(_score_batch(scorer, lookup, sides, rows))
                bar.update(len(rows))
        return writer.finish()


def rehearse_score(
    scorer: Scorer | DiPair,
    source: Any,
    output_parquet: str | Path,
    folders: Sequence[RepresentationFolder | str | Path],
    *,
    table: TableConfig | None = None,
    by: Literal["text", "id"] = "text",
    threshold: float | str | None = None,
    calibrated: bool = False,
    batch_rows: int = 65536,
    overwrite: bool = False,
) -> Rehearsal:
    """Reads the table and refuses what `score_table` would; scores its first rows to tell how long all will take.

    Nothing is written to `output_parquet`. Arguments as of `score_table`.

    Raises:
        As `score_table`, but for another process that is at work.
    """
    asked = threshold, calibrated
    scorer, folders, lookup, job = _prepared(scorer, source, output_parquet, folders, table, by, batch_rows, asked)
    schema = lookup.schema(scorer.model)
    writer = PartWriter(output_parquet, schema, job, overwrite=overwrite, looks_only=True)
    started = time.perf_counter()
    total = lookup.check()
    read = time.perf_counter()
    done = total if writer.finished_rows is not None else min(total, writer.parts * batch_rows)
    sides = [scorer.load(folder, j, uses=total) for j, folder in enumerate(folders)]
    folded = time.perf_counter()
    rows = next(in_batches(lookup.rows(), batch_rows))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / output_file(output_parquet).name
        began = time.perf_counter()
        with PartWriter(place, schema, job) as parts:
            parts.append(_score_batch(scorer, lookup, sides, rows))
            parts.finish()
        row_seconds, row_bytes = (time.perf_counter() - began) / len(rows), disk_bytes(folder) / len(rows)
    names = (*lookup.columns.ids, *lookup.text_names)
    texts = slice(None) if lookup.text_names else slice(0)
    ids = slice(len(lookup.columns.ids))
    finished = done == total
    return Rehearsal(
        facts={"rows": total, "rows_to_score": total - done},
        seconds={
            "read": 0.0 if finished else read - started,
            "load": 0.0 if finished else folded - read,
            "score": (total - done) * row_seconds,
        },
        disk_bytes=round(total * row_bytes),
        sample=tuple(dict(zip(names, (*row.ids[ids], *row.texts[texts]), strict=True)) for row in rows[:2]),
    )


def _prepared(
    scorer: Scorer | DiPair,
    source: Any,
    output: str | Path,
    folders: Sequence[RepresentationFolder | str | Path],
    table: TableConfig | None,
    by: Literal["text", "id"],
    batch_rows: int,
    asked: tuple[float | str | None, bool],
) -> tuple[Scorer, list[RepresentationFolder], _Lookup, str]:
    """Checks all but the table's rows: the scorer, the opened folders, where rows are found, and the job's fingerprint."""
    table = table or TableConfig()
    whole_number("batch_rows", batch_rows)
    one_of("by", by, ("text", "id"))
    opened = opened_folders(folders)
    check_score(source, output, opened)
    source = rereadable(source)
    scorer = scorer if isinstance(scorer, Scorer) else Scorer(scorer)
    model = scorer.model
    _check_folders(scorer, opened)
    reading = None
    if asked != (None, False):
        reading = Reading.of(model.task, *asked, lambda: model.decision)
    lookup = _make_lookup(model, source, opened, table, by, reading)
    job = fingerprint(
        table_fingerprint(source, table.split),
        table.replaced(quarantine_file=None).key_settings(),
        by,
        batch_rows,
        fingerprint_tensors(model.state_dict()),
        model.task.to_dict(),
        model.student.to_dict(),
        [folder.manifest.to_dict() for folder in opened],
        scorer.kernel.name,
        *([] if reading is None else [reading.facts()]),
    )
    return scorer, opened, lookup, job


def check_score(
    source: Any,
    output: str | Path,
    folders: Sequence[RepresentationFolder],
    model: str | Path | None = None,
) -> Path:
    """Checks the output before anything is read; its path.

    Args:
        model: the model's folder, where it has one, which the output must not be in.

    Raises:
        ConfigError: an output that cannot be written, or is the table, the model or in one of the folders.
    """
    place = output_file(output)
    inputs = {f"the folder of side {j}": folder.path for j, folder in enumerate(folders)}
    check_outputs({"the output": place}, {"the table": source, "the model": model, **inputs})
    check_outputs({"the folder of its parts": parts_folder(place)}, {"the table": source, "the model": model, **inputs})
    return place


def opened_folders(folders: Any) -> list[RepresentationFolder]:
    """The folders of a model's sides, opened where their paths are given.

    Raises:
        ConfigError: one folder instead of one a side, or something else.
        CacheError: a path where there is no whole folder.
    """
    if isinstance(folders, str | Path | RepresentationFolder):
        raise ConfigError("a folder for each side is wanted, in the order of the model's sides, not a single one")
    return [opened_folder(folder) for folder in folders]


@dataclass(frozen=True, kw_only=True)
class _Lookup:
    """Rows of the table, where their representations are, and how their logits are read where a decision is asked for."""

    source: Any
    folders: Sequence[RepresentationFolder]
    table: TableConfig
    by: Literal["text", "id"]
    columns: Columns
    text_names: tuple[str, ...]
    side_names: tuple[str, ...]
    reading: Reading | None

    def rows(self) -> Iterator[TableRow]:
        """The good rows of the table, in order."""
        if self.by == "text":
            return iter_rows(self.source, self.table)
        return iter_columns(self.source, self.columns, self.table)

    def find(self, rows: Sequence[TableRow]) -> np.ndarray:
        """(m, s) int64 row numbers in the folders, -1 for what they do not hold."""
        numbers = np.empty((len(rows), len(self.folders)), dtype=np.int64)
        for j, folder in enumerate(self.folders):
            if self.by == "text":
                numbers[:, j] = folder.row_of_text([row.texts[j] for row in rows])
            else:
                ids = [row.ids[j] for row in rows]
                numbers[:, j] = folder.row_of_id([id or "" for id in ids])
                numbers[[id is None for id in ids], j] = -1
        return numbers

    def check(self) -> int:
        """Looks every row up and counts them.

        Raises:
            DataError: a text or id that its folder does not hold; the first few are named.
        """
        total = missing = 0
        named: list[str] = []
        for rows in in_batches(self.rows(), _CHECKED_ROWS):
            total += len(rows)
            for i, j in np.argwhere(self.find(rows) < 0):
                missing += 1
                if len(named) < _NAMED_PROBLEMS:
                    named.append(self._missing(rows[i], int(j)))
        if missing:
            summary = f"{missing} of {total * len(self.folders)} {self.by}s are in no folder; nothing was scored"
            lines = [f"{summary}; encode them too, for the right side, or leave their rows out", *named]
            lines += [f"... and {missing - len(named)} more"] if missing > len(named) else []
            raise DataError("\n  ".join(lines))
        return total

    def _missing(self, row: TableRow, side: int) -> str:
        where = f"{row.file}, row {row.row}: "
        folder = self.folders[side].path
        if self.by == "text":
            return f"{where}the {self.side_names[side]} text {shown(row.texts[side])} is not in {folder}"
        id = row.ids[side]
        if id is None:
            return f"{where}the {self.side_names[side]} id is empty"
        return f"{where}the {self.side_names[side]} id {id!r} is not in {folder}"

    def schema(self, model: DiPair) -> pa.Schema:
        """The columns of the output."""
        names = [*self.columns.ids, *self.text_names]
        fields = [pa.field(name, pa.string()) for name in names]
        fields += [pa.field(f"logit_{c}", pa.float32()) for c in range(model.task.num_labels)]
        if model.task.kind == "classification":
            fields.append(pa.field("label", pa.string()))
        fields.append(pa.field("score", pa.float32()))
        if self.reading is not None and self.reading.limit is not None:
            fields.append(pa.field("match", pa.bool_()))
        everything = [field.name for field in fields]
        twice = sorted({name for name in everything if everything.count(name) > 1})
        if twice:
            raise ConfigError(f"the output would have two columns {', '.join(map(repr, twice))}; rename the table's")
        return pa.schema(fields)

    def arrays(self, rows: Sequence[TableRow]) -> list[pa.Array]:
        """The ids and texts of `rows`, as the schema has them."""
        ids = [pa.array([row.ids[j] for row in rows], pa.string()) for j in range(len(self.columns.ids))]
        return ids + [pa.array([row.texts[j] for row in rows], pa.string()) for j in range(len(self.columns.texts))]


def _make_lookup(
    model: DiPair,
    source: Any,
    folders: Sequence[RepresentationFolder],
    table: TableConfig,
    by: Literal["text", "id"],
    reading: Reading | None,
) -> _Lookup:
    sides = model.student.side_names
    triplets = table.layout == "triplets"
    if not triplets and table.sides != len(sides):
        raise ConfigError(f"the table has {table.sides} sides, the model {len(sides)}: set `sides` of the table")
    if by == "text":
        columns = tuple_columns(source, table)
        if triplets:
            ids = tuple(f"{side}_id" for side in sides) if table.id_columns else ()
            columns = Columns(texts=sides, ids=ids)
        columns = replace(columns, label=None, teacher=())
    else:
        if triplets or len(table.id_columns) != len(sides):
            raise ConfigError(f"scoring by id needs `id_columns`: a column of ids for each side ({', '.join(sides)})")
        for side, folder in zip(sides, folders, strict=True):
            if not folder.has_ids:
                raise DataError(f"{folder.path} ({side}) holds no ids: encode with an id column, or score by text")
        columns = Columns(texts=table.text_columns or (), ids=table.id_columns)
        if table.text_templates is not None:
            columns = replace(tuple_columns(source, table), label=None, teacher=())
    if columns.texts:
        check_reading(model, source, table.text_templates)
    return _Lookup(
        source=source,
        folders=folders,
        table=table,
        by=by,
        columns=columns,
        text_names=columns.texts if table.text_templates is None else sides,
        side_names=sides,
        reading=reading,
    )


def _check_folders(scorer: Scorer, folders: Sequence[RepresentationFolder]) -> None:
    sides = scorer.model.student.side_names
    if len(folders) != len(sides):
        raise ConfigError(f"{len(folders)} folders given, the model has {len(sides)} sides: {', '.join(sides)}")
    for index, (side, folder) in enumerate(zip(sides, folders, strict=True)):
        FolderRows(folder).check(scorer.model, index, partial(scorer.representation_fingerprint, index))
        if not len(folder):
            raise DataError(f"{folder.path} ({side}) holds no representations; encode its texts first")


def _score_batch(scorer: Scorer, lookup: _Lookup, sides: Sequence[LoadedSide], rows: Sequence[TableRow]) -> pa.Table:
    logits = scorer.score(*sides, rows=lookup.find(rows), show_progress_bar=False)
    arrays = lookup.arrays(rows) + [pa.array(column) for column in logits.T]
    return pa.Table.from_arrays(
        arrays + _scores(scorer.model, logits, lookup.reading), schema=lookup.schema(scorer.model)
    )


def _scores(model: DiPair, logits: np.ndarray, reading: Reading | None) -> list[pa.Array]:
    values = torch.from_numpy(logits)
    calibrated = None
    if reading is not None and reading.calibration is not None:
        calibrated = torch.from_numpy(reading.probabilities(logits))
    if model.task.kind != "classification":
        scores = [pa.array((values[:, 0].double().sigmoid().float() if calibrated is None else calibrated).numpy())]
    else:
        shares = torch.softmax(values, dim=1) if calibrated is None else torch.stack([1 - calibrated, calibrated], 1)
        probabilities, classes = shares.max(1)
        labels = pa.array([model.task.classes[i] for i in classes.tolist()], pa.string())
        scores = [labels, pa.array(probabilities.numpy())]
    if reading is not None and reading.limit is not None:
        scores.append(pa.array(reading.matches(logits)))
    return scores
