"""Arguments that are numbers or one of a few words, checked and named where they are wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from distilmatch.errors import ConfigError, did_you_mean

NUMBER_FORMATS = ("fp32", "fp16", "bf16", "int8")
"""What representations can be stored in, by the names that settings have for them."""

_LONG = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def number_format(value: Any) -> Any:
    """A number format by the name that settings have for it (fp32, fp16, bf16, int8); PyTorch's names are taken too."""
    return _LONG.get(value, value) if isinstance(value, str) else value


def whole_number(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """`value`, a whole number from `least` to `most`: Python's or NumPy's.

    Raises:
        ConfigError: it is no whole number, or out of range.
    """
    limits = f"{least:,} or more" if most is None else f"{least:,} to {most:,}"
    whole = isinstance(value, Integral) and not isinstance(value, bool)  # NumPy's are, its booleans are not
    if not whole or int(value) < least or (most is not None and int(value) > most):
        raise ConfigError(f"`{name}` is {value!r}; give a whole number of {limits}")
    return int(value)


def real_number(name: str, value: Any) -> float:
    """`value` as a float; infinite ones are numbers here.

    Raises:
        ConfigError: it is no number, or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise ConfigError(f"`{name}` is {value!r}; give a number")
    return float(value)


def one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Checks a setting that takes one of a few words.

    Raises:
        ConfigError: it is none of them.
    """
    if value not in allowed:
        hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
        raise ConfigError(f"`{name}` must be one of {', '.join(allowed)}, not {value!r}{hint}")
