"""The report as one page that opens anywhere: plots and style inside, no script, nothing from a network."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from distilmatch.evaluation.pairs.charts import (
    dev_chart,
    loss_chart,
    quality_chart,
    reliability_chart,
    scatter_chart,
    speed_chart,
)
from distilmatch.evaluation.pairs.markdown import ReportTable, environment_rows, headline, report_tables, table_counts
from distilmatch.evaluation.pairs.what_now import what_now
from distilmatch.evaluation.pairs.wording import figure, main_label

if TYPE_CHECKING:
    from distilmatch.evaluation.pairs.results import PairResults
    from distilmatch.training.curves import StageCurve

_CLIP = 280  # characters of a text that are shown; the rest stands in its title
_MOST_COLUMNS = 4
_HERE = Path(__file__).parent


def render_html(report: PairResults) -> str:
    """The whole page; every text in it is escaped."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"clipped": _clipped, "code": _with_code, "interval": _interval_below, "metric": main_label}
    template = environment.from_string((_HERE / "report.html.jinja").read_text(encoding="utf-8"))
    tables = {table.kind: table for table in report_tables(report)}
    details = report.details
    return template.render(
        report=report,
        details=details,
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        clip=_CLIP,
        headline=headline(report),
        counts=table_counts(report),
        quality=_turned(tables["quality"]) if "quality" in tables else None,
        agreement=_turned(tables["agreement"]) if "agreement" in tables else None,
        decision=_turned(tables["decision"]) if "decision" in tables else None,
        reliability=[(each.name, _svg(reliability_chart(each))) for each in report.decisions],
        speed=tables.get("speed"),
        cache=tables["cache"],
        advice=what_now(report),
        trivial=_trivial(report),
        quality_chart=_svg(quality_chart(report)),
        speed_chart=_svg(speed_chart(report)),
        scatter_chart=None if details is None or details.scatter is None else _svg(scatter_chart(details.scatter)),
        stages=[_stage(curve) for curve in report.curves],
        side_names=[side.side_name for side in report.cache],
        environment=environment_rows(report),
    )


def _svg(plot: str | None) -> Markup | None:
    return None if plot is None else Markup(plot)  # its texts are escaped where it is made


def _clipped(text: str) -> str:
    return text if len(text) <= _CLIP else f"{text[: _CLIP - 1]}…"


def _with_code(text: str) -> Markup:
    """Escaped, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _interval_below(cell: str) -> Markup:
    """A figure with its interval in a line of its own."""
    value, bracket, interval = cell.partition(" (")
    return escape(value) + (Markup("<small>({})</small>").format(interval.removesuffix(")")) if bracket else "")


def _turned(table: ReportTable) -> ReportTable:
    """Systems side by side, one figure a row: narrow enough for a phone; as they are where there are many systems."""
    if len(table.rows) > _MOST_COLUMNS:
        return table
    rows = tuple(zip(table.header[1:], *(row[1:] for row in table.rows), strict=True))
    return replace(table, header=("", *(row[0] for row in table.rows)), rows=rows)


def _trivial(report: PairResults) -> str | None:
    details, main = report.details, report.main_metric
    if details is None or main is None or main not in details.trivial:
        return None
    return f"{details.trivial_name} ({figure(details.trivial[main])})"


def _stage(curve: StageCurve) -> dict[str, Any]:
    charts = [
        {"svg": Markup(plot), "caption": caption}
        for plot, caption in ((loss_chart(curve), "Training loss."), (dev_chart(curve), "On dev; the best is marked."))
        if plot is not None
    ]
    return {
        "name": re.sub(r"(?<=[a-z])(?=\d)", " ", curve.name).capitalize(),
        "steps": curve.steps,
        "seconds": curve.seconds,
        "metric": curve.metric,
        "best_metric": curve.best_metric,
        "charts": charts,
    }
