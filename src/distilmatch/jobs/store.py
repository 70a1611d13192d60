"""Jobs that change a versioned store: items of a table are added, or changed, and new texts are encoded.

A killed job is started again in the same way: texts in whole shards are not encoded anew, and the version is committed once.

Shape legend: n rows of the table.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from distilmatch.arguments import one_of, whole_number
from distilmatch.config.tables import OnBadRows, Quoting, TableConfig
from distilmatch.data.column_names import missing_column
from distilmatch.data.column_rows import in_batches, iter_columns, one_text, rereadable
from distilmatch.data.columns import Columns
from distilmatch.data.quarantine import nothing_set_aside
from distilmatch.data.readers import open_source
from distilmatch.data.sources import RawRow
from distilmatch.data.values import is_missing
from distilmatch.errors import CacheError, ConfigError, DataError, ModelError
from distilmatch.fingerprint import text_key
from distilmatch.jobs.encode import TextEncoder, encode_manifest
from distilmatch.models import DiPair
from distilmatch.runtime import Precision
from distilmatch.store.catalogue import Catalogue, Version
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.versions import Store
from distilmatch.store.writer import RepresentationWriter

logger = logging.getLogger(__name__)

Change = Literal["append", "upsert"]
_BATCH = 4096
_MOST_WHOLE = 2**53  # beyond which a whole number is no double


@dataclass(frozen=True, kw_only=True)
class StoreReport:
    """What a change of a store did.

    Attributes:
        version: that it committed; the one that was there where nothing changed.
        encoded: texts that were new, and were encoded by this call or by one of the same job that was stopped.
        bytes_written: of the segment that has them.
    """

    version: Version
    encoded: int
    bytes_written: int


def create_store(
    model: DiPair,
    folder: str | Path,
    *,
    side: int | str,
    columns: Mapping[str, str | None] | None = None,
    dtype: str = "fp32",
    shard_rows: int = 65536,
) -> Store:
    """Makes a store of a model's side, without items.

    Args:
        columns: of the tables, which are kept beside the ids, and their kinds: "number", "text", or None for what the first
            table says: number where all values are numbers.
        dtype, shard_rows: as in `encode_table`.

    Raises:
        ModelError, ConfigError, CacheError: no such side, a setting that cannot be used, or a folder that is not empty.
    """
    kinds = dict(columns or {})
    for name, kind in kinds.items():
        if kind is not None:
            one_of(f"the kind of the column {name!r}", kind, ("number", "text"))
    config = TableConfig()
    manifest = encode_manifest(
        model, model.side_index(side), [], Columns(texts=("text",)), config, dtype, whole_number("shard_rows", shard_rows), "fp32"
    )  # fmt: skip
    return Store.create(folder, manifest, kinds)


def add_to_store(
    model: DiPair,
    store: Store | str | Path,
    source: Any,
    *,
    id_column: str,
    change: Change = "append",
    text_column: str | None = None,
    text_template: str | None = None,
    duplicates: Literal["error", "last"] = "error",
    batch_size: int = 64,
    precision: Precision = "fp32",
    on_bad_rows: OnBadRows = "stop",
    split: str = "train",
    delimiter: str | None = None,
    quoting: Quoting = "auto",
    show_progress_bar: bool | None = None,
) -> StoreReport:
    """Commits a version with the items of a table; texts that the store does not have are encoded.

    Args:
        store: of this model's side, or its folder.
        source: as of `encode_table`; each row is an item, and has an id.
        change: "append" refuses ids that are there; "upsert" gives those the text and the columns of the table. An item that
            does not differ stays what it is; where none does there is no new version.
        duplicates: an id on more than one row is an error, or the last row counts.
        text_column, text_template, batch_size, precision, on_bad_rows, split, delimiter, quoting, show_progress_bar: as of
            `encode_table`.

    Raises:
        ModelError: the store is of another model or side.
        DataError, BadRowsError: the table cannot be used: a row without an id, an id twice or, to append, one that is there, or
            a value that is not of its column's kind. The store stays as it was.
        CacheError: another process changes the store, it is damaged, or cannot be written.
    """
    opened = store if isinstance(store, Store) else Store.open(store)
    one_of("change", change, ("append", "upsert"))
    one_of("duplicates", duplicates, ("error", "last"))
    _check_model(model, opened)
    source = rereadable(source)
    config = TableConfig(on_bad_rows=on_bad_rows, split=split, delimiter=delimiter, quoting=quoting)
    table = _Table(source, config, one_text(source, config, text_column, id_column, text_template), opened.kinds)
    manifest = encode_manifest(
        model, opened.facts["side"], source, table.columns, config, opened.facts["dtype"], opened.facts["shard_rows"], precision
    )  # fmt: skip
    with opened.changing() as catalogue:
        number = catalogue.next_segment()
        place = opened.segment(number)
        quiet = None if show_progress_bar is None else not show_progress_bar
        with _segment_writer(place, manifest) as writer:
            if not writer.finished:
                encoder = TextEncoder(model, writer, opened.facts["side"], batch_size, precision)
                _encode_new(table, catalogue, encoder, quiet)
        segment = RepresentationFolder.open(place)
        written = sum(path.stat().st_size for path in place.iterdir()) if len(segment) else 0
        # What was quarantined is in the side file already.
        with nothing_set_aside():
            kinds = table.kinds_seen()
        with catalogue.transaction(), nothing_set_aside():
            if len(segment):
                catalogue.add_segment(number, segment.keys_between(0, len(segment)), catalogue.version(None).number + 1)
            if kinds != opened.kinds:
                catalogue.set_fact("kinds", kinds)
            catalogue.begin_staging(duplicates == "last", table.name)
            catalogue.stage_rows(table.items(kinds))
            clash = catalogue.append_staged() if change == "append" else None
            if clash is not None:
                raise DataError(
                    f"{table.name}: id {clash[0]!r} is in {opened.path} already, and so are {clash[1] - 1} others of the table; "
                    "nothing was changed. Give new items new ids, or change what is there (upsert)"
                )
            version = catalogue.commit_staged(change)
        if not len(segment):
            shutil.rmtree(place)
        opened.facts["kinds"] = kinds
    return StoreReport(version=version, encoded=len(segment), bytes_written=written)


def _check_model(model: DiPair, store: Store) -> None:
    side = store.facts["side"]
    wanted = model.representation_fingerprint(side) if side < model.student.sides else "none"
    if store.facts["model_fingerprint"] != wanted:
        raise ModelError(
            f"{store.path} is of another model than the one given: its {store.facts['side_name']} representations have the "
            f"fingerprint {store.facts['model_fingerprint']}, this model's {wanted}; take the model that it was made with, or "
            "make a new store"
        )


def _segment_writer(place: Path, manifest: Any) -> RepresentationWriter:
    try:
        return RepresentationWriter(place, manifest)
    except CacheError:
        # No version has it, and nobody else is at work: it is of another change, which was stopped.
        logger.warning("%s was left by another change that was stopped, and is written anew", place)
        return RepresentationWriter(place, manifest, overwrite=True)


def _encode_new(table: _Table, catalogue: Catalogue, encoder: TextEncoder, quiet: bool | None) -> None:
    texts = 0
    with tqdm(desc="Encode", unit="row", disable=quiet) as bar:
        for batch in in_batches(table.rows(), _BATCH):
            keys = [text_key("", row.texts) for row in batch]
            known = catalogue.known_keys(list(dict.fromkeys(keys)))
            for key, row in zip(keys, batch, strict=True):
                if key not in known:
                    encoder.add(row.texts[0], None, texts)
                    texts += 1
            bar.update(len(batch))
    encoder.flush()


class _Table:
    """A table whose rows are items: text, id and the columns that the store keeps."""

    def __init__(self, source: Any, config: TableConfig, columns: Columns, kinds: dict[str, str | None]) -> None:
        self._source, self._config, self.columns, self._kinds = source, config, columns, kinds
        opened = open_source(source, config)
        self.name = opened.name
        for name in kinds:
            if opened.columns is not None and name not in opened.columns:
                raise DataError(
                    f"{self.name} has {missing_column(name, opened.columns)}{opened.hint}; the store keeps it"
                )

    def rows(self) -> Iterator[Any]:
        """Its good rows, each of which has an id.

        Raises:
            DataError: one that has none.
        """
        for row in iter_columns(self._source, self.columns, self._config):
            if row.ids[0] is None:
                raise DataError(
                    f"{row.file}, row {row.row}: it has no {self.columns.ids[0]!r}; each item of a store needs an id"
                )
            yield row

    def _with_values(self) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        raws: Iterator[RawRow] = open_source(self._source, self._config).read(tuple(self._kinds) or None)
        for row in iter_columns(self._source, self.columns, self._config):
            raw = next(raw for raw in raws if raw.row == row.row)
            yield row, raw.values or {}

    def kinds_seen(self) -> dict[str, str | None]:
        """The kinds of the columns, those that were open by the values of this table."""
        kinds = dict(self._kinds)
        unsure = [name for name, kind in kinds.items() if kind is None]
        if not unsure:
            return kinds
        seen: dict[str, set[str]] = {name: set() for name in unsure}
        for _, values in self._with_values():
            for name in unsure:
                if not is_missing(values.get(name)):
                    seen[name].add("text" if _number(values[name]) is None else "number")
        return kinds | {name: "text" if "text" in found else "number" for name, found in seen.items() if found}

    def items(self, kinds: Mapping[str, str | None]) -> Iterator[tuple[str, bytes, tuple[Any, ...]]]:
        """Id, key of the text and values of each row.

        Raises:
            DataError: a value that is not of its column's kind.
        """
        for row, values in self._with_values():
            kept: list[Any] = []
            for name, kind in kinds.items():
                value = values.get(name)
                if is_missing(value):
                    kept.append(None)
                    continue
                number = _number(value)
                if kind == "number" and number is None:
                    raise DataError(
                        f"{row.file}, row {row.row}: {name!r} is {value!r}, the store keeps numbers there; nothing was changed"
                    )
                kept.append(number if kind == "number" else _text(value))
            yield row.ids[0], text_key("", row.texts), tuple(kept)


def _number(value: Any) -> int | float | None:
    """A number, or a text that is one as numbers are written; no "007", and no more digits than a double has."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        try:
            found = float(value) if any(sign in value for sign in ".eE") else int(value)
        except ValueError:
            return None
        if str(found) != value.strip() and not isinstance(found, float):
            return None
        value = found
    if not isinstance(value, int | float) or value != value or abs(value) > _MOST_WHOLE:
        return None
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def check_columns(columns: str | None) -> dict[str, str | None]:
    """Columns as they are typed: `price:number,country`.

    Raises:
        ConfigError: a kind that there is none of.
    """
    kinds: dict[str, str | None] = {}
    for part in (columns or "").split(","):
        name, _, kind = part.strip().partition(":")
        if name and kind not in ("", "number", "text"):
            raise ConfigError(f"the column {name!r} is said to be {kind!r}: a kind is number or text")
        if name:
            kinds[name] = kind or None
    return kinds
