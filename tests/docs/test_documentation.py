"""Every code block of the documentation is run, every link leads somewhere, every setting is described."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from benchmarks.pages import engine, quality, sts
from tests.docs.pages import FENCE, PAGES, ROOT, blocks, link_models, run

from distilmatch.cli.app import app
from distilmatch.config.base import FrozenConfig
from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.config.ladder import LadderRecipe
from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.pairs import PairRecipe
from distilmatch.objectives import registry


def _pages_with(*languages: str) -> list[object]:
    found = [page for page in PAGES if any(blocks(page, *languages))]
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in found]


@pytest.mark.parametrize("page", _pages_with("python"))
def test_python_blocks_run(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_sentence_encoder: Path,
    tiny_cross_encoder: Path,
) -> None:
    """From the top of the page alone, as a reader pastes it: no name is given, and models go by their hub's names."""
    monkeypatch.chdir(tmp_path)
    link_models(
        tmp_path,
        {"all-MiniLM-L6-v2": tiny_sentence_encoder, "cross-encoder/ms-marco-MiniLM-L6-v2": tiny_cross_encoder},
    )
    # Losses that a page registers end with it.
    monkeypatch.setattr(ObjectiveConfig, "kinds", dict(ObjectiveConfig.kinds))
    monkeypatch.setattr(registry, "PAIR_LOSSES", dict(registry.PAIR_LOSSES))
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        run(block.code, str(page), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_fit_on_the_page(page: Path) -> None:
    """Commands and their output within 80 columns, Python and YAML within 100."""
    for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        most = 80 if language in ("bash", "text") else 100
        assert [line for line in code.splitlines() if len(line) > most] == [], f"{page}: longer than {most}"


@pytest.mark.parametrize("page", _pages_with("yaml"))
def test_yaml_blocks_are_recipes(page: Path) -> None:
    for block in blocks(page, "yaml"):
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
    for block in blocks(page, "text"):
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
    commands = [line for block in blocks(ROOT / "README.md", "bash") for line in block.code.splitlines()]
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
