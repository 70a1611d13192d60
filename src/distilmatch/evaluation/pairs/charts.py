"""The plots of a report's page, each with what it shows in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilmatch.evaluation.pairs.svg import Axis, Plot, around
from distilmatch.evaluation.pairs.wording import agreement_label, kernel_label, main_label, rate_label

if TYPE_CHECKING:
    from distilmatch.evaluation.pairs.details import Scatter
    from distilmatch.evaluation.pairs.results import DecisionResult, PairResults
    from distilmatch.training.curves import StageCurve

RELIABILITY = {"raw": "baseline", "calibrated": "student"}
"""What a reliability chart shows, and how it is drawn."""

_LONGEST_NAME = 24
_NAMES_ROOM = 118.0  # for 16 letters
_LETTER = 6.6


def _room_for(names: list[str]) -> float:
    return max(_NAMES_ROOM, 13 + _LETTER * max(map(len, names)))


def _short_name(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def quality_chart(report: PairResults) -> str | None:
    """The main metric of every system with its interval, or agreement where there are no gold labels."""
    metric, by_gold = report.main_metric, report.main_metric is not None
    if not by_gold:
        metric = report.main_agreement
    rows = []
    for system in report.systems:
        value = (system.metrics if by_gold else system.agreement).get(metric or "")
        interval = (system.metric_intervals if by_gold else system.agreement_intervals).get(metric or "")
        if value is not None:
            rows.append((_short_name(system.name), system.role, value, interval))
    if not rows:
        return None
    label = main_label(metric or "") if by_gold else agreement_label(metric or "")
    trivial = report.details.trivial.get(metric or "") if report.details is not None and by_gold else None
    ends = [end for _, _, value, interval in rows for end in (value, *(interval or ()))]
    said = ", ".join(f"{name} {value:.3f}" for name, _, value, _ in rows)
    places = [float(len(rows) - 1 - number) for number in range(len(rows))]
    plot = Plot(
        title=f"{label}: {said}. Lines are 95 % intervals.",
        x=around([*ends, *([] if trivial is None else [trivial])], label),
        y=Axis(label="", low=-0.6, high=len(rows) - 0.3),
        height=72.0 + 44.0 * len(rows),
        left=_room_for([name for name, *_ in rows]),
        y_names=[(place, name) for place, (name, *_) in zip(places, rows, strict=True)],
    )
    if trivial is not None:
        plot.line([(trivial, -0.6), (trivial, len(rows) - 0.3)], "trivial")
    for place, (_, role, value, interval) in zip(places, rows, strict=True):
        if interval is not None:
            plot.line([(interval[0], place), (interval[1], place)], f"wide {role}")
        plot.dot(value, place, role, 5)
        plot.words(value, place, f"{value:.3f}", role, up=11)
    return plot.svg()


def speed_chart(report: PairResults) -> str | None:
    """Pairs a second of each way to score, on a logarithmic axis."""
    speed = report.speed
    if speed is None:
        return None
    rows = [] if speed.teacher_pairs_per_s is None else [("teacher", "teacher", speed.teacher_pairs_per_s)]
    rows.append(("from text", "student", speed.end_to_end_pairs_per_s))
    if speed.kernel in (None, "torch") or report.student_numbers == "fp32":
        rows.append(("cached, PyTorch", "student", speed.head_pairs_per_s))
    if speed.kernel not in (None, "torch"):
        rows.append((kernel_label(speed.kernel or "")[0], "student", speed.cached_pairs_per_s))
    rates = [rate for *_, rate in rows]
    places = [float(len(rows) - 1 - number) for number in range(len(rows))]
    plot = Plot(
        title="Pairs a second: " + ", ".join(f"{name} {rate_label(rate)}" for name, _, rate in rows) + ".",
        x=Axis(label="pairs a second (log scale)", low=min(rates) / 3, high=max(rates) * 12, log=True),
        y=Axis(label="", low=-0.6, high=len(rows) - 0.4),
        height=68.0 + 34.0 * len(rows),
        left=_NAMES_ROOM,
        y_names=[(place, name) for place, (name, *_) in zip(places, rows, strict=True)],
    )
    for place, (_, role, rate) in zip(places, rows, strict=True):
        plot.bar(place, rate, role)
        plot.words(rate, place, rate_label(rate), role, up=-4, anchor="start")
    return plot.svg()


def scatter_chart(scatter: Scatter) -> str:
    """Each row's score by the student against that by the teacher; on the dashed line both say the same."""
    low, high = scatter.limits
    room = 0.03 * (high - low)
    plot = Plot(
        title=f"{scatter.what} of {len(scatter.student):,} rows by the student against the teacher's.",
        x=Axis(label=f"teacher: {scatter.what}", low=low - room, high=high + room),
        y=Axis(label="student", low=low - room, high=high + room),
        height=400.0,
    )
    plot.line([(low, low), (high, high)], "trivial")
    draw = (plot.dot, plot.cross, plot.square)
    for student, teacher, group in zip(scatter.student, scatter.teacher, scatter.group, strict=True):
        draw[group % 3](teacher, student, f"group{group}", 2.5)
    return plot.svg()


def reliability_chart(result: DecisionResult) -> str:
    """The share of matches among rows of like probability, before calibration and after it; on the dashed line both agree."""
    said = ", ".join(f"{kind} {result.ece[kind]:.3f}" for kind in RELIABILITY)
    plot = Plot(
        title=f"Reliability of the {result.name}: share of matches by probability. Expected calibration error: {said}.",
        x=Axis(label="probability of a match", low=-0.03, high=1.03),
        y=Axis(label="share of matches", low=-0.03, high=1.03),
        height=400.0,
    )
    plot.line([(0, 0), (1, 1)], "trivial")
    for kind, style in RELIABILITY.items():
        points = [(each.probability, each.matches, each.rows) for each in result.reliability[kind]]
        most = max(rows for *_, rows in points)
        plot.line([(across, up) for across, up, _ in points], style)
        for across, up, rows in points:
            size = 2.0 + 4.0 * (rows / most) ** 0.5
            (plot.square if kind == "raw" else plot.dot)(across, up, style, size)
    return plot.svg()


def loss_chart(curve: StageCurve) -> str | None:
    """The training loss of a stage by step."""
    if not curve.loss:
        return None
    first, last = curve.loss[0][1], curve.loss[-1][1]
    return _steps_chart(
        curve, curve.loss, "loss", f"training loss of {curve.name}: from {first:.4g} to {last:.4g}", "teacher"
    )


def dev_chart(curve: StageCurve) -> str | None:
    """The dev metric of a stage by step, its best value marked."""
    if not curve.dev or curve.metric is None:
        return None
    step, best = max(curve.dev, key=lambda point: point[1])
    title = f"dev {main_label(curve.metric)} of {curve.name}: best {best:.4f} at step {step:,}"
    return _steps_chart(curve, curve.dev, main_label(curve.metric), title, "student", best=(step, best))


def _steps_chart(
    curve: StageCurve,
    points: tuple[tuple[int, float], ...],
    label: str,
    title: str,
    kind: str,
    best: tuple[int, float] | None = None,
) -> str:
    values = [value for _, value in points]
    steps = [step for each in (curve.loss, curve.dev) for step, _ in each]
    plot = Plot(
        title=title,
        x=Axis(label="step", low=0, high=max(*steps, 1) * 1.02),
        y=around(values, label, 0.14),
        height=210.0,
    )
    plot.line([(float(step), value) for step, value in points], kind)
    for step, value in points:
        plot.dot(step, value, kind, 2.2)
    if best is not None:
        plot.dot(best[0], best[1], kind, 5)
        on_the_right = best[0] > 0.7 * max(steps)
        plot.words(best[0], best[1], f"{best[1]:.4f}", kind, up=9, anchor="end" if on_the_right else "middle")
    return plot.svg()
