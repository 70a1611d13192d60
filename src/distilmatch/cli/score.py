"""`distilmatch score`: score a table from cached representations."""

from __future__ import annotations

import typer

from distilmatch.cli.options import (
    Delimiter,
    Device,
    DryRun,
    IdColumns,
    Kernel,
    ModelPath,
    OnBadRows,
    Overwrite,
    Quoting,
    Split,
    TablePath,
    TextColumns,
    Threads,
    say,
    student_of,
    table_config,
)


def run(
    model: ModelPath,
    table: TablePath,
    output: str = typer.Option(..., "--output", help="File for the scores: .parquet, .csv, .tsv or .jsonl."),
    left: str | None = typer.Option(None, "--left", help="Folder of the left side's representations, made by encode."),
    right: str | None = typer.Option(
        None, "--right", help="Folder of the right side's representations, made by encode."
    ),
    folders: list[str] | None = typer.Option(
        None, "--folder", help="For models with more than two sides: the folder of one side, in order. Repeatable."
    ),
    by: str = typer.Option("text", "--by", metavar="text|id", help="Look rows up by their texts or by their ids."),
    text_columns: TextColumns = None,
    id_columns: IdColumns = None,
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    on_bad_rows: OnBadRows = None,
    kernel: Kernel = "auto",
    threads: Threads = None,
    device: Device = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Score every row of a pair table from cached representations; no encoder runs.

    Rows are written in the order of the table. Run the same command again to resume.
    """
    from distilmatch.errors import ConfigError
    from distilmatch.runtime import pick_device

    places = list(folders or []) or [place for place in (left, right) if place is not None]
    if by not in ("text", "id"):
        raise ConfigError(f"--by must be text or id, not {by!r}")
    if len(places) < 2:
        raise ConfigError("give a folder for each side: --left and --right, or --folder for each side in order")
    from distilmatch.engine.scorer import Scorer
    from distilmatch.jobs.score import check_score, opened_folders, score_table

    opened = opened_folders(places)
    check_score(table, output, opened, model)
    student = student_of(model)
    read = table_config(
        text_columns=text_columns,
        id_columns=id_columns,
        on_bad_rows=on_bad_rows,
        split=split,
        delimiter=delimiter,
        quoting=quoting,
        sides=student.student.sides,
    )
    if dry_run:
        from distilmatch.data.tables import check_table

        say(rows=check_table(table, read), texts=[len(folder) for folder in opened], output=output)
        typer.echo("Nothing was scored or written (--dry-run).")
        return
    scorer = Scorer(student.to(pick_device(device)), kernel=kernel, threads=threads)  # type: ignore[arg-type]
    say(kernel=scorer.why)
    rows = score_table(scorer, table, output, opened, table=read, by=by, overwrite=overwrite)  # type: ignore[arg-type]
    say(rows=rows, scores=output)
