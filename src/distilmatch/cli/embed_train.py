"""`distilmatch embed-train`: distil a sentence encoder as a recipe says."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distilmatch.cli.dry_run import precision_on, say_estimate, say_machine, say_rows, say_table
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
    load_recipe_of,
    say,
    say_next,
)

if TYPE_CHECKING:
    from distilmatch.config.embeddings import EmbeddingRecipe
    from distilmatch.estimates import Estimate
    from distilmatch.training.embeddings.distil import EmbeddingTables


def run(
    recipe: RecipePath,
    output: Output = None,
    seed: Seed = None,
    changes: Set = None,
    on_bad_rows: RecipeBadRows = None,
    device: RecipeDevice = None,
    dry_run: DryRun = False,
) -> None:
    """Distil a sentence encoder: embed the corpus if needed, train on it, then on labelled rows.

    Run the same command again to resume from the last checkpoint. For several processes: torchrun --nproc_per_node=2 -m
    distilmatch.cli embed-train RECIPE.
    """
    from distilmatch.config.embeddings import EmbeddingRecipe

    options = {"output": output, "seed": seed, "corpus.on_bad_rows": on_bad_rows, "device": device}
    settings = load_recipe_of(EmbeddingRecipe, recipe, changes, options)
    check_recipe_file(recipe, settings.output, ("recipe.yaml",), settings)
    if dry_run:
        plan(settings)
        return
    from distilmatch.training.embeddings.distil import distil_embeddings

    started = time.perf_counter()
    distil_embeddings(settings)
    root = Path(settings.output)
    took = duration(time.perf_counter() - started)
    say(student=str(root / "student"), logs=f"tensorboard --logdir {root}", took=took)
    teacher = list(settings.teacher.models) if settings.teacher else []
    say_next("evaluate-sts", *teacher, root / "student", "--data", "FOLDER", "--output", root / "sts-report")


def plan(settings: EmbeddingRecipe) -> None:
    """Checks everything and prints what it is and how long it takes; nothing is written."""
    from distilmatch.data.quarantine import nothing_set_aside
    from distilmatch.training.arguments import training_device
    from distilmatch.training.embeddings.distil import check_embedding_recipe

    training_device(settings.device)
    with nothing_set_aside():
        estimate = show_plan(settings, check_embedding_recipe(settings))
    say_estimate(estimate, "embedded, trained", settings.output)


def show_plan(settings: EmbeddingRecipe, checked: EmbeddingTables) -> Estimate:
    """Prints what a checked recipe is and how much there is to do; returns what it takes."""
    from distilmatch.data.corpus import write_corpus
    from distilmatch.estimates import seconds_so_far
    from distilmatch.planning.embeddings import plan_embeddings
    from distilmatch.teachers import PrecomputedTeacher
    from distilmatch.training.embeddings.distil import new_student

    _say_inputs(settings, checked)
    facts: dict[str, object] = {}
    texts, counts, corpus = 0, [0], None
    with tempfile.TemporaryDirectory() as folder:
        if settings.corpus is not None and settings.distils:
            corpus = write_corpus(settings.corpus, folder)
            texts = len(corpus)
            facts |= {"texts": texts, "empty_rows": corpus.empty, "repeated_texts": corpus.duplicates}
            teacher = settings.teacher
            assert teacher is not None  # an embedding recipe with a stage 1 has one
            for file in teacher.embeddings:
                PrecomputedTeacher(file, teacher.embedding_column).check_rows(corpus.source_rows)
        start = seconds_so_far()
        if checked.labelled is not None:
            counts = [len(table) for table in checked.labelled.tables]
            facts |= {"labelled_rows": sum(counts)}
        for stage in settings.all_stages:
            batches = texts / stage.batch_size
            if stage.kind == "contrastive":
                batches = sum(math.ceil(rows / stage.batch_size) for rows in counts)
            facts[f"{stage.name}_steps"] = math.ceil(batches / stage.gradient_accumulation_steps * stage.epochs)
        if checked.dev is not None:
            facts["dev_rows"] = sum(map(len, checked.dev.tables))
        student = new_student(settings)
        facts["student_parameters"] = sum(parameter.numel() for parameter in student.parameters())
        typer.echo("")
        say(**facts)
        if corpus is not None:
            say_rows([{"text": corpus[number]} for number in range(min(2, len(corpus)))])
        plan = plan_embeddings(settings, checked, corpus, start)
    rate = {} if plan.texts_per_s is None else {"teacher_texts_per_s": round(plan.texts_per_s)}
    say(embeddings_to_ask=plan.asked, embeddings_in_the_cache=plan.cached, **rate)
    return plan.estimate


def _say_inputs(settings: EmbeddingRecipe, checked: EmbeddingTables) -> None:
    teacher, encoder = settings.teacher, settings.student.encoder
    say_machine(
        {"teacher": teacher.models if teacher else (), "encoder": encoder},
        settings.device,
        precision=", ".join(
            f"{stage.name} {precision_on(settings.device, stage.precision)}" for stage in settings.all_stages
        ),
    )
    tables = checked.labelled.tables if checked.labelled is not None else ()
    for config, table in zip(settings.labelled, tables, strict=False):
        say_table(config.kind, config.source, table, config.table)
    for config, table in zip(settings.dev, checked.dev.tables if checked.dev is not None else (), strict=False):
        say_table("dev", config.source, table, config.table)
