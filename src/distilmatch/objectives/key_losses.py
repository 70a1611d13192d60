"""The two losses over the same keys in one pass, block by block: what a memory bank of 65,536 keys costs a step.

A batch of 128 texts has 34 MB of cosines with them. A block of these is worked on while it is in the cache, the student's are
computed once for both losses, and inside an autocast the products are in its dtype: together less than half the time of plain
operations.

Shape legend: n texts; k keys; d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_BLOCK = 2048  # keys a block on a CPU: 128 rows of it are 1 MiB
_NOWHERE = -1e30  # a logit of no weight; finite, so that a text without any other key has a divergence, of 0


class KeyLosses(torch.autograd.Function):
    """Sums over the texts of the cross-entropy of `contrastive_distillation` and of the divergence of
    `similarity_distillation`; either is 0 where it is not asked for.

    Gradients go to `unit` and `temperature`. With `p(T) = softmax(cosines / T)` they are, for a text's cosines,
    `(p(temperature) - 1 at the target) / temperature` and `(p(student's) - p(teacher's)) / student's`, of the two temperatures
    of the divergence.
    """

    @staticmethod
    def forward(
        ctx: Any,
        unit: torch.Tensor,
        temperature: torch.Tensor | None,
        teacher: torch.Tensor,
        keys: Sequence[torch.Tensor],
        targets: torch.Tensor,
        same: tuple[torch.Tensor, torch.Tensor] | None,
        similarity_temperatures: tuple[float, float] | None,
        own_key: bool,
        product_dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both losses.

        Args:
            unit: (n, d) fp32, the student's embeddings at length one.
            temperature: of the cross-entropy, a tensor of one; None leaves it out.
            teacher: (n, d) fp32, the teacher's of the same texts, at length one.
            keys: the parts of the (k, d) keys, of any length.
            targets: (n,) which key is a text's own.
            same: (n,) and (k,) which texts the rows and the keys are; a key of the row's own text, but for the target, is
                left out of the cross-entropy.
            similarity_temperatures: of the divergence, the student's and the teacher's; None leaves it out.
            own_key: whether the keys of a row's own text count in the divergence; else all of them are left out.
            product_dtype: in which embeddings are multiplied; all else is in fp32.
        """
        blocks = _blocks(keys, unit.device)
        count = sum(len(vectors) for vectors in keys)
        both = [unit] if similarity_temperatures is None else [unit, teacher]
        cosines = [unit.new_empty(len(unit), count) for _ in both]
        inverse = [1 / torch.linalg.vector_norm(vectors.float(), dim=-1).clamp_min(1e-12) for vectors in keys]
        sums = _Sums(len(unit), unit)
        for source, rows, place in blocks:
            cosine_blocks = [
                torch.mul(
                    _product(texts, keys[source][rows].T, product_dtype), inverse[source][rows], out=held[:, place]
                )
                for texts, held in zip(both, cosines, strict=True)
            ]
            if temperature is not None:
                logits = cosine_blocks[0] / temperature
                if same is not None:
                    logits = _leave_out(logits, same, targets, place)
                sums.contrast(logits)
            if similarity_temperatures is not None:
                warm = [held / own for held, own in zip(cosine_blocks, similarity_temperatures, strict=True)]
                if not own_key:
                    warm = [_without_own(logits, same, targets, place) for logits in warm]
                sums.similarity(*warm)
        ctx.save_for_backward(*cosines, *keys, *inverse, targets, *(same or ()))
        ctx.blocks, ctx.parts, ctx.has_same = blocks, len(keys), same is not None
        ctx.temperature, ctx.similarity_temperatures, ctx.sums = temperature, similarity_temperatures, sums
        ctx.own_key, ctx.product_dtype = own_key, product_dtype
        positive = cosines[0].gather(1, targets[:, None]).squeeze(1)
        zero = unit.new_zeros(())
        contrast = zero if temperature is None else (sums.contrast_lse - positive / temperature).sum()
        return contrast, zero if similarity_temperatures is None else sums.divergence().sum()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Recomputes the probabilities block by block."""
        of_contrast, of_similarity = gradients
        saved = list(ctx.saved_tensors)
        cosines = [saved.pop(0) for _ in range(1 if ctx.similarity_temperatures is None else 2)]
        keys = [saved.pop(0) for _ in range(ctx.parts)]
        inverse = [saved.pop(0) for _ in range(ctx.parts)]
        targets = saved.pop(0)
        same = (saved[0], saved[1]) if ctx.has_same else None
        temperature, warmths, sums = ctx.temperature, ctx.similarity_temperatures, ctx.sums
        total = cosines[0].new_zeros(len(cosines[0]), keys[0].shape[1])
        expected = cosines[0].new_zeros(())  # of the cosine, under the contrastive probabilities
        for source, rows, place in ctx.blocks:
            mine = cosines[0][:, place]
            slope = torch.zeros_like(mine)
            if temperature is not None:
                logits = mine / temperature
                if same is not None:
                    logits = _leave_out(logits, same, targets, place)
                chances = logits.sub_(sums.contrast_lse[:, None]).exp_()
                expected = expected + (chances * mine).sum()
                slope = chances.mul_(of_contrast / temperature)
            if warmths is not None:
                warm = [mine / warmths[0], cosines[1][:, place] / warmths[1]]
                if not ctx.own_key:
                    warm = [_without_own(logits, same, targets, place) for logits in warm]
                differ = warm[0].sub_(sums.mine_lse[:, None]).exp_()
                differ.sub_(warm[1].sub_(sums.teacher_lse[:, None]).exp_())
                slope.add_(differ.mul_(of_similarity / warmths[0]))
            total.add_(_product(slope.mul_(inverse[source][rows]), keys[source][rows], ctx.product_dtype))
        if temperature is None:
            return total, *[None] * 8
        positive = cosines[0].gather(1, targets[:, None]).squeeze(1)
        # A target is a key of the batch, the first of the parts.
        total.sub_(keys[0][targets].float() * inverse[0][targets, None] * (of_contrast / temperature))
        of_temperature = of_contrast * (positive.sum() - expected) / temperature**2
        return total, of_temperature.reshape(temperature.shape), *[None] * 7


class _Sums:
    # Sums so far. The teacher's are of exponentials relative to its largest logit so far and are divided at the end: weights
    # taken from logarithms would not add up to one, which the mean gap multiplies.
    def __init__(self, rows: int, like: torch.Tensor) -> None:
        self.contrast_lse = like.new_full((rows,), -torch.inf)
        self.mine_lse = like.new_full((rows,), -torch.inf)
        self.highest = like.new_full((rows,), -torch.inf)
        self.mass = like.new_zeros(rows)
        self.gap = like.new_zeros(rows)  # of (teacher's logit - student's), weighted as the mass is

    @property
    def teacher_lse(self) -> torch.Tensor:
        return self.mass.log() + self.highest

    def contrast(self, logits: torch.Tensor) -> None:
        self.contrast_lse = torch.logaddexp(self.contrast_lse, logits.logsumexp(1))

    def similarity(self, mine: torch.Tensor, teacher: torch.Tensor) -> None:
        self.mine_lse = torch.logaddexp(self.mine_lse, mine.logsumexp(1))
        highest = torch.maximum(self.highest, teacher.amax(1))
        before = (self.highest - highest).exp()
        powers = (teacher - highest[:, None]).exp_()
        self.mass = self.mass * before + powers.sum(1)
        self.gap = self.gap * before + powers.mul_(teacher.sub_(mine)).sum(1)
        self.highest = highest

    def divergence(self) -> torch.Tensor:
        return self.gap / self.mass - self.teacher_lse + self.mine_lse


def _product(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return left.to(dtype) @ right.to(dtype)


def _blocks(keys: Sequence[torch.Tensor], device: torch.device) -> list[tuple[int, slice, slice]]:
    """Of each block: which of `keys` it is from, its rows there, and their place among all keys."""
    blocks = []
    before = 0
    for number, block_keys in enumerate(keys):
        step = _BLOCK if device.type == "cpu" else max(1, len(block_keys))
        for start in range(0, len(block_keys), step):
            end = min(start + step, len(block_keys))
            blocks.append((number, slice(start, end), slice(before + start, before + end)))
        before += len(block_keys)
    return blocks


def _leave_out(
    logits: torch.Tensor, same: tuple[torch.Tensor, torch.Tensor], targets: torch.Tensor, place: slice
) -> torch.Tensor:
    out = same[0][:, None] == same[1][None, place]
    if not bool(out.any()):
        return logits
    here = torch.arange(place.start, place.stop, device=logits.device)
    return logits.masked_fill(out & (here[None, :] != targets[:, None]), -torch.inf)


def _without_own(
    logits: torch.Tensor, same: tuple[torch.Tensor, torch.Tensor] | None, targets: torch.Tensor, place: slice
) -> torch.Tensor:
    here = torch.arange(place.start, place.stop, device=logits.device)
    out = here[None, :] == targets[:, None]
    if same is not None:
        out = out | (same[0][:, None] == same[1][None, place])
    return logits.masked_fill(out, _NOWHERE)
