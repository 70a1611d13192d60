"""Texts made of several columns: which columns a template means, and what a row gives."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from distilmatch.data.column_names import TWINS, missing_column, name_words, twins_of
from distilmatch.data.sources import Source, say_once
from distilmatch.data.values import RowProblem, field_of
from distilmatch.errors import DataError
from distilmatch.text_templates import Template

logger = logging.getLogger(__name__)

_MARKS = (*TWINS, ("ltable", "rtable"))


def side_templates(
    written: Sequence[str], sides: int, available: Sequence[str], where: str, hint: str = ""
) -> tuple[Template, ...]:
    """A template for each side, of the columns of a table.

    One template for several sides names its columns without the mark of their side: `title` stands for `left_title` and
    `right_title`, `title_1` and `title_2`, and so on (`column_names.TWINS`; numbers from 0 or 1 for more sides than two). A
    column that has no such twins is the same on every side.

    Args:
        available: the columns, or those of the first rows.

    Raises:
        DataError: one template, and no column that says which side it is of.
        ConfigError: no template.
    """
    templates = tuple(map(Template.of, written))
    if len(templates) == sides or len(templates) > 1:
        return templates
    (template,) = templates
    squeezed: dict[str, str] = {}
    for name in available:
        squeezed.setdefault("".join(name_words(name)), name)
    columns = {field: _columns_of(field, sides, squeezed) for field in template.fields}
    if not any(columns.values()):
        absent = next((field for field in template.fields if field not in available), None)
        if absent is not None:
            raise DataError(f"{where}: {missing_column(absent, available)}{hint}")
        raise DataError(
            f"{where}: the template {template.written!r} would give one text for all {sides} sides, since no column of "
            f"{', '.join(map(repr, template.fields))} is one side's (such as left_title and right_title): give a template "
            f"for each side{hint}"
        )
    return tuple(
        template.renamed({field: names[side] for field, names in columns.items() if names}) for side in range(sides)
    )


def _columns_of(field: str, sides: int, squeezed: Mapping[str, str]) -> tuple[str, ...]:
    """The columns of a field, one a side; none where it has no mark of a side."""
    plain = "".join(name_words(field))
    numbers = [tuple(str(first + side) for side in range(sides)) for first in (1, 0)]
    for marks in _MARKS if sides == 2 else numbers:
        forms = [[plain + mark for mark in marks]]
        forms += [[mark + plain for mark in marks]] if len(marks[0]) > 1 else []
        for form in forms:
            if plain and all(name in squeezed for name in form):
                return tuple(squeezed[name] for name in form)
    return ()


def twin_templates(pair: Sequence[str], columns: Sequence[str], taken: Collection[str]) -> tuple[str, str] | None:
    """Templates of all columns that stand once for each of two sides as the two of `pair` do: of left_title and right_title
    those of left_brand and right_brand too. None where there are no others.

    Args:
        columns: of the table; `taken` those that hold something else.
    """
    if len(pair) != 2:
        return None
    free = [name for name in columns if name not in taken and not {"{", "}"} & set(name)]
    squeezed = {"".join(name_words(name)): name for name in reversed(free)}
    for first, second in _MARKS:
        pairs = [
            (name, squeezed[twin])
            for name in free
            for twin in twins_of("".join(name_words(name)), first, second)
            if twin in squeezed
        ]
        if tuple(pair) in pairs and len(pairs) > 1:
            left, right = (" ; ".join(f"{{{name}}}" for name in side) for side in zip(*pairs, strict=True))
            return left, right
    return None


def fields_of(templates: Iterable[Template]) -> tuple[str, ...]:
    """The columns that templates name, each once."""
    return tuple(dict.fromkeys(field for template in templates for field in template.fields))


def filled(template: Template, values: Mapping[str, Any]) -> str:
    """The text of a row; empty where nothing stands in its columns, which may be absent.

    Raises:
        RowProblem: a value that is no field, see `field_of`.
    """
    return template.fill({name: field_of(values.get(name), name) for name in template.fields})


def text_of_fields(template: Template, values: Mapping[str, Any]) -> str:
    """As `filled`.

    Raises:
        RowProblem: also where nothing stands in its columns.
    """
    text = filled(template, values)
    if not text.strip():
        named = ", ".join(map(repr, template.fields))
        raise RowProblem(f"empty text: nothing in {'the columns' if len(template.fields) > 1 else 'column'} {named}")
    return text


class FieldWatch:
    """Whether the columns of templates are in any row, where each row has keys of its own.

    There a column that a row lacks is an empty field, so that only the last row tells whether there is such a column.
    """

    def __init__(self, templates: Iterable[Template], source: Source) -> None:
        self._source = source
        self._unseen = set(fields_of(templates)) if source.columns is None else set()
        self._names: dict[str, None] = {}

    def see(self, values: Mapping[str, Any]) -> None:
        """Takes a row."""
        if self._unseen:
            self._unseen.difference_update(values)
            self._names.update(dict.fromkeys(values))

    def check(self) -> None:
        """To be called after the last row.

        Raises:
            DataError: a column that no row has.
        """
        if self._unseen and self._names:
            raise DataError(f"{self._source.name}: {self._missing(tuple(self._names))}, in no row of it")

    def warn(self, first: Iterable[Mapping[str, Any]]) -> None:
        """Says which columns none of the first rows has.

        Raises:
            DataError: they have none at all of them.
        """
        names = tuple(dict.fromkeys(name for values in first for name in values))
        unseen = self._unseen.difference(names)
        if not unseen or not names:
            return
        told = "; ".join(missing_column(name, names) for name in sorted(unseen))
        if unseen == self._unseen:
            raise DataError(f"{self._source.name}: {told}")
        say_once(logger, self._source, f"in the first rows there is {told}", logging.WARNING)

    def _missing(self, names: Sequence[str]) -> str:
        return "; ".join(missing_column(name, names) for name in sorted(self._unseen))
