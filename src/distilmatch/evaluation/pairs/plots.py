"""The report's plot: quality of each system, and quality against pairs per second."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distilmatch.evaluation.look import dress
from distilmatch.evaluation.pairs.wording import agreement_label, main_label, rate_label, times_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from distilmatch.evaluation.pairs.results import PairResults

_COLOURS = {"teacher": "#3d3d3d", "student": "#1a6fc4", "baseline": "#b0772b"}
_LONGEST_NAME = 28


@dataclass(frozen=True, kw_only=True)
class _Quality:
    """One system's place on the axis of quality."""

    name: str
    role: str
    value: float
    interval: tuple[float, float] | None
    is_told: bool = True  # in the panel of speed, where there is room for one simple baseline


def render_plot(report: PairResults, *, dpi: int = 160) -> bytes:
    """The plot as PNG: quality on the left; then quality against speed, where speed was measured, and the reliability of
    probabilities, where there are decisions.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    label, systems = _qualities(report)
    panels = 1 + (report.speed is not None) + bool(report.decisions)
    height = max(3.6, 1.6 + 0.42 * len(systems))
    figure = Figure(figsize=(5.6 * panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    limits = _limits(systems)
    _draw_quality(axes[0], systems, label, limits)
    if report.speed is not None:
        _draw_speed(axes[1], report, systems, label, limits)
    if report.decisions:
        _draw_reliability(axes[-1], report)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": "distilmatch"})
    return buffer.getvalue()


def _qualities(report: PairResults) -> tuple[str, list[_Quality]]:
    """What quality is called, and the systems that have one: the main metric, or agreement without gold labels."""
    qualities, best = [], report.best_simple
    if report.main_metric is not None:
        for system in report.systems:
            value, interval = system.metrics.get(report.main_metric), system.metric_intervals.get(report.main_metric)
            if value is not None:
                told = not system.simple or system is best
                qualities.append(
                    _Quality(name=_short(system.name), role=system.role, value=value, interval=interval, is_told=told)
                )
        label = main_label(report.main_metric)
        return label[0].upper() + label[1:], qualities
    assert report.main_agreement is not None
    for system in report.systems:
        value = system.agreement.get(report.main_agreement)
        interval = system.agreement_intervals.get(report.main_agreement)
        if system.role == "teacher":
            value = 1.0
        if value is not None:
            told = not system.simple
            qualities.append(
                _Quality(name=_short(system.name), role=system.role, value=value, interval=interval, is_told=told)
            )
    label = agreement_label(report.main_agreement)
    return label[0].upper() + label[1:], qualities


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _limits(systems: list[_Quality]) -> tuple[float, float]:
    ends = [end for each in systems for end in (each.value, *(each.interval or ()))]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    margin = max(0.2 * (high - low), 0.015)
    return low - margin, high + margin


def _draw_quality(axes: Axes, systems: list[_Quality], label: str, limits: tuple[float, float]) -> None:
    places = list(range(len(systems)))[::-1]
    for place, each in zip(places, systems, strict=True):
        colour = _COLOURS[each.role]
        if each.interval is not None:
            axes.plot(each.interval, (place, place), color=colour, linewidth=2.2, alpha=0.35, solid_capstyle="round")
        axes.plot(each.value, place, "o", color=colour, markersize=8, zorder=3)
        axes.annotate(
            f"{each.value:.3f}", (each.value, place), (0, 8), textcoords="offset points", ha="center", color=colour
        )
    axes.set_yticks(places, [each.name for each in systems])
    axes.set_ylim(-0.6, len(systems) - 0.3)
    axes.set_xlim(*limits)
    axes.set_xlabel(label)
    whiskers = any(each.interval is not None for each in systems)
    dress(axes, "Quality" + (" (lines: 95 % interval)" if whiskers else ""), grid="x")


def _draw_reliability(axes: Axes, report: PairResults) -> None:
    axes.plot((0, 1), (0, 1), color="#8a8a8a", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for each in report.decisions:
        colour = _COLOURS[each.role]
        for kind, style, marker in (("raw", ":", "s"), ("calibrated", "-", "o")):
            across = [place.probability for place in each.reliability[kind]]
            up = [place.matches for place in each.reliability[kind]]
            name = f"{_short(each.name)}, {kind}: ECE {each.ece[kind]:.3f}"
            axes.plot(across, up, style, marker=marker, markersize=4, linewidth=1.4, color=colour, label=name)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("Probability of a match")
    axes.set_ylabel("Share of matches")
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")
    dress(axes, "Reliability", grid="both")


def _draw_speed(
    axes: Axes, report: PairResults, systems: list[_Quality], label: str, limits: tuple[float, float]
) -> None:
    speed = report.speed
    assert speed is not None
    value = {each.role: each.value for each in systems if each.role != "baseline"}
    points: list[tuple[float, float, str, str, str]] = []  # rate, quality, marker, role, label
    if speed.teacher_pairs_per_s is not None and "teacher" in value:
        rate = speed.teacher_pairs_per_s
        points.append((rate, value["teacher"], "s", "teacher", f"teacher\n{rate_label(rate)} pairs/s"))
    if "student" in value:
        for rate, ratio, marker, name in (
            (speed.end_to_end_pairs_per_s, speed.end_to_end_speedup, "o", "student, from text"),
            (speed.cached_pairs_per_s, speed.cached_speedup, "D", "student, cached"),
        ):
            times = "" if ratio is None else f" ({times_label(ratio)})"
            points.append((rate, value["student"], marker, "student", f"{name}\n{rate_label(rate)} pairs/s{times}"))
    # A line joins the student's two points: one quality, two speeds.
    students = [(rate, quality) for rate, quality, _, role, _ in points if role == "student"]
    axes.plot(*zip(*students, strict=True), color=_COLOURS["student"], linewidth=1.2, alpha=0.4, zorder=2)
    rates = [rate for rate, *_ in points]
    axes.set_xscale("log")
    # Room for the labels, which are wider than the points they stand at.
    axes.set_xlim(min(rates) / 6, max(rates) * 6)
    axes.set_ylim(*limits)
    # Labels point away from the other system; two points of the student that stand close point apart.
    student_is_lower = value.get("student", 0.0) <= value.get("teacher", limits[1])
    crowded = speed.cached_pairs_per_s < 10 * speed.end_to_end_pairs_per_s
    for number, (rate, quality, marker, role, text) in enumerate(points):
        axes.plot(rate, quality, marker, color=_COLOURS[role], markersize=9, zorder=3)
        below = student_is_lower == (role == "student")
        if crowded and role == "student" and number == len(points) - 1:
            below = not below
        axes.annotate(
            text,
            (rate, quality),
            (0, -11 if below else 11),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
            color=_COLOURS[role],
            fontsize=8.5,
            linespacing=1.25,
        )
    for each in (each for each in systems if each.is_told):
        timed = each.role == "student" or (each.role == "teacher" and speed.teacher_pairs_per_s is not None)
        if not timed:
            colour = _COLOURS[each.role]
            axes.axhline(each.value, color=colour, linewidth=1, linestyle=(0, (4, 3)), alpha=0.7, zorder=1)
            axes.annotate(
                f"{each.name}, not timed",
                (0.015, each.value),
                (0, 2),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                color=colour,
                fontsize=7.5,
            )
    axes.set_xlabel("Pairs per second (log scale)")
    axes.set_ylabel(label)
    dress(axes, "Quality and speed", grid="both")
