"""`distilmatch evaluate`: how good and how fast a student is beside its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distilmatch.cli.options import (
    Delimiter,
    Device,
    DryRun,
    IdColumns,
    ModelPath,
    OnBadRows,
    Quoting,
    Split,
    TablePath,
    TextColumns,
    names,
    one_of,
    say,
    say_next,
    student_of,
    table_config,
)

if TYPE_CHECKING:
    from distilmatch.evaluation.pairs.report import PairReport


def run(
    model: ModelPath,
    table: TablePath,
    output: str = typer.Option(..., "--output", help="Folder for report.json, report.md and report.png."),
    teacher: str | None = typer.Option(
        None, "--teacher", metavar="MODEL[,MODEL]", help="Teacher to compare with; the logits of several are averaged."
    ),
    label_column: str | None = typer.Option(None, "--label-column", help="Column of the gold labels."),
    text_columns: TextColumns = None,
    id_columns: IdColumns = None,
    speed: bool = typer.Option(True, "--speed/--no-speed", help="Measure pairs per second."),
    precision: str = typer.Option("fp32", "--precision", metavar="fp32|bf16|auto", help="Precision of the student."),
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    on_bad_rows: OnBadRows = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Measure a student, and its teacher if given, on a table: quality, agreement, speed and cache size."""
    from distilmatch.config.pairs import TeacherConfig
    from distilmatch.data.tables import load_table
    from distilmatch.errors import ConfigError, DataError
    from distilmatch.files import check_outputs
    from distilmatch.runtime import pick_device
    from distilmatch.teachers.ensemble import check_teacher
    from distilmatch.training.checks import check_dev
    from distilmatch.training.run_folder import check_folder

    one_of("--precision", precision, ("fp32", "bf16", "auto"))
    teachers = names(teacher) or []
    if teacher is not None and not teachers:
        raise ConfigError("--teacher names no model: give folders or hub names, separated by commas")
    check_folder(output, "--output")
    check_outputs(
        {"--output": output},
        {"the student": model, "the table": table} | {f"--teacher {name}": name for name in teachers},
    )
    student = student_of(model)
    read = table_config(
        text_columns=text_columns,
        id_columns=id_columns,
        label_column=label_column,
        on_bad_rows=on_bad_rows,
        split=split,
        delimiter=delimiter,
        quoting=quoting,
        sides=student.student.sides,
    )
    rows = load_table(table, read, student.task, side_names=student.student.side_names)
    asked = TeacherConfig(models=tuple(teachers)) if teachers else None
    if asked is not None:
        check_teacher(asked, student.task)
    if rows.gold is not None:
        check_dev(rows, student.task, table, has_teacher=False)
    elif asked is None and rows.teacher is None:
        raise DataError(f"{table} has no labels to measure by: give --label-column or --teacher")
    if dry_run:
        say(rows=len(rows), distinct_texts=len(rows.texts), gold="yes" if rows.gold is not None else "no")
        typer.echo("Nothing was measured or written (--dry-run).")
        return
    from distilmatch.evaluation.pairs.measure import evaluate_pairs
    from distilmatch.teachers import load_teacher

    # The slow work starts here; a wrong input was refused above.
    student.to(pick_device(device))  # type: ignore[arg-type]
    loaded = None if asked is None else load_teacher(asked, device=device)
    report = evaluate_pairs(student, rows, teacher=loaded, measure_speed=speed, precision=precision)  # type: ignore[arg-type]
    report.save(Path(output))
    show(report)
    say(report=str(Path(output) / "report.md"), plot=str(Path(output) / "report.png"))
    side = student.student.side_names[0]
    say_next("encode", model, "TABLE", "--side", side, "--text-column", "COLUMN", "--output", "FOLDER")


def show(report: PairReport) -> None:
    """Prints a report's headline and tables."""
    from rich.console import Console
    from rich.table import Table

    from distilmatch.evaluation.pairs.markdown import headline, report_tables

    console = Console()
    for section in report_tables(report):
        table = Table(title=section.title, title_justify="left")
        for number, name in enumerate(section.header):
            table.add_column(name, justify="right" if number else "left")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
    console.print(headline(report))
