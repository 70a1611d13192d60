"""`distilmatch init`: a first recipe, from what a table looks like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from distilmatch.cli.options import (
    Delimiter,
    DryRun,
    Quoting,
    Split,
    TablePath,
    TextColumns,
    say,
    say_next,
    table_config,
)

if TYPE_CHECKING:
    from distilmatch.data.guess import TableGuess

_SHOWN = 60


def run(
    table: TablePath,
    output: str = typer.Option("recipe.yaml", "--output", help="File for the recipe; one that exists is not replaced."),
    dev: str | None = typer.Option(None, "--dev", help="Dev table with the same columns; it picks the best student."),
    teacher: str | None = typer.Option(
        None, "--teacher", help="Teacher: a folder or a hub name. Without one, the recipe expects the folder `teacher`."
    ),
    label_column: str | None = typer.Option(None, "--label-column", help="Column of the labels; guessed by default."),
    text_columns: TextColumns = None,
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    dry_run: DryRun = False,
) -> None:
    """Look at a table, show how it is read, and write a first recipe for it.

    Columns, task, classes and ranges are guessed from names and values. Check the recipe before you train.
    """
    import yaml

    from distilmatch.config.pairs import PairRecipe
    from distilmatch.data.guess import guess_table
    from distilmatch.errors import ConfigError
    from distilmatch.files import check_outputs, write_atomically

    place = Path(output).expanduser()
    if place.exists():
        raise ConfigError(f"--output is {place}, which exists already: choose another file, or delete it first")
    check_outputs({"--output": place}, {"the table": table, "--dev": dev, "--teacher": teacher})
    read = table_config(
        text_columns=text_columns, label_column=label_column, split=split, delimiter=delimiter, quoting=quoting
    )
    guess = guess_table(table, read)
    _show(guess)
    text = recipe_text(guess, table, dev, teacher, split, delimiter, quoting)
    PairRecipe.from_dict(yaml.safe_load(text), str(place))  # what a person then reads is a recipe
    if dry_run:
        typer.echo(f"\n{text}\nNothing was written (--dry-run).")
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, text)
    say(recipe=str(place))
    if teacher is None and guess.label is not None:
        labels = ["--classes", ",".join(guess.task.classes)] if guess.task.classes else []
        if guess.task.kind == "regression":
            labels = ["--label-range", ",".join(f"{bound:g}" for bound in guess.task.label_range)]
        given = ["--text-columns", ",".join(guess.texts), "--label-column", guess.label, *labels]
        development = [] if dev is None else ["--dev", dev]
        say_next("finetune-teacher", table, *development, "--task", guess.task.kind, *given, "--output", "teacher")
    else:
        say_next("train", place, "--dry-run")


def _show(guess: TableGuess) -> None:
    """Prints the first rows as they are read, and what they are taken for."""
    for number, row in enumerate(guess.rows, start=1):
        typer.echo(f"row {number}")
        for name in (*guess.texts, *([guess.label] if guess.label else []), *guess.ids):
            value = str(row.get(name))
            typer.echo(f"  {name}: {value if len(value) <= _SHOWN else value[: _SHOWN - 3] + '...'}")
    typer.echo("")
    say(
        texts=", ".join(guess.texts),
        label=guess.label or "none",
        task=f"{guess.task.kind}: {guess.why}",
        **({"ids": ", ".join(guess.ids)} if guess.ids else {}),
        rows_looked_at=guess.looked_at,
    )


def recipe_text(
    guess: TableGuess,
    table: str,
    dev: str | None,
    teacher: str | None,
    split: str = "train",
    delimiter: str | None = None,
    quoting: str = "auto",
) -> str:
    """The recipe, commented."""
    task: dict[str, Any] = {"kind": guess.task.kind}
    if guess.task.classes:
        task["classes"] = list(guess.task.classes)
    if guess.task.kind == "regression":
        task["label_range"] = list(guess.task.label_range)
    columns: dict[str, Any] = {"text_columns": list(guess.texts)}
    if guess.label is not None:
        columns["label_column"] = guess.label
    if guess.ids:
        columns["id_columns"] = list(guess.ids)
    usual = {"split": "train", "delimiter": None, "quoting": "auto"}
    read = {"split": split, "delimiter": delimiter, "quoting": quoting}
    columns |= {name: value for name, value in read.items() if value != usual[name]}
    ranked = " Rows with the same first text are one query." if guess.task.kind == "ranking" and not guess.ids else ""
    made = "" if teacher else "\n# This folder is made by distilmatch finetune-teacher."
    return f"""# A first recipe for {Path(table).name}. Check what was guessed, then: distilmatch train {{this file}}
train: {_yaml(table)}
{f"dev: {_yaml(dev)}" if dev else "# dev: a table with the same columns and other rows; it picks the best student"}
output: run

# {guess.why}.{ranked}
task: {_yaml(task)}
table: {_yaml(columns)}

# The cross-encoder that labels new pairs of your texts.{made}
teacher: {{models: [{_yaml(teacher or "teacher")}]}}

# What the student starts from, and how many vectors of each text it keeps: more are better and take more space.
encoder: [all-MiniLM-L6-v2]
student: {{side_names: {_yaml(list(guess.texts))}, kept_tokens: [16, 16], max_lengths: [128, 128]}}

# All settings with their defaults: docs/reference/recipe.md
"""


def _yaml(value: Any) -> str:
    """A value on one line of YAML: JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)
