"""Every code block of the documentation is run, every link leads somewhere, every setting is described."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from benchmarks.pages import engine, quality, sts

from distilmatch.cli.app import app
from distilmatch.config.base import FrozenConfig
from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.config.ladder import LadderRecipe
from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.pairs import PairRecipe
from distilmatch.objectives import registry

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    language: str
    code: str


def _blocks(page: Path, *languages: str) -> Iterator[Block]:
    for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield Block(language, code)


def _pages_with(*languages: str) -> list[object]:
    found = [page for page in PAGES if any(_blocks(page, *languages))]
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in found]


@pytest.mark.parametrize("page", _pages_with("python"))
def test_python_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_encoder: Path, tiny_cross_encoder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # Losses that a page registers end with it.
    monkeypatch.setattr(ObjectiveConfig, "kinds", dict(ObjectiveConfig.kinds))
    monkeypatch.setattr(registry, "PAIR_LOSSES", dict(registry.PAIR_LOSSES))
    # What a page may take as given: the folder of a pre-trained encoder and of a cross-encoder.
    names: dict[str, object] = {"encoder": tiny_encoder, "cross_encoder": tiny_cross_encoder, "__name__": "page"}
    for block in _blocks(page, "python"):
        exec(compile(block.code, str(page), "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", _pages_with("yaml"))
def test_yaml_blocks_are_recipes(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        settings = yaml.safe_load(block.code)
        kinds: dict[str, type[FrozenConfig]] = {
            "embedding": LadderRecipe,
            "corpus": EmbeddingRecipe,
            "labelled": EmbeddingRecipe,
        }
        kind = next((kinds[name] for name in kinds if name in settings), PairRecipe)
        kind.from_dict(settings, str(page))


@pytest.mark.parametrize("page", _pages_with("text"))
def test_commands_have_options_that_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in _blocks(page, "text"):
        for line in block.code.replace("\\\n", " ").splitlines():
            if "distilmatch" not in line or line.startswith(">>>"):
                continue  # output, or a line of a Python session
            words = shlex.split(line, comments=True)
            if words[:1] == ["pip"] or ("distilmatch" not in words and "distilmatch.cli" not in words):
                continue
            start = words.index("distilmatch" if "distilmatch" in words else "distilmatch.cli") + 1
            app(args=[words[start], "--help"], standalone_mode=False)
            told = capsys.readouterr().out
            for word in words[start:]:
                if word.startswith("--"):
                    assert word in told, f"{page}: {words[start]} has no option {word}"


def test_the_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = [line for block in _blocks(ROOT / "README.md", "bash") for line in block.code.splitlines()]
    assert commands == ["make demo", "make test"]
    assert all(f"\n{command.removeprefix('make ')}: " in makefile for command in commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page} links to {target}"


def test_only_known_kinds_of_block() -> None:
    for page in PAGES:
        for language, _ in FENCE.findall(page.read_text(encoding="utf-8")):
            assert language in ("python", "yaml", "bash", "text", ""), f"{page}: a block of {language} is not tested"


def test_the_recipe_reference_is_what_the_configs_say() -> None:
    spec = importlib.util.spec_from_file_location("recipe_reference", ROOT / "scripts" / "recipe_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.render(), "run: python scripts/recipe_reference.py"


@pytest.mark.parametrize("page", [engine, quality, sts], ids=lambda page: page.TARGET.stem)
def test_a_page_is_what_the_results_say(page: ModuleType) -> None:
    assert page.TARGET.read_text(encoding="utf-8") == page.render(), "run: python -m benchmarks.pages"
