"""`distilmatch tune`: the recipe that fits a time budget and a target of speed or cache size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from distilmatch.cli.dry_run import say_estimate
from distilmatch.cli.options import DryRun, RecipeDevice, RecipePath, Set, check_recipe_file, load_recipe, say, say_next
from distilmatch.cli.train import say_inputs, say_transfer, transfer_set

if TYPE_CHECKING:
    from distilmatch.config.pairs import PairRecipe


def run(
    recipe: RecipePath,
    minutes: float = typer.Option(
        ..., "--minutes", help="Time budget for all trainings together, in minutes; labelling is extra."
    ),
    output: str | None = typer.Option(
        None, "--output", help="Output folder of the search.", show_default="the recipe's"
    ),
    trials: int = typer.Option(12, "--trials", help="Number of students to try within the time budget."),
    min_pairs_per_s: float | None = typer.Option(
        None,
        "--min-pairs-per-s",
        help="Choose a student that scores at least this many cached pairs a second on this machine.",
        show_default="no limit",
    ),
    max_bytes_per_item: int | None = typer.Option(
        None,
        "--max-bytes-per-item",
        help="Choose a student whose fp16 representations take at most this many bytes a text.",
        show_default="no limit",
    ),
    changes: Set = None,
    device: RecipeDevice = None,
    dry_run: DryRun = False,
) -> None:
    """Search for a recipe: train students of many shapes briefly, and show the best in quality, speed and size.

    Run the same command again to resume. Train the chosen recipe with: distilmatch train OUTPUT/best.yaml.
    """
    settings = load_recipe(recipe, changes, {"device": device})
    folder = Path(settings.output if output is None else output)
    check_recipe_file(recipe, folder, ("best.yaml", "base/recipe.yaml"))
    if dry_run:
        _plan(settings, folder, minutes, trials)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from distilmatch.tuning.plots import plot_frontier
    from distilmatch.tuning.search import tune

    frontier = tune(
        settings,
        folder,
        minutes=minutes,
        trials=trials,
        min_pairs_per_s=min_pairs_per_s,
        max_bytes_per_item=max_bytes_per_item,
    )
    table = Table(title="Students, best first; * on the frontier, > chosen", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("", "tokens", "head", "width", "start", frontier.metric, "pairs/s", "bytes", "min"):
        justify: Literal["left", "right"] = "left" if heading in ("", "head", "start") else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for trial in frontier.trials:
        mark = (">" if frontier.best == trial else "") + ("*" if trial.on_frontier else "")
        student = trial.student
        layers = f" x{student['head_layers']}" if student["head"] == "transformer" else ""
        table.add_row(
            mark,
            " + ".join(map(str, student["kept_tokens"])),
            f"{student['head']}{layers}",
            str(student["width"] or "own"),
            trial.start,
            f"{trial.quality:.4f}",
            f"{trial.pairs_per_s:,.0f}",
            f"{trial.bytes_per_item:,}",
            f"{trial.minutes:.1f}",
        )
    Console().print(table)
    picture = plot_frontier(frontier, folder / "frontier.png")
    facts = {"frontier": str(folder / "frontier.json"), "plot": str(picture)}
    if frontier.recipe is None:
        typer.echo("No student meets the targets: allow a slower or larger one, or more --trials.")
    else:
        facts["recipe"] = str(frontier.recipe)
    say(**facts)
    if frontier.recipe is not None:
        say_next("train", frontier.recipe)


def _plan(settings: PairRecipe, folder: Path, minutes: float, trials: int) -> None:
    """Checks everything and prints how many labels there are to make; nothing is written."""
    from distilmatch.data.quarantine import nothing_set_aside
    from distilmatch.estimates import Estimate, seconds_so_far
    from distilmatch.planning.labels import plan_labels
    from distilmatch.training.pairs.run import RunFolder
    from distilmatch.tuning.search import check_tune

    with nothing_set_aside():
        checked = check_tune(settings, folder, minutes=minutes, trials=trials)
        base = settings.replaced(output=str(folder / "base"))
        run = RunFolder(base)
        say_inputs(base, checked)
        table = transfer_set(base, run, checked)
    start = seconds_so_far()
    labels = plan_labels(base, run, table, checked.dev)
    say_transfer(table, labels)
    say(dev_rows=0 if checked.dev is None else len(checked.dev), trials=trials)
    seconds = {"start": start, "labels": labels.seconds, "trainings, as asked": 60 * minutes}
    notes = ("The bytes are those of the labels; what the search keeps of each training is small.",)
    say_estimate(Estimate(seconds=seconds, disk_bytes=labels.disk_bytes, notes=notes), "labelled, trained", folder)
