"""Texts as arguments: the one rule at every public door.

One text gives one result; sequences of texts go by position, whatever labels they carry; anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from distilmatch.errors import DataError, DistilmatchError

_SHOWN = 80


def text_list(texts: Any, what: str = "texts", error: type[DistilmatchError] = DataError) -> list[str]:
    """The texts of an argument, in their order.

    Args:
        texts: one string; or a list, tuple, iterator, one-dimensional array, pandas or polars Series, Arrow array or column
            of a dataset, which are read by position.
        what: what messages call the argument.
        error: the class of what is raised.

    Raises:
        DistilmatchError: something that holds no texts in an order (None, bytes, a mapping, a set, a table), or an item that
            is not a string; its position, from 0, is named.
    """
    if isinstance(texts, str):
        return [str(texts)]
    items = [text for text in _items(texts, what, "a list of strings", error)]
    for position, text in enumerate(items):
        if not isinstance(text, str):
            raise error(f"{what}: item {position} is {_named(text)}, not a string")
    return items


def one_text(text: Any, what: str, error: type[DistilmatchError] = DataError) -> str:
    """The only text of an argument that takes one.

    Raises:
        DistilmatchError: anything but a string.
    """
    if not isinstance(text, str):
        raise error(f"{what}: one string is wanted, not {_named(text)}")
    return str(text)


def text_tuples(
    tuples: Any, sides: int = 2, what: str = "pairs", error: type[DistilmatchError] = DataError
) -> list[tuple[str, ...]]:
    """Tuples of `sides` texts, in their order.

    Args:
        tuples: a sequence of tuples (or lists, arrays) of strings, of any kind that `text_list` takes; or one tuple of
            strings, which gives one row (`is_one_tuple` tells the two apart).

    Raises:
        DistilmatchError: as `text_list`, or an item that does not hold `sides` strings; its position is named.
    """
    if is_one_tuple(tuples):
        tuples = [tuples]
    rows = []
    for position, item in enumerate(_items(tuples, what, f"a list of {sides} texts a row", error)):
        if isinstance(item, str | bytes | Mapping | Set) or not isinstance(item, Iterable):
            raise error(f"{what}: item {position} is {_named(item)}, not {sides} texts")
        texts = tuple(_plain(item))
        if len(texts) != sides:
            raise error(f"{what}: item {position} holds {len(texts)} texts, not {sides}: {_shown(texts)}")
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise error(f"{what}: item {position} holds {_named(text)} as text {place + 1}, not a string")
        rows.append(texts)
    return rows


def is_one_tuple(tuples: Any) -> bool:
    """Whether an argument is one tuple of texts, such as ("query", "document"), and not a sequence of them."""
    if isinstance(tuples, str | bytes) or not hasattr(tuples, "__len__") or _is_table(tuples):
        return False
    plain = _plain(tuples)
    return isinstance(next(iter(plain), None) if isinstance(plain, Iterable) else None, str)


def _items(values: Any, what: str, wanted: str, error: type[DistilmatchError]) -> Iterable[Any]:
    if _is_table(values):
        raise error(f"{what}: a {type(values).__name__} is a table: give one column of it, such as table['text']")
    if isinstance(values, Mapping | Set | bytes | str) or not isinstance(values, Iterable):
        raise error(f"{what}: {wanted} is wanted, not {_named(values)}")
    return _plain(values)


def _plain(values: Any) -> Iterable[Any]:
    # Arrow's arrays give scalars of their own; a Series is iterated by position, whatever its index.
    for method in ("to_pylist", "tolist"):
        if hasattr(values, method) and not isinstance(values, list | tuple):
            plain = getattr(values, method)()
            return plain if isinstance(plain, list) else [plain]
    return values


def _is_table(values: Any) -> bool:
    # pandas, polars, Arrow and datasets, none of which is imported for this.
    return hasattr(values, "columns") or hasattr(values, "column_names")


def _named(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind} ({_shown(value)})"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
