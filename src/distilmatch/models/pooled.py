"""One vector for a whole text, of its representation.

Shape legend: n texts; d width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize

from distilmatch.models.dipair import DiPair
from distilmatch.models.heads import ComparingHead, mean_token
from distilmatch.types import TokenRepresentations


@torch.no_grad()
def pooled_vectors(model: DiPair, texts: TokenRepresentations) -> np.ndarray:
    """(n, d) fp32 vectors of length one, whose inner products are the texts' similarity to the head."""
    head = model.head
    texts = texts.to(model.device)
    if isinstance(head, ComparingHead):
        texts, _ = head.parted(texts)
    if isinstance(head, ComparingHead) and head.similarities is not None:
        vectors = head.similarities.vectors(texts)
    else:
        vectors = normalize(mean_token(texts), dim=-1)
    return np.ascontiguousarray(vectors.float().cpu().numpy())
