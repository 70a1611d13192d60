"""`distilmatch finetune-teacher`: a cross-encoder teacher from gold labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import typer

from distilmatch.cli.options import (
    Delimiter,
    DryRun,
    IdColumns,
    OnBadRows,
    Quoting,
    Split,
    TablePath,
    TextColumns,
    names,
    say,
    say_next,
    table_config,
)


def run(
    table: TablePath,
    output: str = typer.Option(..., "--output", help="New folder for the teacher."),
    task: str = typer.Option(
        ..., "--task", metavar="classification|binary|regression|ranking", help="Kind of labels to learn."
    ),
    label_column: str = typer.Option(..., "--label-column", help="Column of the gold labels."),
    classes: str | None = typer.Option(
        None, "--classes", metavar="A,B,C", help="Class names, in the order of the logits."
    ),
    label_range: str | None = typer.Option(
        None, "--label-range", metavar="LOW,HIGH", help="Lowest and highest label, for regression."
    ),
    dev: str | None = typer.Option(
        None, "--dev", help="Dev table with the same columns; the best epoch on it is kept."
    ),
    text_columns: TextColumns = None,
    id_columns: IdColumns = None,
    base_model: str = typer.Option("all-MiniLM-L6-v2", "--base-model", help="Pre-trained model to start from."),
    epochs: float | None = typer.Option(None, "--epochs", help="Number of epochs."),
    batch_size: int | None = typer.Option(None, "--batch-size", help="Pairs per training step."),
    learning_rate: float | None = typer.Option(None, "--learning-rate", help="Peak learning rate."),
    dropout: float | None = typer.Option(
        None, "--dropout", help="Dropout in training; that of the base model by default."
    ),
    max_length: int | None = typer.Option(None, "--max-length", help="Maximum tokens per pair."),
    seed: int = typer.Option(0, "--seed", help="Random seed."),
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    on_bad_rows: OnBadRows = None,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune a cross-encoder on labelled pairs, to use as a teacher."""
    from distilmatch.config.pairs import FineTuneConfig
    from distilmatch.config.tables import TaskConfig
    from distilmatch.data.tables import load_table
    from distilmatch.errors import ConfigError, DataError
    from distilmatch.files import check_outputs
    from distilmatch.training.checks import check_dev, check_model, check_new_folder

    settings: dict[str, object] = {"kind": task, "classes": names(classes) or []}
    if label_range is not None:
        try:
            settings["label_range"] = [float(bound) for bound in label_range.split(",")]
        except ValueError as error:
            raise ConfigError(f"--label-range {label_range!r} must be two numbers, such as 0,5") from error
    learned = TaskConfig.from_dict(settings, "options")
    read = table_config(
        text_columns=text_columns,
        id_columns=id_columns,
        label_column=label_column,
        on_bad_rows=on_bad_rows,
        split=split,
        delimiter=delimiter,
        quoting=quoting,
    )
    overrides = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_length": max_length,
        "dropout": dropout,
    }
    config = FineTuneConfig.from_dict(
        {"base_model": base_model, "seed": seed}
        | {name: value for name, value in overrides.items() if value is not None},
        "options",
    )
    check_new_folder(output, "--output")
    check_outputs({"--output": output}, {"the table": table, "--dev": dev, "--base-model": base_model})
    check_model(base_model)
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
        say(labelled_rows=labelled, dev_rows=0 if dev_rows is None else len(dev_rows), config=config.to_dict())
        typer.echo("Nothing was trained or written (--dry-run).")
        return
    from distilmatch.training.teacher import fine_tune_teacher

    teacher = fine_tune_teacher(rows, learned, Path(output), config, dev_rows)
    say(teacher=str(teacher))
    say_next("train", "RECIPE.yaml", "--set", f"teacher.models=[{teacher}]")
