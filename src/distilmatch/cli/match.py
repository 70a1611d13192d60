"""`distilmatch match`: the best of one side for each text of the other, or all pairs above a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from distilmatch.cli import compared
from distilmatch.cli import workers as shared
from distilmatch.cli.dry_run import say_estimate, say_machine
from distilmatch.cli.options import (
    Calibrated,
    Delimiter,
    Device,
    DryRun,
    Kernel,
    Memory,
    ModelPath,
    Overwrite,
    Quoting,
    Split,
    TextTemplates,
    Threads,
    names,
    one_of,
    say,
    say_next,
    student_of,
    table_config,
    threshold_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from distilmatch.config.tables import TableConfig
    from distilmatch.engine.question import Question
    from distilmatch.engine.scorer import Scorer
    from distilmatch.jobs.match import MatchReport
    from distilmatch.store.folder import RepresentationFolder


def run(
    model: ModelPath,
    left: str = typer.Option(..., "--left", help="Folder of the left side's representations, made by encode."),
    right: str = typer.Option(..., "--right", help="Folder of the right side's representations, made by encode."),
    output: str = typer.Option(..., "--output", help="File for the matches: .parquet, .csv, .tsv or .jsonl."),
    top_k: int | None = typer.Option(
        None,
        "--top-k",
        help="Keep the K best right items for each left item.",
        show_default="required, unless --threshold is given",
    ),
    threshold: str | None = typer.Option(
        None,
        "--threshold",
        metavar="NUMBER|NAME",
        help="Or keep every pair with a score above this number, or a threshold of the student's decision.json: best_f1, "
        "precision=0.95 or recall=0.9.",
        show_default="no threshold",
    ),
    target_precision: float | None = compared.TargetPrecision,
    target_recall: float | None = compared.TargetRecall,
    labelled_table: str | None = compared.LabelledTable,
    labelled_columns: str | None = compared.LabelledColumns,
    label_column: str = compared.LabelColumn,
    calibrated: Calibrated = False,
    same_table: bool = compared.SameTable,
    block_on: str | None = compared.BlockOn,
    left_filter: str | None = compared.LeftFilter,
    right_filter: str | None = compared.RightFilter,
    one_to_one: bool = compared.OneToOne,
    clusters: str | None = compared.ClustersOutput,
    update: str | None = compared.Update,
    reverse_output: str | None = typer.Option(
        None,
        "--reverse-output",
        help="Also write the K best left items for each right item, to this file.",
        show_default="no file",
    ),
    distinct_texts: bool = typer.Option(
        False, "--distinct-texts", help="Match distinct texts instead of ids or rows of the table."
    ),
    texts: bool = typer.Option(
        False, "--texts", help="Add the texts to the output; needs --left-table and --right-table."
    ),
    candidates: int | None = typer.Option(
        None,
        "--candidates",
        help="Score only the N nearest right texts (by pooled vectors) of each left text, not all.",
        show_default="all right texts",
    ),
    candidate_encoder: str | None = typer.Option(
        None,
        "--candidate-encoder",
        help="Find the nearest texts with this sentence encoder; needs --left-table and --right-table.",
        show_default="the student's own pooled vectors",
    ),
    left_table: str | None = typer.Option(
        None, "--left-table", help="The table that --left was encoded from.", show_default="not needed"
    ),
    right_table: str | None = typer.Option(
        None, "--right-table", help="The table that --right was encoded from.", show_default="not needed"
    ),
    text_columns: str | None = typer.Option(
        None,
        "--text-columns",
        metavar="LEFT,RIGHT",
        help="Text columns of --left-table and --right-table.",
        show_default='"text", or the only column with texts',
    ),
    text_templates: TextTemplates = None,
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    index: str = typer.Option(
        "hnsw",
        "--index",
        metavar="flat|hnsw|ivf",
        help="How --candidates are found: exactly (flat) or with FAISS (hnsw, ivf).",
    ),
    rank_by: str | None = typer.Option(
        None,
        "--rank-by",
        metavar="VALUE",
        help="For models with several labels, what to rank by: logit, probability or expectation (expected value).",
        show_default="logit",
    ),
    label: str | None = typer.Option(
        None,
        "--label",
        help="The class to rank by.",
        show_default="none; required with several labels, but for expectation",
    ),
    values: str | None = typer.Option(
        None,
        "--values",
        metavar="X,Y",
        help="Value of each class, for --rank-by expectation.",
        show_default="none; expectation needs them",
    ),
    keep_folded: str | None = typer.Option(
        None,
        "--keep-folded",
        metavar="FOLDER",
        help="Keep the folded texts in this folder, for other matches of the same student and folders.",
        show_default="beside the output, until it is done",
    ),
    memory: Memory = None,
    workers: shared.Workers = None,
    on: shared.On = "local",
    kernel: Kernel = "auto",
    threads: Threads = None,
    device: Device = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Match two folders of representations, all pairs or candidates only; the student's encoder does not run.

    Items are matched: distinct ids or, without ids, rows of the encoded table. Run the same command again to resume.
    """
    from distilmatch.engine.scorer import Scorer
    from distilmatch.estimates import seconds_so_far
    from distilmatch.jobs.match import check_comparison, check_match, match_folders
    from distilmatch.jobs.outputs import output_file
    from distilmatch.store.opened import opened_folder

    threshold = compared.target_of(threshold, target_precision, target_recall)
    question = _question(
        top_k, threshold, calibrated, reverse_output is not None, candidates, index=index, by=rank_by, label=label, values=values
    )  # fmt: skip
    folders = opened_folder(left), opened_folder(right)
    right_table = left_table if same_table and right_table is None else right_table
    has_columns = any(asked is not None for asked in (block_on, left_filter, right_filter))
    tables = _tables(candidate_encoder, candidates, texts, has_columns, left_table, right_table)
    check_comparison(question, same_table, has_columns, one_to_one, clusters is not None)
    columns = _columns(text_columns, text_templates, tables)
    read = table_config(split=split, delimiter=delimiter, quoting=quoting)
    vectors_place = output_file(output).with_name(f"{output_file(output).name}.vectors")
    inputs = {
        "the model": model, "the left table": left_table, "the right table": right_table, "--update": update,
        "the sentence encoder": candidate_encoder, "--labelled-table": labelled_table,
    }  # fmt: skip
    written = {"the folder of vectors": candidate_encoder and vectors_place, "the folder of folded texts": keep_folded}
    written |= {"the file of clusters": clusters}
    # Before any model loads: hours of scoring must not end at an output that cannot be written.
    check_match(output, reverse_output, folders, inputs, written)
    student = student_of(model, device)
    compared.decide_on(student, labelled_table, labelled_columns, label_column, read, threshold)
    asked_of = (block_on, (left_filter, right_filter), (left_table, right_table))
    groups = compared.groups_of(*asked_of, folders, distinct_texts, read)
    each = shared.memory_each(memory, workers, on, student.device)
    scorer = Scorer(student, kernel=kernel, threads=threads, memory_bytes=each)  # type: ignore[arg-type]
    runner = None if dry_run else shared.runner_of(workers, on, threads, student.device)
    start = seconds_so_far()
    if not dry_run:
        say(kernel=scorer.why)
    vectors = None
    if candidate_encoder is not None and not dry_run:
        vectors = _vectors(candidate_encoder, tables, folders, vectors_place, columns, read, device)
    report = match_folders(
        scorer, *folders, output, question, reverse_output=reverse_output, vectors=vectors, distinct_texts=distinct_texts,
        texts=_texts(tables, folders, columns, read) if texts else None, keep_folded=keep_folded, same_table=same_table,
        groups=groups, one_to_one=one_to_one, clusters_output=clusters, previous=update, overwrite=overwrite, dry_run=dry_run,
        runner=runner,
    )  # fmt: skip
    if dry_run:
        _show_rehearsal(report, start, {"model": model, "candidate_encoder": candidate_encoder}, device, scorer, output)
        return
    told = shared.facts_of(runner, report.read_over_least) | _facts(report, output, reverse_output, top_k)
    say(**told, **compared.comparison_facts(report, clusters))
    _say_next(
        model, texts, left=left, right=right, top_k=top_k, threshold=threshold, candidates=candidates,
        index=candidates and index, candidate_encoder=candidate_encoder, self=same_table, block_on=block_on,
        left_filter=left_filter, right_filter=right_filter, one_to_one=one_to_one, calibrated=calibrated,
    )  # fmt: skip


def _question(
    top_k: int | None,
    threshold: str | None,
    calibrated: bool,
    reverse: bool,
    candidates: int | None,
    *,
    index: str,
    by: str | None,
    label: str | None,
    values: str | None,
) -> Question:
    """What is asked, as it was typed."""
    from distilmatch.engine.question import Question

    one_of("--index", index, ("flat", "hnsw", "ivf"))
    if by is not None:
        one_of("--rank-by", by, ("logit", "probability", "expectation"))
    return Question(
        top_k=top_k,
        threshold=threshold_of(threshold),
        calibrated=calibrated,
        reverse=reverse,
        num_candidates=candidates,
        index=index,  # type: ignore[arg-type]
        by=by,  # type: ignore[arg-type]
        label=int(label) if label is not None and label.isdigit() else label,
        values=_worth(values),
    )


def _facts(report: MatchReport, output: str, reverse_output: str | None, top_k: int | None) -> dict[str, object]:
    """What a match gave."""
    facts: dict[str, object] = {"rows": report.rows, "pairs": report.pairs, "matches": output}
    if reverse_output is not None:
        facts["reverse"] = reverse_output
    if report.files_read:
        times = " and ".join(f"{number:.2f}" for number in report.folded)
        facts["folded"] = (
            f"{times} times each text of the two sides; {report.files_read / 1e9:.1f} GB read from their files"
        )
    if report.skipped:
        facts["skipped"] = f"{report.skipped:,} pairs, whose scores cannot reach what was asked for"
    if report.recall is not None:
        facts["recall"] = f"{recall_of(report)} of the exact top {top_k}, on {report.sampled:,} texts"
    return facts


def recall_of(report: MatchReport) -> str:
    """The share that candidates found, with its interval."""
    low, high = report.recall_interval or (0.0, 1.0)
    return f"{report.recall:.3f} ({low:.3f} to {high:.3f})"


def _say_next(model: str, with_texts: bool, **asked: object) -> None:
    """Prints the command that shows the matches with their texts; of matches that have them, what more would take."""
    if with_texts:
        say_next("plan", model, "--left", "1e6", "--right", "1e6")
        return
    tables = ["--left-table", "TABLE", "--right-table", "TABLE"]
    words: list[object] = []
    for name, value in asked.items():
        option = f"--{name.replace('_', '-')}"
        if value is not None and value is not False:
            words += [option] if value is True else [option, value]
    say_next("match", model, *words, *tables, "--texts", "--output", "FILE.csv")


def _show_rehearsal(
    report: MatchReport, start: float, models: dict[str, str | None], device: str | None, scorer: Scorer, output: str
) -> None:
    from distilmatch.estimates import Estimate

    rehearsal = report.rehearsal
    assert rehearsal is not None, "a dry run rehearses"
    say_machine(models, device, kernel=scorer.why)
    typer.echo("")
    say(**rehearsal.facts, pairs=report.pairs)
    notes = (
        "The vectors of the candidate encoder are not counted: all texts of both tables are encoded once with it.",
    )
    estimate = Estimate(
        seconds={"start": start, **rehearsal.seconds},
        disk_bytes=rehearsal.disk_bytes,
        notes=notes if models["candidate_encoder"] else (),
    )
    say_estimate(estimate, "scored", output)


def _worth(values: str | None) -> list[float] | None:
    from distilmatch.errors import ConfigError

    try:
        return [float(value) for value in names(values) or ()] or None
    except ValueError as error:
        raise ConfigError(f"--values must be numbers, one per label, such as 0,0.5,1; not {values!r}") from error


def _tables(
    encoder: str | None, candidates: int | None, texts: bool, has_columns: bool, *tables: str | None
) -> list[str]:
    from distilmatch.errors import ConfigError

    named = [table for table in tables if table is not None]
    if encoder is None and not texts and not has_columns and named:
        raise ConfigError(
            "--left-table and --right-table go with --candidate-encoder, --texts, --block-on, --left-filter or --right-filter"
        )
    if encoder is not None and (candidates is None or len(named) < len(tables)):
        raise ConfigError("--candidate-encoder needs --candidates N, --left-table and --right-table")
    if texts and len(named) < len(tables):
        raise ConfigError("--texts needs --left-table and --right-table, from which the folders were encoded")
    return named


def _columns(
    text_columns: str | None, text_templates: list[str] | None, tables: Sequence[str]
) -> Sequence[tuple[str | None, str | None]]:
    """The text column and the template of each table's texts, as far as they are named."""
    from distilmatch.errors import ConfigError

    columns = names(text_columns)
    if columns is None and not text_templates:
        return [(None, None)] * 2
    if columns is not None and text_templates:
        raise ConfigError("--text-columns and --text-templates both say what the texts are: leave one of them out")
    option = "--text-templates" if columns is None else "--text-columns"
    if not tables:
        raise ConfigError(f"{option} needs --left-table and --right-table: give them too")
    if columns is not None:
        if len(columns) != 2:
            raise ConfigError(f"{option} must name two columns: that of the left table, then that of the right table")
        return [(column, None) for column in columns]
    templates = text_templates or []
    if len(templates) > 2:
        raise ConfigError(f"{option} is given {len(templates)} times: once for both tables, or once for each of them")
    return [(None, templates[side]) for side in (0, -1)]


def _texts(
    tables: Sequence[str],
    folders: Sequence[RepresentationFolder],
    columns: Sequence[tuple[str | None, str | None]],
    read: TableConfig,
) -> tuple[list[str], list[str]]:
    from distilmatch.jobs.folder_texts import folder_texts

    left, right = (
        folder_texts(
            table,
            folder,
            text_column=column,
            text_template=template,
            split=read.split,
            delimiter=read.delimiter,
            quoting=read.quoting,
        )
        for table, folder, (column, template) in zip(tables, folders, columns, strict=True)
    )
    return left, right


def _vectors(
    encoder: str,
    tables: Sequence[str],
    folders: Sequence[RepresentationFolder],
    place: Path,
    columns: Sequence[tuple[str | None, str | None]],
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
            text_template=template,
            split=read.split,
            delimiter=read.delimiter,
            quoting=read.quoting,
            device=device,
        )
        for side, table, folder, (column, template) in zip(("left", "right"), tables, folders, columns, strict=True)
    )
    return left, right
