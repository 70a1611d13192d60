"""Writes docs/reference/recipe.md from the configs themselves: `python scripts/recipe_reference.py`."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from distilmatch import config

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "recipe.md"
SECTIONS = (
    ("The recipe", config.PairRecipe),
    ("task", config.TaskConfig),
    ("table", config.TableConfig),
    ("teacher", config.TeacherConfig),
    ("teacher.online", config.OnlineTeacherConfig),
    ("transfer", config.TransferConfig),
    ("student", config.StudentConfig),
    ("objective", config.ObjectiveConfig),
    ("stage1, stage2", config.StageConfig),
    ("stages", config.NamedStageConfig),
    ("finetune-teacher", config.FineTuneConfig),
    ("The embedding recipe", config.EmbeddingRecipe),
    ("Embedding recipe: corpus", config.CorpusConfig),
    ("Embedding recipe: teacher", config.EmbeddingTeacherConfig),
    ("Embedding recipe: student", config.EmbeddingStudentConfig),
    ("Embedding recipe: objective", config.EmbeddingObjectiveConfig),
    ("Embedding recipe: stage1, stage2", config.EmbeddingStageConfig),
    ("Embedding recipe: stages", config.NamedEmbeddingStageConfig),
    ("Embedding recipe: contrastive", config.ContrastiveConfig),
    ("Embedding recipe: labelled, dev", config.LabelledConfig),
    ("The ladder recipe", config.LadderRecipe),
    ("Ladder recipe: match", config.MatchConfig),
    ("Ladder recipe: match.left, match.right", config.MatchSideConfig),
)
HEAD = """# Recipe settings

A recipe is a YAML file. What it leaves out has the default below; a key that is not here is an error. The resolved
recipe is saved with every run. `train`, `label` and `tune` take the pair recipe, which comes first; `embed-train` takes
the [embedding recipe](#the-embedding-recipe), `ladder` the [ladder recipe](#the-ladder-recipe). This page is written
from the configs by `python scripts/recipe_reference.py`.
"""


def render() -> str:
    """The page, from the fields, types, defaults and docstrings of the configs."""
    parts = [HEAD]
    for title, cls in SECTIONS:
        parts += [f"\n## {title}\n", f"`{cls.__name__}`. {_description(cls)}\n", *_table(cls, ())]
        if issubclass(cls, config.ConfigOfKinds):
            for kind, kind_class in cls.kinds.items():
                settings = _table(kind_class, cls.model_fields)
                parts += [f"\n### {title}: {kind}\n", f"`{kind_class.__name__}`. {_description(kind_class)}"]
                parts += ["", *settings] if settings else []
    return "\n".join(parts) + "\n"


def _table(cls: type[config.FrozenConfig], shown: Collection[str]) -> list[str]:
    """The settings with their defaults, but for those `shown` before."""
    rows = [
        f"| `{name}` | {_default(field.default)} |" for name, field in cls.model_fields.items() if name not in shown
    ]
    return ["| setting | default |\n| --- | --- |", *rows] if rows else []


def _description(cls: type[BaseModel]) -> str:
    text = (inspect.getdoc(cls) or "").partition("\nExample:\n")[0]  # the Python reference shows it
    before, _, attributes = text.partition("Attributes:\n")
    # An attribute starts at the first indent; its further lines stand deeper and are joined.
    joined = re.sub(r"\n\s{5,}", " ", attributes)
    items = [line.strip() for line in joined.splitlines() if line.strip()]
    listed = "\n".join(f"- {_mark(item)}" for item in items)
    return before.strip() + (f"\n\n{listed}" if listed else "")


def _mark(item: str) -> str:
    names, colon, meaning = item.partition(": ")
    return ", ".join(f"`{name}`" for name in names.split(", ")) + colon + meaning


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, config.FrozenConfig):
        return "see below"
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
