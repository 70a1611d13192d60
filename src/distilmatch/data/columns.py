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
from distilmatch.data.sources import PEEKED_ROWS, RawRow, Source
from distilmatch.data.values import is_missing, is_number
from distilmatch.errors import ConfigError, DataError, did_you_mean

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
_TWINS = (("1", "2"), ("0", "1"), ("a", "b"), ("left", "right"), ("first", "second"), ("source", "target"))
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
    """The columns that a table is read from, by name."""

    texts: tuple[str, ...]
    label: str | None = None
    teacher: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    def wanted(self) -> tuple[str, ...]:
        """Each column once, texts first."""
        label = () if self.label is None else (self.label,)
        return tuple(dict.fromkeys((*self.texts, *label, *self.teacher, *self.ids)))


def missing_column(name: str, available: Sequence[str]) -> str:
    """What a message says of a column that is not there."""
    # A header that is read as one column is no name to mistake another one for.
    hint = did_you_mean(name, available) if len(available) > 1 else ""
    return f"no column {name!r}{hint} (columns: {', '.join(available) or 'none'})"


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
    named = [*([config.label_column] if config.label_column else []), *config.teacher_columns, *config.id_columns]
    if complete:
        for name in (*(config.text_columns or ()), *named):
            if name not in available:
                raise DataError(f"{where}: {missing_column(name, available)}{hint}")
    if not available and not config.text_columns:
        # Not one readable row to take names from: what is wrong is told row by row.
        texts: tuple[str, ...] = tuple(f"text{i}" for i in range(_needed_texts(config)))
    else:
        free = [name for name in available if name not in named]
        texts = config.text_columns or _default_texts(free, config, where, _kinds(free, rows, not_texts), hint)
    if config.layout == "triplets" and config.id_columns and len(config.id_columns) != len(texts):
        raise ConfigError(
            f"{where}: `id_columns` names {len(config.id_columns)} columns for the {len(texts)} texts of a triplet row "
            f"({', '.join(texts)})"
        )
    return Columns(texts=texts, label=config.label_column, teacher=config.teacher_columns, ids=config.id_columns)


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
        columns = resolve_columns(usual_columns(first, config), config, opened.name, complete=False, rows=first)
        return columns, first, read(columns.wanted())
    columns = resolve_columns(
        opened.columns, config, opened.name, complete=True, rows=first, not_texts=opened.not_texts, hint=opened.hint
    )
    return columns, first, read(columns.wanted())


def peek(opened: Source, config: TableConfig) -> tuple[list[RawRow], Callable[[Sequence[str]], Iterator[RawRow]]]:
    """The first rows of a source, and what gives all of them from the start, once, for the columns that are wanted.

    Without a header it is as many first rows as it takes for one that can be read. Under a header they lack the columns whose
    type holds no texts, but for those that `config` names.
    """
    if opened.columns is None:
        rows = opened.read(None)
        first = _first_readable(rows)
        return first, lambda wanted: chain(first, rows)
    named = {config.label_column, *config.teacher_columns, *config.id_columns, *(config.text_columns or ())}
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
    called = [name for name in free if "".join(_words(name)) == "text"]
    if called or len(free) == 1:
        return called[0] if called else free[0]
    texts = _tiers(free, _kinds(free, rows, not_texts))[0]
    return texts[0] if len(texts) == 1 else None


def _words(name: str) -> list[str]:
    """The words of a name, in small letters: productTitle, product_title and "Product title" are the same."""
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def looks_like_id(name: str) -> bool:
    """Whether a column is called like an id, or has no name."""
    words = _words(name)
    return not words or words[-1] in _ID_WORDS or words[0] == "unnamed" or bool(_IDS.fullmatch("".join(words)))


def _like_other(name: str) -> bool:
    """Whether a column is called like an id, a label, or a note about the row."""
    if looks_like_id(name):
        return True
    words = _words(name)
    others = _LABEL_WORDS | _NOTE_WORDS
    if words[-1].rstrip("0123456789") in _TEXT_WORDS:
        others = others - _QUALIFIERS
    return any(word.rstrip("0123456789") in others for word in words)


def _named_pair(free: Sequence[str]) -> tuple[str, str] | None:
    """Two columns whose names belong together, the left one first."""
    squeezed: dict[str, str] = {}
    for name in free:
        squeezed.setdefault("".join(_words(name)), name)
    for lefts, rights in _PAIRS:
        left = next((squeezed[name] for name in lefts if name in squeezed), None)
        right = next((squeezed[name] for name in rights if name in squeezed), None)
        if left is not None and right is not None:
            return left, right
    twins = [
        (squeezed[name], squeezed[twin])
        for name in squeezed
        for first, second in _TWINS
        for twin in _twins(name, first, second)
        if twin in squeezed and not _like_other(squeezed[name])
    ]
    return min(twins, key=lambda pair: not any(word in "".join(_words(pair[0])) for word in _ALONE), default=None)


def _twins(name: str, first: str, second: str) -> list[str]:
    """What the twin of a squeezed name is called: text1 -> text2, lefttitle -> righttitle."""
    twins = []
    if name.endswith(first) and len(name) > len(first):
        twins.append(name.removesuffix(first) + second)
    if name.startswith(first) and len(first) > 1 and len(name) > len(first):
        twins.append(second + name.removeprefix(first))
    return twins


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
        if row.values is not None and all(name in row.values for name in columns.wanted()):
            values = " | ".join(shortened(row.values[name]) for name in columns.wanted())
            return f"{'; '.join(named)}. Row {row.row}: {values}"
    return "; ".join(named)


def shortened(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]}...{text[-1]}"
