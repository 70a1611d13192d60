"""`distilmatch encode`: write one side's representations to disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from distilmatch.arguments import NUMBER_FORMATS
from distilmatch.cli import workers as shared
from distilmatch.cli.dry_run import precision_on, say_estimate, say_machine, say_rows
from distilmatch.cli.options import (
    Delimiter,
    Device,
    DryRun,
    ModelPath,
    OnBadRows,
    Quoting,
    Split,
    TablePath,
    TextTemplate,
    Threads,
    one_of,
    say,
    say_next,
    student_of,
    table_config,
)

if TYPE_CHECKING:
    from distilmatch.models import DiPair


def run(
    model: ModelPath,
    table: TablePath,
    output: str = typer.Option(..., "--output", help="Folder for the representations."),
    side: str = typer.Option(
        ..., "--side", help="Side that the texts belong to: its name, such as query, or its number."
    ),
    text_column: str | None = typer.Option(
        None, "--text-column", help="Text column.", show_default='"text", or the only column with texts'
    ),
    text_template: TextTemplate = None,
    id_column: str | None = typer.Option(None, "--id-column", help="Id column.", show_default="no ids"),
    dtype: str = typer.Option("fp32", "--dtype", metavar="|".join(NUMBER_FORMATS), help="Number format on disk."),
    batch_size: int = typer.Option(64, "--batch-size", help="Texts per batch of the encoder."),
    precision: str = typer.Option("fp32", "--precision", metavar="fp32|bf16|auto", help="Precision of the encoder."),
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    on_bad_rows: OnBadRows = None,
    workers: shared.Workers = None,
    on: shared.On = "local",
    threads: Threads = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Encode each distinct text of a table once and write its representation for the scoring head.

    Run the same command again to resume.
    """
    from distilmatch.errors import ConfigError
    from distilmatch.runtime import pick_device
    from distilmatch.store.codec import stored_dtype

    number_format = stored_dtype("--dtype", dtype)
    one_of("--precision", precision, ("fp32", "bf16", "auto"))
    one_of("--on-bad-rows", on_bad_rows or "stop", ("stop", "quarantine"))
    if batch_size < 1:
        raise ConfigError("--batch-size must be 1 or more")
    from distilmatch.jobs.encode import check_encode, encode_table

    check_encode(table, output, model, dtype=dtype, batch_size=batch_size, precision=precision)
    student = student_of(model)
    chosen = int(side) if side.isdigit() else side
    index = student.side_index(chosen)
    read = table_config(delimiter=delimiter, quoting=quoting)
    student.to(pick_device(device))  # type: ignore[arg-type]
    settings: dict[str, Any] = {
        "side": chosen,
        "text_column": text_column,
        "text_template": text_template,
        "id_column": id_column,
        "dtype": number_format,
        "batch_size": batch_size,
        "precision": precision,
        "on_bad_rows": on_bad_rows or "stop",
        "split": split,
        "delimiter": read.delimiter,
        "quoting": read.quoting,
    }
    if dry_run:
        _rehearse(student, model, table, output, settings, device)
        return
    runner = shared.runner_of(workers, on, threads, student.device)
    folder = encode_table(student, table, output, **settings, runner=runner)
    say(**shared.facts_of(runner), texts=len(folder), side=student.student.side_names[index], folder=output)
    if student.student.sides == 2:
        folders = ["OTHER", output] if index else [output, "OTHER"]
        say_next("match", model, "--left", folders[0], "--right", folders[1], "--top-k", 10, "--output", "best.parquet")


def _rehearse(
    student: DiPair, model: str, table: str, output: str, settings: dict[str, Any], device: str | None
) -> None:
    from distilmatch.data.quarantine import nothing_set_aside
    from distilmatch.estimates import Estimate, seconds_so_far
    from distilmatch.jobs.encode import rehearse_encode
    from distilmatch.store.codec import bytes_per_item

    start = seconds_so_far()
    with nothing_set_aside():
        rehearsal = rehearse_encode(student, table, output, **settings)
    index = student.side_index(settings["side"])
    say_machine({"model": model}, device, precision=precision_on(device, settings["precision"]))
    typer.echo("")
    say(table=table, side=student.student.side_names[index], rows=rehearsal.facts["rows"])
    say_rows(rehearsal.sample)
    item = bytes_per_item(student.student.kept_vectors[index], student.student.vector_width, settings["dtype"])
    typer.echo("")
    say(
        distinct_texts=rehearsal.facts["distinct_texts"],
        texts_to_encode=rehearsal.facts["texts_to_encode"],
        bytes_per_text=item,
    )
    # The table is read twice, before and while it is encoded.
    seconds = {"start": start, "check": rehearsal.seconds["read"], **rehearsal.seconds}
    say_estimate(Estimate(seconds=seconds, disk_bytes=rehearsal.disk_bytes), "encoded", output)
