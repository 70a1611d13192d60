"""The report as tables: in Markdown for reading, as plain cells for a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distilmatch.evaluation.pairs.results import PairResults


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """One table of a report: a title, a header and rows of cells, the first column a name, the others figures."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def report_tables(report: PairResults) -> list[ReportTable]:
    """The tables of a report that have something to show: quality, agreement, speed, cache."""
    tables = [_quality(report), _agreement(report), _speed(report), _cache(report)]
    return [table for table in tables if table is not None]


def headline(report: PairResults) -> str:
    """The report in one or two sentences."""
    clauses = []
    share, main = report.share_of_teacher, report.main_metric
    if share is not None and main is not None:
        clauses.append(f"The student reaches {_percent(share)} of its teacher's {main_label(main)}")
    elif main is not None:
        clauses.append(f"The student reaches {main_label(main)} {_figure(report.student.metrics.get(main))}")
    elif report.main_agreement is not None:
        value = report.student.agreement.get(report.main_agreement)
        clauses.append(f"The student's {agreement_label(report.main_agreement)} is {_figure(value)}")
    speed = report.speed
    if speed is not None and speed.head_speedup is not None and speed.end_to_end_speedup is not None:
        clauses.append(
            f"it scores {rate_label(speed.head_pairs_per_s)} pairs/s from cached representations, "
            f"{times_label(speed.head_speedup)} its teacher's speed, and {rate_label(speed.end_to_end_pairs_per_s)} "
            f"from text, {times_label(speed.end_to_end_speedup)}"
        )
    elif speed is not None:
        clauses.append(
            f"it scores {rate_label(speed.head_pairs_per_s)} pairs/s from cached representations and "
            f"{rate_label(speed.end_to_end_pairs_per_s)} from text"
        )
    return "; ".join(clauses) + "."


def render_markdown(report: PairResults) -> str:
    """The report as Markdown, with the plot beside it."""
    counts = [f"{report.rows:,} rows"]
    if report.measured_rows not in (0, report.rows):
        counts.append(f"{report.measured_rows:,} of them measured")
    if report.queries is not None:
        counts.append(f"{report.queries:,} queries")
    counts += [f"{count:,} distinct {name} texts" for name, count in report.distinct_texts.items()]
    lines = ["# Student and teacher", "", headline(report), ""]
    lines += [f"Task: {report.task.kind}. Table: {', '.join(counts)}.", "", "![Quality and speed](report.png)", ""]
    for table in report_tables(report):
        lines += [f"## {table.title}", "", *_markdown_rows(table), ""]
    if report.notes:
        lines += ["## How to read this", "", *(f"- {note}" for note in report.notes), ""]
    lines += ["## Environment", "", *_environment(report), ""]
    return "\n".join(lines)


def _markdown_rows(table: ReportTable) -> list[str]:
    lines = [" | ".join(table.header), " | ".join(["---"] + ["---:"] * (len(table.header) - 1))]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table.rows]
    return [f"| {line} |" for line in lines]


def _environment(report: PairResults) -> list[str]:
    lines = []
    for name, value in report.environment.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        lines.append(f"- {name.replace('_', ' ')}: {value}")
    return lines


def _quality(report: PairResults) -> ReportTable | None:
    names = list(report.student.metrics)
    if not names:
        return None
    rows = []
    for system in report.systems:
        cells = [_with_interval(system.metrics.get(name), system.metric_intervals.get(name)) for name in names]
        rows.append((system.name, *cells))
    title = "Quality, against the gold labels (95 % interval)"
    return ReportTable(title=title, header=("", *(main_label(name) for name in names)), rows=tuple(rows))


def _agreement(report: PairResults) -> ReportTable | None:
    names = list(report.student.agreement)
    if not names:
        return None
    rows = []
    for system in report.systems:
        if system.role != "teacher":
            cells = [_with_interval(system.agreement.get(name), system.agreement_intervals.get(name)) for name in names]
            rows.append((system.name, *cells))
    title = "Agreement with the teacher (95 % interval)"
    return ReportTable(title=title, header=("", *names), rows=tuple(rows))


def _speed(report: PairResults) -> ReportTable | None:
    speed = report.speed
    if speed is None:
        return None
    rows = []
    if speed.teacher_pairs_per_s is not None:
        rows.append(("teacher", rate_label(speed.teacher_pairs_per_s), "1×"))
    for name, rate, ratio in (
        ("student, from text", speed.end_to_end_pairs_per_s, speed.end_to_end_speedup),
        ("student, cached", speed.head_pairs_per_s, speed.head_speedup),
    ):
        rows.append((name, rate_label(rate), "" if ratio is None else times_label(ratio)))
    return ReportTable(title="Speed", header=("", "pairs/s", "beside the teacher"), rows=tuple(rows))


def _cache(report: PairResults) -> ReportTable:
    rows = tuple(
        (side.side_name, str(side.kept_tokens), str(side.width), f"{side.fp32_bytes:,}", f"{side.fp16_bytes:,}")
        for side in report.cache
    )
    header = ("side", "tokens", "width", "bytes, fp32", "bytes, fp16")
    return ReportTable(title="Cache, for each text", header=header, rows=rows)


def main_label(metric: str) -> str:
    """A metric's name as a reader writes it."""
    fixed = {"auc": "ROC AUC", "map": "MAP", "f1": "F1", "macro_f1": "macro F1", "rmse": "RMSE", "mae": "MAE"}
    cut, at, depth = metric.partition("@")
    ranked = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP"}
    return f"{ranked[cut]}@{depth}" if at and cut in ranked else fixed.get(metric, metric.replace("_", " "))


def agreement_label(name: str) -> str:
    """A measure of agreement as a reader writes it."""
    return "agreement with the teacher" if name == "agreement" else f"{name} correlation with the teacher"


def rate_label(rate: float) -> str:
    """Pairs per second with three significant digits."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def times_label(ratio: float) -> str:
    """A ratio with two or three significant digits and a times sign."""
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.2g}×"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None or interval is None:
        return _figure(value)
    return f"{value:.4f} ({interval[0]:.3f} to {interval[1]:.3f})"
