"""What the pages share: where they go, sections of the results that are there, tables, spreads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER

PAGES = Path(__file__).parents[2] / "docs" / "results"


def sections(head: str, writers: Mapping[str, Callable[[dict[str, Any]], str]]) -> str:
    """A page: its head, and a section by each writer whose result (`results/NAME.json`) is there."""
    parts = [head]
    for name, write in writers.items():
        path = FOLDER / f"{name}.json"
        if path.is_file():
            parts.append(write(json.loads(path.read_text(encoding="utf-8"))))
    return "\n".join(parts)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, all columns but the first to the right; a bar in a cell is escaped."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    lines = [cells[0], ["---", *["---:"] * (len(headings) - 1)], *cells[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(metrics: Mapping[str, float], name: str, digits: int) -> str:
    """The mean, and behind it deviation and range where there are several seeds (`benchmarks.runs.spread`)."""
    mean = f"{metrics[name]:.{digits}f}"
    if not metrics.get(f"{name}_std"):
        return mean
    low, high = (f"{metrics[f'{name}_{end}']:.{digits}f}" for end in ("min", "max"))
    return f"{mean} ± {metrics[f'{name}_std']:.{digits}f} ({low} to {high})"
