"""What tests of the documentation share: the pages, their code blocks, and the folder in which a reader would paste them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    language: str
    code: str


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    """The code blocks of a page in one of the languages."""
    for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield Block(language, code)


def link_models(folder: Path, models: Mapping[str, Path]) -> None:
    """Puts tiny models where a reader has real ones: a folder goes before a hub's model of the same name."""
    for name, model in models.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(model, target_is_directory=True)


def run(code: str, source: str, names: dict[str, object]) -> None:
    """Runs code as a module's own; `names` holds what it defines."""
    exec(compile(code, source, "exec", dont_inherit=True), names)
