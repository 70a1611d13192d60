"""What to do after a report, by rules from what it measured. Each rule is a function that answers with an advice or None."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from distilmatch.config.base import FrozenConfig
from distilmatch.evaluation.pairs.wording import agreement_label, figure, main_label, percent

if TYPE_CHECKING:
    from distilmatch.evaluation.pairs.results import PairResults, SystemResult
    from distilmatch.training.curves import StageCurve

Rule = Literal[
    "few_labels",
    "no_labels",
    "weak_teacher",
    "weak_student",
    "simple_teacher",
    "simple_student",
    "near_simple",
    "far_below",
    "between",
    "still_rising",
    "overfit",
    "use_it",
]

_FEW_ROWS = 200
_WIDE = 0.03  # half of a 95 % interval of a metric between 0 and 1
_FAR_BELOW = 0.95
_EQUAL = 0.99
_HIGH_AGREEMENT = 0.9
_FEWEST_LOOKS = 4
_RISE = 0.002  # of a metric, over the last quarter of a stage
_FALL = 0.01


class Advice(FrozenConfig):
    """One thing to do.

    Attributes:
        rule: why it is given.
        text: what was seen and what to do, in sentences.
        command: one to paste; what stands in it in capitals is to be filled in. None where there is none.
    """

    rule: Rule
    text: str
    command: str | None = None


def what_now(report: PairResults) -> tuple[Advice, ...]:
    """What the figures of a report ask for, the most pressing first; never empty."""
    rules: tuple[Callable[[PairResults], Advice | None], ...] = (
        _weak_teacher, _weak_student, _simple_teacher, _simple_student, _near_simple, _no_labels, _few_labels,
        _far_below, _between, _still_rising, _overfit,
    )  # fmt: skip
    advices = [advice for rule in rules if (advice := rule(report)) is not None]
    use_it = _use_it(report, {advice.rule for advice in advices})
    return tuple(advices if use_it is None else [*advices, use_it])


def next_command(report: PairResults) -> str:
    """The command that usually follows: caching the texts of the first side."""
    side = report.cache[0].side_name
    words = [
        "encode",
        report.model or "STUDENT",
        "TABLE",
        "--side",
        side,
        "--text-column",
        "COLUMN",
        "--output",
        "FOLDER",
    ]
    return f"distilmatch {shlex.join(words)}"


def _main(report: PairResults, system: SystemResult | None) -> float | None:
    return None if system is None or report.main_metric is None else system.metrics.get(report.main_metric)


def _interval(report: PairResults, system: SystemResult) -> tuple[float, float] | None:
    return None if report.main_metric is None else system.metric_intervals.get(report.main_metric)


def _is_trivial(report: PairResults, system: SystemResult) -> str | None:
    """What shows that a system is no better than an answer that reads no text; None where nothing does."""
    value, details = _main(report, system), report.details
    if value is None or details is None or report.main_metric is None:
        return None
    floor = details.trivial.get(report.main_metric)
    interval = _interval(report, system)
    low = value if interval is None else interval[0]
    if floor is not None and low <= floor:
        label = main_label(report.main_metric)
        sure = "" if value <= floor else f", with an interval down to {low:.3f}"
        beside = f"{details.trivial_name} has {floor:.3f}"
        return f"{label} {value:.3f}{sure}; {beside}"
    error, mean_error = system.metrics.get("rmse"), details.trivial.get("rmse")
    if error is not None and mean_error is not None and error >= mean_error:
        return f"RMSE {error:.3f}; {details.trivial_name} has {mean_error:.3f}"
    return None


def _weak_teacher(report: PairResults) -> Advice | None:
    if report.teacher is None or (shown := _is_trivial(report, report.teacher)) is None:
        return None
    return Advice(
        rule="weak_teacher",
        text=f"The teacher is weak: {shown}. A student copies its teacher's errors.{_better_baseline(report)} Fine-tune the "
        "teacher on your labels, or take another one, before you train a student. Check too that the label column, the order of "
        "the classes and the label range are what the teacher learnt.",
        command="distilmatch finetune-teacher TRAIN --dev DEV --task "
        f"{report.task.kind} --label-column COLUMN --output TEACHER",
    )


def _better_baseline(report: PairResults) -> str:
    """A sentence on the simple baseline that a weak teacher is below; empty where there is none that reads the texts."""
    best, teacher = report.best_simple, _main(report, report.teacher)
    reached = _main(report, best)
    if (
        best is None
        or reached is None
        or teacher is None
        or reached <= teacher
        or _is_trivial(report, best) is not None
    ):
        return ""
    than = "teacher and student" if _is_no_better(report, report.student) else "the teacher"
    return (
        f" A simple baseline, which costs next to nothing, is better than {than}: {best.name} has "
        f"{main_label(report.main_metric or '')} {figure(reached)}."
    )


def _weak_student(report: PairResults) -> Advice | None:
    shown = _is_trivial(report, report.student)
    if shown is None or (report.teacher is not None and _is_trivial(report, report.teacher) is not None):
        return None
    return Advice(
        rule="weak_student",
        text=f"The student has learnt next to nothing that these labels show: {shown}. Check that the table's text columns stand "
        "in the order of the student's sides, and that its training ran to its end.",
    )


def _is_no_better(report: PairResults, system: SystemResult | None) -> bool:
    """Whether the best simple baseline is as good as a system, or better."""
    best, value = _main(report, report.best_simple), _main(report, system)
    return best is not None and value is not None and value <= best


def _simple_shown(report: PairResults, system: SystemResult) -> str:
    best = report.best_simple
    assert best is not None and report.main_metric is not None
    label, value, reached = main_label(report.main_metric), _main(report, system), _main(report, best)
    return f"{label} {figure(value)}; {best.name} has {figure(reached)}"


def _simple_teacher(report: PairResults) -> Advice | None:
    if report.teacher is None or not _is_no_better(report, report.teacher) or _weak_teacher(report) is not None:
        return None
    nor = ""
    if _is_no_better(report, report.student):
        nor = f" Nor is the student better ({figure(_main(report, report.student))})."
    return Advice(
        rule="simple_teacher",
        text=f"The teacher is no better than a simple baseline: {_simple_shown(report, report.teacher)}.{nor} A student of a bad "
        "teacher is a bad student: fine-tune the teacher on your labels or take another one, or use the baseline, which costs "
        "next to nothing. Check too that the label column, the order of the classes and the columns of the texts are right.",
        command="distilmatch finetune-teacher TRAIN --dev DEV --task "
        f"{report.task.kind} --label-column COLUMN --output TEACHER",
    )


def _simple_student(report: PairResults) -> Advice | None:
    teacher_is_weak = _weak_teacher(report) is not None or _is_no_better(report, report.teacher)
    if not _is_no_better(report, report.student) or teacher_is_weak or _weak_student(report) is not None:
        return None
    return Advice(
        rule="simple_student",
        text=f"The student is no better than a simple baseline: {_simple_shown(report, report.student)}. Unless it is trained "
        "better, the baseline does as well for less: train the student on more texts (`transfer.rounds`, `unlabelled`), longer "
        "(`stage2.epochs`) or with more kept tokens (`student.kept_tokens`).",
    )


def _near_simple(report: PairResults) -> Advice | None:
    """Better than the best simple baseline, but within the luck of the sample."""
    reached = _main(report, report.best_simple)
    systems = [system for system in (report.teacher, report.student) if system is not None]
    if reached is None or any(_is_no_better(report, each) or _is_trivial(report, each) is not None for each in systems):
        return None
    near = [
        system for system in systems if (interval := _interval(report, system)) is not None and interval[0] <= reached
    ]
    if not near:
        return None
    names = " and ".join(system.name for system in near)
    shown = ", ".join(f"the {system.name}: {_simple_shown(report, system)}" for system in near)
    return Advice(
        rule="near_simple",
        text=f"These labels do not show that {names} beat{'s' if len(near) == 1 else ''} a simple baseline ({shown}): its value "
        "lies within the interval. Label more rows before you rely on a difference.",
    )


def _no_labels(report: PairResults) -> Advice | None:
    if report.measured_rows:
        return None
    return Advice(
        rule="no_labels",
        text=f"No row has a gold label, so nothing says whether student and teacher are right. Label {_FEW_ROWS} rows or more "
        "and measure again with `--label-column`.",
    )


def _few_labels(report: PairResults) -> Advice | None:
    if not report.measured_rows or report.main_metric is None:
        return None
    units, count = ("queries", report.queries or 0) if report.task.kind == "ranking" else ("rows", report.measured_rows)
    interval = _interval(report, report.student)
    half = None if interval is None else (interval[1] - interval[0]) / 2
    if half is None and count >= _FEW_ROWS:
        return None
    if half is not None and half <= _WIDE:
        return None
    label = main_label(report.main_metric)
    if half is None:
        text = f"Only {count:,} {units} have gold labels: a difference of a few percent may be luck. Label {_FEW_ROWS} or more."
    else:
        wanted = math.ceil(count * (half / _WIDE) ** 2 / 10) * 10
        text = (
            f"The interval of the student's {label} is wide (± {half:.3f}, from {count:,} {units}): a difference of that size "
            f"may be luck. For ± {_WIDE} label about {wanted:,} {units}."
        )
    return Advice(rule="few_labels", text=text)


def _far_below(report: PairResults) -> Advice | None:
    share, teacher = report.share_of_teacher, _main(report, report.teacher)
    if share is None or teacher is None or share >= _FAR_BELOW or _weak_teacher(report) is not None:
        return None
    interval = _interval(report, report.student)
    if interval is not None and interval[1] >= teacher:
        return None
    agreement = _agreement(report)
    said = "" if agreement is None else f" Its {agreement[0]} is {agreement[1]:.3f}."
    return Advice(
        rule="far_below",
        text=f"The student is far below its teacher ({percent(share)}).{said} What helps most, in this order: a start from "
        "pre-trained layers (`start: auto`), more texts (`transfer.rounds`, `unlabelled`), more kept tokens "
        "(`student.kept_tokens`), a longer second stage (`stage2.epochs`). The page “My student is worse than my teacher” of the "
        "documentation says why.",
        command="distilmatch train RECIPE --set stage2.epochs=NUMBER --output OTHER",
    )


def _between(report: PairResults) -> Advice | None:
    share, teacher = report.share_of_teacher, _main(report, report.teacher)
    if share is None or teacher is None or share >= _EQUAL or _far_below(report) or _weak_teacher(report):
        return None
    interval = _interval(report, report.student)
    if interval is not None and interval[1] >= teacher:
        return Advice(
            rule="between",
            text=f"The student has {percent(share)} of its teacher's quality here, but the teacher's value lies within the "
            "student's interval: these labels do not tell the two apart.",
        )
    return Advice(
        rule="between",
        text=f"The student is a little below its teacher ({percent(share)}). If that matters, train on more texts "
        "(`transfer.rounds`, `unlabelled`) or longer (`stage2.epochs`).",
    )


def _last_stage(report: PairResults) -> StageCurve | None:
    watched = [curve for curve in report.curves if len(curve.dev) >= _FEWEST_LOOKS]
    return watched[-1] if watched and watched[-1] is report.curves[-1] else None


def _still_rising(report: PairResults) -> Advice | None:
    curve = _last_stage(report)
    if curve is None:
        return None
    values = [value for _, value in curve.dev]
    earlier = values[-1 - max(1, len(values) // 4)]
    if values[-1] < max(values) or values[-1] - earlier < _RISE:
        return None
    return Advice(
        rule="still_rising",
        text=f"Dev was still rising at the last step of {curve.name}: {main_label(curve.metric or '')} {earlier:.4f}, then "
        f"{values[-1]:.4f} at step {curve.dev[-1][0]:,}. Train longer.",
        command=f"distilmatch train RECIPE --set {curve.name}.epochs=NUMBER --output OTHER",
    )


def _overfit(report: PairResults) -> Advice | None:
    curve = _last_stage(report)
    if curve is None or len(curve.loss) < _FEWEST_LOOKS:
        return None
    best_step, best = max(curve.dev, key=lambda point: point[1])
    last_step, last = curve.dev[-1]
    before = [loss for step, loss in curve.loss if step <= best_step] or [curve.loss[0][1]]
    if best - last < _FALL or curve.loss[-1][1] >= before[-1]:
        return None
    return Advice(
        rule="overfit",
        text=f"The student overfits: in {curve.name} dev fell from {best:.4f} (step {best_step:,}) to {last:.4f} (step "
        f"{last_step:,}) while the training loss fell from {before[-1]:.4g} to {curve.loss[-1][1]:.4g}. The weights of the best "
        "step are kept. More texts help (`transfer.rounds`, `transfer.perturbed`, `unlabelled`); more epochs do not.",
    )


def _agreement(report: PairResults) -> tuple[str, float] | None:
    if report.main_agreement is None:
        return None
    value = report.student.agreement.get(report.main_agreement)
    return None if value is None else (agreement_label(report.main_agreement), value)


def _use_it(report: PairResults, given: set[Rule]) -> Advice | None:
    """Where nothing says that the student should not be used."""
    if given & {"weak_teacher", "weak_student", "simple_teacher", "simple_student", "far_below"}:
        return None
    agreement, share = _agreement(report), report.share_of_teacher
    if share is not None and agreement is not None:
        same = "as good as its teacher" if share >= _EQUAL else f"at {percent(share)} of its teacher"
        follows = "and agrees with it" if agreement[1] >= _HIGH_AGREEMENT else "though it answers differently"
        text = f"The student is {same} {follows} ({agreement[0]} {agreement[1]:.3f}). Use it: encode your texts once, then match."
    elif agreement is not None:
        if agreement[1] < _HIGH_AGREEMENT:
            return Advice(
                rule="far_below",
                text=f"The student does not follow its teacher closely ({agreement[0]} {agreement[1]:.3f}): train it on more "
                "texts (`transfer.rounds`, `unlabelled`) or longer (`stage2.epochs`).",
            )
        text = f"The student follows its teacher ({agreement[0]} {agreement[1]:.3f}). Use it: encode your texts once, then match."
    else:
        value = figure(_main(report, report.student))
        text = (
            f"If {main_label(report.main_metric or '')} {value} is enough for you, use the student: encode your texts once, then "
            "match. Measured beside a teacher (`--teacher`) it would show what is left to gain."
        )
    return Advice(rule="use_it", text=text, command=next_command(report))
