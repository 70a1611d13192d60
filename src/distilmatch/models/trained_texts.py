"""Whether texts are made as those were that a student was trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilmatch.text_templates import Template

if TYPE_CHECKING:
    from distilmatch.models.dipair import DiPair

logger = logging.getLogger(__name__)


def check_reading(
    model: DiPair, source: Any, templates: Sequence[str] | None, sides: Sequence[int] | None = None
) -> None:
    """Warns where a table's texts are made in another way than those that the student was trained on.

    Nothing is applied by itself: the columns of a catalogue are not called like those of a table of pairs, and a table may
    hold texts that are made already. Templates count as the same where they differ in the names of columns alone.

    Args:
        source: the table, called by its path or name.
        templates: one for each of `sides`, or one for all; none where the texts are columns.
        sides: those that the table's texts are for; None for all.
    """
    trained = trained_templates(model)
    if not trained:
        return
    where = source if isinstance(source, str | Path) else "the table"
    wanted = [trained[min(side, len(trained) - 1)] for side in sides or range(model.student.sides)]
    if not templates:
        named = " and ".join(dict.fromkeys(repr(template.written) for template in wanted))
        logger.warning(
            "%s: the student was trained on texts made of several columns (%s), and these are read as they stand; if they "
            "are not whole texts already, give a template of this table's columns",
            where,
            named,
        )
        return
    given_templates = list(map(Template.of, templates)) * (len(wanted) if len(templates) == 1 else 1)
    for given, known in zip(given_templates, wanted, strict=False):
        if given.skeleton != known.skeleton:
            logger.warning(
                "%s: the student was trained on texts made by %r, these are made by %r: it may do worse on another form",
                where,
                known.written,
                given.written,
            )


def say_other_texts(teacher: str, learnt: Sequence[str] | None, read: Sequence[str] | None) -> None:
    """Warns where a teacher learnt texts that are made in another way than those that it will label.

    Args:
        learnt, read: templates of its own texts and of those to be labelled, one a side or one for all; None where texts are
            columns. Templates count as the same where they differ in the names of columns alone.
    """
    forms = [[Template.of(template).skeleton for template in templates or ()] for templates in (learnt, read)]
    if forms[0] != forms[1]:
        texts = [
            " and ".join(map(repr, templates)) if templates else "columns as they stand" for templates in (learnt, read)
        ]
        logger.warning(
            "the teacher %s learnt texts made of %s, and labels texts made of %s: it may be worse on another form",
            teacher,
            *texts,
        )


def trained_templates(model: DiPair) -> tuple[Template, ...]:
    """The templates of the texts that a student was trained on, one a side or one for all; empty where there were none."""
    return tuple(map(Template.of, model.config.text_templates or ()))
