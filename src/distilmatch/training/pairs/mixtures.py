"""Mixtures of labelled rows that a student learns beside its blocks (MixKD, Liang et al. 2021, arXiv 2011.00593).

They are drawn and labelled once, before the training: the same in every epoch, and after a stop. A block brings its share of
them into the batch that it is in.

Shape legend: p mixtures of a batch; s sides; c labels.
"""

from __future__ import annotations

import inspect
import logging
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from distilmatch.config.pairs import PairRecipe
from distilmatch.data.mixtures import draw_mixtures, mixed_batch, mixed_of, text_parts
from distilmatch.data.saved import read_saved_table, save_table
from distilmatch.errors import DataError, ModelError
from distilmatch.models import DiPair
from distilmatch.pretrained.tokenizers import pad_id
from distilmatch.teachers import SoftLabelCache, in_task_order, load_teacher
from distilmatch.teachers.base import check_logits
from distilmatch.teachers.in_memory import is_cached
from distilmatch.teachers.mixtures import MixtureTeacher
from distilmatch.training.pairs.run import RunFolder
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)


def make_mixtures(recipe: PairRecipe, run: RunFolder, transfer: TupleTable) -> TupleTable | None:
    """The run's mixtures with the teacher's labels, made where they are not there; None where the recipe asks for none.

    Raises:
        ConfigError: a teacher that takes only texts.
        DataError: fewer than two pairs to mix.
    """
    if not recipe.transfer.mixtures:
        return None
    if run.has_mixtures():
        return read_saved_table(run.mixtures)
    assert recipe.teacher is not None  # the recipe is refused without
    known = len(transfer) if transfer.gold is None else int((~np.isnan(transfer.gold)).sum())
    if known < 2:
        raise DataError("`transfer.mixtures` mixes labelled rows, and fewer than two have a gold label: leave it out")
    table = draw_mixtures(transfer, recipe.transfer.mixtures, recipe.transfer.mixture_alpha, recipe.transfer_seed)
    teacher = run.inputs.teacher or load_teacher(recipe.teacher, device=recipe.device)
    mixes = MixtureTeacher(in_task_order(teacher, recipe.task))
    pairs = [(left, right) for left, right in table.tuples()]
    logger.info("the teacher labels %d mixtures of two rows each, from their word embeddings", len(pairs))
    if is_cached(teacher):
        logits = SoftLabelCache(run.labels).label(mixes, pairs)
    else:
        logits = check_logits(mixes.logits(pairs), pairs, mixes.num_labels)
    table = table.with_teacher(logits)
    shutil.rmtree(run.mixtures, ignore_errors=True)
    save_table(table, run.mixtures)
    run.mark_mixtures()
    return table


class MixingCollator:
    """Batches of another collator, each with the mixtures of its blocks as `mixed`.

    Args:
        collate: of the blocks; blocks: (b + 1,) where each begins among the rows.
        mixtures: labelled pairs of virtual texts; number m comes with block m modulo b.

    Raises:
        ModelError: an encoder that reads tokens alone.
    """

    def __init__(
        self,
        collate: Callable[[Sequence[np.ndarray]], dict[str, Any]],
        blocks: np.ndarray,
        mixtures: TupleTable,
        model: DiPair,
    ) -> None:
        self.collate, self.starts, self.mixtures = collate, blocks[:-1], mixtures
        self.side_streams, self.streams = model.side_streams, range(len(model.streams))
        read = [mixed_of(text) for text in mixtures.texts]
        self.shares = [share for *_, share in read]
        texts = list(dict.fromkeys(text for first, second, _ in read for text in (first, second)))
        number = {text: i for i, text in enumerate(texts)}
        self.both = [(number[first], number[second]) for first, second, _ in read]
        self.ids, self.around, self.pad_ids, self.lexical = [], [], [], []
        for place, stream in enumerate(model.streams):
            tokenizer, encoder = model.tokenizers[stream.encoder], model.encoders[stream.encoder]
            if "inputs_embeds" not in inspect.signature(encoder.forward).parameters:
                raise ModelError(
                    f"a {type(encoder).__name__} reads tokens alone, no word embeddings: leave `transfer.mixtures` out"
                )
            self.ids.append(stream.token_ids(tokenizer, texts))
            self.around.append(_around(tokenizer))
            self.pad_ids.append(pad_id(tokenizer))
            self.lexical.append(model.lexical_vectors(texts, place))

    def __call__(self, blocks: Sequence[np.ndarray]) -> dict[str, Any]:
        """The blocks' batch; where they have mixtures with `mixed`: `streams`, `rows` (p, s) and `teacher` (p, c) of these."""
        batch = self.collate(blocks)
        numbers = np.searchsorted(self.starts, [rows[0] for rows in blocks])
        chosen = np.concatenate([np.arange(number, len(self.mixtures), len(self.starts)) for number in numbers])
        if len(chosen):
            batch["mixed"] = self._mixed(chosen)
        return batch

    def _mixed(self, chosen: np.ndarray) -> dict[str, Any]:
        assert self.mixtures.teacher is not None
        rows = self.mixtures.rows[chosen]
        local, streams = np.empty_like(rows), []
        for stream in self.streams:
            sides = [side for side, own in enumerate(self.side_streams) if own == stream]
            virtual, inverse = np.unique(rows[:, sides], return_inverse=True)
            local[:, sides] = inverse.reshape(len(rows), len(sides))
            streams.append([self._read(virtual.tolist(), stream)])
        return {
            "streams": streams,
            "rows": torch.from_numpy(local),
            "teacher": torch.from_numpy(self.mixtures.teacher[chosen]),
        }

    def _read(self, virtual: list[int], stream: int) -> dict[str, torch.Tensor]:
        ids, around = self.ids[stream], self.around[stream]
        mixed = [
            (*(text_parts(ids[text].tolist(), *around) for text in self.both[number]), self.shares[number])
            for number in virtual
        ]
        batch = mixed_batch(mixed, self.pad_ids[stream])  # type: ignore[arg-type]
        lexical = self.lexical[stream]
        if lexical is not None:
            first, second = (lexical[[self.both[number][which] for number in virtual]] for which in (0, 1))
            batch["lexical"] = torch.lerp(second, first, batch["shares"][:, None])
        return batch


def _around(tokenizer: Any) -> tuple[int, int]:
    """How many special tokens a tokenizer puts before and after a text."""
    special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    first = special.index(0)
    return first, special[::-1].index(0)
