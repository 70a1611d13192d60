"""What a model reads of a mixture of two texts: word embeddings in place of tokens.

Shape legend: n mixtures; t tokens; e width of the word embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from distilmatch.errors import ModelError
from distilmatch.pretrained.sentence import input_embeddings


def mixed_words(encoder: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(n, t, e) means of the word embeddings of two texts (MixKD, Liang et al. 2021, eq. 3), with a gradient.

    Args:
        batch: as of `distilmatch.data.mixtures.mixed_batch`.

    Raises:
        ModelError: the encoder has no word embeddings.
    """
    table = input_embeddings(encoder)
    if table is None:
        raise ModelError(f"a {type(encoder).__name__} has no word embeddings to mix: leave `transfer.mixtures` out")
    first, second = table(batch["input_ids"]), table(batch["mixed_ids"])
    return torch.lerp(second, first, batch["shares"].to(first.dtype)[:, None, None])
