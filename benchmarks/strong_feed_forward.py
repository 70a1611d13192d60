"""DE-FFNN in its strong form: a small network over the texts' vectors u and v, |u - v| and u · v, trained as a student is.

    python -m benchmarks.strong_feed_forward RECIPE

The package's feed-forward head reads [u, v] alone, whose part of a text can be computed once; the two other inputs
belong to a pair (InferSent, Conneau et al. 2017, section 3.2; SBERT's training, Reimers and Gurevych 2019, section 3).
Encoder, stages, steps and labels are those of `distilmatch train`; the head alone is another.

Shape legend: n texts; p pairs; d width of a vector; m width of the hidden layer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from distilmatch.config.pairs import PairRecipe, StudentConfig
from distilmatch.models import DiPair
from distilmatch.models.fp32 import Fp32Module
from distilmatch.models.gathering import gather
from distilmatch.models.heads import HEADS
from distilmatch.training.pairs.distil import distil_pairs
from distilmatch.types import TokenRepresentations

STUDENT = {"head": "feed_forward", "kept_tokens": [1, 1], "kept_strategy": "first_pooled"}


class StrongFeedForwardHead(Fp32Module):
    """One hidden layer over [u, v, |u - v|, u * v] of two texts' only kept tokens."""

    embedded: ClassVar[bool] = (
        False  # a position or a side's own vector would make |u - v| of equal texts other than zero
    )

    def __init__(self, student: StudentConfig) -> None:
        super().__init__()
        width = student.vector_width
        hidden = student.head_intermediate or width
        self.hidden = nn.Linear(4 * width, hidden)
        self.features = hidden

    def start_classifier(self, classifier: nn.Linear) -> None:
        """The first weights stay random."""

    def forward(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor:
        """(p, m) features of the pairs of (n_j, 1, d) tokens, by their (p, 2) rows."""
        u, v = (gather(side.tokens[:, 0], rows[:, j]) for j, side in enumerate(sides))
        return nn.functional.gelu(self.hidden(torch.cat([u, v, (u - v).abs(), u * v], 1)))


@contextmanager
def strong_head() -> Iterator[None]:
    """Inside, a feed-forward head is this one: where it is trained, and where it is loaded."""
    usual = HEADS["feed_forward"]
    HEADS["feed_forward"] = StrongFeedForwardHead
    try:
        yield
    finally:
        HEADS["feed_forward"] = usual


def load(folder: Path) -> DiPair:
    """The trained student of a folder."""
    with strong_head():
        return DiPair.from_pretrained(folder).eval()


def main() -> None:
    """Trains the recipe's student with this head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    with strong_head():
        distil_pairs(PairRecipe.from_yaml(parser.parse_args().recipe))


if __name__ == "__main__":
    main()
