"""The plot of an STS report: each model's average, and the average against texts per second."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from distilmatch.evaluation.look import dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from distilmatch.evaluation.sts.results import StsResults

_FIRST, _OTHER = "#3d3d3d", "#1a6fc4"
_LONGEST_NAME = 32


def render_sts_plot(report: StsResults, *, dpi: int = 160) -> bytes:
    """The plot as PNG: averages on the left; on the right average against speed, where speed was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    timed = [result for result in report.results if result.texts_per_s is not None]
    panels = 2 if timed else 1
    figure = Figure(figsize=(5.6 * panels, max(3.0, 1.6 + 0.5 * len(report.results))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_averages(axes[0], report)
    if timed:
        _draw_speed(axes[1], report)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": "distilmatch"})
    return buffer.getvalue()


def _names(report: StsResults) -> list[str]:
    rows = [row[0] for row in report.rows()]
    return [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in rows]


def _draw_averages(axes: Axes, report: StsResults) -> None:
    places = list(range(len(report.results)))[::-1]
    for place, result in zip(places, report.results, strict=True):
        colour = _FIRST if result is report.results[0] else _OTHER
        tasks = [100 * value for value in result.spearman.values()]
        axes.plot(tasks, [place] * len(tasks), "|", color=colour, markersize=9, alpha=0.5)
        axes.plot(100 * result.average, place, "o", color=colour, markersize=8, zorder=3)
        axes.annotate(
            f"{100 * result.average:.2f}",
            (100 * result.average, place),
            (0, 8),
            textcoords="offset points",
            ha="center",
            color=colour,
        )
    axes.set_yticks(places, _names(report))
    axes.set_ylim(-0.6, len(places) - 0.3)
    axes.set_xlabel("Spearman x 100 (lines: the tasks)")
    dress(axes, "STS average", grid="x")


def _draw_speed(axes: Axes, report: StsResults) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    rates = []
    for result, name in zip(report.results, _names(report), strict=True):
        if result.texts_per_s is None:
            continue
        rates.append(result.texts_per_s)
        colour = _FIRST if result is report.results[0] else _OTHER
        axes.plot(result.texts_per_s, 100 * result.average, "o", color=colour, markersize=8, zorder=3)
        axes.annotate(
            name, (result.texts_per_s, 100 * result.average), (0, 9), textcoords="offset points", ha="center",
            color=colour, fontsize=8.5,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(min(rates) / 3, max(rates) * 3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.25)
    axes.set_xlabel("Texts per second (log scale)")
    axes.set_ylabel("STS average")
    dress(axes, "Quality and speed", grid="both")
