"""Draws docs/results/engine-out-of-memory.png: a job in memory, out of it, and killed on the way, for each head."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.pages.engine import HEADS
from benchmarks.pages.parts import PAGES
from benchmarks.results import FOLDER
from distilmatch.evaluation.look import dress

TARGET = PAGES / "engine-out-of-memory.png"
WAYS = {
    "in_memory_s": ("in memory", "#3d3d3d"),
    "out_of_memory_s": ("a quarter of a side in memory", "#1a6fc4"),
    "killed_s": ("and killed on the way", "#b3541e"),
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One job: its head, how it was run, seconds, and how often it was killed."""

    head: str
    way: str
    seconds: float
    kills: int


def bars() -> list[Bar]:
    """Every job of the published run."""
    metrics = json.loads((FOLDER / "engine_out_of_memory.json").read_text(encoding="utf-8"))["metrics"]
    return [
        Bar(
            head=head,
            way=way,
            seconds=metrics[f"{head}_{way}"],
            kills=int(metrics[f"{head}_kills"]) if way == "killed_s" else 0,
        )
        for head in HEADS
        for way in WAYS
        if f"{head}_{way}" in metrics
    ]


def render(*, dpi: int = 130) -> bytes:
    """The picture as PNG."""
    drawn = bars()
    heads = list(dict.fromkeys(bar.head for bar in drawn))
    figure = Figure(figsize=(7.6, 1.2 + 1.25 * len(heads)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, bar in enumerate(drawn):
        label, colour = WAYS[bar.way]
        height = -(place + heads.index(bar.head))
        axes.barh(height, bar.seconds, color=colour, height=0.8)
        told = f"{bar.seconds:,.0f} s" + (f", {bar.kills} kills" if bar.kills else "")
        axes.annotate(
            f"{label}: {told}", (bar.seconds, height), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    middles = [-(len(WAYS) * number + 1 + number) for number in range(len(heads))]
    axes.set_yticks(
        middles, [HEADS[head].partition(":")[0].replace(" at ", "\nat ").replace(", h", ",\nh") for head in heads]
    )
    axes.set_xlim(0, 2 * max(bar.seconds for bar in drawn))
    axes.set_xlabel("seconds of the match, one run on two CPU cores", fontsize=10)
    dress(axes, "Sides four times as large as the memory", grid="x")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": "distilmatch"})
    return buffer.getvalue()
