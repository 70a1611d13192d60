"""`distilmatch ladder`: an embedding student, a pair student on top of it, and matches, as one recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distilmatch.cli import embed_train, train
from distilmatch.cli.dry_run import say_estimate
from distilmatch.cli.match import recall_of
from distilmatch.cli.options import DryRun, Output, RecipeDevice, RecipePath, Seed, Set, load_recipe_of, say

if TYPE_CHECKING:
    from distilmatch.config.ladder import LadderRecipe


def run(
    recipe: RecipePath,
    output: Output = None,
    seed: Seed = None,
    changes: Set = None,
    device: RecipeDevice = None,
    dry_run: DryRun = False,
) -> None:
    """Distil a sentence encoder, then a pair student that starts from it, and match with both.

    Run the same command again to resume; finished steps are not repeated.
    """
    from distilmatch.config.ladder import LadderRecipe

    settings = load_recipe_of(LadderRecipe, recipe, changes, {"output": output, "seed": seed, "device": device})
    if dry_run:
        plan(settings)
        return
    from distilmatch.jobs.ladder import distil_ladder

    report = distil_ladder(settings)
    facts: dict[str, object] = {
        "embedding_student": str(report.embedding_student),
        "pair_student": str(report.pair_student),
    }
    if report.report is not None:
        facts |= {"rows": report.report.rows, "pairs": report.report.pairs, "matches": str(report.matches)}
        if report.report.recall is not None:
            facts["recall"] = f"{recall_of(report.report)} of the exact best, on {report.report.sampled:,} texts"
    say(**facts)
    train.say_evaluation(settings.planned_pair, report.pair_student, Path(settings.output) / "report")


def plan(settings: LadderRecipe) -> None:
    """Checks every step and prints how much there is to do; nothing is written."""
    from distilmatch.data.quarantine import nothing_set_aside
    from distilmatch.estimates import Estimate
    from distilmatch.jobs.ladder import check_ladder, count_items

    with nothing_set_aside():
        checked = check_ladder(settings)
        typer.echo("The embedding student:")
        embedding = embed_train.show_plan(settings.embedding, checked.embedding)
        typer.echo("\nThe pair student:")
        pair = train.show_plan(settings.planned_pair, checked.pair)
    notes = [
        "The pair student was measured with the model that the embedding student begins with, which may be larger."
    ]
    if settings.match is not None:
        typer.echo("\nThe match:")
        say(left=count_items(settings.match.left), right=count_items(settings.match.right), top_k=settings.match.top_k)
        notes.append("The match is not counted: once there is a student, `distilmatch plan` tells.")
    seconds = {f"embedding_{stage}": spent for stage, spent in embedding.seconds.items()}
    seconds |= {f"pair_{stage}": spent for stage, spent in pair.seconds.items() if stage != "start"}
    disk = embedding.disk_bytes + pair.disk_bytes
    estimate = Estimate(seconds=seconds, disk_bytes=disk, notes=tuple(notes))
    say_estimate(estimate, "embedded, trained, matched", settings.output)
