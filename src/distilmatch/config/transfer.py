"""Config of the transfer set: the pairs that a teacher labels."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field

from distilmatch.config.base import FrozenConfig

_LABELLED_PAIRS = 300_000
_MOST_ROUNDS = 8
_ASKED_A_BLOCK = 16  # pairs of a block that a budget is spent on


class TransferConfig(FrozenConfig):
    """The pairs that the teacher labels: blocks of texts that share many pairs.

    A block starts from `block_size` known rows (or texts) that are neighbours under the untrained encoder; texts are
    added to it, and `cells_per_block` of its left x right cells are labelled, the known rows always among them.

    Attributes:
        rounds: how many times all rows are partitioned anew into blocks; 0 uses the given rows alone; None as many as
            give about 300,000 labelled pairs, from one to eight, and without a teacher 0, in blocks of 16 rows. With
            `teacher.budget` one, in blocks of so many rows that about 16 pairs of each are asked for.
        block_size: known rows a block starts from.
        max_texts: distinct texts a side of a block keeps at most, before the additions below.
        near, random, hard_negatives, perturbed: texts added to each block: nearest neighbours of its texts; any
            texts; nearest neighbours that are in no known row with their neighbour; altered copies of its texts (another number,
            a field dropped, the beginning of one with the end of a neighbour, words changed), half of them of known matches. An
            altered copy is labelled with the texts that its original is known with.
        unlabelled: texts of the recipe's `unlabelled` files added to each block: near neighbours of its texts.
        mined: after the first stage, pairs of each left text that the student ranks highest among near and random ones and that
            no row joins; the teacher labels them, and the later stages learn them too. 0 mines none.
        mixtures: so many times two labelled rows are mixed, embedding by embedding of their words, labelled by the teacher from
            these embeddings, once, and learnt beside the blocks in every stage that learns labels (MixKD, Liang et al. 2021).
            It needs a cross-encoder as teacher, and no ranking. 0 mixes none.
        mixture_alpha: the share of the first row is drawn from Beta(mixture_alpha, mixture_alpha): below 1 most mixtures are
            nearly one of the two.
        cells_per_block: labelled cells of a block.
        near_cells: share of these that are the block's most similar pairs; the others are drawn at random.
        pool: "merged" lets every text stand on either side, "separate" keeps the sides apart; "auto" merges when at
            least a tenth of the distinct texts stand on both sides.
        seed: of the blocks; None follows the recipe's, a number lets students of several seeds share their labels.

    Example:
        ```python
        from distilmatch import TransferConfig

        transfer = TransferConfig(rounds=2, near_cells=0.5)
        labels_that_are_there = TransferConfig(rounds=0)  # nothing is asked of a teacher
        ```
    """

    rounds: int | None = Field(default=None, ge=0)
    block_size: int = Field(default=8, ge=1)
    max_texts: int = Field(default=16, ge=2)
    near: int = Field(default=0, ge=0)
    random: int = Field(default=1, ge=0)
    hard_negatives: int = Field(default=0, ge=0)
    perturbed: int = Field(default=6, ge=0)
    unlabelled: int = Field(default=4, ge=0)
    mined: int = Field(default=0, ge=0)
    mixtures: int = Field(default=0, ge=0)
    mixture_alpha: float = Field(default=0.4, gt=0)
    cells_per_block: int = Field(default=128, ge=1)
    near_cells: float = Field(default=0.0, ge=0, le=1)
    pool: Literal["auto", "merged", "separate"] = "auto"
    seed: int | None = None

    def rounds_for(self, rows: int) -> int:
        """`rounds`, or those that suit a table of `rows`."""
        if self.rounds is not None:
            return self.rounds
        pairs_a_round = max(1, rows / self.block_size) * self.cells_per_block
        return min(_MOST_ROUNDS, max(1, round(_LABELLED_PAIRS / pairs_a_round)))

    def for_budget(self, rows: int, budget: int) -> Self:
        """The same with what suits a teacher that is asked for `budget` pairs of a table of `rows`, where `rounds` is open."""
        if self.rounds is not None:
            return self
        return self.replaced(rounds=1, block_size=max(self.block_size, math.ceil(_ASKED_A_BLOCK * rows / budget)))
