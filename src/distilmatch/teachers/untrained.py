"""What an encoder says of pairs before it has learnt a task: the cosine of its mean vectors, and MaxSim of its tokens.

Shape legend: n rows; t texts; l tokens of the longest of them; d width of the encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import PreTrainedModel

from distilmatch.concurrency import frozen_tokenizer, own_view
from distilmatch.data.tokenising import length_chunks, length_order, pad_batch
from distilmatch.errors import ModelError
from distilmatch.pretrained.positions import position_limit
from distilmatch.pretrained.sentence import load_sentence_encoder
from distilmatch.pretrained.tokenizers import pad_id
from distilmatch.runtime import Precision, autocast
from distilmatch.types import TupleTable

_WINDOW = 512  # pairs whose token vectors are in memory at once
_MOST_TOKENS = 8192  # of a forward pass, padding included


@torch.inference_mode()
def untrained_scores(
    model: str | Path | CrossEncoder | SentenceTransformer,
    table: TupleTable,
    *,
    max_length: int = 128,
    device: str | None = None,
    precision: Precision = "fp32",
) -> dict[str, np.ndarray]:
    """Scores of the first two texts of each row, each text encoded by itself; a head or a pooling of the model is not read.

    "cosine" is that of the means over all tokens of a text. "maxsim" is, for each token of the left text, the largest cosine
    with a token of the right one, and of these the mean: the sum of ColBERT (Khattab and Zaharia 2020, arXiv 2004.12832,
    section 3.3) divided by the number of the left text's tokens, so that lengths do not matter. Special tokens count in the
    mean and not in MaxSim, padding in neither.

    Args:
        model: a folder, a hub name, or a loaded model, of which nothing is changed.
        max_length: tokens a text; cut to the encoder's positions.
        device: of a model given by name; None for the best one here.

    Returns:
        "cosine" and "maxsim", (n,) float32 from -1 to 1 each.

    Raises:
        ConfigError: no such folder or device.
        ModelError: the model cannot be loaded, has no transformer, or gives numbers that are not finite.
    """
    loaded = load_sentence_encoder(model, device=device) if isinstance(model, str | Path) else model
    encoder, tokenizer = _parts(loaded)
    limit = min(max_length, position_limit(encoder))
    scores = {name: np.empty(len(table), dtype=np.float32) for name in ("cosine", "maxsim")}
    rows = table.rows[:, :2]
    order = np.lexsort((rows[:, 1], rows[:, 0]))  # rows that share a text meet in one window
    for start in range(0, len(order), _WINDOW):
        window = order[start : start + _WINDOW]
        used, places = np.unique(rows[window], return_inverse=True)
        means, tokens = _encoded(encoder, tokenizer, [table.texts[i] for i in used], limit, precision)
        places = places.reshape(len(window), 2)
        scores["cosine"][window] = (means[places[:, 0]] * means[places[:, 1]]).sum(-1).numpy()
        scores["maxsim"][window] = [
            float((tokens[left] @ tokens[right].T).max(1).values.mean()) if len(tokens[left]) and len(tokens[right]) else 0
            for left, right in places
        ]  # fmt: skip
    wrong = ~(np.isfinite(scores["cosine"]) & np.isfinite(scores["maxsim"]))
    if wrong.any():
        raise ModelError(
            f"the encoder's vectors of row {int(np.argmax(wrong)) + 1} are not finite ({int(wrong.sum())} such rows): check its "
            "weights, or use precision fp32"
        )
    return scores


def _parts(model: Any) -> tuple[Any, Any]:
    """The encoder below a model's head or pooling, in evaluation mode, and its tokenizer."""
    whole = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if whole is None:
        raise ModelError(
            f"a {type(model[0]).__name__} model has no transformer whose tokens could be compared: name one of the BERT kind"
        )
    base: Any = own_view(whole).base_model
    return (base.get_encoder() if getattr(base.config, "is_encoder_decoder", False) else base), model.tokenizer


def _encoded(
    encoder: Any, tokenizer: Any, texts: list[str], limit: int, precision: Precision
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(t, d) means of length one, and of each text its tokens of length one without the special ones; fp32, on the CPU."""
    asked = frozen_tokenizer(tokenizer, limit)(
        texts,
        truncation=True,
        max_length=limit,
        padding=False,
        return_attention_mask=False,
        return_special_tokens_mask=True,
    )
    ids, special = asked["input_ids"], asked["special_tokens_mask"]
    lengths = [len(text) for text in ids]
    order, _ = length_order(lengths)
    means: list[Any] = [None] * len(texts)
    tokens: list[Any] = [None] * len(texts)
    for chunk in _chunks([lengths[i] for i in order]):
        batch = order[chunk]
        padded = pad_batch([ids[i] for i in batch], pad_id(tokenizer))
        on_device = {name: value.to(encoder.device) for name, value in padded.items()}
        with autocast(precision, encoder.device):
            hidden = encoder(**on_device).last_hidden_state
        for i, vectors in zip(batch, hidden.float().cpu(), strict=True):
            own = vectors[: lengths[i]]
            means[i] = torch.nn.functional.normalize(own.mean(0), dim=-1)
            ordinary = ~torch.tensor(special[i], dtype=torch.bool)
            tokens[i] = torch.nn.functional.normalize(own[ordinary], dim=-1)
    return torch.stack(means), tokens


def _chunks(lengths: list[int]) -> list[slice]:
    """Slices of texts that are sorted by length, with little padding and few enough tokens for memory."""
    chunks = []
    for chunk in length_chunks(lengths):
        texts = max(1, _MOST_TOKENS // max(lengths[chunk.start], 1))
        starts = range(chunk.start, chunk.stop, texts)
        chunks += [slice(start, min(start + texts, chunk.stop)) for start in starts]
    return chunks
