"""`distilmatch score`: score a table from cached representations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from distilmatch.cli.dry_run import say_estimate, say_machine, say_rows
from distilmatch.cli.options import (
    Calibrated,
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
    TextTemplates,
    Threads,
    say,
    say_next,
    student_of,
    table_config,
    threshold_of,
)

if TYPE_CHECKING:
    from distilmatch.engine.scorer import Scorer
    from distilmatch.store.folder import RepresentationFolder


def run(
    model: ModelPath,
    table: TablePath,
    output: str = typer.Option(..., "--output", help="File for the scores: .parquet, .csv, .tsv or .jsonl."),
    left: str | None = typer.Option(
        None,
        "--left",
        help="Folder of the left side's representations, made by encode.",
        show_default="required for two sides, unless --folder is given",
    ),
    right: str | None = typer.Option(
        None,
        "--right",
        help="Folder of the right side's representations, made by encode.",
        show_default="required for two sides, unless --folder is given",
    ),
    folders: list[str] | None = typer.Option(
        None,
        "--folder",
        help="For models with more than two sides: the folder of one side, in order. Repeatable.",
        show_default="--left and --right",
    ),
    by: str = typer.Option("text", "--by", metavar="text|id", help="Look rows up by their texts or by their ids."),
    threshold: str | None = typer.Option(
        None,
        "--threshold",
        metavar="NUMBER|NAME",
        help="Add a column match: whether the score is above this number, or a threshold of the student's decision.json: "
        "best_f1, precision=0.95 or recall=0.9.",
        show_default="no column",
    ),
    calibrated: Calibrated = False,
    text_columns: TextColumns = None,
    text_templates: TextTemplates = None,
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

    asked = {"by": by, "threshold": threshold_of(threshold), "calibrated": calibrated, "overwrite": overwrite}
    opened = opened_folders(places)
    check_score(table, output, opened, model)
    student = student_of(model)
    read = table_config(
        text_columns=text_columns,
        text_templates=text_templates,
        id_columns=id_columns,
        on_bad_rows=on_bad_rows,
        split=split,
        delimiter=delimiter,
        quoting=quoting,
        sides=student.student.sides,
    )
    scorer = Scorer(student.to(pick_device(device)), kernel=kernel, threads=threads)  # type: ignore[arg-type]
    if dry_run:
        _rehearse(scorer, model, table, output, opened, {"table": read, **asked}, device)
        return
    say(kernel=scorer.why)
    rows = score_table(scorer, table, output, opened, table=read, **asked)  # type: ignore[arg-type]
    say(rows=rows, scores=output)
    if len(places) == 2:
        sides = ["--left", places[0], "--right", places[1]]
        say_next("match", model, *sides, "--top-k", 10, "--output", "best.parquet")


def _rehearse(
    scorer: Scorer,
    model: str,
    table: str,
    output: str,
    folders: list[RepresentationFolder],
    settings: dict[str, Any],
    device: str | None,
) -> None:
    from distilmatch.data.quarantine import nothing_set_aside
    from distilmatch.estimates import Estimate, seconds_so_far
    from distilmatch.jobs.score import rehearse_score

    start = seconds_so_far()
    with nothing_set_aside():
        rehearsal = rehearse_score(scorer, table, output, folders, **settings)
    say_machine({"model": model}, device, kernel=scorer.why)
    typer.echo("")
    say(table=table, rows=rehearsal.facts["rows"])
    say_rows(rehearsal.sample)
    typer.echo("")
    say(**{f"{name}_texts": len(folder) for name, folder in zip(scorer.model.student.side_names, folders, strict=True)})
    say(rows_to_score=rehearsal.facts["rows_to_score"])
    # The table is read twice, before and while it is scored.
    seconds = {"start": start, "check": rehearsal.seconds["read"], **rehearsal.seconds}
    say_estimate(Estimate(seconds=seconds, disk_bytes=rehearsal.disk_bytes), "scored", output)
