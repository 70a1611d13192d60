"""Configs: what a recipe leaves out keeps its default, at every depth."""

from __future__ import annotations

from typing import Any

import pytest

from distilmatch.config.base import FrozenConfig
from distilmatch.config.pairs import PairRecipe, TransferConfig
from distilmatch.errors import ConfigError

NEEDED: dict[str, Any] = {"train": "t.jsonl", "output": "run", "task": {"kind": "binary"}, "teacher": {"models": ["m"]}}
NESTED = {
    name: field.default for name, field in PairRecipe.model_fields.items() if isinstance(field.default, FrozenConfig)
}


@pytest.mark.parametrize("name", NESTED)
def test_a_part_of_a_nested_config_keeps_the_recipes_defaults_for_the_rest(name: str) -> None:
    default = NESTED[name]
    for key, value in default.to_dict().items():
        given = PairRecipe.from_dict({**NEEDED, name: {key: value}})
        assert getattr(given, name) == default


def test_a_part_of_a_stage_changes_that_part_only() -> None:
    recipe = PairRecipe.from_dict({**NEEDED, "stage1": {"epochs": 2.0}})
    assert recipe.stage1 == PairRecipe(**NEEDED).stage1.replaced(epochs=2.0)
    assert recipe.stage2 == PairRecipe(**NEEDED).stage2


def test_an_unknown_key_of_a_nested_config_is_named_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"stage1\.epoch: no such setting"):
        PairRecipe.from_dict({**NEEDED, "stage1": {"epoch": 2.0}})


@pytest.mark.parametrize(("rows", "rounds"), [(1, 8), (500, 8), (4_439, 4), (10_000, 2), (20_000, 1), (10**7, 1)])
def test_rounds_suit_the_size_of_the_table(rows: int, rounds: int) -> None:
    assert TransferConfig().rounds_for(rows) == rounds
    assert TransferConfig(rounds=3).rounds_for(rows) == 3
    assert TransferConfig(rounds=0).rounds_for(rows) == 0
