"""`distilmatch train`: distil a student as a recipe says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distilmatch.cli.options import (
    Device,
    DryRun,
    OnBadRows,
    Output,
    RecipePath,
    Seed,
    Set,
    check_recipe_file,
    load_recipe,
    say,
    say_next,
)

if TYPE_CHECKING:
    from distilmatch.config.pairs import PairRecipe
    from distilmatch.training.pairs.distil import PairTables


def run(
    recipe: RecipePath,
    output: Output = None,
    seed: Seed = None,
    changes: Set = None,
    on_bad_rows: OnBadRows = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Distil a student: label the transfer set if needed, then train in two stages.

    Run the same command again to resume from the last checkpoint. For several processes: torchrun --nproc_per_node=2 -m
    distilmatch.cli train RECIPE.
    """
    options = {"output": output, "seed": seed, "table.on_bad_rows": on_bad_rows, "device": device}
    settings = load_recipe(recipe, changes, options)
    check_recipe_file(recipe, settings.output, ("recipe.yaml",), settings)
    if dry_run:
        plan(settings)
        return
    from distilmatch.training.pairs.distil import distil_pairs

    distil_pairs(settings)
    root = Path(settings.output)
    say(student=str(root / "student"), labels=str(root / "transfer"), logs=f"tensorboard --logdir {root}")
    teacher = ["--teacher", ",".join(settings.teacher.models)] if settings.teacher else []
    columns = settings.table.text_columns
    labels = ["--label-column", settings.table.label_column] if settings.table.label_column else []
    texts = ["--text-columns", ",".join(columns)] if columns else []
    table = settings.test or settings.dev or "TABLE"
    say_next("evaluate", root / "student", table, *teacher, *labels, *texts, "--output", root / "report")


def plan(settings: PairRecipe) -> None:
    """Checks everything and prints how much there is to do; nothing is written."""
    from distilmatch.training.pairs.distil import check_pair_recipe

    show_plan(settings, check_pair_recipe(settings))


def show_plan(settings: PairRecipe, checked: PairTables) -> None:
    """Prints how much there is to do of a recipe that is checked."""
    from distilmatch.training.pairs.distil import plan_transfer_set

    table = plan_transfer_set(settings, checked.train)
    assert table.blocks is not None
    blocks = int(table.blocks[-1]) + 1
    say(
        labelled_rows=len(table),
        distinct_texts=len(table.texts),
        blocks=blocks,
        dev_rows=0 if checked.dev is None else len(checked.dev),
        **{
            f"{stage.name}_steps": math.ceil(
                blocks / stage.blocks_per_batch / stage.gradient_accumulation_steps * stage.epochs
            )
            for stage in settings.all_stages
        },
        output=settings.output,
    )
    typer.echo("Nothing was labelled, trained or written (--dry-run).")
