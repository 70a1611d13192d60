"""What a pair job reads: the tables and the teacher that its recipe names, or that a program has in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilmatch.config.pairs import PairRecipe, TeacherConfig
from distilmatch.data.tables import IN_MEMORY, described_table
from distilmatch.errors import ConfigError
from distilmatch.teachers import Teacher
from distilmatch.teachers.in_memory import described_teacher, loaded_teacher


@dataclass(frozen=True, kw_only=True)
class PairInputs:
    """Tables and teacher of a job.

    Attributes:
        train, dev, test: a path, a hub dataset's name, or a table in memory; None for one that there is not.
        teacher: a loaded one; None where the recipe names it, or there is none.
    """

    train: Any
    dev: Any = None
    test: Any = None
    teacher: Teacher | None = None

    @classmethod
    def of(cls, recipe: PairRecipe) -> PairInputs:
        """Those that the recipe names."""
        return cls(train=recipe.train, dev=recipe.dev, test=recipe.test)


def with_inputs(
    recipe: PairRecipe | Mapping[str, Any],
    *,
    train: Any = None,
    dev: Any = None,
    test: Any = None,
    teacher: Any = None,
) -> tuple[PairRecipe, PairInputs]:
    """The recipe of a job whose tables or teacher may be in memory, and what it reads.

    What is in memory takes the place of what the recipe names. In the recipe, and so in the records of the run, a short
    description with a fingerprint stands for it: other rows, or another teacher, are another run.

    Args:
        recipe: it may leave out what is given here; a mapping is read as `PairRecipe.from_dict` does.

    Raises:
        ConfigError: nothing to train on, or settings that do not go together.
        DataError: a table that cannot be read.
    """
    settings = recipe.to_dict() if isinstance(recipe, PairRecipe) else dict(recipe)
    tables = {"train": train, "dev": dev, "test": test}
    for name, source in tables.items():
        if isinstance(source, Iterator):
            tables[name] = list(source)  # it can be read only once
        if source is not None:
            settings[name] = described_table(tables[name])
    if isinstance(recipe, PairRecipe) and settings["train"] == PairRecipe.NO_TABLE:
        raise ConfigError("the recipe names no `train` table: name one in it, or give one (`train=`)")
    loaded = None
    if isinstance(teacher, str | Path):
        settings["teacher"] = {**(settings.get("teacher") or {}), "models": [str(teacher)]}
    elif isinstance(teacher, TeacherConfig):
        settings["teacher"] = teacher.to_dict()
    elif teacher is not None:
        # The number of labels and how to label are known once the settings are read.
        settings["teacher"] = {**(settings.get("teacher") or {}), "models": [IN_MEMORY]}
        known = PairRecipe.from_dict(settings)
        loaded = loaded_teacher(teacher, known.task, known.teacher)
        settings["teacher"]["models"] = [described_teacher(teacher, loaded)]
    merged = PairRecipe.from_dict(settings)
    read = {name: getattr(merged, name) if source is None else source for name, source in tables.items()}
    return merged, PairInputs(**read, teacher=loaded)
