"""`distilmatch embed-train`: distil a sentence encoder as a recipe says."""

from __future__ import annotations

import math
import tempfile
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
    load_recipe_of,
    say,
    say_next,
)

if TYPE_CHECKING:
    from distilmatch.config.embeddings import EmbeddingRecipe
    from distilmatch.training.embeddings.distil import EmbeddingTables


def run(
    recipe: RecipePath,
    output: Output = None,
    seed: Seed = None,
    changes: Set = None,
    on_bad_rows: OnBadRows = None,
    device: Device = None,
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

    distil_embeddings(settings)
    root = Path(settings.output)
    say(student=str(root / "student"), logs=f"tensorboard --logdir {root}")
    teacher = list(settings.teacher.models) if settings.teacher else []
    say_next("evaluate-sts", *teacher, root / "student", "--data", "FOLDER", "--output", root / "sts-report")


def plan(settings: EmbeddingRecipe) -> None:
    """Checks everything and prints how much there is to do; nothing is written."""
    from distilmatch.training.embeddings.distil import check_embedding_recipe

    show_plan(settings, check_embedding_recipe(settings))


def show_plan(settings: EmbeddingRecipe, checked: EmbeddingTables) -> None:
    """Reads the corpus, builds the student and prints how much there is to do of a recipe that is checked."""
    from distilmatch.data.corpus import write_corpus
    from distilmatch.teachers import PrecomputedTeacher
    from distilmatch.training.embeddings.distil import new_student

    facts: dict[str, object] = {}
    texts, counts = 0, [0]
    if settings.corpus is not None and settings.distils:
        with tempfile.TemporaryDirectory() as folder:
            corpus = write_corpus(settings.corpus, folder)
            texts = len(corpus)
            facts |= {"texts": texts, "empty_rows": corpus.empty, "repeated_texts": corpus.duplicates}
            teacher = settings.teacher
            assert teacher is not None  # an embedding recipe with a stage 1 has one
            for file in teacher.embeddings:
                PrecomputedTeacher(file, teacher.embedding_column).check_rows(corpus.source_rows)
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
    say(**facts, output=settings.output)
    typer.echo("Nothing was embedded, trained or written (--dry-run).")
