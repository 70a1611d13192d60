"""Bulk encode: from a table of texts to a representation folder, resumable after a kill.

Shape legend: n rows.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any, get_args

from tqdm.auto import tqdm

from distilmatch.arguments import one_of, whole_number
from distilmatch.config.base import NumberFormat
from distilmatch.config.tables import OnBadRows, Quoting, TableConfig
from distilmatch.data.column_rows import iter_columns, one_text, rereadable
from distilmatch.data.columns import Columns
from distilmatch.data.tables import table_fingerprint
from distilmatch.data.values import shown
from distilmatch.errors import ConfigError, DataError
from distilmatch.estimates import disk_bytes, spread_batches
from distilmatch.files import check_outputs
from distilmatch.fingerprint import text_key
from distilmatch.jobs.outputs import output_place
from distilmatch.jobs.rehearsal import REHEARSED_SECONDS, Rehearsal
from distilmatch.jobs.running.base import Runner
from distilmatch.jobs.running.texts import Encode, EncodeJob, chunks_of, encoded_by
from distilmatch.models.dipair import DiPair
from distilmatch.models.trained_texts import check_reading
from distilmatch.runtime import Precision, use_bf16
from distilmatch.store.codec import StoredDtype, stored_dtype
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest, RepresentationWriter
from distilmatch.store.layout import MOST_SHARD_ROWS
from distilmatch.store.writer import check_target
from distilmatch.types import TableRow

_CHUNK_BATCHES = 32
_CHUNK_TEXTS = 2048


def encode_table(
    model: DiPair,
    source: Any,
    output: str | Path,
    *,
    side: int | str,
    text_column: str | None = None,
    text_template: str | None = None,
    id_column: str | None = None,
    dtype: StoredDtype | NumberFormat = "fp32",
    shard_rows: int = 65536,
    batch_size: int = 64,
    precision: Precision = "fp32",
    on_bad_rows: OnBadRows = "stop",
    split: str = "train",
    delimiter: str | None = None,
    quoting: Quoting = "auto",
    resume: bool = True,
    overwrite: bool = False,
    runner: Runner | None = None,
    show_progress_bar: bool | None = None,
) -> RepresentationFolder:
    """Encodes the texts of one column for one side of the model; each distinct text once.

    The table is read twice: the first pass checks every row, so that nothing is started on a table with bad rows.
    Killed and called again in the same way, it goes on after the last whole shard and writes the same bytes; a finished folder
    costs nothing. Memory grows with the table, by about 380 bytes a distinct text with an id, 250 without.

    Args:
        source: a file, a Hugging Face dataset, or a table in memory (pandas, polars, Arrow, `datasets`, rows as mappings); also
            a pair table, of which `text_column` names one side.
        output: the representation folder.
        side: number or name of the model's side.
        text_column: by default "text", or the only column that is not the id.
        text_template: the texts as made of several columns, in place of `text_column`, such as "{title} ; {brand}".
        id_column: ids of the texts; an id may stand on several rows of one text, and a text may have several ids.
        dtype: how the representations are stored; "fp16" and "bf16" (or "float16", "bfloat16") take half the space and
            round, "int8" takes a little more than a quarter, in 127 steps to either side of zero (`store.codec`).
        shard_rows: texts a file, the step in which a killed job goes on; one shard is held in memory.
        batch_size: texts a forward pass.
        precision: of the encoder.
        on_bad_rows: "stop" before any work, or "quarantine" them to a side file and go on.
        split: which split, where `source` is the name of a Hugging Face dataset.
        delimiter, quoting: of CSV and TSV, see `TableConfig`.
        resume: go on in a folder that is there; False refuses one.
        overwrite: delete the representations that are there first.
        runner: workers that encode, processes of this machine (`jobs.running.local`) or of a Ray cluster (`jobs.running.ray`);
            this one reads and writes. The bytes are the same.
        show_progress_bar: None shows one in a terminal.

    Returns:
        the finished folder, opened; rows in the order of the texts' first appearance. Its `items` are the distinct ids, or
        without ids the rows of the table.

    Raises:
        ConfigError: a setting that cannot be used, or an output that is the table or the model; nothing was started.
        BadRowsError, DataError: the table cannot be used, or gives one id to two texts; nothing was started.
        ModelError: no such side.
        CacheError: the folder was written with another model, side, dtype or table, is damaged, cannot be written, or a value
            does not fit `dtype`.
    """
    check_encode(source, output, dtype=dtype, shard_rows=shard_rows, batch_size=batch_size, precision=precision)
    index = model.side_index(side)
    config = TableConfig(on_bad_rows=on_bad_rows, split=split, delimiter=delimiter, quoting=quoting)
    source = rereadable(source)
    columns = one_text(source, config, text_column, id_column, text_template)
    check_reading(model, source, columns.texts if columns.templates else None, (index,))
    manifest = encode_manifest(model, index, source, columns, config, dtype, shard_rows, precision)
    # What is to be overwritten is deleted only once the table is known to be good.
    total = counted_items(iter_columns(source, columns, config))[0] if overwrite else None
    with RepresentationWriter(output, manifest, resume=resume, overwrite=overwrite) as writer:
        if not writer.finished:
            if total is None:
                total = counted_items(iter_columns(source, columns, config))[0]
            quiet = None if show_progress_bar is None else not show_progress_bar
            encoder = TextEncoder(model, writer, index, batch_size, precision)
            rows = iter_columns(source, columns, config)
            bar = tqdm(total=total, desc=f"Encode {manifest.side_name}", unit="row", disable=quiet)
            with bar, _spread(encoder, rows, runner) as read:
                for row in read:
                    encoder.add(row.texts[0], row.ids[0], row.row - 1)
                    bar.update()
                encoder.flush()
    return RepresentationFolder.open(output)


@contextmanager
def _spread(encoder: TextEncoder, rows: Iterable[TableRow], runner: Runner | None) -> Iterator[Iterable[TableRow]]:
    """The rows, whose texts the encoder has encoded by the workers of a runner, who are some chunks ahead of it."""
    if runner is None:
        yield rows
        return
    ahead, read = tee(rows)
    with encoder.encoded_by(runner, (row.texts[0] for row in ahead)):
        yield read


def rehearse_encode(
    model: DiPair,
    source: Any,
    output: str | Path,
    *,
    side: int | str,
    text_column: str | None = None,
    text_template: str | None = None,
    id_column: str | None = None,
    dtype: StoredDtype | NumberFormat = "fp32",
    shard_rows: int = 65536,
    batch_size: int = 64,
    precision: Precision = "fp32",
    on_bad_rows: OnBadRows = "stop",
    split: str = "train",
    delimiter: str | None = None,
    quoting: Quoting = "auto",
    overwrite: bool = False,
    seconds: float = REHEARSED_SECONDS,
) -> Rehearsal:
    """Reads the table and refuses what `encode_table` would; encodes some texts to tell how long all will take.

    Nothing is written to `output`. Arguments as of `encode_table`.

    Args:
        seconds: about how long texts are encoded.

    Raises:
        As `encode_table`.
    """
    check_encode(source, output, dtype=dtype, shard_rows=shard_rows, batch_size=batch_size, precision=precision)
    index = model.side_index(side)
    config = TableConfig(on_bad_rows=on_bad_rows, split=split, delimiter=delimiter, quoting=quoting)
    source = rereadable(source)
    columns = one_text(source, config, text_column, id_column, text_template)
    check_reading(model, source, columns.texts if columns.templates else None, (index,))
    manifest = encode_manifest(model, index, source, columns, config, dtype, shard_rows, precision)
    done = check_target(output, manifest, overwrite)
    texts = _SomeTexts(max(_CHUNK_TEXTS, _CHUNK_BATCHES * batch_size))
    started = time.perf_counter()
    rows, items = counted_items(texts.watched(iter_columns(source, columns, config)))
    reading = time.perf_counter() - started
    todo = 0 if done < 0 else max(0, texts.distinct - done)
    text_seconds, text_bytes = _rehearsed(model, texts.kept, manifest, batch_size, precision, seconds)
    names = (*columns.ids, *columns.texts)
    return Rehearsal(
        facts={"rows": rows, "items": items, "distinct_texts": texts.distinct, "texts_to_encode": todo},
        seconds={"read": reading if todo else 0.0, "encode": todo * text_seconds},
        disk_bytes=round(texts.distinct * text_bytes),
        sample=tuple(dict(zip(names, (*row.ids[: len(columns.ids)], *row.texts), strict=True)) for row in texts.first),
    )


class _SomeTexts:
    """Rows of distinct texts, `most` of them kept, drawn evenly from all."""

    def __init__(self, most: int) -> None:
        self.most, self.distinct = most, 0
        self.kept: list[TableRow] = []
        self.first: list[TableRow] = []
        self._keys: set[bytes] = set()
        self._draw = random.Random(0)

    def watched(self, rows: Iterable[TableRow]) -> Iterator[TableRow]:
        """The same rows, which are looked at on their way."""
        for row in rows:
            if len(self.first) < 2:
                self.first.append(row)
            key = text_key("", row.texts)
            if key not in self._keys:
                self._keys.add(key)
                self.distinct += 1
                place = len(self.kept) if len(self.kept) < self.most else self._draw.randrange(self.distinct)
                if place == len(self.kept):
                    self.kept.append(row)
                elif place < self.most:
                    self.kept[place] = row
            yield row


def _rehearsed(
    model: DiPair,
    rows: list[TableRow],
    manifest: RepresentationManifest,
    batch_size: int,
    precision: Precision,
    seconds: float,
) -> tuple[float, float]:
    """Seconds and bytes that a text takes, by some that are encoded and written."""
    lengths = [len(row.texts[0]) for row in rows]
    middle = [rows[i].texts[0] for i in spread_batches(lengths, batch_size, 1)[0]]
    for _ in range(2):  # the first call takes longer
        started = time.perf_counter()
        model.encode(middle, manifest.side, batch_size=batch_size, precision=precision, show_progress_bar=False)
    batches = max(4, min(_CHUNK_BATCHES, round(seconds / (time.perf_counter() - started))))
    chosen = [rows[i] for batch in spread_batches(lengths, batch_size, batches) for i in batch]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "texts"
        started = time.perf_counter()
        with RepresentationWriter(place, manifest) as writer:
            encoder = TextEncoder(model, writer, manifest.side, batch_size, precision)
            for number, row in enumerate(chosen):
                encoder.add(row.texts[0], row.ids[0], number)
            encoder.flush()
        return (time.perf_counter() - started) / len(chosen), disk_bytes(place) / len(chosen)


def encode_manifest(
    model: DiPair,
    side: int,
    source: Any,
    columns: Columns,
    config: TableConfig,
    dtype: StoredDtype | NumberFormat,
    shard_rows: int,
    precision: Precision,
) -> RepresentationManifest:
    """The settings of a folder that the texts of `source` are encoded into; arguments as of `encode_table`."""
    plain = (config.delimiter, config.quoting) == (None, "auto")
    read_as = "" if plain else f", delimiter {config.delimiter!r}, quoting {config.quoting}"
    used = "bf16" if use_bf16(precision, model.device) else "fp32"
    read = f"text {columns.texts[0]!r}, id {next(iter(columns.ids), None)!r}{read_as}, {used}"
    return RepresentationManifest(
        model_fingerprint=model.representation_fingerprint(side),
        side=side,
        side_name=model.student.side_names[side],
        kept_tokens=model.student.kept_vectors[side],
        width=model.student.vector_width,
        dtype=stored_dtype("dtype", dtype),
        shard_rows=shard_rows,
        texts_source=f"table {table_fingerprint(source, config.split)}, {read}",
    )


def check_encode(
    source: Any,
    output: str | Path,
    model: str | Path | None = None,
    *,
    dtype: str = "fp32",
    shard_rows: int = 65536,
    batch_size: int = 64,
    precision: str = "fp32",
) -> Path:
    """Checks what can be checked before a model or a table is read; the output's path.

    Args:
        model: its folder, where it has one, which the output must not be.

    Raises:
        ConfigError: a setting that cannot be used, or an output that is the table or the model.
    """
    place = output_place(output)
    if place.is_file():
        raise ConfigError(f"the output is {place}, a file: name a folder for the representations")
    check_outputs({"the output": place}, {"the table": source, "the model": model})
    stored_dtype("dtype", dtype)
    one_of("precision", precision, get_args(Precision))
    whole_number("batch_size", batch_size)
    whole_number("shard_rows", shard_rows, most=MOST_SHARD_ROWS)
    return place


def count_texts(
    source: Any,
    *,
    text_column: str | None = None,
    text_template: str | None = None,
    id_column: str | None = None,
    split: str = "train",
    delimiter: str | None = None,
    quoting: Quoting = "auto",
) -> int:
    """How many distinct texts `encode_table` would encode; the table is read and checked, nothing is written.

    Arguments as there.

    Raises:
        BadRowsError, DataError: as `encode_table`.
    """
    config = TableConfig(split=split, delimiter=delimiter, quoting=quoting)
    columns = one_text(source, config, text_column, id_column, text_template)
    return len({text_key("", row.texts) for row in iter_columns(source, columns, config)})


def counted_items(rows: Iterable[TableRow]) -> tuple[int, int]:
    """Reads rows of one text column and counts them, and their items: distinct ids, and rows without an id.

    Raises:
        DataError: an id stands for two texts.
    """
    count = without_id = 0
    key_of: dict[str, bytes] = {}
    for row in rows:
        count += 1
        id, text = row.ids[0], row.texts[0]
        if id is None:
            without_id += 1
            continue
        key = text_key("", (text,))
        if key_of.setdefault(id, key) != key:
            raise DataError(
                f"{row.file}, row {row.row}: id {id!r} stands for {shown(text)} here and for another text before; "
                "nothing was started; give each text its own id"
            )
    return count, without_id + len(key_of)


class TextEncoder:
    """Collects texts that the folder does not hold yet and encodes them in chunks, sorted by length inside.

    A chunk ends where a shard does: a run that goes on after a shard then makes the chunks, and so the batches and the bytes,
    that an undisturbed one makes.
    """

    def __init__(
        self, model: DiPair, writer: RepresentationWriter, side: int, batch_size: int, precision: Precision
    ) -> None:
        self._model, self._writer, self._side = model, writer, side
        self._batch_size, self._precision = batch_size, precision
        self._chunk = max(_CHUNK_TEXTS, _CHUNK_BATCHES * batch_size)
        self._encode: Encode = partial(
            model.encode, side=side, batch_size=batch_size, precision=precision, show_progress_bar=False
        )
        self._texts: list[str] = []
        self._ids: list[str | None] = []
        self._pending: dict[bytes, int] = {}
        self._aliases: dict[str, int] = {}
        self._pending_items: set[str] = set()

    @contextmanager
    def encoded_by(self, runner: Runner, texts: Iterable[str]) -> Iterator[None]:
        """Inside, a runner's workers encode; `texts` are those of all rows that `add` will be given."""
        writer, own = self._writer, self._encode
        job = EncodeJob.of(self._model, self._side, self._batch_size, self._precision)
        chunks = chunks_of(
            texts, lambda key: writer.row_of_key(key) >= 0, writer.rows, writer.manifest.shard_rows, self._chunk
        )
        with encoded_by(runner, job, self._model, chunks) as self._encode:
            yield
        self._encode = own

    def add(self, text: str, id: str | None, number: int) -> None:
        """Takes a row of the table, `number` from 0."""
        key = text_key("", (text,))
        row = self._writer.row_of_key(key)
        if row < 0:
            place = self._pending.setdefault(key, len(self._texts))
            self._add_item(number, self._writer.rows + place, id)
            if place < len(self._texts):
                self._add_alias(id, place)
                return
            self._texts.append(text)
            self._ids.append(id)
            if len(self._texts) >= min(self._chunk, self._room()):
                self.flush()
            return
        if id is not None and self._writer.row_of_id(id) < 0:
            self._writer.add_alias(id, row)
        self._add_item(number, row, id)

    def _room(self) -> int:
        shard_rows = self._writer.manifest.shard_rows
        return shard_rows - self._writer.rows % shard_rows

    def _add_alias(self, id: str | None, place: int) -> None:
        if id is not None and self._ids[place] != id:
            self._aliases[id] = place

    def _add_item(self, number: int, row: int, id: str | None) -> None:
        # An id is an item once; the writer knows of those it has, this of those that wait.
        if id is not None:
            if self._writer.row_of_id(id) >= 0:
                new = self._writer.claim_item(id)
            else:
                new = id not in self._pending_items
                self._pending_items.add(id)
            if not new:
                return
        self._writer.add_item(number, row, id)

    def flush(self) -> None:
        """Encodes the texts that wait."""
        if not self._texts:
            return
        representations = self._encode(self._texts)
        first = self._writer.rows
        self._writer.append(self._ids, list(self._pending), representations)
        for id, place in self._aliases.items():
            self._writer.add_alias(id, first + place)
        for id in self._pending_items:
            self._writer.claim_item(id)
        self._texts, self._ids, self._pending, self._aliases = [], [], {}, {}
        self._pending_items = set()
