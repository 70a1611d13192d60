"""The transfer set before it is trained on: planned, cut to what a teacher may be asked for, and labelled.

Shape legend: n rows or texts; h width of the encoder; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilmatch.config.pairs import PairRecipe, StudentConfig
from distilmatch.data.blocks import build_blocks
from distilmatch.data.corpus import read_texts
from distilmatch.data.tables import load_table
from distilmatch.errors import ConfigError
from distilmatch.models import DiPair
from distilmatch.runtime import keep_freed_memory, pick_device
from distilmatch.teachers import SoftLabelCache, Teacher, in_task_order, load_teacher
from distilmatch.teachers.base import check_logits
from distilmatch.teachers.in_memory import is_cached
from distilmatch.training.pairs.budget import within_budget
from distilmatch.training.pairs.own_labels import with_gold
from distilmatch.training.pairs.run import RunFolder
from distilmatch.types import TupleTable


def load_pairs(recipe: PairRecipe, source: Any) -> TupleTable:
    """A table as the recipe reads it."""
    return load_table(source, recipe.table, recipe.task, side_names=recipe.student.side_names)


def with_unlabelled(recipe: PairRecipe, table: TupleTable) -> TupleTable:
    """The table with the recipe's unlabelled texts behind its own, where they are used."""
    if not recipe.unlabelled or not recipe.used_transfer.unlabelled:
        return table
    more = read_texts(recipe.unlabelled, recipe.table)
    return replace(table, texts=list(dict.fromkeys([*table.texts, *more])))


def plan_transfer_set(recipe: PairRecipe, train: TupleTable | None = None) -> TupleTable:
    """The blocks of the transfer set, before any label: also what a dry run counts.

    Args:
        train: the train table, where it is read already.
    """
    source = load_pairs(recipe, recipe.train) if train is None else train
    transfer = recipe.used_transfer
    budget = None if recipe.teacher is None else recipe.teacher.budget
    if budget is not None:
        transfer = transfer.for_budget(len(source), budget)
    if recipe.learns_gold_alone:
        source = with_gold(source)
    if transfer.rounds != 0:
        source = with_unlabelled(recipe, source)
    embeddings = mean_embeddings(recipe, source.texts)
    table = build_blocks(source, embeddings, transfer, recipe.transfer_seed)
    if budget is None:
        return table
    made = table.texts[len(source.texts) :]
    if made:
        embeddings = np.concatenate([embeddings, mean_embeddings(recipe, made)])
    return within_budget(table, embeddings, budget, recipe.transfer_seed)


def with_soft_labels(recipe: PairRecipe, run: RunFolder, table: TupleTable) -> TupleTable:
    """The table with the teacher's logits, from the label cache where they are there already.

    Rows that have teacher labels keep them; the teacher is asked for the others alone.

    Raises:
        ConfigError: there is no teacher to ask, or its labels do not fit the task.
    """
    if recipe.teacher is None:
        raise ConfigError("some rows have no teacher label and the recipe names no `teacher`")
    keep_freed_memory()
    teacher = run.inputs.teacher or load_teacher(recipe.teacher, device=recipe.device)
    missing = unlabelled_rows(table)
    pairs = [(left, right) for left, right in table.take(missing).tuples()]
    asked = _asked(in_task_order(teacher, recipe.task), pairs, run.labels if is_cached(teacher) else None)
    if table.teacher is None:
        return table.with_teacher(asked)
    logits = table.teacher.copy()
    logits[missing] = asked
    return table.with_teacher(logits)


def _asked(teacher: Teacher, pairs: list[tuple[str, str]], cache: Path | None) -> np.ndarray:
    """(n, c) logits, from the cache where there is one and it holds them."""
    if cache is not None:
        return SoftLabelCache(cache).label(teacher, pairs)
    distinct = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    asked = list(distinct)
    logits = check_logits(teacher.logits(asked), asked, teacher.num_labels)
    return logits[[distinct[pair] for pair in pairs]]


def unlabelled_rows(table: TupleTable) -> np.ndarray:
    """The numbers of the rows that lack a teacher label, or one of its c logits."""
    if table.teacher is None:
        return np.arange(len(table))
    return np.flatnonzero(np.isnan(table.teacher).any(axis=1))


def mean_embeddings(recipe: PairRecipe, texts: Sequence[str]) -> np.ndarray:
    """(n, h) float32 normalised mean-pooled embeddings of texts under the untrained (first) encoder, whole."""
    pooled = StudentConfig(
        kept_tokens=(1, 1),
        kept_strategy="first_pooled",
        prompts=(),
        max_lengths=(max(recipe.student.max_lengths),) * 2,
        head="cosine",
    )
    model = DiPair.from_encoder(recipe.encoder[0], pooled).to(pick_device(recipe.device))  # type: ignore[arg-type]
    kept, _ = model.encode_kept(list(texts), precision="auto")
    return torch.nn.functional.normalize(kept[:, 0], dim=-1).numpy()
