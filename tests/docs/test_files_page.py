"""docs/reference/files.md against what the commands write: nothing more, and nothing that the page does not say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.pages import ROOT
from tests.docs.tiny_runs import run_all

PAGE = ROOT / "docs" / "reference" / "files.md"
# What stands for names on the page.
_NAMES = {"STAGE": r"stage\d", "SIDE": r"(query|product)", "KEY": r"[0-9a-f]{32}", "MODULE": r"[A-Za-z]+"}
# Written only in cases that the tiny runs are not.
_ELSEWHERE = {"STAGE/start.json", "aliases.parquet"}
_WRITTEN = {
    "ladder": "a-ladders-output",
    "run": "a-runs-output",
    "teacher": "a-teacher",
    "search": "a-search-for-a-recipe",
    "report": "reports",
    "sts-report": "reports",
}


def _sections() -> dict[str, list[tuple[str, str | None]]]:
    """Of each heading's anchor the paths of its tables, and the anchor that says what is in a folder."""
    sections: dict[str, list[tuple[str, str | None]]] = {}
    anchor = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            anchor = re.sub(r"[^a-z -]", "", line[3:].lower()).replace(" ", "-")
            is_of_files = False
            sections[anchor] = []
        elif line.startswith("| "):
            first, rest = line[2:].split(" | ", 1)
            if first == "path":
                is_of_files = True
            elif is_of_files and "`" in first:
                link = re.search(r"\]\(#([a-z-]+)\)", rest)
                sections[anchor] += [(path, link and link[1]) for path in re.findall(r"`([^`]+)`", first)]
        elif line and anchor:
            is_of_files = False
    return sections


def _pattern(path: str) -> str:
    pattern = re.escape(path)
    for name, names in _NAMES.items():
        pattern = pattern.replace(name, names)
    return re.sub(r"N+", r"[\\w.]+", pattern)


def _patterns(anchor: str, before: str = "") -> dict[str, str]:
    """Of each file that the section has, and the sections it leads to, its pattern and the path on the page."""
    patterns: dict[str, str] = {}
    for path, folder in _sections()[anchor]:
        if path.endswith("/"):
            assert folder is not None, f"{path} of {anchor}: no link says what is in it"
            patterns |= _patterns(folder, before + _pattern(path))
        else:
            patterns[before + _pattern(path)] = path
    return patterns


def test_every_folder_of_the_page_leads_to_a_section() -> None:
    for anchor in _WRITTEN.values():
        assert _patterns(anchor)


@pytest.mark.slow
def test_the_commands_write_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_sentence_encoder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    run_all({"all-MiniLM-L6-v2": tiny_sentence_encoder})
    seen: set[str] = set()
    for folder, anchor in _WRITTEN.items():
        patterns = _patterns(anchor)
        for file in (path for path in Path(folder).rglob("*") if path.is_file()):
            path = file.relative_to(folder).as_posix()
            fitting = [said for pattern, said in patterns.items() if re.fullmatch(pattern, path)]
            assert fitting, f"{folder}/{path} is not in {PAGE.name}, section {anchor}"
            seen.update(fitting)
    listed = {said for anchor in _WRITTEN.values() for said in _patterns(anchor).values()}
    assert listed - seen == _ELSEWHERE, "the page lists what no command wrote"
    outputs = {path.name for path in Path().iterdir() if re.search("scores|matches|reverse", path.name)}
    tables = {"scores.csv", "matches.jsonl", "reverse.tsv"}
    assert outputs == tables | {f".{name}.job.json" for name in tables}
