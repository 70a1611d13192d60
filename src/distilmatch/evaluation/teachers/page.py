"""A fine-tuned teacher as one page that opens anywhere: its dev metric and curves, what was tried, what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from distilmatch.errors import DataError
from distilmatch.evaluation.pairs.svg import Axis, Plot, around
from distilmatch.evaluation.pairs.wording import main_label
from distilmatch.files import read_json, write_atomically, writing
from distilmatch.training.teacher.fine_tune import RECORD

PAGE = "teacher.html"
_HERE = Path(__file__).parent
_SETTINGS = {
    "readout": "score from",
    "learning_rate": "learning rate",
    "dropout": "dropout",
    "encoder_layers": "layers",
    "balanced": "balanced classes",
    "max_length": "tokens a pair",
    "epochs": "epochs",
}


def write_teacher_page(folder: str | Path) -> Path:
    """Writes teacher.html into a folder that `fine_tune_teacher` made, from its fine_tuning.json.

    Returns:
        The page.

    Raises:
        DataError: there is no record of a fine-tuning, or it is damaged.
        CacheError: the page cannot be written.
    """
    place = Path(folder)
    page = teacher_page(place)
    with writing(place):
        write_atomically(place / PAGE, page)
    return place / PAGE


def teacher_page(folder: str | Path) -> str:
    """The page of a folder that `fine_tune_teacher` made; every text in it is escaped.

    Raises:
        DataError: there is no record of a fine-tuning, or it is damaged.
    """
    import jinja2

    record_file = Path(folder) / RECORD
    try:
        record = read_json(record_file)
        chosen = next(done for done in record["tries"] if done["chosen"])
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
        environment.filters["metric"] = main_label
        template = environment.from_string((_HERE / "teacher.html.jinja").read_text(encoding="utf-8"))
        return template.render(
            style=Markup((_HERE.parent / "pairs" / "report.css").read_text(encoding="utf-8")),
            record={"metric_for_best": None, **record},
            chosen=chosen,
            headline=_headline(record),
            settings=[(name, _said(record["chosen"][key])) for key, name in _SETTINGS.items()],
            short=[_row(done) for done in record["tries"] if done["kind"] == "short"],
            whole=[_row(done) for done in record["tries"] if done["kind"] == "whole"],
            baselines=_baselines(record),
            warning=record.get("warning"),
            loss_chart=_chart(chosen["loss"], "training loss", "teacher"),
            dev_chart=_chart(_dev_points(chosen), f"dev {main_label(chosen['metric'] or '')}", "student"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise DataError(f"cannot read the record of a fine-tuning in {record_file}: {error!r}") from error


def _headline(record: Mapping[str, Any]) -> str:
    metric = record.get("metric_for_best")
    if metric is None:
        return "There was no dev table, so nothing says how good this teacher is."
    said = main_label(metric)
    return f"{said[0].upper()}{said[1:]} {record['dev'][metric]:.4f} on dev."


def _said(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else {"model": "the base model's"}.get(value, str(value))


def _row(done: Mapping[str, Any]) -> dict[str, Any]:
    value = None if done["metric"] is None else done["metrics"][done["metric"]]
    return {
        "name": done["name"],
        "value": "n/a" if value is None else f"{value:.4f}",
        "steps": f"{done['steps']:,}",
        "minutes": f"{done['seconds'] / 60:.1f}",
        "kept": done["kept"] if done["kind"] == "short" else done["chosen"],
    }


def _baselines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    metric = record.get("metric_for_best")
    rows = [(name, metrics.get(metric)) for name, metrics in (record.get("baselines") or {}).items()]
    return [(name, f"{value:.4f}") for name, value in rows if value is not None]


def _dev_points(done: Mapping[str, Any]) -> list[tuple[float, float]]:
    return [(entry["epoch"], entry[done["metric"]]) for entry in done["history"]] if done["metric"] else []


def _chart(points: Sequence[Sequence[float]], label: str, kind: str) -> Markup | None:
    if not points:
        return None
    places = [(float(x), float(y)) for x, y in points]
    last = max(x for x, _ in places)
    values = [value for _, value in places]
    title = f"{label} by epoch: from {values[0]:.4g} to {values[-1]:.4g}"
    axis = Axis(label="epoch", low=0, high=max(last, 0.01) * 1.02)
    plot = Plot(title=title, x=axis, y=around(values, label, 0.14), height=210.0)
    plot.line(places, kind)
    for x, y in places:
        plot.dot(x, y, kind, 2.6)
    return Markup(plot.svg())  # its texts are escaped where it is made
