"""What a dry run says, in the same words and order for every command.

Models and machine first, then each table as it is read, then how much there is to do, then minutes and bytes. The last
lines are for people and programs alike: `minutes`, a decimal number, and `bytes`, a whole one, of the whole process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from distilmatch.cli.options import say

if TYPE_CHECKING:
    from distilmatch.config.tables import TableConfig, TaskConfig
    from distilmatch.estimates import Estimate
    from distilmatch.types import TupleTable

_SHOWN = 60
_ROWS = 2
_MOST_CLASSES = 12
_BUSY = 0.5


def say_machine(models: Mapping[str, str | Sequence[str] | None], device: str | None, **more: object) -> None:
    """Prints where the models lie that names stand for, the device, and what else is resolved.

    Args:
        models: names by what they are; None and empty ones are left out.

    Raises:
        ConfigError: a name that is no model, or a device that is not there.
    """
    from distilmatch.pretrained.names import resolve_model
    from distilmatch.runtime import pick_device

    facts: dict[str, object] = {}
    for kind, given in models.items():
        names = [given] if isinstance(given, str) else list(given or ())
        if names:
            facts[kind] = ", ".join(_placed(name, resolve_model(name)) for name in names)
    say(**facts, device=str(pick_device(device)), **more)


def _placed(name: str, place: str) -> str:
    return name if place == name else f"{name}, in {place}"


def precision_on(device: str | None, precision: str) -> str:
    """The precision that is meant on a device: fp32 or bf16."""
    from distilmatch.runtime import pick_device, use_bf16

    return "bf16" if use_bf16(precision, pick_device(device)) else "fp32"  # type: ignore[arg-type]


def say_table(
    name: str, source: object, table: TupleTable, config: TableConfig, task: TaskConfig | None = None
) -> None:
    """Prints a table as it is read: columns, two rows, labels and rows that contradict one another.

    Args:
        name: what it is, such as "train".
        source: where it is from.
    """
    from distilmatch.data.conflicts import conflicting_rows

    columns = _columns(source, config)
    rows = []
    for number in range(min(_ROWS, len(table))):
        row: dict[str, object] = dict(zip(columns, (table.texts[i] for i in table.rows[number]), strict=False))
        if table.gold is not None:
            row[config.label_column or "label"] = _label(float(table.gold[number]), task)
        rows.append(row)
    typer.echo("")
    say(**{name: str(source)}, rows=len(table))
    say_rows(rows)
    facts: dict[str, Any] = {}
    if table.gold is not None:
        facts["labels"] = label_counts(table, task)
        groups = conflicting_rows(table)
        facts["conflicts"] = f"{len(groups):,} pairs with unequal labels, in {sum(map(len, groups)):,} rows"
    if table.teacher is not None:
        facts["teacher_labels"] = "in the table"
    if facts:
        say(**facts)


def _columns(source: object, config: TableConfig) -> tuple[str, ...]:
    from distilmatch.data.column_rows import tuple_columns

    return tuple_columns(source, config).texts


def say_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """Prints rows as they are read, a line a column."""
    for number, row in enumerate(rows, start=1):
        typer.echo(f"row {number}")
        for column, value in row.items():
            text = " ".join(str(value).split())
            typer.echo(f"  {column}: {text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'}")


def _label(value: float, task: TaskConfig | None) -> str:
    if value != value:
        return "none"
    if task is not None and task.kind == "classification":
        return task.classes[int(value)]
    return f"{value:g}"


def label_counts(table: TupleTable, task: TaskConfig | None) -> str:
    """How the gold labels are spread: counts of classes or grades, the share of positives, or mean and range."""
    import numpy as np

    assert table.gold is not None
    gold = table.gold[~np.isnan(table.gold)]
    without = len(table) - len(gold)
    missing = f"; {without:,} rows without" if without else ""
    if not len(gold):
        return "none"
    values, counts = np.unique(gold, return_counts=True)
    binary = task is not None and task.kind == "binary"
    if binary and set(values.tolist()) <= {0.0, 1.0}:
        return f"{int((gold == 1).sum()):,} of {len(gold):,} positive ({(gold == 1).mean():.1%}){missing}"
    if (task is not None and task.kind == "classification") or (len(values) <= _MOST_CLASSES and not binary):
        told = [f"{_label(value, task)}: {count:,}" for value, count in zip(values.tolist(), counts, strict=True)]
        return ", ".join(told) + missing
    return f"mean {gold.mean():.3g}, from {gold.min():g} to {gold.max():g}{missing}"


def say_estimate(estimate: Estimate, done: str, output: object = None) -> None:
    """Prints how long it takes and what it writes, and ends the dry run.

    Args:
        done: what was not done, such as "labelled, trained".
        output: where it would be written.
    """
    from distilmatch.estimates import peak_memory

    typer.echo("")
    if output is not None:
        say(output=str(output))
    for stage, seconds in estimate.seconds.items():
        if seconds >= 0.05:
            typer.echo(f"  {stage.replace('_', ' '):<28} {seconds:>10,.1f} s")
    for note in estimate.notes:
        typer.echo(note)
    say_busy()
    say(
        minutes=f"{estimate.total_seconds / 60:.2f}",
        bytes=estimate.disk_bytes,
        memory=f"{peak_memory() / 2**20:,.0f} MiB at the peak of this dry run",
    )
    say_nothing(done)


def say_busy() -> None:
    """Says that other processes are at work, where they are: what was measured beside them holds for that load."""
    from distilmatch.runtime import busy_cores

    busy = busy_cores()
    if busy >= _BUSY:
        typer.echo(
            f"Other processes keep {busy:.1f} cores busy: the times hold for this load, an idle machine takes less."
        )


def say_nothing(done: str) -> None:
    """The last line of a dry run."""
    typer.echo(f"Nothing was {done} or written (--dry-run).")
