"""What a value means: a text, an id, a number, a label; or why it cannot be used. Nothing is rounded, cut or guessed."""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime, time
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np

_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_FLOAT64_DIGITS = 53
_TRUTH = {"true": 1.0, "false": 0.0}
_LIST_ENDS = ("[", "]")


class RowProblem(Exception):
    """Why one row cannot be used; caught where rows are read, never seen by a user.

    Attributes:
        kind: what the reason is a case of, where its words differ from row to row.
    """

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind


def is_missing(value: Any) -> bool:
    """Whether a value is one of the spellings of "none": None, an empty string, NaN, pandas' NA and NaT."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    return is_na(value) or (isinstance(value, float | np.floating) and bool(value != value))


def is_na(value: Any) -> bool:
    """Whether a value is pandas' NA or NaT, which stand for nothing else; pandas is not imported for it."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    kind = type(value)
    return kind.__name__ in ("NAType", "NaTType") and kind.__module__.partition(".")[0] == "pandas"


def is_number(value: str) -> bool:
    """Whether a text is a number as Python writes one, NaN and infinity too."""
    try:
        float(value)
    except ValueError:
        return False
    return True


def shown(text: str) -> str:
    """A text as an error quotes it: one line, at most 80 characters."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def text_of(value: Any, name: str) -> str:
    """A text, as it is.

    Raises:
        RowProblem: none there, blank, no string, or no valid Unicode.
    """
    if isinstance(value, str):
        if not value.strip():
            raise RowProblem(f"empty text in column {name!r}")
        return _valid_unicode(value, f"text in column {name!r}")
    if is_missing(value):
        raise RowProblem(f"null text in column {name!r}{'' if value is None else f' ({value!r})'}")
    raise RowProblem(f"the text in column {name!r} is {_a(value)}, not a string{_way(value)}")


def field_of(value: Any, name: str) -> str:
    """A field of a template, as people write it, without white space around it; "" where there is none.

    A whole number has no point (12, also for 12.0), another one all its digits (0.1), a `Decimal` those that it has (12.50);
    true and false are words, a day is 2026-01-31, and the values of a list stand between commas.

    Raises:
        RowProblem: something else, such as bytes or an object; an infinite number; no valid Unicode.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return ", ".join(text for item in value if (text := _single_field(item, name)))
    return _single_field(value, name)


def _single_field(value: Any, name: str) -> str:
    if isinstance(value, str):
        return _valid_unicode(value, f"text in column {name!r}").strip()
    if is_missing(value) or (isinstance(value, Decimal) and value.is_nan()):
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, float | np.floating) and math.isfinite(value):
        # The shortest digits that give the number back; a negative zero is a zero.
        written = str(value + type(value)(0.0))
        return np.format_float_positional(value, trim="-") if "e" in written else written.removesuffix(".0")
    if isinstance(value, datetime):
        return str(value.date() if value.time() == time() and value.tzinfo is None else value)
    if isinstance(value, date | time):
        return str(value)
    if isinstance(value, float | np.floating | Decimal):
        raise RowProblem(f"the number in column {name!r} is infinite")
    raise RowProblem(f"the field in column {name!r} is {_a(value)}, not a text or a number{_way_of_field(value)}")


def _way_of_field(value: Any) -> str:
    return "; decode it (.decode('utf-8'))" if isinstance(value, bytes) else "; leave it out of the template"


def _a(value: Any) -> str:
    return f"a {type(value).__name__}"


def _way(value: Any) -> str:
    """What to do about a value that is no text."""
    if isinstance(value, bytes):
        return "; decode it (.decode('utf-8'))"
    if isinstance(value, bool | Real | Decimal):
        return "; write it as text (str(...)), or name another column in `text_columns`"
    return "; name another column in `text_columns`"


def _valid_unicode(value: str, what: str) -> str:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise RowProblem(f"the {what} is not valid Unicode (half a surrogate pair)") from None
    return value if type(value) is str else str(value)


def identifier(value: Any, name: str) -> str | None:
    """An id as text; None where there is none. A whole number is written without a point, whatever its type: 1 and 1.0 are
    one id.

    Raises:
        RowProblem: no string and no number, or a float too large to hold each of its digits.
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        return _valid_unicode(value, f"id in column {name!r}")
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Decimal):
        return _decimal_id(value, name)
    if isinstance(value, Real) and not isinstance(value, bool | np.bool_):
        return _float_id(value, name)
    raise RowProblem(f"the id in column {name!r} is {_a(value)}, not a string or a number")


def _decimal_id(value: Decimal, name: str) -> str | None:
    if value.is_nan():
        return None
    if value.is_infinite():
        raise RowProblem(f"the id in column {name!r} is infinite")
    written = format(value, "f")  # every digit, whatever the context's precision
    written = written.rstrip("0").rstrip(".") if "." in written else written
    return "0" if written == "-0" else written


def _float_id(value: Any, name: str) -> str:
    number = float(value)
    if math.isinf(number):
        raise RowProblem(f"the id in column {name!r} is infinite")
    if not number.is_integer():
        return str(value)
    digits = np.finfo(type(value)).nmant + 1 if isinstance(value, np.floating) else _FLOAT64_DIGITS
    if abs(number) >= 2.0**digits:
        raise RowProblem(
            f"the id {number:.0f} in column {name!r} is a floating-point number beyond 2^{digits}, which may have lost digits; "
            "store ids as strings or integers",
            kind=f"long id {name}",
        )
    return str(int(number))


def number_of(value: Any, what: str) -> float:
    """A finite number that float32 can hold.

    Raises:
        RowProblem: anything else.
    """
    if isinstance(value, str) and "_" not in value:
        try:
            number = float(value)
        except ValueError:
            comma = "; write a decimal point" if re.fullmatch(r"\s*[-+]?\d*,\d+\s*", value) else ""
            raise RowProblem(f"{what} {value!r} is not a number{comma}", kind=f"{what} number") from None
    elif isinstance(value, (Real, Decimal)) and not isinstance(value, (bool, np.bool_)):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        except ValueError:  # a signalling NaN of Decimal
            number = math.nan
    else:
        raise RowProblem(f"{what} {value!r} is not a number", kind=f"{what} number")
    if math.isnan(number):
        raise RowProblem(f"{what} is NaN; leave it empty (null) where there is none")
    if abs(number) > _MAX_FLOAT32:
        raise RowProblem(f"{what} {value!r} is infinite or too large")
    return number


def binary_of(value: Any) -> float:
    """A binary label, 0 to 1.

    Raises:
        RowProblem: anything else.
    """
    if isinstance(value, (bool, np.bool_)):
        return float(value)
    if isinstance(value, str) and value.strip().lower() in _TRUTH:
        return _TRUTH[value.strip().lower()]
    number = number_of(value, "label")
    if not 0 <= number <= 1:
        raise RowProblem(f"label {value!r} is out of range: not between 0 and 1", kind="label range")
    return number


def is_no_label(value: Any) -> bool:
    """Whether a row has no label; NaN is none of these, since a sum that went wrong gives it too."""
    return value is None or is_na(value) or (isinstance(value, str) and not value.strip())


def list_of(value: Any, name: str) -> list[Any]:
    """The values of a column that may hold lists.

    Raises:
        RowProblem: none there, or a list in text that is broken.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str) and value.strip()[:1] in _LIST_ENDS:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowProblem(f"teacher column {name!r} holds a broken list: {value!r}", kind="broken list") from None
    if isinstance(value, (list, tuple)):
        if not value:
            raise RowProblem("teacher logits are missing")
        return list(value)
    return [value]
