"""`distilmatch finetune-teacher`: a cross-encoder teacher from gold labels."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from distilmatch.cli.dry_run import precision_on, say_estimate, say_machine, say_table
from distilmatch.cli.options import (
    Delimiter,
    Device,
    DryRun,
    IdColumns,
    OnBadRows,
    Quoting,
    Split,
    TablePath,
    TextColumns,
    TextTemplates,
    duration,
    names,
    say,
    say_next,
    table_config,
)

if TYPE_CHECKING:
    from distilmatch.config.fine_tuning import FineTuneConfig
    from distilmatch.config.tables import TableConfig, TaskConfig
    from distilmatch.types import TupleTable


def run(
    table: TablePath,
    output: str = typer.Option(..., "--output", help="New folder for the teacher."),
    task: str = typer.Option(
        ..., "--task", metavar="KIND", help="Kind of labels: classification, binary, regression or ranking."
    ),
    label_column: str = typer.Option(..., "--label-column", help="Column of the gold labels."),
    classes: str | None = typer.Option(
        None,
        "--classes",
        metavar="A,B,C",
        help="Class names, in the order of the logits.",
        show_default="none; required for classification",
    ),
    label_range: str | None = typer.Option(
        None,
        "--label-range",
        metavar="LOW,HIGH",
        help="Lowest and highest label, for regression.",
        show_default="0,1",
    ),
    dev: str | None = typer.Option(
        None,
        "--dev",
        help="Dev table with the same columns, on which settings are searched and the best epoch is kept.",
        show_default="none; nothing is searched, the last epoch is kept",
    ),
    text_columns: TextColumns = None,
    text_templates: TextTemplates = None,
    id_columns: IdColumns = None,
    base_model: str = typer.Option("all-MiniLM-L6-v2", "--base-model", help="Pre-trained model to start from."),
    revision: str | None = typer.Option(
        None, "--revision", help="Hub commit or tag of the base model.", show_default="the latest"
    ),
    dtype: str = typer.Option(
        "auto", "--dtype", metavar="auto|fp32|bf16", help="Dtype of the trained weights; auto is fp32."
    ),
    minutes: float = typer.Option(
        30.0,
        "--minutes",
        help="Time for the search and the trainings after it; what is left open below is chosen on the dev table.",
    ),
    quick: bool = typer.Option(False, "--quick", help="One training with the usual settings, no search: --minutes 0."),
    seeds: int = typer.Option(1, "--seeds", help="How many teachers, each from another seed: an ensemble."),
    epochs: float | None = typer.Option(
        None, "--epochs", help="Number of epochs.", show_default="3 to 10, by the number of rows"
    ),
    batch_size: int = typer.Option(32, "--batch-size", help="Pairs per training step."),
    learning_rate: float | None = typer.Option(
        None, "--learning-rate", help="Peak learning rate.", show_default="searched"
    ),
    dropout: str | None = typer.Option(
        None,
        "--dropout",
        metavar="NUMBER|model",
        help="Dropout in training; model is that of the base model.",
        show_default="searched",
    ),
    readout: str = typer.Option(
        "auto",
        "--readout",
        metavar="auto|mean|first",
        help="What the score is computed from: the mean output of all tokens, or the first token's.",
    ),
    encoder_layers: int | None = typer.Option(
        None, "--encoder-layers", help="Layers of the base model that are kept.", show_default="searched"
    ),
    class_weights: str = typer.Option(
        "auto",
        "--class-weights",
        metavar="auto|none|balanced",
        help="Whether rows of a rare class weigh more; auto tries it.",
    ),
    max_length: int | None = typer.Option(
        None, "--max-length", help="Maximum tokens per pair.", show_default="what the longest pairs need, 512 at most"
    ),
    seed: int = typer.Option(0, "--seed", help="Random seed."),
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    on_bad_rows: OnBadRows = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune a cross-encoder on labelled pairs, to use as a teacher."""
    from distilmatch.config.fine_tuning import FineTuneConfig
    from distilmatch.data.quarantine import nothing_set_aside
    from distilmatch.data.tables import load_table
    from distilmatch.errors import DataError
    from distilmatch.files import check_outputs
    from distilmatch.training.checks import check_dev, check_model, check_new_folder

    learned = _task(task, classes, label_range)
    read = table_config(
        text_columns=text_columns,
        text_templates=text_templates,
        id_columns=id_columns,
        label_column=label_column,
        on_bad_rows=on_bad_rows,
        split=split,
        delimiter=delimiter,
        quoting=quoting,
    )
    chosen = {
        "base_model": base_model,
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_length": max_length,
        "dropout": dropout if dropout in (None, "model") else _number("--dropout", dropout),
        "readout": readout,
        "encoder_layers": encoder_layers,
        "class_weights": class_weights,
        "minutes": 0.0 if quick else minutes,
        "seeds": seeds,
        "revision": revision,
        "dtype": dtype,
        "device": device,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    config = FineTuneConfig.from_dict(given, "options")
    check_new_folder(output, "--output")
    check_outputs({"--output": output}, {"the table": table, "--dev": dev, "--base-model": base_model})
    check_model(base_model, revision)
    with nothing_set_aside() if dry_run else nullcontext():
        rows = load_table(table, read, learned)
        dev_rows = None if dev is None else load_table(dev, read, learned)
    labelled = 0 if rows.gold is None else int(np.isfinite(rows.gold).sum())
    if dev_rows is not None:
        check_dev(dev_rows, learned, str(dev), has_teacher=False)
    if not labelled:
        raise DataError(
            f"{table} has no row with a label in the column {label_column!r}: nothing can be learned from it"
        )
    if dry_run:
        _plan({"train": (table, rows), "dev": (dev, dev_rows)}, read, learned, config, output)
        return
    _fine_tune(rows, learned, output, config, dev_rows, read)


def _fine_tune(
    rows: TupleTable,
    task: TaskConfig,
    output: str,
    config: FineTuneConfig,
    dev: TupleTable | None,
    read: TableConfig,
) -> None:
    """Trains, writes the page, and says what to do next."""
    from distilmatch.evaluation.teachers.page import write_teacher_page
    from distilmatch.training.teacher.fine_tune import fine_tune_teacher

    started = time.perf_counter()
    teacher = fine_tune_teacher(rows, task, Path(output), config, dev, read_as=read)
    members = sorted(teacher.iterdir()) if config.seeds > 1 else [teacher]
    pages = [str(write_teacher_page(member)) for member in members]
    found = {"dev": _on_dev(members[0])} if dev is not None else {}
    say(teacher=str(teacher), **found, report=", ".join(pages), took=duration(time.perf_counter() - started))
    say_next("train", "RECIPE.yaml", "--set", f"teacher.models=[{', '.join(map(str, members))}]")


def _on_dev(teacher: Path) -> str:
    """The metric that the teacher was chosen by, and that of the best simple baseline."""
    from distilmatch.files import read_json
    from distilmatch.training.teacher.beside import best_baseline
    from distilmatch.training.teacher.fine_tune import RECORD

    record = read_json(teacher / RECORD)
    metric = record["metric_for_best"]
    said = f"{metric} {record['dev'][metric]:.4f}"
    best = best_baseline(record.get("baselines", {}), metric)
    return said if best is None else f"{said} (simple baselines: {best[0]} {best[1]:.4f})"


def _number(option: str, value: str) -> float:
    from distilmatch.errors import ConfigError

    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{option} {value!r} must be a number, such as 0.1, or `model`") from None


def _task(kind: str, classes: str | None, label_range: str | None) -> TaskConfig:
    """What the labels mean."""
    from distilmatch.config.tables import TaskConfig
    from distilmatch.errors import ConfigError

    settings: dict[str, object] = {"kind": kind, "classes": names(classes) or []}
    if label_range is not None:
        try:
            settings["label_range"] = [float(bound) for bound in label_range.split(",")]
        except ValueError as error:
            raise ConfigError(f"--label-range {label_range!r} must be two numbers, such as 0,5") from error
    return TaskConfig.from_dict(settings, "options")


def _plan(
    tables: dict[str, tuple[str | None, TupleTable | None]],
    read: TableConfig,
    task: TaskConfig,
    config: FineTuneConfig,
    output: str,
) -> None:
    """Prints what is learned and how long it takes, of tables that are checked; nothing is written."""
    from distilmatch.estimates import seconds_so_far
    from distilmatch.planning.teacher import plan_fine_tuning

    say_machine({"base_model": config.base_model}, None, precision=precision_on(None, config.precision))
    for name, (source, table) in tables.items():
        if table is not None:
            say_table(name, source, table, read, task)
    rows, dev = tables["train"][1], tables["dev"][1]
    assert rows is not None and rows.gold is not None, "a table without labels is refused"
    typer.echo("")
    say(
        labelled_rows=int(np.isfinite(rows.gold).sum()),
        dev_rows=0 if dev is None else len(dev),
        config=config.to_dict(),
    )
    say_estimate(plan_fine_tuning(rows, task, config, dev, seconds_so_far()), "trained", output)
