"""The embedding recipe: what goes together, what does not, and that defaults are kept at every depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distilmatch.config.base import FrozenConfig
from distilmatch.config.embeddings import EmbeddingRecipe, EmbeddingTeacherConfig, LabelledConfig
from distilmatch.config.ladder import MatchConfig
from distilmatch.errors import ConfigError

NEEDED: dict[str, Any] = {"corpus": {"sources": ["a.txt"]}, "teacher": {"models": ["m"]}, "output": "run"}
NESTED = {
    name: field.default
    for name, field in EmbeddingRecipe.model_fields.items()
    if isinstance(field.default, FrozenConfig)
}
PAIRS = {"source": "p.jsonl", "kind": "pairs"}


@pytest.mark.parametrize("name", NESTED)
def test_a_part_of_a_nested_config_keeps_the_recipes_defaults_for_the_rest(name: str) -> None:
    for key, value in NESTED[name].to_dict().items():
        given = EmbeddingRecipe.from_dict({**NEEDED, name: {key: value}})
        assert getattr(given, name) == NESTED[name]


def test_a_recipe_round_trips_through_yaml(tmp_path: Path) -> None:
    recipe = EmbeddingRecipe.from_dict(
        {**NEEDED, "labelled": [PAIRS], "student": {"layers": [0, 2]}, "dev": {"source": "d", "score_column": "s"}}
    )
    recipe.to_yaml(tmp_path / "recipe.yaml")
    assert EmbeddingRecipe.from_yaml(tmp_path / "recipe.yaml") == recipe
    assert recipe.student.layers == (0, 2) and recipe.distils and recipe.fine_tunes
    assert not recipe.replaced(corpus=None).distils


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": None}, "nothing to train"),
        ({"teacher": None}, "stage 1 distils a `teacher`"),
        ({"teacher": {}}, "name a teacher"),
        ({"teacher": {"embeddings": ["e.npy"]}}, "student.start: encoder"),
        ({"corpus": None, "teacher": None, "labelled": [PAIRS]}, "there is none"),
        ({"student": {"start": "encoder"}}, "needs an `encoder`"),
        ({"student": {"encoder": "m"}}, "no `encoder`"),
        ({"student": {"layers": [2, 1]}}, "rising order"),
        ({"student": {"layers": 0}}, "1 or more"),
        ({"student": {"width": 8}}, "start: fresh"),
        ({"student": {"start": "static", "heads": 2}}, "no `heads`"),
        ({"student": {"matryoshka": [8], "projection": "keep"}}, "projection: drop"),
        ({"dev": PAIRS}, "must be scored pairs"),
        ({"dev": {"source": "d"}}, "score_column"),
        ({"labelled": [{**PAIRS, "text_columns": ["a"]}]}, "need two"),
        ({"labelled": [{**PAIRS, "kind": "triplets", "text_columns": ["a", "b"]}]}, "three or more"),
        ({"labelled": [{**PAIRS, "score_column": "s"}]}, "belongs to scored"),
        ({"dev": {"source": "d", "score_column": "s", "score_range": [1, 1]}}, "lowest"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingRecipe.from_dict({**NEEDED, **changes})


def test_a_labelled_table_says_how_it_is_read() -> None:
    triplets = LabelledConfig(source="t", kind="triplets", text_columns=("a", "p", "n", "m"))
    assert triplets.table.sides == 4 and triplets.table.layout == "tuples"
    scored = LabelledConfig(source="t", score_column="s", score_range=(1, 5))
    assert scored.table.label_column == "s" and scored.task.label_range == (1.0, 5.0)


def test_number_formats_are_read_by_either_name() -> None:
    for written, meant in (("fp16", "fp16"), ("float16", "fp16"), ("float32", "fp32")):
        assert EmbeddingTeacherConfig.from_dict({"models": ["t"], "dtype": written}).dtype == meant
    with pytest.raises(ConfigError, match="dtype: must be one of fp16, fp32, not 'bfloat16'|not 'bf16'"):
        EmbeddingTeacherConfig.from_dict({"models": ["t"], "dtype": "bfloat16"})
    assert MatchConfig.model_fields["dtype"].default == "fp16"
