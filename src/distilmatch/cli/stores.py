"""`distilmatch store-create`, `store-add`, `store-delete`, `store-show` and `store-compact`: a side whose items come and go."""

from __future__ import annotations

import time
from typing import Any

import typer

from distilmatch.arguments import NUMBER_FORMATS
from distilmatch.cli.options import (
    Delimiter,
    Device,
    OnBadRows,
    Quoting,
    Split,
    TablePath,
    TextTemplate,
    one_of,
    say,
    say_next,
    student_of,
    table_config,
)
from distilmatch.cli.tables import print_table

_SHOWN = 20


def create(
    store: str = typer.Argument(..., metavar="STORE", help="Folder for the store.", show_default=False),
    model: str = typer.Option(..., "--model", metavar="MODEL", help="Student whose representations it holds."),
    side: str = typer.Option(
        ..., "--side", help="Side that its items belong to: its name, such as product, or its number."
    ),
    columns: str | None = typer.Option(
        None,
        "--columns",
        metavar="COLUMN[:KIND][,...]",
        help="Columns of the tables to keep beside the ids, for conditions and groups; a kind is number or text.",
        show_default="none; without a kind, number where the first table has numbers alone",
    ),
    dtype: str = typer.Option("fp32", "--dtype", metavar="|".join(NUMBER_FORMATS), help="Number format on disk."),
) -> None:
    """Make a store without items: version 1 of one side, to which items are added."""
    from distilmatch.jobs.store import check_columns, create_store

    kinds = check_columns(columns)
    student = student_of(model)
    made = create_store(student, store, side=int(side) if side.isdigit() else side, columns=kinds, dtype=dtype)
    say(store=store, side=made.facts["side_name"], columns=", ".join(made.kinds) or "none")
    say_next("store-add", store, "TABLE", "--model", model, "--id-column", "id")


def add(
    store: str = typer.Argument(..., metavar="STORE", help="Folder of the store.", show_default=False),
    table: TablePath = ...,  # type: ignore[assignment]
    model: str = typer.Option(..., "--model", metavar="MODEL", help="Student that the store was made for."),
    id_column: str = typer.Option(..., "--id-column", help="Id column; each row is an item."),
    text_column: str | None = typer.Option(
        None, "--text-column", help="Text column.", show_default='"text", or the only column with texts'
    ),
    text_template: TextTemplate = None,
    upsert: bool = typer.Option(
        False, "--upsert", help="Change items whose ids are there; without it they are refused."
    ),
    duplicates: str = typer.Option(
        "error", "--duplicates", metavar="error|last", help="What an id on several rows of the table is."
    ),
    batch_size: int = typer.Option(64, "--batch-size", help="Texts per batch of the encoder."),
    precision: str = typer.Option("fp32", "--precision", metavar="fp32|bf16|auto", help="Precision of the encoder."),
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    on_bad_rows: OnBadRows = None,
    device: Device = None,
) -> None:
    """Add the items of a table to a store, as a new version; texts that it does not have are encoded.

    Run the same command again to resume. A version is there whole, or not at all.
    """
    from distilmatch.jobs.store import add_to_store
    from distilmatch.runtime import pick_device
    from distilmatch.store.versions import Store

    one_of("--duplicates", duplicates, ("error", "last"))
    one_of("--precision", precision, ("fp32", "bf16", "auto"))
    opened = Store.open(store)
    read = table_config(delimiter=delimiter, quoting=quoting, on_bad_rows=on_bad_rows)
    student = student_of(model)
    student.to(pick_device(device))  # type: ignore[arg-type]
    settings: dict[str, Any] = {"delimiter": read.delimiter, "quoting": read.quoting, "on_bad_rows": read.on_bad_rows}
    report = add_to_store(
        student,
        opened,
        table,
        id_column=id_column,
        change="upsert" if upsert else "append",
        text_column=text_column,
        text_template=text_template,
        duplicates=duplicates,  # type: ignore[arg-type]
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]
        split=split,
        **settings,
    )
    version = report.version
    facts = {"version": version.number, "items": version.items, "added": version.added, "taken_away": version.removed}
    say(**facts, texts_encoded=report.encoded, bytes_written=report.bytes_written)
    side = "--right" if opened.facts["side"] else "--left"
    other = "--left" if opened.facts["side"] else "--right"
    say_next("match", model, side, store, other, "OTHER", "--top-k", 10, "--output", "best.parquet")


def delete(
    store: str = typer.Argument(..., metavar="STORE", help="Folder of the store.", show_default=False),
    ids: str | None = typer.Option(
        None, "--ids", metavar="FILE", help="Text file with an id a line.", show_default="not needed with --where"
    ),
    where: str | None = typer.Option(
        None,
        "--where",
        metavar="CONDITION",
        help="Or all items for which this SQL condition on the store's columns holds.",
        show_default="not needed with --ids",
    ),
) -> None:
    """Take items out of a store, as a new version."""
    from distilmatch.data.readers import open_lines
    from distilmatch.errors import ConfigError, DataError
    from distilmatch.store.versions import Store

    opened = Store.open(store)
    if (ids is None) == (where is None):
        raise ConfigError("say which items are deleted: --ids FILE or --where CONDITION")
    named = None
    if ids is not None:
        named = []
        for line in open_lines(ids).read(None):
            if line.values is None:
                raise DataError(f"{ids}, line {line.row}: {line.problem}")
            named += [line.values["text"].rstrip("\r\n")] if line.values["text"].strip() else []
    version = opened.delete(named, condition=where)
    say(version=version.number, items=version.items, taken_away=version.removed)
    say_next("store-compact", store)


def show(
    store: str = typer.Argument(..., metavar="STORE", help="Folder of the store.", show_default=False),
    since: int | None = typer.Option(
        None,
        "--since",
        metavar="VERSION",
        help="Also say which items changed since this version.",
        show_default="no version",
    ),
) -> None:
    """Show a store's versions, and what changed."""
    from distilmatch.store.versions import Store

    opened = Store.open(store)
    say(side=opened.facts["side_name"], number_format=opened.facts["dtype"], columns=", ".join(opened.kinds) or "none")
    rows = [
        (
            str(version.number), time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(version.at)), version.change,
            f"{version.added:,}", f"{version.removed:,}", f"{version.items:,}",
        )
        for version in opened.versions()
    ]  # fmt: skip
    print_table(("version", "committed", "change", "added", "taken away", "items"), rows)
    if since is None:
        return
    difference = opened.difference(since)
    for name in ("added", "removed", "changed"):
        ids = getattr(difference, name)
        more = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
        say(**{name: f"{len(ids):,}{': ' if ids else ''}{', '.join(ids[:_SHOWN])}{more}"})


def compact(
    store: str = typer.Argument(..., metavar="STORE", help="Folder of the store.", show_default=False),
    expire_before: int | None = typer.Option(
        None,
        "--expire-before",
        metavar="VERSION",
        help="Forget the versions before this one, and delete what no other one needs.",
        show_default="all versions are kept",
    ),
) -> None:
    """Put a store's texts into one segment; with --expire-before also forget old versions and free their space."""
    from distilmatch.store.versions import Store

    opened = Store.open(store)
    freed = 0 if expire_before is None else opened.expire(expire_before)
    gone = opened.compact()
    # Only what was just moved: files of before stay for those who read them, unless versions expire.
    freed += 0 if expire_before is None else opened.expire(expire_before)
    say(versions=len(opened.versions()), texts_dropped=gone, bytes_freed=freed)
    say_next("store-show", store)
