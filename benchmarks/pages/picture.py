"""Draws docs/results/quality-speed.png: accuracy on SICK against pairs a second, of the models of `quality_speed`."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator, NullFormatter, PercentFormatter

from benchmarks.pages.parts import PAGES
from benchmarks.results import FOLDER
from distilmatch.evaluation.look import dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TARGET = PAGES / "quality-speed.png"
Role = Literal["teacher", "student", "rival"]
COLOURS: dict[Role, str] = {"teacher": "#3d3d3d", "student": "#1a6fc4", "rival": "#b3541e"}
MARKERS: dict[Role, str] = {"teacher": "s", "student": "D", "rival": "o"}
PLAIN: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model in one way of use.

    Attributes:
        offset: of its label from its mark, in points; the label stands to that side.
    """

    name: str
    role: Role
    pairs_per_s: float
    accuracy: float
    offset: tuple[int, int]


_DRAWN: tuple[tuple[str, Role, str, str, tuple[int, int]], ...] = (
    ("teacher\n(6-layer cross-encoder)", "teacher", "teacher", "teacher_pairs_per_s", (0, 14)),
    ("2-layer cross-encoder", "rival", "tiny_cross_encoder", "tiny_cross_encoder_pairs_per_s", (40, -14)),
    ("student, from text", "student", "student", "student_from_text_pairs_per_s", (-20, -14)),
    ("student, from stored vectors", "student", "student", "student_pairs_per_s", (0, 14)),
    ("DE-FFNN", "rival", "de_ffnn", "de_ffnn_pairs_per_s", (0, 14)),
    ("cosine (DE-Cos)", "rival", "de_cos", "de_cos_pairs_per_s", (0, 14)),
)


def points() -> list[Point]:
    """Each model, timed and judged in one run."""
    metrics = json.loads((FOLDER / "quality_speed.json").read_text(encoding="utf-8"))["metrics"]
    return [
        Point(name=name, role=role, accuracy=metrics[f"{model}_accuracy"], pairs_per_s=metrics[rate], offset=offset)
        for name, role, model, rate, offset in _DRAWN
    ]


def render(*, dpi: int = 130) -> bytes:
    """The picture as PNG."""
    figure = Figure(figsize=(7.6, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for point in points():
        _mark(axes, point)
    rates = [point.pairs_per_s for point in points()]
    values = [point.accuracy for point in points()]
    axes.set_xscale("log")
    axes.set_xlim(min(rates) / 4, max(rates) * 4)
    room = max(values) - min(values)
    axes.set_ylim(min(values) - 0.25 * room, max(values) + 0.35 * room)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MultipleLocator(0.05))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    axes.set_xlabel("pairs a second on two CPU cores (log scale); DE-FFNN and DE-Cos from stored vectors", fontsize=10)
    axes.set_ylabel("accuracy, test split", fontsize=10)
    dress(axes, "Entailment on SICK: quality against speed, after a short training", grid="both")
    axes.title.set_fontsize(12)
    axes.tick_params(labelsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": "distilmatch"})
    return buffer.getvalue()


def _mark(axes: Axes, point: Point) -> None:
    colour = COLOURS[point.role]
    axes.plot(point.pairs_per_s, point.accuracy, MARKERS[point.role], color=colour, markersize=9, zorder=3)
    axes.annotate(
        f"{point.name}\n{100 * point.accuracy:.1f} %, {point.pairs_per_s:,.0f}/s",
        (point.pairs_per_s, point.accuracy),
        point.offset,
        textcoords="offset points",
        ha="center",
        va="bottom" if point.offset[1] > 0 else "top",
        color=colour,
        fontsize=9,
        linespacing=1.25,
        bbox=PLAIN,
    )
