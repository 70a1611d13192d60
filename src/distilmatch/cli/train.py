"""`distilmatch train`: distil a student as a recipe says."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distilmatch.cli.dry_run import precision_on, say_estimate, say_machine, say_table
from distilmatch.cli.options import (
    DryRun,
    Output,
    RecipeBadRows,
    RecipeDevice,
    RecipePath,
    Seed,
    Set,
    check_recipe_file,
    duration,
    load_recipe,
    say,
    say_next,
    text_option,
)

if TYPE_CHECKING:
    from distilmatch.config.pairs import PairRecipe
    from distilmatch.estimates import Estimate
    from distilmatch.models import DiPair
    from distilmatch.planning.labels import LabelPlan
    from distilmatch.training.pairs.distil import PairTables
    from distilmatch.training.pairs.run import RunFolder
    from distilmatch.types import TupleTable


MoreEpochs = Annotated[
    float | None,
    typer.Option(
        min=0.0, help="Train a finished student on, for so many epochs at half the rates.", show_default="none"
    ),
]


def run(
    recipe: RecipePath,
    output: Output = None,
    seed: Seed = None,
    changes: Set = None,
    on_bad_rows: RecipeBadRows = None,
    device: RecipeDevice = None,
    more_epochs: MoreEpochs = None,
    dry_run: DryRun = False,
) -> None:
    """Distil a student: label the transfer set if needed, then train in two stages.

    With a `test` table in the recipe a report on it is written too. Run the same command again to resume from the last
    checkpoint. For several processes: torchrun --nproc_per_node=2 -m distilmatch.cli train RECIPE.
    """
    options = {"output": output, "seed": seed, "table.on_bad_rows": on_bad_rows, "device": device}
    settings = load_recipe(recipe, changes, options)
    check_recipe_file(recipe, settings.output, ("recipe.yaml",), settings)
    if more_epochs is not None:
        settings = _with_more(settings, more_epochs)
    if dry_run:
        plan(settings)
        return
    from distilmatch.training.pairs.distil import distil_pairs

    started = time.perf_counter()
    student = distil_pairs(settings)
    root = Path(settings.output)
    reported = _report(settings, student, root / "report")
    say(
        student=str(root / "student"),
        labels=str(root / "transfer"),
        logs=f"tensorboard --logdir {root}",
        **({"report": str(root / "report" / "report.html")} if reported else {}),
        took=duration(time.perf_counter() - started),
    )
    if reported:
        side = student.student.side_names[0]
        say_next("encode", root / "student", "TABLE", "--side", side, *text_option(student), "--output", "FOLDER")
    else:
        say_evaluation(settings, root / "student", root / "report")


def _with_more(settings: PairRecipe, epochs: float) -> PairRecipe:
    """The recipe with one further stage, behind those that its run has; one that was stopped is finished first."""
    from distilmatch.training.pairs.run import RunFolder
    from distilmatch.training.stages import finished_stage

    run = RunFolder(settings)
    settings = settings.replaced(further=run.further())
    before = [stage.name for stage in settings.all_stages if stage.epochs]
    if settings.further and finished_stage(run.stage(before[-1])) is None:
        say(goes_on=f"{before[-1]}, which was stopped; --more-epochs again adds another stage")
        return settings
    return settings.replaced(further=(*settings.further, epochs))


def _report(settings: PairRecipe, student: DiPair, folder: Path) -> bool:
    """Measures the student on the recipe's test table, beside its teacher, and writes the report; whether there is one."""
    from distilmatch.cli.evaluate import show
    from distilmatch.evaluation.pairs.measure import evaluate_pairs
    from distilmatch.teachers import load_teacher

    test = _test_table(settings)
    if test is None or int(os.environ.get("RANK", "0")):  # of several processes the first one reports
        return False
    # A teacher with a budget is not asked for the test table too.
    asked = settings.teacher if settings.labels_dev else None
    teacher = None if asked is None else load_teacher(asked, device=settings.device)
    report = evaluate_pairs(student.eval(), test, teacher=teacher)
    report.save(folder)
    show(report)
    return True


def _test_table(settings: PairRecipe) -> TupleTable | None:
    """The recipe's test table; None where there is none that a student can be measured on."""
    from distilmatch.data.tables import load_table

    if settings.test is None:
        return None
    test = load_table(settings.test, settings.table, settings.task, side_names=settings.student.side_names)
    return test if settings.teacher is not None or test.gold is not None or test.teacher is not None else None


def say_evaluation(settings: PairRecipe, student: Path, report: Path) -> None:
    """Prints the command that measures a student of a recipe beside its teacher."""
    teacher = _teacher_options(settings)
    columns = settings.table.text_columns
    labels = ["--label-column", settings.table.label_column] if settings.table.label_column else []
    texts = ["--text-columns", ",".join(columns)] if columns else []
    for template in settings.table.text_templates or ():
        texts += ["--text-templates", template]
    table = settings.test or settings.dev or "TABLE"
    say_next("evaluate", student, table, *teacher, *labels, *texts, "--output", report)


def _teacher_options(settings: PairRecipe) -> list[str]:
    """What `evaluate` is told of the recipe's teacher."""
    teacher = settings.teacher
    if teacher is None:
        return []
    options = ["--teacher", ",".join(teacher.models)]
    if teacher.dtype != "auto":
        options += ["--teacher-dtype", teacher.dtype]
    revisions = [revision for revision in teacher.revision if revision is not None]
    if len(revisions) == len(teacher.models):  # an option has no word for a folder among them
        options += ["--teacher-revision", ",".join(revisions)]
    return options


def plan(settings: PairRecipe) -> None:
    """Checks everything and prints what it is and how long it takes; nothing is written."""
    from distilmatch.data.quarantine import nothing_set_aside
    from distilmatch.training.arguments import training_device
    from distilmatch.training.pairs.distil import check_pair_recipe

    training_device(settings.device)
    with nothing_set_aside():
        checked = check_pair_recipe(settings)
        say_estimate(show_plan(settings, checked), "labelled, trained", settings.output)


def show_plan(settings: PairRecipe, checked: PairTables) -> Estimate:
    """Prints what a checked recipe is and how much there is to do; returns what it takes."""
    from distilmatch.estimates import seconds_so_far
    from distilmatch.planning.labels import plan_labels
    from distilmatch.planning.training import plan_training
    from distilmatch.training.pairs.run import RunFolder

    say_inputs(settings, checked)
    run = RunFolder(settings)
    table = transfer_set(settings, run, checked)
    start = seconds_so_far()
    labels = plan_labels(settings, run, table, checked.dev)
    say_transfer(table, labels)
    assert table.blocks is not None
    blocks = int(table.blocks[-1]) + 1
    say(
        dev_rows=0 if checked.dev is None else len(checked.dev),
        **{
            f"{stage.name}_steps": math.ceil(
                blocks / stage.blocks_per_batch / stage.gradient_accumulation_steps * stage.epochs
            )
            for stage in settings.all_stages
        },
    )
    return _with_report(settings, table, plan_training(settings, run, table, checked.dev, labels, start))


def _with_report(settings: PairRecipe, transfer: TupleTable, estimate: Estimate) -> Estimate:
    """What training takes, and the report on the test table where there is one."""
    from distilmatch.planning.evaluation import plan_evaluation
    from distilmatch.training.pairs.distil import new_student

    test = _test_table(settings)
    if test is None:
        return estimate
    student = new_student(settings, transfer).eval()
    asked = settings.teacher if settings.labels_dev else None
    report = plan_evaluation(student, test, asked, device=settings.device, precision="fp32", speed=True, start=0.0)
    seconds = {**estimate.seconds, "report on the test table": report.total_seconds}
    return replace(estimate, seconds=seconds, disk_bytes=estimate.disk_bytes + report.disk_bytes)


def say_inputs(settings: PairRecipe, checked: PairTables) -> None:
    """Prints models, machine and tables of a recipe."""
    teacher = settings.teacher
    say_machine(
        {"teacher": teacher.models if teacher else (), "encoder": settings.encoder},
        settings.device,
        precision=", ".join(
            f"{stage.name} {precision_on(settings.device, stage.precision)}" for stage in settings.all_stages
        ),
    )
    for name, source, table in (("train", settings.train, checked.train), ("dev", settings.dev, checked.dev)):
        if table is not None:
            say_table(name, source, table, settings.table, settings.task)


def transfer_set(settings: PairRecipe, run: RunFolder, checked: PairTables) -> TupleTable:
    """The transfer set as it is there, or as it would be made."""
    from distilmatch.data.saved import read_saved_table
    from distilmatch.training.pairs.labelling import plan_transfer_set

    return read_saved_table(run.transfer) if checked.train is None else plan_transfer_set(settings, checked.train)


def say_transfer(table: TupleTable, labels: LabelPlan) -> None:
    """Prints the size of a transfer set, and how many labels are missing."""
    assert table.blocks is not None
    typer.echo("")
    say(
        labelled_rows=len(table),
        distinct_texts=len(table.texts),
        blocks=int(table.blocks[-1]) + 1,
        labels_to_ask=labels.asked,
        labels_in_the_cache=labels.cached,
        **({} if labels.pairs_per_s is None else {"teacher_pairs_per_s": round(labels.pairs_per_s)}),
        **({"teacher_precision": labels.precision} if labels.precision else {}),
    )
