"""Students without layers: token embeddings as model2vec makes them.

Shape legend: v tokens of the vocabulary; h width of the source; d width of the student.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from distilmatch.errors import ConfigError, ModelError

_TOKEN_BATCH = 1024


def static_embedding(source: SentenceTransformer, width: int | None) -> StaticEmbedding:
    """Token embeddings as model2vec makes them: what the model gives each token of its vocabulary by itself, centred, on
    its first `width` principal components.
    """
    if isinstance(source[0], StaticEmbedding):
        weights = source[0].embedding.weight.detach().float().cpu().numpy()
        backend: Any = source[0].tokenizer
    else:
        tokenizer: Any = source.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError("a static student needs a fast tokenizer, and this model has none: name another `encoder`")
        weights = _token_embeddings(source, tokenizer, backend.get_vocab_size())
    if width is not None and width > weights.shape[1]:
        raise ConfigError(f"a static student of width {width} cannot begin with embeddings {weights.shape[1]} wide")
    weights = weights - weights.mean(axis=0)
    if width is not None and width < weights.shape[1]:
        _, vectors = np.linalg.eigh(weights.T @ weights)
        weights = weights @ vectors[:, ::-1][:, :width]
    untruncated = Tokenizer.from_str(backend.to_str())
    untruncated.no_truncation()
    return StaticEmbedding(
        untruncated, embedding_weights=torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32))
    )


@torch.inference_mode()
def _token_embeddings(source: SentenceTransformer, tokenizer: Any, size: int) -> np.ndarray:
    """(v, d) float32, each token between the tokenizer's special ones; zeros for tokens that the model does not know."""
    table = getattr(source[0], "model", None)
    known = size
    if isinstance(table, PreTrainedModel):
        known = min(size, len(cast(Any, table.get_input_embeddings()).weight))
    special = tokenizer("")["input_ids"]
    before, after = special[:1], special[1:]
    modules = [module for module in source if not isinstance(module, Normalize)]
    out = []
    for start in range(0, known, _TOKEN_BATCH):
        ids = torch.tensor([[*before, token, *after] for token in range(start, min(known, start + _TOKEN_BATCH))])
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        features = {name: value.to(source.device) for name, value in features.items()}
        for module in modules:
            features = module(features)
        out.append(features["sentence_embedding"].float().cpu().numpy())
    embeddings = np.concatenate(out)
    return np.concatenate([embeddings, np.zeros((size - known, embeddings.shape[1]), dtype=np.float32)])
