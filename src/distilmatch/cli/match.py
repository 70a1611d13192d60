"""`distilmatch match`: the best of one side for each text of the other, or all pairs above a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distilmatch.cli.options import (
    Device,
    DryRun,
    Kernel,
    ModelPath,
    Overwrite,
    Threads,
    names,
    one_of,
    say,
    student_of,
)

if TYPE_CHECKING:
    import numpy as np

    from distilmatch.store.folder import RepresentationFolder


def run(
    model: ModelPath,
    left: str = typer.Option(..., "--left", help="Representations of the first side."),
    right: str = typer.Option(..., "--right", help="Representations of the second side."),
    output: Path = typer.Option(..., "--output", help="Parquet file for the matches."),
    top_k: int | None = typer.Option(None, "--top-k", help="So many of the right side for each of the left."),
    threshold: float | None = typer.Option(None, "--threshold", help="Or: all pairs with a score above this."),
    reverse_output: Path | None = typer.Option(
        None, "--reverse-output", help="Also the best of the left side for each of the right, in this Parquet file."
    ),
    candidates: int | None = typer.Option(
        None, "--candidates", help="Score only so many nearest texts by pooled vectors; without it all."
    ),
    candidate_encoder: str | None = typer.Option(
        None, "--candidate-encoder", help="Nearest by this sentence encoder instead; needs the tables of both sides."
    ),
    left_table: str | None = typer.Option(None, "--left-table", help="The table that --left was encoded from."),
    right_table: str | None = typer.Option(None, "--right-table", help="The table that --right was encoded from."),
    text_columns: str | None = typer.Option(
        None, "--text-columns", metavar="LEFT,RIGHT", help="Columns of the texts in these tables."
    ),
    index: str = typer.Option("hnsw", "--index", metavar="flat|hnsw|ivf", help="How candidates are found."),
    rank_by: str | None = typer.Option(
        None, "--rank-by", metavar="logit|probability|expectation", help="What is ranked, for models of several labels."
    ),
    label: str | None = typer.Option(None, "--label", help="The label whose logit or probability is ranked."),
    values: str | None = typer.Option(
        None, "--values", metavar="X,Y", help="What each label is worth, an expectation."
    ),
    kernel: Kernel = "auto",
    threads: Threads = None,
    device: Device = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Match two folders of cached representations, all against all or by candidates; no encoder runs.

    Writes Parquet. A stopped run goes on where it was.
    """
    from distilmatch.errors import ConfigError

    one_of("--index", index, ("flat", "hnsw", "ivf"))
    if rank_by is not None:
        one_of("--rank-by", rank_by, ("logit", "probability", "expectation"))
    from distilmatch.engine.scorer import Scorer
    from distilmatch.jobs.match import match_folders
    from distilmatch.store.folder import RepresentationFolder

    try:
        worth = [float(value) for value in names(values) or ()] or None
    except ValueError as error:
        raise ConfigError(f"--values must be numbers, one a label, such as 0,0.5,1; not {values!r}") from error
    student = student_of(model, device)
    folders = RepresentationFolder.open(left), RepresentationFolder.open(right)
    tables = _tables(candidate_encoder, candidates, left_table, right_table)
    scorer = Scorer(student, kernel=kernel, threads=threads)  # type: ignore[arg-type]
    say(kernel=scorer.why)
    vectors = None
    if candidate_encoder is not None and not dry_run:
        vectors = _vectors(candidate_encoder, tables, folders, output, names(text_columns), device)
    report = match_folders(
        scorer,
        *folders,
        output,
        top_k=top_k,
        threshold=threshold,
        reverse_output=reverse_output,
        num_candidates=candidates,
        index=index,  # type: ignore[arg-type]
        vectors=vectors,
        by=rank_by,  # type: ignore[arg-type]
        label=int(label) if label is not None and label.isdigit() else label,
        values=worth,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    if dry_run:
        say(texts=[len(folder) for folder in folders], pairs=report.pairs, output=str(output))
        typer.echo("Nothing was scored or written (--dry-run).")
        return
    facts = {"rows": report.rows, "pairs": report.pairs, "matches": str(output)}
    if reverse_output is not None:
        facts["reverse"] = str(reverse_output)
    if report.recall is not None:
        facts["recall"] = f"{report.recall:.3f} of the exact top {top_k}, on {report.sampled:,} texts"
    say(**facts)


def _tables(encoder: str | None, candidates: int | None, *tables: str | None) -> list[str]:
    from distilmatch.errors import ConfigError

    given = [table for table in tables if table is not None]
    if encoder is None and given:
        raise ConfigError("--left-table and --right-table go with --candidate-encoder")
    if encoder is not None and (candidates is None or len(given) < len(tables)):
        raise ConfigError("--candidate-encoder needs --candidates N, --left-table and --right-table")
    return given


def _vectors(
    encoder: str,
    tables: Sequence[str],
    folders: Sequence[RepresentationFolder],
    output: Path,
    columns: Sequence[str] | None,
    device: str | None,
) -> tuple[np.ndarray, np.ndarray]:
    from distilmatch.errors import ConfigError
    from distilmatch.jobs.vectors import folder_vectors

    if columns is not None and len(columns) != len(tables):
        raise ConfigError("--text-columns names two columns, that of the left table and that of the right one")
    place = output.with_name(f"{output.name}.vectors")
    left, right = (
        folder_vectors(encoder, table, folder, place / side, text_column=column, device=device)
        for side, table, folder, column in zip(("left", "right"), tables, folders, columns or (None, None), strict=True)
    )
    return left, right
