"""`teacher_search` makes each set's teacher once by either way, and its command is one that the command line takes."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.runs import fine_tuning
from tests.helpers import call, jsonl

from benchmarks import sets, teacher_search


def test_a_teacher_is_made_once(tmp_path: Path, tiny_cross_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(sets.SETS["wikiqa"], max_lengths=(16, 16))
    rows = [{"query": f"red {i // 4}", "document": f"blue car {i}", "label": int(i % 4 == 0)} for i in range(40)]
    (tmp_path / "wikiqa").mkdir()
    for name in one.splits.values():
        (tmp_path / "wikiqa" / name).write_bytes(gzip.compress(jsonl(rows).encode()))
    made: list[Sequence[str]] = []

    def run(commands: Mapping[str, Sequence[str]], work: Path) -> dict[str, float]:
        for name, command in commands.items():
            made.append(command)
            shutil.copytree(tiny_cross_encoder, work / name / "teacher")
        return dict.fromkeys(commands, 2.5)

    monkeypatch.setattr(teacher_search, "run_all", run)
    for _ in range(2):
        old, new = (teacher_search.row(one, way, tmp_path, tmp_path / "work", 3.0) for way in ("old", "new"))
    assert len(made) == 2 and old["test"] == new["test"] and old["minutes"] == 2.5
    assert 0 < old["test"]["map"] <= 1
    assert made[0][made[0].index("--dropout") + 1] == "0.1" and "--learning-rate" not in made[1]


@pytest.mark.parametrize("way", list(teacher_search.WAYS))
def test_the_command_is_understood(way: str, tmp_path: Path, tiny_encoder: Path) -> None:
    one = sets.SETS["sick"]
    rows = [
        {"sentence1": "a red car", "sentence2": f"car {i}", "entailment": one.task.classes[i % 3]} for i in range(12)
    ]
    table = tmp_path / "table.jsonl"
    table.write_text(jsonl(rows))
    more = ["--base-model", str(tiny_encoder), *teacher_search.WAYS[way]]
    command = fine_tuning(tmp_path / "teacher", table, table, one.task, one.table, *more, minutes=1.0)
    assert command[0] == "distilmatch.cli"
    assert call(*command[1:], "--dry-run") == 0
