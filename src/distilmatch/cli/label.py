"""`distilmatch label`: make the transfer set and have the teacher label it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distilmatch.cli.dry_run import say_estimate
from distilmatch.cli.options import (
    DryRun,
    Output,
    RecipeBadRows,
    RecipeDevice,
    RecipePath,
    Set,
    load_recipe,
    say,
    say_next,
)
from distilmatch.cli.train import say_inputs, say_transfer, transfer_set

if TYPE_CHECKING:
    from distilmatch.config.pairs import PairRecipe


def run(
    recipe: RecipePath,
    output: Output = None,
    seed: int | None = typer.Option(
        None,
        "--seed",
        help="Random seed of the transfer set; overrides the seed of the recipe.",
        show_default="the recipe's",
    ),
    changes: Set = None,
    on_bad_rows: RecipeBadRows = None,
    device: RecipeDevice = None,
    dry_run: DryRun = False,
) -> None:
    """Make the transfer set and have the teacher label it.

    Labels are saved as they are made: run the same command again to resume. `train` also does this step if needed.
    """
    options = {"output": output, "seed": seed, "table.on_bad_rows": on_bad_rows, "device": device}
    settings = load_recipe(recipe, changes, options)
    if dry_run:
        _plan(settings)
        return
    from distilmatch.training.pairs.distil import label_transfer_set

    table = label_transfer_set(settings)
    pairs = {tuple(row) for row in table.rows.tolist()}
    assert table.blocks is not None
    say(
        rows=len(table),
        distinct_pairs=len(pairs),
        distinct_texts=len(table.texts),
        blocks=int(table.blocks[-1]) + 1,
        labelled_set=str(Path(settings.output) / "transfer"),
    )
    say_next("train", recipe)


def _plan(settings: PairRecipe) -> None:
    """Checks everything and prints how many labels there are to make; nothing is written."""
    from distilmatch.data.quarantine import nothing_set_aside
    from distilmatch.estimates import Estimate, seconds_so_far
    from distilmatch.planning.labels import plan_labels
    from distilmatch.training.pairs.distil import check_pair_recipe
    from distilmatch.training.pairs.run import RunFolder

    with nothing_set_aside():
        checked = check_pair_recipe(settings, trains=False)
        say_inputs(settings, checked)
        run = RunFolder(settings)
        table = transfer_set(settings, run, checked)
    start = seconds_so_far()
    labels = plan_labels(settings, run, table)
    say_transfer(table, labels)
    seconds = {"start": start, "labels": labels.seconds}
    say_estimate(
        Estimate(seconds=seconds, disk_bytes=labels.disk_bytes), "labelled", Path(settings.output) / "transfer"
    )
