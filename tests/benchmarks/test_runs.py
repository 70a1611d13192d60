"""Benchmark runs are done once, fail loudly, and report their spread; every module is importable and documented."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.runs import run_all, spread

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__init__")


def test_a_run_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    commands = {"machine": ["platform"], "words": ["this"]}
    minutes = run_all(commands, tmp_path, jobs=2)
    assert set(minutes) == {"machine", "words"} == set(json.loads((tmp_path / "minutes.json").read_text()))
    size = (tmp_path / "words.log").stat().st_size
    assert size > 100
    assert run_all(commands, tmp_path) == minutes
    assert (tmp_path / "words.log").stat().st_size == size


def test_a_failed_run_names_its_log_and_is_tried_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(SystemExit, match="broken.log"):
            run_all({"broken": ["no_such_module"]}, tmp_path)
    assert (tmp_path / "broken.log").read_text().count("No module named") == 2


def test_the_spread_is_that_of_a_sample() -> None:
    values = [0.8, 0.85, 0.9]
    told = spread("accuracy", values)
    assert told["accuracy"] == pytest.approx(np.mean(values))
    assert (told["accuracy_min"], told["accuracy_max"]) == (0.8, 0.9)
    assert told["accuracy_std"] == pytest.approx(np.std(values, ddof=1))
    assert spread("x", [0.5])["x_std"] == 0.0


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_how_it_is_run(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.__doc__
    if hasattr(module, "main"):
        assert f"python -m benchmarks.{name}" in module.__doc__
