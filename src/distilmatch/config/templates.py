"""The setting of texts that are made of several columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from distilmatch.errors import ConfigError
from distilmatch.text_templates import Template

MOST_TEXTS = 16  # of a row


def _as_list(value: Any) -> Any:
    """One template as a list of it; a text with a comma is one too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping) or (isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value)):
        raise ValueError("a template is a text, and YAML reads {...} as a group: quote it, as in '{title} ; {brand}'")
    return value


def _checked(written: str) -> str:
    try:
        Template.of(written)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return written


TextTemplate = Annotated[str, AfterValidator(_checked)]
"""A template of a text."""
Templates = Annotated[tuple[TextTemplate, ...], BeforeValidator(_as_list)]
"""Templates of texts, one or more."""


def check_templates(templates: Sequence[str], columns: Sequence[str] | None, fewest: int, most: int) -> None:
    """Refuses templates beside columns, and another number than one a text, or one for all.

    Args:
        fewest, most: how many texts there may be; where they differ, one template for all has no meaning.

    Raises:
        ValueError: it says which.
    """
    if columns is not None:
        raise ValueError("`text_columns` and `text_templates` both say what the texts are: leave one of them out")
    count = len(templates)
    if not (fewest <= count <= most or (count == 1 and fewest == most)):
        wanted = f"{fewest} or more templates" if fewest < most else f"one template a text, {fewest}, or one for all,"
        raise ValueError(f"`text_templates`: {wanted} are wanted, not {count}")
