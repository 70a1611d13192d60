"""What columns are called: the words of a name, the name of the other side's column, and names that are not there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from distilmatch.errors import did_you_mean

TWINS = (("1", "2"), ("0", "1"), ("a", "b"), ("left", "right"), ("first", "second"), ("source", "target"))


def missing_column(name: str, available: Sequence[str]) -> str:
    """What a message says of a column that is not there."""
    # A header that is read as one column is no name to mistake another one for.
    hint = did_you_mean(name, available) if len(available) > 1 else ""
    return f"no column {name!r}{hint} (columns: {', '.join(available) or 'none'})"


def name_words(name: str) -> list[str]:
    """The words of a name, in small letters: productTitle, product_title and "Product title" are the same."""
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def twins_of(name: str, first: str, second: str) -> list[str]:
    """What the twin of a squeezed name is called: text1 -> text2, lefttitle -> righttitle."""
    twins = []
    if name.endswith(first) and len(name) > len(first):
        twins.append(name.removesuffix(first) + second)
    if name.startswith(first) and len(first) > 1 and len(name) > len(first):
        twins.append(second + name.removeprefix(first))
    return twins
