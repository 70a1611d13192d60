"""The Python reference names every public name once, and the example of every public class runs."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import pytest
from tests.docs.pages import ROOT, link_models, run

import distilmatch
from distilmatch import DiPair, StudentConfig, encode_table

CLASSES = [name for name in distilmatch.__all__ if inspect.isclass(getattr(distilmatch, name))]
_EXAMPLE = re.compile(r"^Example:\n    ```python\n(.*?)^    ```", re.M | re.S)


def test_every_public_name_is_on_the_page() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: distilmatch\.(\w+)$", page, re.M)) == sorted(distilmatch.__all__)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """What an example may find in its folder: a run's student, and representations of both sides."""
    folder = tmp_path_factory.mktemp("made")
    model = DiPair.from_encoder(tiny_encoder, StudentConfig(kept_tokens=(2, 2), max_lengths=(16, 16)))
    model.save_pretrained(folder / "run" / "student")
    for side, name in enumerate(("queries", "products")):
        encode_table(model, [{"text": f"{text} {name}"} for text in ("red", "blue")], folder / name, side=side)
    return folder


@pytest.mark.parametrize("name", CLASSES)
def test_the_example_of_a_class_runs(
    name: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_cross_encoder: Path,
    tiny_sentence_encoder: Path,
) -> None:
    found = _EXAMPLE.search(inspect.getdoc(getattr(distilmatch, name)) or "")
    assert found is not None, f"{name} has no example"
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    link_models(tmp_path, {"teacher": tiny_cross_encoder, "all-MiniLM-L6-v2": tiny_sentence_encoder})
    monkeypatch.chdir(tmp_path)
    code = inspect.cleandoc("\n" + found[1])
    assert f"import {name}" in code or re.search(rf"import .*\b{name}\b", code), "an example imports what it shows"
    assert 2 <= len([line for line in code.splitlines() if line.strip()]) <= 7
    run(code, name, {"__name__": "example"})
