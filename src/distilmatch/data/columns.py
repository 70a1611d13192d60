"""Which columns of a table hold the texts: by their names where these say it, else by what stands in them.

The rules, in this order, for what `text_columns` leaves open (columns named as label, teacher or id are out of it):

1. Names that belong together (`_PAIRS`: query and title, premise and hypothesis, ...; or twins such as text_1 and text_2).
2. All columns, where there are no more than are needed and none is called like an id or a label.
3. The first columns that hold texts and are not called like an id, a label or a note; then those that hold nothing in the
   first rows; then texts under such names. Numbers are no texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from distilmatch.config.tables import TableConfig
from distilmatch.data.column_names import TWINS, missing_column, name_words, twins_of
from distilmatch.data.sources import PEEKED_ROWS, RawRow, Source
from distilmatch.data.templates import FieldWatch, fields_of, side_templates, text_of_fields
from distilmatch.data.values import RowProblem, is_missing, is_number, text_of
from distilmatch.errors import ConfigError, DataError
from distilmatch.text_templates import Template

_ANSWERS = (
    "document",
    "doc",
    "passage",
    "title",
    "product",
    "item",
    "text",
    "answer",
    "response",
    "positive",
    "candidate",
)
# The left name, and the right ones that it goes with, the likeliest first.
_PAIRS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("query",),
        (*_ANSWERS, "producttitle", "documenttext", "passagetext", "doctext", "itemtitle", "body", "description"),
    ),
    (("question",), ("answer", "passage", "context", "sentence", "document", "response", "paragraph", "text", "title")),
    (("premise",), ("hypothesis",)),
    (("anchor",), ("positive", "candidate")),
    (("claim",), ("evidence", "document", "text")),
    (("prompt",), ("response", "completion", "answer")),
    (("querytext",), ("passagetext", "documenttext", "doctext", "text", "title")),
    (("search", "searchterm", "searchquery", "keyword"), _ANSWERS + ("producttitle",)),
    (("left",), ("right",)),
    (("lefttext",), ("righttext",)),
    (("source",), ("target",)),
    (("first",), ("second",)),
    (("original",), ("paraphrase",)),
)
_ALONE = (
    "text",
    "sentence",
    "document",
    "passage",
    "title",
    "query",
    "question",
    "content",
    "body",
    "product",
    "description",
)
_ID_WORDS = {
    "id",
    "ids",
    "idx",
    "index",
    "uuid",
    "guid",
    "asin",
    "sku",
    "isbn",
    "ean",
    "gtin",
    "unnamed",
    "url",
    "rowid",
}
_IDS = re.compile(
    r"(q|p|d|s|c|u|a|r|t|n|doc|query|question|passage|product|item|pair|user|text|sentence|sent|title|left|right|image)ids?\d?"
)
_LABEL_WORDS = {
    "label", "labels", "score", "scores", "grade", "grades", "relevance", "relevant", "rel", "target", "gold", "similarity",
    "rating", "ratings", "stars", "class", "prob", "probability", "logit", "logits", "weight", "duplicate", "teacher", "split",
    "fold", "rank", "judgment", "judgement", "qrel", "votes", "confidence",
}  # fmt: skip
_QUALIFIERS = {"relevant", "gold", "target", "duplicate", "source", "teacher"}  # of a text, before a word for one
_TEXT_WORDS = {
    *_ANSWERS, *_ALONE, "texts", "sentence", "query", "question", "paragraph", "context", "name", "headline", "summary",
}  # fmt: skip
_NOTE_WORDS = {
    "genre", "filename", "file", "lang", "language", "locale", "country", "date", "time", "timestamp", "year", "domain",
    "source", "annotator", "annotators", "version",
}  # fmt: skip
_TEXT_SHARE = 0.2  # of the sampled values: a text may be a number, but few numbers are texts
_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that a table is read from, by name.

    Attributes:
        texts: a column for each text, or what its template is.
        templates: one for each text, where texts are made of several columns; else none.
    """

    texts: tuple[str, ...]
    label: str | None = None
    teacher: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    templates: tuple[Template, ...] = ()

    @classmethod
    def of_templates(cls, templates: Sequence[Template], **others: Any) -> Columns:
        """Columns whose texts are made by templates."""
        return cls(texts=tuple(template.written for template in templates), templates=tuple(templates), **others)

    def wanted(self) -> tuple[str, ...]:
        """Each column once, texts first."""
        texts = fields_of(self.templates) if self.templates else self.texts
        return tuple(dict.fromkeys((*texts, *self.required())))

    def required(self) -> tuple[str, ...]:
        """Those that a row cannot do without: a field of a template may be absent, and is empty then."""
        label = () if self.label is None else (self.label,)
        return tuple(dict.fromkeys((*(() if self.templates else self.texts), *label, *self.teacher, *self.ids)))

    def texts_of(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The texts of a row.

        Raises:
            RowProblem: one that is empty, or cannot be used.
        """
        if self.templates:
            return tuple(text_of_fields(template, values) for template in self.templates)
        return tuple(text_of(values[name], name) for name in self.texts)


def resolve_columns(
    available: Sequence[str],
    config: TableConfig,
    where: str,
    *,
    complete: bool,
    rows: Sequence[RawRow] = (),
    not_texts: frozenset[str] = frozenset(),
    hint: str = "",
) -> Columns:
    """The columns to read, the texts' names filled in from `available` where the config leaves them open.

    Args:
        complete: `available` is a header, so that a column outside it is in no row.
        rows: some rows, whose values tell texts from numbers.
        not_texts: columns whose type cannot hold texts.
        hint: what a message about columns ends with.

    Raises:
        DataError: a column that does not exist, or too few columns for the texts.
        ConfigError: settings that the triplet layout has no use for.
    """
    if config.layout == "triplets":
        _check_triplet_settings(config)
    templates = templates_of(config, available, where, hint)
    named = [*([config.label_column] if config.label_column else []), *config.teacher_columns, *config.id_columns]
    if complete:
        fields = fields_of(templates)
        for name in (*(config.text_columns or ()), *fields, *named):
            if name not in available:
                raise DataError(f"{where}: {missing_column(name, available)}{hint}")
    if templates:
        texts: tuple[str, ...] = tuple(template.written for template in templates)
    elif not available and not config.text_columns:
        # Not one readable row to take names from: what is wrong is told row by row.
        texts = tuple(f"text{i}" for i in range(_needed_texts(config)))
    else:
        free = [name for name in available if name not in named]
        texts = config.text_columns or _default_texts(free, config, where, _kinds(free, rows, not_texts), hint)
    if config.layout == "triplets" and config.id_columns and len(config.id_columns) != len(texts):
        raise ConfigError(
            f"{where}: `id_columns` names {len(config.id_columns)} columns for the {len(texts)} texts of a triplet row "
            f"({', '.join(texts)})"
        )
    return Columns(
        texts=texts,
        label=config.label_column,
        teacher=config.teacher_columns,
        ids=config.id_columns,
        templates=templates,
    )


def templates_of(config: TableConfig, available: Sequence[str], where: str, hint: str = "") -> tuple[Template, ...]:
    """The templates of a table's texts, of the columns that it has; empty where its texts are columns.

    Raises:
        DataError: as `side_templates`.
    """
    if config.text_templates is None:
        return ()
    sides = len(config.text_templates) if config.layout == "triplets" else config.sides
    return side_templates(config.text_templates, sides, available, where, hint)


def _check_triplet_settings(config: TableConfig) -> None:
    if config.label_column is not None:
        raise ConfigError("triplets carry their own labels (positive 1, negatives 0): leave out `label_column`")
    if config.teacher_columns:
        raise ConfigError("`teacher_columns` cannot be used with triplets: give the rows as tuples, one pair a row")
    if config.sides != 2:
        raise ConfigError(f"triplets are read as pairs, 2 sides, not {config.sides}")


def _needed_texts(config: TableConfig) -> int:
    return 3 if config.layout == "triplets" else config.sides


def usual_columns(rows: Sequence[RawRow], config: TableConfig) -> tuple[str, ...]:
    """The columns of most of `rows` that have enough of them (of two equally frequent sets the larger one)."""
    seen = Counter(tuple(map(str, row.values)) for row in rows if row.values is not None)
    needed = _needed_texts(config)
    named = {config.label_column, *config.teacher_columns, *config.id_columns}

    def rank(names: tuple[str, ...]) -> tuple[bool, int, int]:
        return sum(name not in named for name in names) >= needed, seen[names], len(names)

    return max(seen, key=rank, default=())


def begin_reading(opened: Source, config: TableConfig) -> tuple[Columns, list[RawRow], Iterator[RawRow]]:
    """The columns to read from a source, its first rows, and the stream of all rows from the start.

    Raises:
        DataError: as `resolve_columns`, or no rows where rows alone name the columns.
        ConfigError: as `resolve_columns`.
    """
    first, read = peek(opened, config)
    if opened.columns is None:
        if not first:
            raise DataError(f"{opened.name} has no rows; give a source with rows")
        usual = usual_columns(first, config) if config.text_templates is None else all_columns(first)
        columns = resolve_columns(usual, config, opened.name, complete=False, rows=first)
        FieldWatch(columns.templates, opened).warn(row.values for row in first if row.values is not None)
        return columns, first, read(columns.wanted())
    columns = resolve_columns(
        opened.columns, config, opened.name, complete=True, rows=first, not_texts=opened.not_texts, hint=opened.hint
    )
    return columns, first, read(columns.wanted())


def all_columns(rows: Sequence[RawRow]) -> tuple[str, ...]:
    """The columns that any of `rows` has."""
    return tuple(dict.fromkeys(str(name) for row in rows for name in row.values or ()))


def peek(opened: Source, config: TableConfig) -> tuple[list[RawRow], Callable[[Sequence[str]], Iterator[RawRow]]]:
    """The first rows of a source, and what gives all of them from the start, once, for the columns that are wanted.

    Without a header it is as many first rows as it takes for one that can be read. Under a header they lack the columns whose
    type holds no texts, but for those that `config` names.
    """
    if opened.columns is None:
        rows = opened.read(None)
        first = _first_readable(rows)
        return first, lambda wanted: chain(first, rows)
    texts = config.text_columns or fields_of(templates_of(config, opened.columns, opened.name, opened.hint))
    named = {config.label_column, *config.teacher_columns, *config.id_columns, *texts}
    names = [name for name in opened.columns if name in named or name not in opened.not_texts]
    return list(islice(opened.read(names), PEEKED_ROWS)) if names else [], opened.read


def _first_readable(rows: Iterator[RawRow]) -> list[RawRow]:
    first = []
    for raw in rows:
        first.append(raw)
        if len(first) >= PEEKED_ROWS and any(row.values is not None for row in first):
            break
    return first


# --- texts by name, and by what stands in them ---------------------------------------------------------------------


def _default_texts(
    free: list[str], config: TableConfig, where: str, kinds: Mapping[str, str], hint: str
) -> tuple[str, ...]:
    if config.layout == "triplets" and {"anchor", "positive"} <= set(free):
        negatives = [name for name in free if name.startswith("negative")]
        if negatives:
            return ("anchor", "positive", *negatives)
    needed = _needed_texts(config)
    if needed == 2 and config.layout == "tuples":
        pair = _named_pair([name for name in free if kinds[name] in ("text", "unknown")])
        if pair is not None:
            return pair
    if len(free) == needed and not any(_like_other(name) for name in free):
        return tuple(free)
    chosen: list[str] = []
    for tier in _tiers(free, kinds):
        chosen += tier[: needed - len(chosen)]
    if len(chosen) < needed:
        others = ", ".join(name for name in free if name not in chosen) if len(free) >= needed else ""
        chosen = chosen if others else free
        kept = f"; {others} hold no texts, or are called like ids and labels" if others else ""
        raise DataError(
            f"{where}: {needed} text columns are needed, there are {len(chosen)} ({', '.join(chosen) or 'none'}) "
            f"besides label, teacher and id columns{kept}; name the right ones in `text_columns`{hint}"
        )
    return tuple(sorted(chosen, key=free.index))


def _tiers(free: Sequence[str], kinds: Mapping[str, str]) -> tuple[list[str], list[str], list[str]]:
    """Columns in the order in which they are taken."""
    ordinary = [name for name in free if not _like_other(name)]
    return (
        [name for name in ordinary if kinds[name] == "text"],
        [name for name in ordinary if kinds[name] == "unknown"],
        [name for name in free if name not in ordinary and kinds[name] in ("text", "unknown")],
    )


def only_text_column(
    free: Sequence[str], rows: Sequence[RawRow] = (), not_texts: frozenset[str] = frozenset()
) -> str | None:
    """The column of a table of single texts: the one called text, the only one, or the only one that holds texts and is
    not called like an id or a label; None where the choice is not clear.
    """
    called = [name for name in free if "".join(name_words(name)) == "text"]
    if called or len(free) == 1:
        return called[0] if called else free[0]
    texts = _tiers(free, _kinds(free, rows, not_texts))[0]
    return texts[0] if len(texts) == 1 else None


def looks_like_id(name: str) -> bool:
    """Whether a column is called like an id, or has no name."""
    words = name_words(name)
    return not words or words[-1] in _ID_WORDS or words[0] == "unnamed" or bool(_IDS.fullmatch("".join(words)))


def _like_other(name: str) -> bool:
    """Whether a column is called like an id, a label, or a note about the row."""
    if looks_like_id(name):
        return True
    words = name_words(name)
    others = _LABEL_WORDS | _NOTE_WORDS
    if words[-1].rstrip("0123456789") in _TEXT_WORDS:
        others = others - _QUALIFIERS
    return any(word.rstrip("0123456789") in others for word in words)


def _named_pair(free: Sequence[str]) -> tuple[str, str] | None:
    """Two columns whose names belong together, the left one first."""
    squeezed: dict[str, str] = {}
    for name in free:
        squeezed.setdefault("".join(name_words(name)), name)
    for lefts, rights in _PAIRS:
        left = next((squeezed[name] for name in lefts if name in squeezed), None)
        right = next((squeezed[name] for name in rights if name in squeezed), None)
        if left is not None and right is not None:
            return left, right
    twins = [
        (squeezed[name], squeezed[twin])
        for name in squeezed
        for first, second in TWINS
        for twin in twins_of(name, first, second)
        if twin in squeezed and not _like_other(squeezed[name])
    ]
    return min(twins, key=lambda pair: not any(word in "".join(name_words(pair[0])) for word in _ALONE), default=None)


def _kinds(names: Sequence[str], rows: Sequence[RawRow], not_texts: frozenset[str]) -> dict[str, str]:
    """Whether a column holds a "text", a "number" written as text, "other" things, or nothing that says it ("unknown")."""
    kinds = {}
    for name in names:
        values = [row.values[name] for row in rows if row.values is not None and name in row.values]
        counts = Counter(_kind(value) for value in values if not is_missing(value))
        likeliest = max(counts, key=lambda kind: counts[kind], default="unknown")
        kinds[name] = "text" if counts["text"] > _TEXT_SHARE * counts.total() else likeliest
        kinds[name] = "other" if name in not_texts else kinds[name]
    return kinds


def _kind(value: Any) -> str:
    if not isinstance(value, str):
        return "other"
    return "number" if is_number(value.replace(",", ".")) else "text"


def described(columns: Columns, rows: Sequence[RawRow]) -> str:
    """Which columns are read, with the first readable row shortened."""
    named = [f"texts {', '.join(map(repr, columns.texts))}"]
    if columns.label is not None:
        named.append(f"label {columns.label!r}")
    named += [
        f"{what} {', '.join(map(repr, names))}"
        for what, names in (("teacher", columns.teacher), ("ids", columns.ids))
        if names
    ]
    for row in rows:
        if row.values is not None and all(name in row.values for name in columns.required()):
            values = " | ".join(map(shortened, _shown_values(columns, row.values)))
            return f"{'; '.join(named)}. Row {row.row}: {values}"
    return "; ".join(named)


def _shown_values(columns: Columns, values: Mapping[str, Any]) -> list[Any]:
    """What is read of a row."""
    if not columns.templates:
        return [values[name] for name in columns.wanted()]
    try:
        texts = list(columns.texts_of(values))
    except RowProblem:
        texts = ["" for _ in columns.templates]
    return [*texts, *(values[name] for name in columns.required())]


def shortened(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]}...{text[-1]}"
