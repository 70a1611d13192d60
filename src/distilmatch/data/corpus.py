"""Unlabelled texts, each once: lines of text files, or text columns of tables.

`write_corpus` streams them into a memory-mapped file, so that they may be larger than memory: nothing but eight bytes a
text is held while they are read. `read_texts` holds those of a transfer set in memory. What a line, a blank line and a bad
line are is the same for both.

Shape legend: n distinct texts; r rows of the sources.
"""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distilmatch.config.embeddings import CorpusConfig
from distilmatch.config.tables import TableConfig
from distilmatch.data.column_names import missing_column
from distilmatch.data.columns import only_text_column, peek, shortened
from distilmatch.data.quarantine import BadRows, bad_rows_of
from distilmatch.data.readers import local_file, open_lines, open_source
from distilmatch.data.saved import TEXT_SCHEMA, MappedTexts, write_texts
from distilmatch.data.sources import PEEKED_ROWS, RawRow, Source, say_once
from distilmatch.data.tables import load_table, table_fingerprint
from distilmatch.data.templates import FieldWatch, fields_of, filled
from distilmatch.data.values import RowProblem, is_missing
from distilmatch.errors import BadRow, BadRowsError, CacheError, ConfigError, DataError
from distilmatch.files import MANIFEST, check_files, read_manifest, write_manifest
from distilmatch.fingerprint import DIGEST_BYTES, fingerprint
from distilmatch.text_arguments import text_list
from distilmatch.text_templates import Template

logger = logging.getLogger(__name__)

FORMAT = "distilmatch-corpus"
FORMAT_VERSION = 1
_TEXTS, _EVERY, _ROWS = "texts.arrow", "every_text.arrow", "rows.npy"


class TextCorpus(MappedTexts):
    """The n distinct texts of a folder that `write_corpus` made; on disk, memory-mapped, cheap to pickle.

    Args:
        checked: leaves out the look through the whole files, for those that have been looked through.

    Attributes:
        rows: (n,) int64, which row of the sources each text first stood in, from 0; blank lines count.
        source_rows: r, how many rows the sources have.
        fingerprint: of the texts in their order.
        empty, duplicates, bad: how many rows were left out, and why.

    Raises:
        CacheError: no finished corpus in the folder, or one that is damaged.
    """

    def __init__(self, folder: str | Path, checked: bool = False) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder, FORMAT, FORMAT_VERSION, "corpus")
        if not checked:
            check_files(self.folder, manifest, "corpus")
        try:
            super().__init__(self.folder / _TEXTS, checked)
            self.rows: np.ndarray = np.load(self.folder / _ROWS, mmap_mode="r")
            self.source_rows = int(manifest["source_rows"])
            self.fingerprint = str(manifest["fingerprint"])
            self.empty, self.duplicates = int(manifest["empty"]), int(manifest["duplicates"])
            self.bad = int(manifest["bad"])
            expected = int(manifest["texts"])
        except (KeyError, ValueError, TypeError, OverflowError, OSError, pa.ArrowException) as error:
            raise CacheError(
                f"the corpus {self.folder} is damaged ({type(error).__name__}: {error}); delete the folder"
            ) from error
        if not expected == len(self) == len(self.rows):
            raise CacheError(f"the corpus {self.folder} is damaged: its parts differ in length; delete the folder")

    def __reduce__(self) -> tuple[type[TextCorpus], tuple[str, bool]]:
        return type(self), (str(self.folder), True)

    def lengths(self) -> np.ndarray:
        """(n,) int64, characters of each text."""
        return np.fromiter((len(text) for text in self), dtype=np.int64, count=len(self))


def write_corpus(config: CorpusConfig, folder: str | Path, sources: Sequence[Any] | None = None) -> TextCorpus:
    """Reads the texts of `config` into `folder`, or takes those that stand there of the same sources and settings.

    White space around a text is taken off; a text that is empty then is left out, as is one that came before. How many
    that were goes to the log. Killed at any point, the folder holds no half corpus.

    Args:
        sources: in the place of those that `config` names, also tables in memory and what `corpus_source` gives.

    Raises:
        DataError: a source or column that is not there, a damaged file, or no text at all.
        BadRowsError: rows that cannot be read (`on_bad_rows: stop`), all of them.
        CacheError: the folder holds something else.
        ConfigError: `config` is no CorpusConfig.
    """
    if not isinstance(config, CorpusConfig):
        raise ConfigError(
            f"write_corpus: a CorpusConfig is wanted, such as CorpusConfig(sources=...), not {config!r:.80}"
        )
    folder = Path(folder)
    key = corpus_key(config, sources)
    if (folder / MANIFEST).exists() and read_manifest(folder, FORMAT, FORMAT_VERSION, "corpus").get("key") == key:
        corpus = TextCorpus(folder)
        if not corpus.bad or config.on_bad_rows == "quarantine":
            return corpus
    folder.mkdir(parents=True, exist_ok=True)
    # Without its manifest the folder reads as unfinished, should this be killed.
    (folder / MANIFEST).unlink(missing_ok=True)
    reading = _Reading(config, sources)
    try:
        # All of them first: which come again is known at the end alone, by hashes that take less memory than the texts.
        write_texts(folder / _EVERY, reading.texts())
        reading.check()
        hashes = np.frombuffer(reading.hashes, dtype=np.uint64)
        first = np.sort(np.unique(hashes, return_index=True)[1])
        keep = np.zeros(len(hashes), dtype=bool)
        keep[first[: config.most_texts]] = True
        digest = _keep_texts(folder, keep)
    finally:
        (folder / _EVERY).unlink(missing_ok=True)
    np.save(folder / _ROWS, np.frombuffer(reading.rows, dtype=np.int64)[keep])
    duplicates = len(hashes) - len(first)
    write_manifest(
        folder,
        FORMAT,
        FORMAT_VERSION,
        checked=[_TEXTS, _ROWS],
        key=key,
        fingerprint=digest,
        texts=int(keep.sum()),
        source_rows=reading.count,
        empty=reading.empty,
        duplicates=duplicates,
        bad=reading.bad_count,
        sources=list(config.sources),
    )
    corpus = TextCorpus(folder)
    logger.info(
        "corpus: %s distinct texts of %s rows (%s empty, %s repeated, %s that cannot be read)",
        *(f"{number:,}" for number in (len(corpus), reading.count, reading.empty, duplicates, reading.bad_count)),
    )
    return corpus


def corpus_key(config: CorpusConfig, sources: Sequence[Any] | None = None) -> str:
    """What a corpus depends on: the sources' content and how they are read.

    Args:
        sources: as of `write_corpus`.

    Raises:
        DataError: no such source.
    """
    settings = config.to_dict()
    # Without prompts and templates the same as before there were any.
    unset = [name for name in ("prompts", "text_templates") if not getattr(config, name)]
    for name in ("sources", "on_bad_rows", "quarantine_file", *unset):
        settings.pop(name)
    read = config.sources if sources is None else sources
    return fingerprint("corpus", [table_fingerprint(source, config.split) for source in read], settings)


class TextRows(Sequence[Mapping[str, Any]]):
    """Texts in memory as a table of one column, `text`; nothing is copied."""

    def __init__(self, texts: Sequence[Any]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, row: Any) -> Any:
        return TextRows(self._texts[row]) if isinstance(row, slice) else {"text": self._texts[row]}


def corpus_source(source: Any) -> Any:
    """A corpus that a program gives, as `write_corpus` takes it in `sources`.

    Args:
        source: the path of a file or the name of a hub dataset; a table (pandas, polars, Arrow, `datasets`, rows as mappings);
            or texts: a list, an iterator, or a column of such a table. A missing text counts as an empty row.

    Raises:
        DataError: a list of the paths of files.
    """
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    is_table = hasattr(source, "columns") or hasattr(source, "column_names")
    # What columns of Arrow, polars, pandas and NumPy call it.
    ways = [name for name in ("to_pylist", "to_list", "tolist") if hasattr(source, name) and not is_table]
    if ways:
        source = getattr(source, ways[0])()
    is_column = type(source).__name__ == "Column" and isinstance(source, Sequence)  # of `datasets`
    if isinstance(source, Iterator) or is_column:
        source = list(source)
    if not isinstance(source, list | tuple) or (source and all(isinstance(item, Mapping) for item in source)):
        return source
    if source and all(
        isinstance(item, str) and local_file(item) is not None and Path(item).is_file() for item in source
    ):
        raise DataError(
            "`corpus` is a list of files, where texts are wanted: name files in the recipe's `corpus.sources`"
        )
    return TextRows(source)


class _Reading:
    """One pass over the sources: their texts, and what is known of each once they have been read."""

    def __init__(self, config: CorpusConfig, sources: Sequence[Any] | None = None) -> None:
        self.config = config
        self._sources = config.sources if sources is None else sources
        self.hashes, self.rows = array("Q"), array("q")
        self.count = self.empty = 0
        self._bad = BadRows(None)

    @property
    def bad_count(self) -> int:
        """How many rows could not be read."""
        return self._bad.total

    def texts(self) -> Iterator[str]:
        """Every text that is not empty, repeated ones too."""
        for given in self._sources:
            source = _open(given, self.config)
            self._bad.quarantine = bad_rows_of(source, _table(self.config)).quarantine
            try:
                yield from self._of(source)
            finally:
                self._bad.close()

    def _of(self, source: Source) -> Iterator[str]:
        columns, rows = _begin(source, self.config)
        for text in _stripped_texts(source, columns, rows, self._bad):
            if text:
                digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
                number = int.from_bytes(digest, "little")
                self.hashes.append(number)
                self.rows.append(self.count)
                prompts = self.config.prompts
                yield prompts[number % len(prompts)] + text if prompts else text
            elif text is not None:
                self.empty += 1
            self.count += 1

    def check(self) -> None:
        """Raises what the pass found wrong."""
        self._bad.check()
        if not self.hashes:
            raise DataError(
                f"the corpus is empty: {', '.join(self.config.sources)} hold no text ({self.empty} empty rows, "
                f"{self.bad_count} that cannot be read)"
            )


def read_texts(sources: str | Sequence[str], table: TableConfig) -> list[str]:
    """The distinct texts of `sources`, in their order, in memory; blank lines left out.

    Args:
        sources: files of a text a line (`.txt`, `.txt.gz`, UTF-8), or tables of the recipe's form, whose labels are not
            read; one string is one source.
        table: how tables are read, and what becomes of bad rows, of lines too.

    Raises:
        DataError: no such file, or one that is damaged or UTF-16.
        BadRowsError: rows or lines that cannot be read (`on_bad_rows: stop`), all those of a source.
        ConfigError: `table` is no TableConfig.
    """
    if not isinstance(table, TableConfig):
        raise ConfigError(f"`table`: a TableConfig is wanted, not a {type(table).__name__}")
    unlabelled = table.replaced(label_column=None, teacher_columns=(), id_columns=())
    texts: dict[str, None] = {}
    for name in source_names(sources):
        texts.update(dict.fromkeys(_lines(name, table) if _is_plain(name) else load_table(name, unlabelled).texts))
    return list(texts)


def source_names(sources: str | Sequence[str], what: str = "sources") -> list[str]:
    """The names of sources; one string or path is one source.

    Raises:
        DataError: anything else, or an item that is no name.
    """
    if isinstance(sources, os.PathLike):
        return [os.fspath(sources)]
    if isinstance(sources, list | tuple):
        sources = [os.fspath(source) if isinstance(source, os.PathLike) else source for source in sources]
    return text_list(sources, what)


def _lines(name: str, table: TableConfig) -> list[str]:
    try:
        source = open_lines(name)
        bad = bad_rows_of(source, table)
        try:
            texts = list(_stripped_texts(source, ("text",), source.read(None), bad))
        finally:
            bad.close()
        bad.finish(source.name, sum(text is not None for text in texts))
    except BadRowsError:
        raise
    except DataError as error:
        raise DataError(f"cannot read the unlabelled texts: {error}") from error
    return [text for text in texts if text]


def _stripped_texts(
    source: Source, columns: Sequence[str | Template], rows: Iterable[RawRow], bad: BadRows
) -> Iterator[str | None]:
    """What stands in `columns` of each row, or is made of several, without white space around it: "" where nothing does, None
    where it cannot be read, which goes to `bad`.

    Raises:
        DataError: at the end, a template of a column that no row has.
    """
    watch = FieldWatch([column for column in columns if isinstance(column, Template)], source)
    for raw in rows:
        if raw.values is not None:
            watch.see(raw.values)
        for column in columns:
            try:
                yield _stripped(raw, column)
            except RowProblem as problem:
                bad.add(BadRow(file=source.name, row=raw.row, reason=str(problem), raw=raw.text()), problem.kind)
                yield None
    watch.check()


def _stripped(raw: RawRow, column: str | Template) -> str:
    """A text of a row without white space around it.

    Raises:
        RowProblem: it cannot be read.
    """
    if raw.values is None:
        raise RowProblem(raw.problem or "the row cannot be read", raw.kind)
    if isinstance(column, Template):
        return filled(column, raw.values).strip()
    problem = _problem(raw, column)
    if problem is not None:
        raise RowProblem(problem)
    value = raw.values[column]
    return "" if is_missing(value) else value.strip()


def _is_plain(name: str) -> bool:
    return name.lower().endswith((".txt", ".txt.gz"))


def _open(given: Any, config: CorpusConfig) -> Source:
    if isinstance(given, str) and (config.file_format == "text" or (config.file_format is None and _is_plain(given))):
        return open_lines(given)
    return open_source(given, _table(config))


def _table(config: CorpusConfig) -> TableConfig:
    return TableConfig.from_dict(
        {
            "file_format": None if config.file_format == "text" else config.file_format,
            "delimiter": config.delimiter,
            "quoting": config.quoting,
            "split": config.split,
            "on_bad_rows": config.on_bad_rows,
            "quarantine_file": config.quarantine_file,
        }
    )


def _begin(source: Source, config: CorpusConfig) -> tuple[tuple[str | Template, ...], Iterator[RawRow]]:
    """The columns whose texts count, or the templates of these, and the rows from the start."""
    if config.text_templates is not None and not source.is_lines:
        return _begin_templates(source, tuple(map(Template.of, config.text_templates)))
    first, read = peek(source, _table(config))
    available = source.columns
    if available is None:
        keys = Counter(tuple(row.values) for row in first if row.values is not None)
        available = max(keys, key=lambda names: keys[names], default=())
    columns = _columns(available, config, source, first)
    return columns, read(columns)


def _begin_templates(source: Source, templates: tuple[Template, ...]) -> tuple[tuple[Template, ...], Iterator[RawRow]]:
    wanted = fields_of(templates)
    for name in wanted:
        if source.columns is not None and name not in source.columns:
            raise DataError(
                f"{source.name}: {missing_column(name, source.columns)}; it stands in `corpus.text_templates`"
            )
    rows = source.read(wanted)
    first = list(islice(rows, PEEKED_ROWS))
    FieldWatch(templates, source).warn(row.values for row in first if row.values is not None)
    shown = ""
    with suppress(RowProblem):  # a row that cannot be used is told of later
        texts = (filled(templates[0], row.values) for row in first if row.values is not None)
        shown = next((f". Its first text: {shortened(text)}" for text in texts if text), "")
    say_once(logger, source, f"texts {', '.join(repr(template.written) for template in templates)}{shown}")
    return templates, chain(first, rows)


def _columns(available: tuple[str, ...], config: CorpusConfig, source: Source, first: list[RawRow]) -> tuple[str, ...]:
    if source.is_lines:
        return ("text",)
    columns = config.text_columns
    if columns is None:
        only = only_text_column(available, first, source.not_texts) if available else ""
        if only is None:
            raise DataError(
                f"{source.name} has columns {', '.join(available)}: name those that hold texts in `corpus.text_columns`"
            )
        columns = (only,)
    else:
        seen = source.columns or tuple({name: None for row in first for name in row.values or {}})
        for name in columns:
            if seen and name not in seen:
                raise DataError(f"{source.name}: {missing_column(name, seen)}; name it in `corpus.text_columns`")
    named = next((row for row in first if row.values and columns[0] in row.values), None)
    shown = "" if named is None else f". Row {named.row}: {shortened((named.values or {})[columns[0]])}"
    say_once(logger, source, f"texts {', '.join(map(repr, columns))}{shown}")
    return columns


def _problem(raw: RawRow, column: str) -> str | None:
    assert raw.values is not None
    if column not in raw.values:
        return f"no column {column!r}"
    value = raw.values[column]
    if not isinstance(value, str):
        return None if is_missing(value) else f"column {column!r} holds a {type(value).__name__}, not a text"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return f"column {column!r} is no valid Unicode"
    return None


def _keep_texts(folder: Path, keep: np.ndarray) -> str:
    """Writes the texts at `keep`, (all,) bool; returns their fingerprint."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    start = 0
    with (
        pa.memory_map(str(folder / _EVERY)) as mapped,
        pa.OSFile(str(folder / _TEXTS), "wb") as sink,
        pa.ipc.new_file(sink, TEXT_SCHEMA) as writer,
    ):
        every = pa.ipc.open_file(mapped)
        for number in range(every.num_record_batches):
            batch = every.get_batch(number)
            kept = pc.filter(batch.column(0), pa.array(keep[start : start + batch.num_rows]))
            start += batch.num_rows
            for text in kept.to_pylist():
                encoded = text.encode("utf-8")
                digest.update(len(encoded).to_bytes(8, "little"))
                digest.update(encoded)
            writer.write_batch(pa.record_batch([kept], schema=TEXT_SCHEMA))
    return digest.hexdigest()
