"""What a plan is measured on: representations of the job's own folders, or random ones.

Shape legend: n texts; k kept vectors of a side; d their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distilmatch.engine.kernels.base import Kernel
from distilmatch.engine.sides import LoadedSide
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations


@dataclass(frozen=True)
class Samples:
    """Representations like those of a job, of either side.

    Attributes:
        model: whose they are.
        folders: the job's own, loaded; None for random numbers. What is folded and scored takes as long on any; what a kernel
            skips, and how near to one another texts are, depends on them.
    """

    model: DiPair
    folders: Sequence[LoadedSide] | None = None

    def of(self, side: int, texts: int, seed: int = 0) -> TokenRepresentations:
        """(n, k, d) representations; other ones with another seed, some more than once where the folder has fewer."""
        if self.folders is not None:
            folder = self.folders[side]
            rows = np.random.default_rng(seed).choice(len(folder), texts, replace=texts > len(folder))
            return folder.read(np.sort(rows))
        kept, width = self.model.student.kept_vectors[side], self.model.student.vector_width
        tokens = torch.randn(texts, kept, width, generator=torch.Generator().manual_seed(2 * seed + side))
        return TokenRepresentations(tokens, torch.ones(texts, kept, dtype=torch.bool))

    def prepared(self, kernel: Kernel, side: int, like: Any, count: int) -> Any:
        """So many texts as the kernel takes them; as many at a time as `like` has, so that tokens take no memory together."""
        texts, step = kernel.form.room(like, count), len(like)
        for start in range(0, count, step):
            part = self.of(side, min(step, count - start), 1 + start)
            kernel.form.put(texts, start, kernel.prepare(part, side))
        return texts
