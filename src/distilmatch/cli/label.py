"""`distilmatch label`: make the transfer set and have the teacher label it."""

from __future__ import annotations

from pathlib import Path

import typer

from distilmatch.cli.options import Device, DryRun, OnBadRows, Output, RecipePath, Set, load_recipe, say, say_next


def run(
    recipe: RecipePath,
    output: Output = None,
    seed: int | None = typer.Option(
        None, "--seed", help="Random seed of the transfer set; overrides the seed of the recipe."
    ),
    changes: Set = None,
    on_bad_rows: OnBadRows = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Make the transfer set and have the teacher label it.

    Labels are saved as they are made: run the same command again to resume. `train` also does this step if needed.
    """
    options = {"output": output, "seed": seed, "table.on_bad_rows": on_bad_rows, "device": device}
    settings = load_recipe(recipe, changes, options)
    from distilmatch.training.pairs.distil import check_pair_recipe, label_transfer_set, plan_transfer_set

    if dry_run:
        table = plan_transfer_set(settings, check_pair_recipe(settings, trains=False).train)
    else:
        table = label_transfer_set(settings)
    pairs = {tuple(row) for row in table.rows.tolist()}
    assert table.blocks is not None
    say(
        rows=len(table),
        distinct_pairs=len(pairs),
        distinct_texts=len(table.texts),
        blocks=int(table.blocks[-1]) + 1,
        **({} if dry_run else {"labelled_set": str(Path(settings.output) / "transfer")}),
    )
    if dry_run:
        typer.echo("Nothing was labelled or written (--dry-run).")
    else:
        say_next("train", recipe)
