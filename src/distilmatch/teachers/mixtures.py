"""A cross-encoder that labels mixtures: pairs of virtual texts, which it reads as means of word embeddings.

Shape legend: n mixtures; b of a batch; t tokens; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distilmatch.concurrency import frozen_tokenizer
from distilmatch.data.mixtures import Parts, mixed_batch, mixed_of
from distilmatch.errors import ConfigError
from distilmatch.fingerprint import fingerprint
from distilmatch.pretrained.mixed_words import mixed_words
from distilmatch.pretrained.positions import UNLIMITED
from distilmatch.pretrained.tokenizers import padding_token
from distilmatch.runtime import autocast
from distilmatch.teachers.base import Pairs, Teacher, pair_list
from distilmatch.teachers.classes import InTaskOrder
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher, pair_tokenizer
from distilmatch.teachers.ensemble import TeacherEnsemble
from distilmatch.teachers.views import ModelViews, score_in_fp32

_FIRST, _SECOND = 1, 3  # the parts that are texts; special tokens before, between and behind them


class MixtureTeacher:
    """A teacher of virtual texts (`distilmatch.data.mixtures`), so that the label cache keeps their labels as any others.

    Args:
        teacher: a cross-encoder, an ensemble of them, or one of them in a task's order.

    Raises:
        ConfigError: a teacher without word embeddings, such as a function.
    """

    def __init__(self, teacher: Teacher) -> None:
        check_mixes(teacher)
        self.teacher = teacher

    @property
    def num_labels(self) -> int:
        """c, how many logits a pair has."""
        return self.teacher.num_labels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Those of the teacher."""
        return self.teacher.class_names

    @property
    def fingerprint(self) -> str:
        """A hash of all that a logit depends on besides the virtual texts."""
        return fingerprint("mixtures of word embeddings", self.teacher.fingerprint)

    def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
        """(n, c) float32 raw logits of pairs of virtual texts."""
        return _logits(self.teacher, pair_list(pairs))


def check_mixes(teacher: Any) -> None:
    """Refuses a teacher that cannot label mixtures.

    Raises:
        ConfigError: a function, or a cross-encoder that prepares its pairs in a way of its own.
    """
    if isinstance(teacher, InTaskOrder):
        return check_mixes(teacher.teacher)
    if isinstance(teacher, TeacherEnsemble):
        for member in teacher.teachers:
            check_mixes(member)
        return
    tokenizer = pair_tokenizer(teacher.model) if isinstance(teacher, CrossEncoderTeacher) else None
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"`transfer.mixtures` are labelled from word embeddings, and the teacher, a {type(teacher).__name__}, takes only "
            "texts: name a cross-encoder without a prompt of its own, or leave them out"
        )


def _logits(teacher: Any, pairs: list[tuple[str, str]]) -> np.ndarray:
    if isinstance(teacher, InTaskOrder):
        return teacher.put_in_order(_logits(teacher.teacher, pairs))
    if isinstance(teacher, TeacherEnsemble):
        every = np.stack([_logits(member, pairs) for member in teacher.teachers])
        return np.asarray(every.mean(axis=0, dtype=np.float64), dtype=np.float32)
    return _cross_encoder_logits(teacher, pairs)


@torch.inference_mode()
def _cross_encoder_logits(teacher: CrossEncoderTeacher, pairs: list[tuple[str, str]]) -> np.ndarray:
    limit = teacher.max_length if teacher.max_length < UNLIMITED else None
    view = ModelViews(teacher.model, limit).make()
    score_in_fp32(view)
    tokenizer = pair_tokenizer(teacher.model)
    tokens = _PairTokens(tokenizer, limit)
    pad_id = padding_token(tokenizer, teacher.model.config)
    assert tokenizer is not None and pad_id is not None  # `check_mixes` and the teacher itself refuse it
    encoder: Any = view[0]
    out = np.empty((len(pairs), teacher.num_labels), dtype=np.float32)
    for start in range(0, len(pairs), teacher.batch_size):
        batch = mixed_batch(
            tokens.mixtures(pairs[start : start + teacher.batch_size]),
            pad_id,
            left=tokenizer.padding_side == "left",
        )
        on_device = {name: value.to(view.device) for name, value in batch.items()}
        with autocast(teacher.precision, view.device):
            features = {"inputs_embeds": mixed_words(encoder.model, on_device)}
            features["attention_mask"] = on_device["attention_mask"]
            if tokens.types is not None:
                features["token_type_ids"] = tokens.types.to(view.device)[on_device["parts"]]
            scores = view(features)["scores"]
        out[start : start + len(scores)] = scores.float().reshape(len(scores), teacher.num_labels).cpu().numpy()
    return out


class _PairTokens:
    """Pairs as five parts: special tokens, the first text, special tokens, the second text, special tokens.

    Attributes:
        types: (5,) int64, the segment of each part; None of a model without segments.
    """

    def __init__(self, tokenizer: Any, limit: int | None) -> None:
        self.tokenizer, self.limit = frozen_tokenizer(tokenizer, limit), limit
        example = self._encoded([("a", "a")])
        texts = example.sequence_ids(0)
        first, second = texts.index(0), texts.index(1)
        behind = len(texts) - 1 - texts[::-1].index(1)
        self.specials = (first, second - 1 - (len(texts[:second]) - 1 - texts[:second][::-1].index(0)))
        self.types = None
        if "token_type_ids" in example:
            kinds = example["token_type_ids"][0]
            self.types = torch.tensor(
                [kinds[0], kinds[first], kinds[second - 1], kinds[second], kinds[min(behind + 1, len(kinds) - 1)]]
            )

    def _encoded(self, pairs: Sequence[tuple[str, str]]) -> Any:
        return self.tokenizer(
            [left for left, _ in pairs],
            [right for _, right in pairs],
            truncation=False if self.limit is None else "longest_first",
            max_length=self.limit,
            padding=False,
            return_attention_mask=False,
        )

    def mixtures(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Parts, Parts, float]]:
        """Both pairs of each mixture in parts, cut so that laid over one another they keep within the limit."""
        read = [(mixed_of(left), mixed_of(right)) for left, right in pairs]
        both = [
            self._parts([(left[which], right[which]) for left, right in read])  # type: ignore[misc]
            for which in (0, 1)
        ]
        shares = [left[2] for left, _ in read]
        return [(*self._cut(first, second), share) for first, second, share in zip(*both, shares, strict=True)]

    def _parts(self, pairs: Sequence[tuple[str, str]]) -> list[list[list[int]]]:
        encoded = self._encoded(pairs)
        before, between = self.specials
        made = []
        for row, ids in enumerate(encoded["input_ids"]):
            of_text = encoded.sequence_ids(row)
            special = [token for token, text in zip(ids, of_text, strict=True) if text is None]
            left, right = ([token for token, text in zip(ids, of_text, strict=True) if text == k] for k in (0, 1))
            made.append(
                [special[:before], left, special[before : before + between], right, special[before + between :]]
            )
        return made

    def _cut(self, first: list[list[int]], second: list[list[int]]) -> tuple[Parts, Parts]:
        if self.limit is None:
            return first, second
        lengths = [max(len(own), len(other)) for own, other in zip(first, second, strict=True)]
        while sum(lengths) > self.limit:
            lengths[_FIRST if lengths[_FIRST] >= lengths[_SECOND] else _SECOND] -= 1
        return tuple([part[:length] for part, length in zip(own, lengths, strict=True)] for own in (first, second))  # type: ignore[return-value]
