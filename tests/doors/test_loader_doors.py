"""A model that cannot be loaded is refused by its own name, at once, in one message; at every door that loads one."""

from __future__ import annotations

import time

import pytest

from distilmatch.errors import DistilmatchError

from .loaders import LOADER_DOORS, broken_folders
from .setup import Setup

KINDS = (
    "missing",
    "empty",
    "no config",
    "no weights",
    "pickled weights",
    "unknown kind",
    "broken config",
    "deep config",
)


@pytest.mark.parametrize("kind", [*KINDS, "cut weights"])
@pytest.mark.parametrize("door", LOADER_DOORS)
def test_a_model_that_cannot_be_loaded_is_refused(setup: Setup, door: str, kind: str) -> None:
    folder = broken_folders(setup)[kind]
    started = time.perf_counter()
    with pytest.raises(DistilmatchError) as refused:
        LOADER_DOORS[door](setup, str(folder))
    told = str(refused.value)
    assert folder.name in told
    assert "repo id" not in told.lower() and "Traceback" not in told
    if kind == "pickled weights":
        assert "safetensors" in told
    assert time.perf_counter() - started < 30, "hub retries"


@pytest.mark.parametrize("door", LOADER_DOORS)
def test_a_folder_that_is_misspelt_is_not_looked_for_on_the_hub(
    setup: Setup, door: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.chdir(setup.root)
    (setup.root / "models" / "matcher").mkdir(parents=True, exist_ok=True)
    with pytest.raises(DistilmatchError, match="matcher"):
        LOADER_DOORS[door](setup, "models/macther")
