"""Writes docs/results/strong-teacher.md and its plot: what brings a student nearer to a strong teacher, on dev."""

from __future__ import annotations

import io
import json
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.pages.parts import PAGES, markdown_table, sections
from benchmarks.pages.quality import GRADINGS
from benchmarks.results import FOLDER
from benchmarks.sets import SETS
from distilmatch.evaluation.look import dress

TARGET = PAGES / "strong-teacher.md"
PLOT = PAGES / "strong-teacher.png"
HEAD = """# Nearer to a strong teacher

One change at a time, each graded on dev; no test split was read for it. One seed: differences below two points are noise. This
page is written from `benchmarks/results/` by `python -m benchmarks.pages`.
"""
SHOWN = ("f1", "average_precision", "accuracy", "spearman", "map", "ndcg10")


def render() -> str:
    """The page."""
    return sections(HEAD, {"strong_teacher_frozen": _frozen, "strong_teacher": _attempts})


def _frozen(result: dict[str, Any]) -> str:
    rounds = "one round" if result["notes"]["rounds"] == 1 else f"{result['notes']['rounds']} rounds"
    return f"""## Over the same frozen layers

Stage 1 alone: encoders frozen, {rounds} of blocks; what is compared is what a text is kept as, and the head.

{_tables(result)}
Minutes are of one thread beside other work; pairs a second are the kernel's, from stored vectors, of one thread with nothing
beside it. {result["notes"].get("since", "")}

Repeat: `{result["command"]}`.
"""


def _tables(result: dict[str, Any]) -> str:
    """A table of attempts a set."""
    metrics, notes = result["metrics"], result["notes"]
    parts = []
    for name, main in notes["main"].items():
        graded = [metric for metric in SHOWN if f"{name}_teacher_{metric}" in metrics]
        rows = [["teacher", *(f"{metrics[f'{name}_teacher_{metric}']:.3f}" for metric in graded), "", "", "", ""]]
        for attempt, label in notes["attempts"].items():
            key = f"{name}_{attempt}"
            if f"{key}_minutes" in metrics:
                rows.append(
                    [
                        label,
                        *(f"{metrics[f'{key}_{metric}']:.3f}" for metric in graded),
                        f"{100 * metrics[f'{key}_{main}_share']:.1f} %",
                        f"{metrics[f'{key}_minutes']:.0f}",
                        f"{metrics[f'{key}_bytes_an_item']:,.0f}",
                        f"{metrics[f'{key}_pairs_per_s']:,.0f}",
                    ]
                )
        headings = ["", *(GRADINGS[metric] for metric in graded), f"{GRADINGS[main]} of the teacher's"]
        table = markdown_table([*headings, "minutes", "bytes an item", "pairs/s"], rows)
        parts.append(f"### {SETS[name].title}\n\n{table}\n")
    return "\n".join(parts)


def _attempts(result: dict[str, Any]) -> str:
    notes = result["notes"]
    rounds = "One round" if notes["rounds"] == 1 else f"{notes['rounds']} rounds"
    return f"""## Encoders that learn

![Quality on dev against bytes an item](strong-teacher.png)

Another teacher than above, and no lexical vector.

{_tables(result)}
{rounds} of blocks and {notes["epochs"]:g} epochs of stage 2: less than by default. Minutes are of one thread beside other
work, labels included where the attempt was the first to ask for them. Bytes are of the side that takes more, in half
precision. Pairs a second are the kernel's, from stored vectors, on the same machine beside other work: compare them within a
table only.

Only the row with altered copies of matches has the transfer set of today: half of the altered copies are of known matches,
and meet their partners.

Repeat: `{result["command"]}`.
"""


def draw(*, dpi: int = 130) -> bytes | None:
    """The plot as PNG: the share of the teacher's main metric against bytes an item; None without a result."""
    path = FOLDER / "strong_teacher.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    metrics, notes = result["metrics"], result["notes"]
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, main in notes["main"].items():
        points = [
            (metrics[f"{name}_{attempt}_bytes_an_item"], 100 * metrics[f"{name}_{attempt}_{main}_share"], label)
            for attempt, label in notes["attempts"].items()
            if f"{name}_{attempt}_minutes" in metrics
        ]
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o", label=SETS[name].title, markersize=7)
        middle = (min(x for x, _, _ in points) + max(x for x, _, _ in points)) / 2
        for x, y, label in points:
            side = ("right", -8) if x > middle else ("left", 8)
            axes.annotate(
                label, (x, y), (side[1], 0), textcoords="offset points", ha=side[0], va="center", fontsize=7.5
            )
    axes.axhline(100, color="#3d3d3d", linewidth=1, linestyle="--", label="teacher")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.set_xlabel("bytes an item in half precision", fontsize=10)
    axes.set_ylabel("% of the teacher's main metric, dev", fontsize=10)
    axes.margins(0.12, 0.12)
    axes.legend(fontsize=9)
    dress(axes, "What a student keeps of its teacher, by what it keeps of a text", grid="both")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": "distilmatch"})
    return buffer.getvalue()
