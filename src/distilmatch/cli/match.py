"""`distilmatch match`: the best of one side for each text of the other, or all pairs above a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from distilmatch.cli.options import (
    Delimiter,
    Device,
    DryRun,
    Kernel,
    ModelPath,
    Overwrite,
    Quoting,
    Split,
    Threads,
    names,
    one_of,
    say,
    student_of,
    table_config,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from distilmatch.config.tables import TableConfig
    from distilmatch.store.folder import RepresentationFolder


def run(
    model: ModelPath,
    left: str = typer.Option(..., "--left", help="Representations of the first side."),
    right: str = typer.Option(..., "--right", help="Representations of the second side."),
    output: str = typer.Option(..., "--output", help="File for the matches: .parquet, .csv, .tsv or .jsonl."),
    top_k: int | None = typer.Option(None, "--top-k", help="Keep the K best right items for each left item."),
    threshold: float | None = typer.Option(None, "--threshold", help="Or: all pairs with a score above this."),
    reverse_output: str | None = typer.Option(
        None, "--reverse-output", help="Also the best left items for each right item, in this file."
    ),
    distinct_texts: bool = typer.Option(
        False, "--distinct-texts", help="Match and count distinct texts, not ids or rows of the table."
    ),
    texts: bool = typer.Option(
        False, "--texts", help="Write the texts beside ids and rows; needs the tables of both sides."
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
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
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

    What is matched are items: each distinct id, or without ids each row of the encoded table. A stopped run goes on where it
    was.
    """
    from distilmatch.errors import ConfigError

    one_of("--index", index, ("flat", "hnsw", "ivf"))
    if rank_by is not None:
        one_of("--rank-by", rank_by, ("logit", "probability", "expectation"))
    from distilmatch.engine.scorer import Scorer
    from distilmatch.jobs.match import check_match, match_folders
    from distilmatch.jobs.outputs import output_file
    from distilmatch.store.folder import RepresentationFolder

    try:
        worth = [float(value) for value in names(values) or ()] or None
    except ValueError as error:
        raise ConfigError(f"--values must be numbers, one a label, such as 0,0.5,1; not {values!r}") from error
    folders = RepresentationFolder.open(left), RepresentationFolder.open(right)
    tables = _tables(candidate_encoder, candidates, texts, left_table, right_table)
    columns = _columns(text_columns, tables)
    read = table_config(split=split, delimiter=delimiter, quoting=quoting)
    place = output_file(output)
    vectors_place = place.with_name(f"{place.name}.vectors")
    inputs = {"the model": model, "the left table": left_table, "the right table": right_table}
    written = {"the folder of vectors": None if candidate_encoder is None else vectors_place}
    check_match(output, reverse_output, folders, {**inputs, "the sentence encoder": candidate_encoder}, written)
    student = student_of(model, device)
    scorer = Scorer(student, kernel=kernel, threads=threads)  # type: ignore[arg-type]
    say(kernel=scorer.why)
    vectors = None
    if candidate_encoder is not None and not dry_run:
        vectors = _vectors(candidate_encoder, tables, folders, vectors_place, columns, read, device)
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
        distinct_texts=distinct_texts,
        texts=_texts(tables, folders, columns, read) if texts else None,
        overwrite=overwrite,
        dry_run=dry_run,
    )
    if dry_run:
        say(texts=[len(folder) for folder in folders], pairs=report.pairs, output=output)
        typer.echo("Nothing was scored or written (--dry-run).")
        return
    facts = {"rows": report.rows, "pairs": report.pairs, "matches": output}
    if reverse_output is not None:
        facts["reverse"] = reverse_output
    if report.recall is not None:
        facts["recall"] = f"{report.recall:.3f} of the exact top {top_k}, on {report.sampled:,} texts"
    say(**facts)


def _tables(encoder: str | None, candidates: int | None, texts: bool, *tables: str | None) -> list[str]:
    from distilmatch.errors import ConfigError

    given = [table for table in tables if table is not None]
    if encoder is None and not texts and given:
        raise ConfigError("--left-table and --right-table go with --candidate-encoder or --texts")
    if encoder is not None and (candidates is None or len(given) < len(tables)):
        raise ConfigError("--candidate-encoder needs --candidates N, --left-table and --right-table")
    if texts and len(given) < len(tables):
        raise ConfigError("--texts needs --left-table and --right-table, from which the folders were encoded")
    return given


def _columns(text_columns: str | None, tables: Sequence[str]) -> Sequence[str | None]:
    from distilmatch.errors import ConfigError

    columns = names(text_columns)
    if columns is None:
        return None, None
    if len(columns) != 2:
        raise ConfigError("--text-columns names two columns, that of the left table and that of the right one")
    if not tables:
        raise ConfigError("--text-columns are those of --left-table and --right-table: give these too")
    return columns


def _texts(
    tables: Sequence[str],
    folders: Sequence[RepresentationFolder],
    columns: Sequence[str | None],
    read: TableConfig,
) -> tuple[list[str], list[str]]:
    from distilmatch.jobs.folder_texts import folder_texts

    left, right = (
        folder_texts(
            table, folder, text_column=column, split=read.split, delimiter=read.delimiter, quoting=read.quoting
        )
        for table, folder, column in zip(tables, folders, columns, strict=True)
    )
    return left, right


def _vectors(
    encoder: str,
    tables: Sequence[str],
    folders: Sequence[RepresentationFolder],
    place: Path,
    columns: Sequence[str | None],
    read: TableConfig,
    device: str | None,
) -> tuple[np.ndarray, np.ndarray]:
    from distilmatch.jobs.vectors import folder_vectors

    left, right = (
        folder_vectors(
            encoder,
            table,
            folder,
            place / side,
            text_column=column,
            split=read.split,
            delimiter=read.delimiter,
            quoting=read.quoting,
            device=device,
        )
        for side, table, folder, column in zip(("left", "right"), tables, folders, columns, strict=True)
    )
    return left, right
