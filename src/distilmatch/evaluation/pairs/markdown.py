"""The report as tables: in Markdown for reading, as plain cells for a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distilmatch.evaluation.pairs.what_now import what_now
from distilmatch.evaluation.pairs.wording import (
    agreement_label,
    figure,
    kernel_label,
    main_label,
    percent,
    rate_label,
    score_label,
    times_label,
    with_interval,
)

if TYPE_CHECKING:
    from distilmatch.evaluation.pairs.results import PairResults

_AT_HALF = ("accuracy", "f1")
"""What is measured of a binary task by calling a match what scores above 0.5."""


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """One table of a report: a title, a header, rows of cells, the first column a name, the others figures, and what a reader
    must know of them.
    """

    kind: Literal["quality", "decision", "agreement", "speed", "cache"]
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def report_tables(report: PairResults) -> list[ReportTable]:
    """The tables of a report that have something to show: quality, decision, agreement, speed, cache."""
    tables = [_quality(report), _decision(report), _agreement(report), _speed(report), _cache(report)]
    return [table for table in tables if table is not None]


def headline(report: PairResults) -> str:
    """The report in one or two sentences."""
    clauses = []
    share, main = report.share_of_teacher, report.main_metric
    if share is not None and main is not None:
        clauses.append(f"The student reaches {percent(share)} of its teacher's {main_label(main)}")
    elif main is not None:
        clauses.append(f"The student reaches {main_label(main)} {figure(report.student.metrics.get(main))}")
    elif report.main_agreement is not None:
        value = report.student.agreement.get(report.main_agreement)
        clauses.append(f"The student's {agreement_label(report.main_agreement)} is {figure(value)}")
    speed = report.speed
    if speed is not None and speed.cached_speedup is not None and speed.end_to_end_speedup is not None:
        clauses.append(
            f"it scores {rate_label(speed.cached_pairs_per_s)} pairs/s from cached representations, "
            f"{times_label(speed.cached_speedup)} its teacher's speed, and {rate_label(speed.end_to_end_pairs_per_s)} "
            f"from text, {times_label(speed.end_to_end_speedup)}"
        )
    elif speed is not None:
        clauses.append(
            f"it scores {rate_label(speed.cached_pairs_per_s)} pairs/s from cached representations and "
            f"{rate_label(speed.end_to_end_pairs_per_s)} from text"
        )
    return "; ".join(clauses) + "."


def render_markdown(report: PairResults) -> str:
    """The report as Markdown, with the plot beside it."""
    lines = ["# Student and teacher", "", headline(report), ""]
    lines += [
        f"Task: {report.task.kind}. Table: {', '.join(table_counts(report))}.",
        "",
        "![Quality and speed](report.png)",
        "",
    ]
    lines += ["## What now", "", *(f"- {advice.text}" for advice in what_now(report)), ""]
    for table in report_tables(report):
        lines += [f"## {table.title}", "", *_markdown_rows(table), "", *([table.note, ""] if table.note else [])]
    if report.notes:
        lines += ["## How to read this", "", *(f"- {note}" for note in report.notes), ""]
    lines += ["## Environment", "", *(f"- {name}: {value}" for name, value in environment_rows(report)), ""]
    return "\n".join(lines)


def table_counts(report: PairResults) -> list[str]:
    """How large the table is, in words."""
    counts = [f"{report.rows:,} rows"]
    if report.measured_rows not in (0, report.rows):
        counts.append(f"{report.measured_rows:,} of them measured")
    if report.queries is not None:
        counts.append(f"{report.queries:,} queries")
    counts += [f"{count:,} distinct {name} texts" for name, count in report.distinct_texts.items()]
    return counts


def _markdown_rows(table: ReportTable) -> list[str]:
    lines = [" | ".join(table.header), " | ".join(["---"] + ["---:"] * (len(table.header) - 1))]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table.rows]
    return [f"| {line} |" for line in lines]


def environment_rows(report: PairResults) -> list[tuple[str, str]]:
    """What the figures depend on besides the models: names and values."""
    rows = []
    for name, value in report.environment.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        rows.append((name.replace("_", " "), str(value)))
    return rows


def _quality(report: PairResults) -> ReportTable | None:
    names = list(report.student.metrics)
    if not names:
        return None
    rows = []
    for system in report.systems:
        cells = [with_interval(system.metrics.get(name), system.metric_intervals.get(name)) for name in names]
        rows.append((system.name, *cells))
    at_half = _AT_HALF if report.task.kind == "binary" else ()
    header = [f"{main_label(name)} at 0.5" if name in at_half else main_label(name) for name in names]
    return ReportTable(
        kind="quality",
        title="Quality, against the gold labels (95 % interval)",
        header=("", *header),
        rows=tuple(rows),
        note=_half_note(report) if set(names) & set(at_half) else "",
    )


def _half_note(report: PairResults) -> str:
    """Where the cut of a binary task's accuracy and F1 lies."""
    note = "At 0.5: a score above 0.5 is called a match."
    if any(system.simple and set(_AT_HALF) & set(system.metrics) for system in report.systems):
        note += " Scores of the simple baselines are shifted so that 0.5 is their threshold of the best F1 on the train table."
    return note


def _decision(report: PairResults) -> ReportTable | None:
    if not report.decisions:
        return None
    rows = []
    for each in report.decisions:
        cells = [with_interval(value, each.intervals.get(name)) for name, value in each.metrics.items()]
        errors = [figure(each.ece["raw"]), f"{figure(each.ece['calibrated'])} ({each.method})"]
        rows.append((each.name, score_label(each.threshold), *cells, *errors))
    above = (f"{main_label(name)} above it" for name in report.decisions[0].metrics)
    header = ("", "best_f1 threshold", *above, "ECE, raw", "ECE, calibrated")
    title = "At the threshold of the best F1 on dev (95 % interval), and calibration"
    return ReportTable(kind="decision", title=title, header=header, rows=tuple(rows))


def _agreement(report: PairResults) -> ReportTable | None:
    names = list(report.student.agreement)
    if not names:
        return None
    rows = []
    for system in report.systems:
        # Where there is quality to tell, how a simple baseline agrees with the teacher says little.
        if system.role != "teacher" and not (system.simple and report.main_metric is not None):
            cells = [with_interval(system.agreement.get(name), system.agreement_intervals.get(name)) for name in names]
            rows.append((system.name, *cells))
    title = "Agreement with the teacher (95 % interval)"
    return ReportTable(
        kind="agreement", title=title, header=("", *(main_label(name) for name in names)), rows=tuple(rows)
    )


def _speed(report: PairResults) -> ReportTable | None:
    speed = report.speed
    if speed is None:
        return None
    rows = []
    if speed.teacher_pairs_per_s is not None:
        rows.append(("teacher", report.teacher_numbers or "", rate_label(speed.teacher_pairs_per_s), "1×", ""))
    numbers = report.student_numbers or ""
    timed: list[tuple[str, str, float, float | None, float | None]] = [
        ("student, from text", numbers, speed.end_to_end_pairs_per_s, speed.end_to_end_speedup, None)
    ]
    if speed.kernel in (None, "torch") or numbers == "fp32":
        timed.append(
            (
                "student, cached, PyTorch",
                "fp32" if speed.kernel else numbers,
                speed.head_pairs_per_s,
                speed.head_speedup,
                None,
            )
        )
    if speed.kernel_pairs_per_s is not None and speed.kernel != "torch":
        name, computed_in = kernel_label(speed.kernel or "")
        timed.append(
            (f"student, {name}", computed_in, speed.kernel_pairs_per_s, speed.cached_speedup, speed.kernel_difference)
        )
    for name, computed_in, rate, ratio, difference in timed:
        times = "" if ratio is None else times_label(ratio)
        rows.append((name, computed_in, rate_label(rate), times, "" if difference is None else f"{difference:.2g}"))
    header = ("", "numbers", "pairs/s", "beside the teacher", "largest difference")
    return ReportTable(kind="speed", title="Speed", header=header, rows=tuple(rows))


def _cache(report: PairResults) -> ReportTable:
    rows = tuple(
        (
            side.side_name,
            f"{side.kept_tokens}{' + 1 lexical' if side.lexical else ''}",
            str(side.width),
            f"{side.fp32_bytes:,}",
            f"{side.fp16_bytes:,}",
        )
        for side in report.cache
    )
    header = ("side", "tokens", "width", "bytes, fp32", "bytes, fp16")
    return ReportTable(kind="cache", title="Cache, for each text", header=header, rows=rows)
