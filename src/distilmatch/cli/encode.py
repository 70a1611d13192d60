"""`distilmatch encode`: write one side's representations to disk."""

from __future__ import annotations

import typer

from distilmatch.arguments import NUMBER_FORMATS
from distilmatch.cli.options import (
    Delimiter,
    Device,
    DryRun,
    ModelPath,
    OnBadRows,
    Quoting,
    Split,
    TablePath,
    one_of,
    say,
    say_next,
    student_of,
    table_config,
)


def run(
    model: ModelPath,
    table: TablePath,
    output: str = typer.Option(..., "--output", help="Folder for the representations."),
    side: str = typer.Option(
        ..., "--side", help="Side that the texts belong to: its name, such as query, or its number."
    ),
    text_column: str | None = typer.Option(
        None, "--text-column", help='Text column; by default "text", or the only column with texts.'
    ),
    id_column: str | None = typer.Option(None, "--id-column", help="Id column."),
    dtype: str = typer.Option("fp32", "--dtype", metavar="|".join(NUMBER_FORMATS), help="Number format on disk."),
    batch_size: int = typer.Option(64, "--batch-size", help="Texts per batch of the encoder."),
    precision: str = typer.Option("fp32", "--precision", metavar="fp32|bf16|auto", help="Precision of the encoder."),
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    on_bad_rows: OnBadRows = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Encode each distinct text of a table once and write its representation for the scoring head.

    Run the same command again to resume.
    """
    from distilmatch.errors import ConfigError
    from distilmatch.runtime import pick_device
    from distilmatch.store.codec import bytes_per_item, stored_dtype

    number_format = stored_dtype("--dtype", dtype)
    one_of("--precision", precision, ("fp32", "bf16", "auto"))
    one_of("--on-bad-rows", on_bad_rows or "stop", ("stop", "quarantine"))
    if batch_size < 1:
        raise ConfigError("--batch-size must be 1 or more")
    from distilmatch.jobs.encode import check_encode, count_texts, encode_table

    check_encode(table, output, model, dtype=dtype, batch_size=batch_size, precision=precision)
    student = student_of(model)
    chosen = int(side) if side.isdigit() else side
    index = student.side_index(chosen)
    read = table_config(delimiter=delimiter, quoting=quoting)
    if dry_run:
        texts = count_texts(
            table,
            text_column=text_column,
            id_column=id_column,
            split=split,
            delimiter=read.delimiter,
            quoting=read.quoting,
        )
        item = bytes_per_item(student.student.kept_tokens[index], student.student.vector_width, number_format)
        say(distinct_texts=texts, bytes_per_text=item, bytes=item * texts, output=output)
        typer.echo("Nothing was encoded or written (--dry-run).")
        return
    student.to(pick_device(device))  # type: ignore[arg-type]
    folder = encode_table(
        student,
        table,
        output,
        side=chosen,
        text_column=text_column,
        id_column=id_column,
        dtype=number_format,
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]
        on_bad_rows=on_bad_rows or "stop",  # type: ignore[arg-type]
        split=split,
        delimiter=read.delimiter,
        quoting=read.quoting,
    )
    say(texts=len(folder), side=student.student.side_names[index], folder=output)
    if student.student.sides == 2:
        folders = ["OTHER", output] if index else [output, "OTHER"]
        say_next("match", model, "--left", folders[0], "--right", folders[1], "--top-k", 10, "--output", "best.parquet")
