"""Named batch types that travel between the packages.

Shape legend: n rows or texts; s sides (2 for pairs); k kept tokens of a side; d width of the head; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One checked row of a pair or tuple table, with where it came from.

    Attributes:
        texts: the s texts of the row, in the order of the sides.
        gold: class index, real number or graded relevance; None where the row has no gold label.
        teacher: the teacher's c logits; None where the table has none.
        ids: an id for each side; None where the table has none.
        file, row: origin, row is 1-based and does not count a header.
    """

    texts: tuple[str, ...]
    gold: float | None
    teacher: tuple[float, ...] | None
    ids: tuple[str | None, ...]
    file: str
    row: int


@dataclass(frozen=True, kw_only=True)
class TupleTable:
    """Rows of s texts with every distinct text kept once: the form in which all of training works.

    Attributes:
        texts: the distinct texts.
        rows: (n, s) int64, indices into `texts`.
        side_names: s names, such as ("left", "right") or ("query", "document").
        gold: (n,) float32, NaN where a row has no gold label; None where no row has one.
        teacher: (n, c) float32 logits, a whole row NaN where it has none; None where no row has any.
        teacher_scale: what the teacher's labels were where the table was read, "logit" or "probability"; None where they were
            made since, or there are none.
        queries: (n,) int64, rows with the same number belong to one ranking; None outside ranking.
        blocks: (n,) int64, ascending; rows of one block share texts and are supervised in one batch; None before
            the blocks are built.
        ids: (n, s) object array of strings or None; None where the table had no ids.
    """

    texts: Sequence[str]
    rows: np.ndarray
    side_names: tuple[str, ...] = ("left", "right")
    gold: np.ndarray | None = None
    teacher: np.ndarray | None = None
    queries: np.ndarray | None = None
    blocks: np.ndarray | None = None
    ids: np.ndarray | None = None
    teacher_scale: str | None = None

    def __post_init__(self) -> None:
        n, sides = self.rows.shape
        assert sides == len(self.side_names), (sides, self.side_names)
        for name in ("gold", "teacher", "queries", "blocks", "ids"):
            column = getattr(self, name)
            assert column is None or len(column) == n, (name, len(column), n)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sides(self) -> int:
        """How many texts a row has."""
        return int(self.rows.shape[1])

    def tuples(self) -> list[tuple[str, ...]]:
        """The rows as tuples of text, (n,) long."""
        return [tuple(self.texts[i] for i in row) for row in self.rows]

    def with_teacher(self, logits: np.ndarray) -> TupleTable:
        """The same table with `logits`, (n, c), as its teacher labels."""
        return replace(self, teacher=np.asarray(logits, dtype=np.float32), teacher_scale=None)

    def take(self, index: np.ndarray) -> TupleTable:
        """The rows at `index` ((m,) ints or (n,) bools), in that order; the texts stay as they are."""

        def cut(column: np.ndarray | None) -> np.ndarray | None:
            return None if column is None else column[index]

        return replace(
            self,
            rows=self.rows[index],
            gold=cut(self.gold),
            teacher=cut(self.teacher),
            queries=cut(self.queries),
            blocks=cut(self.blocks),
            ids=cut(self.ids),
        )


@dataclass(frozen=True)
class TokenRepresentations:
    """What is cached of n texts on one side: the head's input for each kept token.

    Attributes:
        tokens: (n, k, d) floating; rows of masked tokens are zero.
        mask: (n, k) bool, True for a real token; every text has one at least.
        side: number of the side that they were encoded for; None where nobody said.
        model: fingerprint of the model that encoded them, as of `DiPair.representation_fingerprint`; None where nobody said.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    side: int | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        assert self.tokens.ndim == 3 and self.mask.shape == self.tokens.shape[:2], (self.tokens.shape, self.mask.shape)

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def __getitem__(self, rows: torch.Tensor | slice) -> TokenRepresentations:
        return TokenRepresentations(self.tokens[rows], self.mask[rows], self.side, self.model)

    def to(self, *args: object, **kwargs: object) -> TokenRepresentations:
        """The same on another device or in another dtype; the mask stays boolean."""
        tokens = self.tokens.to(*args, **kwargs)  # type: ignore[call-overload]
        return TokenRepresentations(tokens, self.mask.to(tokens.device), self.side, self.model)
