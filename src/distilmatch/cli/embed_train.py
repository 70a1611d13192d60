"""`distilmatch embed-train`: distil a sentence encoder as a recipe says."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distilmatch.cli.options import Device, DryRun, OnBadRows, Output, RecipePath, Seed, Set, load_recipe_of, say

if TYPE_CHECKING:
    from distilmatch.embedding_config import EmbeddingRecipe


def run(
    recipe: RecipePath,
    output: Output = None,
    seed: Seed = None,
    changes: Set = None,
    on_bad_rows: OnBadRows = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Distil a sentence encoder: embed the corpus where that is missing, train on it, then on labelled rows.

    A stopped run goes on from its last checkpoint. For several processes: torchrun --nproc_per_node=2 -m
    distilmatch.cli embed-train RECIPE.
    """
    from distilmatch.embedding_config import EmbeddingRecipe

    options = {"output": output, "seed": seed, "corpus.on_bad_rows": on_bad_rows, "device": device}
    settings = load_recipe_of(EmbeddingRecipe, recipe, changes, options)
    if dry_run:
        plan(settings)
        return
    from distilmatch.training.embeddings import distil_embeddings

    distil_embeddings(settings)
    root = Path(settings.output)
    say(student=str(root / "student"), logs=f"tensorboard --logdir {root}")


def plan(settings: EmbeddingRecipe) -> None:
    """Checks the tables, builds the student and prints how much there is to do; nothing is written."""
    from distilmatch.data.corpus import write_corpus
    from distilmatch.data.tables import check_table
    from distilmatch.training.embeddings import new_student

    facts: dict[str, object] = {}
    if settings.corpus is not None and settings.has_stage1:
        with tempfile.TemporaryDirectory() as folder:
            corpus = write_corpus(settings.corpus, folder)
            texts = len(corpus)
            facts |= {"texts": texts, "empty_rows": corpus.empty, "repeated_texts": corpus.duplicates}
        stage = settings.stage1
        facts["stage1_steps"] = math.ceil(texts / stage.batch_size / stage.gradient_accumulation_steps * stage.epochs)
    if settings.has_stage2:
        counts = [check_table(one.source, one.table, one.task) for one in settings.labelled]
        stage = settings.stage2
        batches = sum(math.ceil(rows / stage.batch_size) for rows in counts)
        facts |= {"labelled_rows": sum(counts)}
        facts["stage2_steps"] = math.ceil(batches / stage.gradient_accumulation_steps * stage.epochs)
    if settings.dev:
        facts["dev_rows"] = sum(check_table(one.source, one.table, one.task) for one in settings.dev)
    student = new_student(settings)
    facts["student_parameters"] = sum(parameter.numel() for parameter in student.parameters())
    say(**facts, output=settings.output)
    typer.echo("Nothing was embedded, trained or written (--dry-run).")
