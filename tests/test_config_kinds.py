"""Configs that come in kinds: each with its own settings, and the flat form of before still read."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from distilmatch.config import EmbeddingObjectiveConfig, EmbeddingRecipe, ObjectiveConfig, PairRecipe
from distilmatch.errors import ConfigError

PAIR: dict[str, Any] = {"train": "a", "output": "o", "task": {"kind": "binary"}, "teacher": {"models": ["t"]}}
# As every resolved recipe had it before kinds had settings of their own.
FLAT = {"temperature": 2.0, "non_target_weight": 1.0, "skew": 0.1, "gold_weight": 0.25}


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("auto", {"temperature": 2.0}),
        ("kl", {"temperature": 2.0}),
        ("decoupled_kl", {"temperature": 2.0, "non_target_weight": 1.0}),
        ("skewed_kl", {"temperature": 2.0, "skew": 0.1, "reverse": False}),
        ("bce", {"temperature": 2.0, "match_weight": 1.0}),
        ("mse", {}),
        ("margin_mse", {}),
        ("listwise", {"temperature": 2.0}),
    ],
)
def test_the_flat_form_is_read(kind: str, own: dict[str, float], caplog: pytest.LogCaptureFixture) -> None:
    recipe = PairRecipe.from_dict({**PAIR, "table": {"label_column": "l"}, "objective": {"kind": kind, **FLAT}})
    assert recipe.to_dict()["objective"] == {"kind": kind, "gold_weight": 0.25, **own}
    assert PairRecipe.from_dict(recipe.to_dict()) == recipe
    assert ("does nothing" in caplog.text) == ("temperature" not in own)


def test_a_setting_of_another_kind_is_said_to_do_nothing(caplog: pytest.LogCaptureFixture) -> None:
    objective = ObjectiveConfig(kind="kl", skew=0.3)
    assert objective.to_dict() == {"kind": "kl", "gold_weight": 0.0, "temperature": 1.0}
    assert "`skew: 0.3` does nothing here: kind kl has no such setting" in caplog.text


@pytest.mark.parametrize("family", [ObjectiveConfig, EmbeddingObjectiveConfig])
def test_a_config_is_one_of_its_kind_however_it_is_made(family: Any) -> None:
    for kind, cls in family.kinds.items():
        made = family(kind=kind)
        assert type(made) is cls and made.kind == kind and isinstance(made, family)
        assert family.from_dict({"kind": kind}) == made == cls() == family.from_dict(made.to_dict())
        assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made
        for other in family.kinds:
            assert type(made.replaced(kind=other)) is family.kinds[other]
    assert type(family()) is family.kinds[family.model_fields["kind"].default]


def test_replacing_keeps_what_both_kinds_have() -> None:
    skewed = ObjectiveConfig(kind="skewed_kl", temperature=3.0, skew=0.4, gold_weight=0.2)
    assert skewed.replaced(kind="kl") == ObjectiveConfig(kind="kl", temperature=3.0, gold_weight=0.2)
    assert skewed.replaced(skew=0.1) == ObjectiveConfig(kind="skewed_kl", temperature=3.0, skew=0.1, gold_weight=0.2)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"kind": "margin-mse"}, "objective.kind: must be one of auto, kl, .*; did you mean 'margin_mse'"),
        ({"kind": None}, "objective.kind: one of auto, kl, .* is wanted, and nothing is given"),
        ({"kind": "{0}"}, r"objective.kind: must be one of .*, not '\{0\}'"),
        ({"kind": 3}, "objective.kind: must be one of .*, not 3"),
        ({"kind": "kl", "temprature": 1}, "objective.temprature: no such setting; did you mean 'temperature'"),
        ({"kind": "skewed_kl", "skew": 2}, "objective.skew: must be less than 1"),
        ({"temperature": "x"}, "objective.temperature: a number is wanted"),
        (["kl"], "objective: a group of settings"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(objective: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PairRecipe.from_dict({**PAIR, "objective": objective})


def test_settings_of_all_kinds_can_be_named() -> None:
    for name in ("kind", "skew", "temperature", "gold_weight", "non_target_weight"):
        assert PairRecipe.unknown_setting(f"objective.{name}") is None
    assert "did you mean 'skew'" in str(PairRecipe.unknown_setting("objective.skw"))
    assert EmbeddingRecipe.unknown_setting("objective.mse_weight") is None


def test_what_an_embedding_objective_needs() -> None:
    assert EmbeddingObjectiveConfig().uses_bank and not EmbeddingObjectiveConfig(bank_size=0).uses_bank
    assert not EmbeddingObjectiveConfig(kind="mse").uses_bank
    assert EmbeddingObjectiveConfig(kind="mse", similarity_weight=0.5).uses_bank
    assert EmbeddingObjectiveConfig(kind="mse").learned_temperature is None
    assert EmbeddingObjectiveConfig(kind="both", temperature=0.2).learned_temperature == 0.2
    assert EmbeddingObjectiveConfig(kind="ckd", learn_temperature=False).learned_temperature is None
