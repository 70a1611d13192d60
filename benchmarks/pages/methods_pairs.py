"""Writes docs/results/methods-pairs.md and its plot: related methods for pairs, each beside its plain counterpart."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.pages.parts import PAGES, markdown_table, sections, spread
from benchmarks.pages.quality import GRADINGS
from benchmarks.results import FOLDER
from distilmatch.evaluation.look import dress

NAME = "methods_pairs"
TARGET = PAGES / "methods-pairs.md"
PLOT = PAGES / "methods-pairs.png"
HEAD = """# Related methods, for pairs

Each method beside its plain counterpart: the same student, start, steps and labels. Checkpoints are chosen on dev; a student is
measured on test once. What to choose: [which method](../explanation/which-method.md). This page is written from
`benchmarks/results/` by `python -m benchmarks.pages`.
"""


def render() -> str:
    """The page."""
    return sections(HEAD, {NAME: _methods})


def _methods(result: dict[str, Any]) -> str:
    notes = result["notes"]
    shape = "whose encoders stay frozen, so that the heads alone are compared, " if notes["frozen"] else ""
    parts = [
        f"""**Rising** marks rows whose counterpart still gained a point of dev or more in its last quarter: the order there is
not to be read, for neither had learnt all it could. A row of one seed has no spread: a difference below two points is noise.
Students {shape}of {notes["steps"]:,} steps in all,
fewer than by default, so that figures are to be compared here alone.

![Difference to the plain counterpart]({PLOT.name})
"""
    ]
    parts += [_table(name, result) for name in notes["main"] if _rows(name, result)]
    return "\n".join([*parts, f"Repeat: `{result['command']}`.\n"])


def _rows(name: str, result: Mapping[str, Any]) -> list[str]:
    return [method for method in result["notes"]["methods"] if f"{name}_{method}" in result["metrics"]]


def _table(name: str, result: Mapping[str, Any]) -> str:
    metrics, notes = result["metrics"], result["notes"]
    main = notes["main"][name]
    rows = []
    if f"{name}_teacher" in metrics:
        rows.append(["teacher", f"{metrics[f'{name}_teacher']:.3f}", "", "", "", ""])
    for method in _rows(name, result):
        key, beside = f"{name}_{method}", notes["methods"][method]["beside"]
        other = f"{name}_{beside}"
        compared = beside != method and other in metrics
        rows.append(
            [
                notes["methods"][method]["label"],
                spread(metrics, key, 3),
                f"{100 * (metrics[key] - metrics[other]):+.1f}" if compared else "",
                f"{metrics[f'{key}_dev']:.3f}",
                f"{metrics[f'{key}_seeds']:.0f}",
                "rising" if metrics.get(f"{key}_rises") else "",
            ]
        )
    headings = ["", f"{GRADINGS[main]}, test", "points to its counterpart", "dev", "seeds", ""]
    return f"## {notes['titles'][name]}\n\n{markdown_table(headings, rows)}\n"


def draw(dpi: int = 110) -> bytes | None:
    """The plot, a PNG; None where nothing is compared yet."""
    path = FOLDER / f"{NAME}.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    metrics, methods = result["metrics"], result["notes"]["methods"]
    bars = []
    for name, title in result["notes"]["titles"].items():
        for method in _rows(name, result):
            beside = methods[method]["beside"]
            if beside != method and f"{name}_{beside}" in metrics:
                difference = 100 * (metrics[f"{name}_{method}"] - metrics[f"{name}_{beside}"])
                bars.append(
                    (f"{title}: {methods[method]['label']}", difference, metrics.get(f"{name}_{method}_rises", 0.0))
                )
    if not bars:
        return None
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, (label, difference, rises) in enumerate(reversed(bars)):
        axes.barh(place, difference, color="#b9c9da" if rises else "#1a6fc4", height=0.6)
        axes.annotate(
            f"{label} ({difference:+.1f})",
            (max(0.0, difference), place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.axvline(0, color="#3d3d3d", linewidth=1)
    axes.set_yticks([])
    axes.set_xlabel("points of the main metric on test; pale where the counterpart still rises", fontsize=9)
    axes.margins(x=0.35)
    dress(axes, "A method less its plain counterpart", grid="x")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": "distilmatch"})
    return buffer.getvalue()
