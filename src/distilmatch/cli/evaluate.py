"""`distilmatch evaluate`: how good and how fast a student is beside its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distilmatch.cli.options import (
    Device,
    DryRun,
    IdColumns,
    ModelPath,
    OnBadRows,
    Split,
    TablePath,
    TextColumns,
    names,
    one_of,
    say,
    student_of,
    table_config,
)

if TYPE_CHECKING:
    from distilmatch.evaluation.report import PairReport


def run(
    model: ModelPath,
    table: TablePath,
    output: Path = typer.Option(..., "--output", help="Folder for report.json, report.md and report.png."),
    teacher: str | None = typer.Option(None, "--teacher", metavar="MODEL[,MODEL]", help="Teacher(s) to compare with."),
    label_column: str | None = typer.Option(None, "--label-column", help="Column of the gold labels."),
    text_columns: TextColumns = None,
    id_columns: IdColumns = None,
    speed: bool = typer.Option(True, "--speed/--no-speed", help="Measure pairs per second."),
    precision: str = typer.Option("fp32", "--precision", metavar="fp32|bf16|auto", help="In which the student runs."),
    split: Split = "train",
    on_bad_rows: OnBadRows = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Measure a student on a labelled table, beside its teacher: quality, agreement, speed, cache size."""
    from distilmatch.config import TeacherConfig
    from distilmatch.data.tables import load_table
    from distilmatch.runtime import pick_device

    one_of("--precision", precision, ("fp32", "bf16", "auto"))
    student = student_of(model)
    read = table_config(
        text_columns=text_columns,
        id_columns=id_columns,
        label_column=label_column,
        on_bad_rows=on_bad_rows,
        split=split,
        sides=student.student.sides,
    )
    rows = load_table(table, read, student.task, side_names=student.student.side_names)
    if dry_run:
        say(rows=len(rows), distinct_texts=len(rows.texts), gold="yes" if rows.gold is not None else "no")
        typer.echo("Nothing was measured or written (--dry-run).")
        return
    from distilmatch.evaluation.report import evaluate_pairs
    from distilmatch.teachers import load_teacher

    student.to(pick_device(device))  # type: ignore[arg-type]
    asked = load_teacher(TeacherConfig(models=tuple(names(teacher) or ())), device=device) if teacher else None
    report = evaluate_pairs(student, rows, teacher=asked, measure_speed=speed, precision=precision)  # type: ignore[arg-type]
    report.save(output)
    show(report)
    say(report=str(output / "report.md"), plot=str(output / "report.png"))


def show(report: PairReport) -> None:
    """Prints a report's headline and tables."""
    from rich.console import Console
    from rich.table import Table

    from distilmatch.evaluation.markdown import headline, report_tables

    console = Console()
    for part in report_tables(report):
        table = Table(title=part.title, title_justify="left")
        for number, name in enumerate(part.header):
            table.add_column(name, justify="right" if number else "left")
        for row in part.rows:
            table.add_row(*row)
        console.print(table)
    console.print(headline(report))
