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
    TextTemplates,
    say,
    say_next,
    table_config,
)

if TYPE_CHECKING:
    from distilmatch.data.guess import TableGuess
    from distilmatch.data.hold_out import HeldOut
    from distilmatch.data.sources import Source

_SHOWN = 60


def run(
    table: TablePath,
    output: str = typer.Option("recipe.yaml", "--output", help="File for the recipe; one that exists is not replaced."),
    dev: str | None = typer.Option(
        None,
        "--dev",
        help="Dev table with the same columns; it picks the best student.",
        show_default="cut from the table, see --hold-out",
    ),
    teacher: str | None = typer.Option(
        None,
        "--teacher",
        help="Teacher: a folder or a hub name.",
        show_default="the recipe says what can be done",
    ),
    label_column: str | None = typer.Option(
        None, "--label-column", help="Column of the labels.", show_default="guessed"
    ),
    text_columns: TextColumns = None,
    text_templates: TextTemplates = None,
    split: Split = "train",
    delimiter: Delimiter = None,
    quoting: Quoting = "auto",
    held_out: float = typer.Option(
        0.1,
        "--hold-out",
        min=0.0,
        max=0.4,
        help="Share of a labelled table to set aside for dev and for test each, where there is no --dev; 0 for none.",
    ),
    dry_run: DryRun = False,
) -> None:
    """Look at a table, show how it is read, and write a first recipe for it.

    Columns, task, classes and ranges are guessed from names and values. Without --dev a labelled table is cut into train, dev
    and test files beside the recipe; the rows of one query stay together. Check the recipe before you train.
    """
    import yaml

    from distilmatch.config.pairs import PairRecipe
    from distilmatch.data.guess import guess_table
    from distilmatch.data.readers import open_source
    from distilmatch.errors import ConfigError
    from distilmatch.files import check_outputs, write_atomically

    place = Path(output).expanduser()
    if place.exists():
        raise ConfigError(f"--output is {place}, which exists already: choose another file, or delete it first")
    check_outputs({"--output": place}, {"the table": table, "--dev": dev, "--teacher": teacher})
    read = table_config(
        text_columns=text_columns,
        text_templates=text_templates,
        label_column=label_column,
        split=split,
        delimiter=delimiter,
        quoting=quoting,
    )
    guess = guess_table(table, read)
    _show(guess)
    cut = None
    if dev is None and guess.label is not None and held_out and not dry_run:
        cut = _held_out(open_source(table, read), place, guess, held_out)
    if cut is not None:
        table, dev, split, delimiter, quoting = str(cut.train), str(cut.dev), "train", None, "auto"
    test = None if cut is None else str(cut.test)
    text = recipe_text(guess, table, dev, teacher, split, delimiter, quoting, test=test)
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
        given = [*_text_options(guess), "--label-column", guess.label, *labels]
        development = [] if dev is None else ["--dev", dev]
        say_next("finetune-teacher", table, *development, "--task", guess.task.kind, *given, "--output", "teacher")
    else:
        say_next("train", place, "--dry-run")


def _text_options(guess: TableGuess) -> list[str]:
    """What a command is told of the texts."""
    if not guess.templated:
        return ["--text-columns", ",".join(guess.texts)]
    return [word for template in guess.texts for word in ("--text-templates", template)]


def _held_out(table: Source, recipe: Path, guess: TableGuess, share: float) -> HeldOut | None:
    """Cuts the table into files beside the recipe, and says so."""
    from distilmatch.data.hold_out import LEAST_ROWS, hold_out
    from distilmatch.errors import ConfigError
    from distilmatch.text_templates import Template

    folder = recipe.with_name(f"{recipe.stem}-data")
    if folder.exists():
        raise ConfigError(f"{folder} exists already: delete it, name another --output, or give --hold-out 0")
    assert guess.label is not None
    first: str | Template = Template.of(guess.texts[0]) if guess.templated else guess.texts[0]
    cut = hold_out(table, folder, guess.ids[0] if guess.ids else first, guess.label, share=share)
    if cut is None:
        typer.echo(
            f"No dev and test rows were set aside: there would be fewer than {LEAST_ROWS} of them, or of one label. Give "
            "tables of your own with --dev, or a larger --hold-out."
        )
    else:
        say(**{f"{split}_rows": f"{count:,} in {getattr(cut, split)}" for split, count in cut.rows.items()})
    return cut


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
        **({"could_be_texts": " and ".join(guess.offered)} if guess.offered else {}),
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
    *,
    test: str | None = None,
) -> str:
    """The recipe, commented."""
    task: dict[str, Any] = {"kind": guess.task.kind}
    if guess.task.classes:
        task["classes"] = list(guess.task.classes)
    if guess.task.kind == "regression":
        task["label_range"] = list(guess.task.label_range)
    columns: dict[str, Any] = {"text_templates" if guess.templated else "text_columns": list(guess.texts)}
    if guess.label is not None:
        columns["label_column"] = guess.label
    if guess.ids:
        columns["id_columns"] = list(guess.ids)
    usual = {"split": "train", "delimiter": None, "quoting": "auto"}
    read = {"split": split, "delimiter": delimiter, "quoting": quoting}
    columns |= {name: value for name, value in read.items() if value != usual[name]}
    ranked = " Rows with the same first text are one query." if guess.task.kind == "ranking" and not guess.ids else ""
    return f"""# A first recipe for {Path(table).name}. Check what was guessed, then: distilmatch train {{this file}}
train: {_yaml(table)}
{f"dev: {_yaml(dev)}" if dev else "# dev: a table with the same columns and other rows; it picks the best student"}
{f"test: {_yaml(test)}" if test else "# test: another one, for the report; nothing is trained or picked on it"}
output: run

# {guess.why}.{ranked}
task: {_yaml(task)}
table: {_yaml(columns)}
{_offer(guess)}
{_teacher_text(guess, teacher)}

# What the student starts from. It keeps a vector of each token of most texts, 48 at most; kept_tokens: [16, 16] takes
# less space.
encoder: [all-MiniLM-L6-v2]
student: {{side_names: {_yaml(_side_names(guess))}, max_lengths: [128, 128]}}

# All settings with their defaults: docs/reference/recipe.md
"""


def _offer(guess: TableGuess) -> str:
    """What else the texts could be; a line of its own, or nothing."""
    if guess.offered is None:
        return ""
    return f"""# One column is one text. For a text of several, in the place of text_columns (docs/how-to/records.md):
# text_templates: {_yaml(list(guess.offered))}
"""


def _side_names(guess: TableGuess) -> list[str]:
    if not guess.templated:
        return list(guess.texts)
    return ["left", "right"] if len(guess.texts) == 2 else [f"side{side}" for side in range(len(guess.texts))]


def _teacher_text(guess: TableGuess, teacher: str | None) -> str:
    """The recipe's teacher; where none was named, what the choice is."""
    if teacher is not None:
        return f"# The cross-encoder that labels new pairs of your texts.\nteacher: {{models: [{_yaml(teacher)}]}}"
    choices = [
        "# The cross-encoder that labels new pairs of your texts. None was named, so there is a choice:",
        "# - Fine-tune one on your labels: distilmatch finetune-teacher makes the folder below. Usually the best student.",
        "# - Take one that fits your task: write its folder or hub name below.",
        "# - Scores of a model are in your table: name their columns as table.teacher_columns, and delete the line below.",
        "# - No teacher: delete the line below. The student learns from the column "
        f"{guess.label} alone; no new pairs are made.",
    ]
    if guess.label is None:  # nothing to fine-tune on, nothing to learn alone
        choices = [choices[0], choices[2], choices[3]]
    return "\n".join([*choices, "teacher: {models: [teacher]}"])


def _yaml(value: Any) -> str:
    """A value on one line of YAML: JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)
