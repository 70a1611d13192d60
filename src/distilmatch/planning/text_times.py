"""How long an encoder takes for a text."""

from __future__ import annotations

import time
from collections.abc import Sequence

from distilmatch.estimates import spread_batches
from distilmatch.models import DiPair
from distilmatch.runtime import Precision

_SECONDS = 3.0
_TEXTS_BATCH = 64


def text_seconds(model: DiPair, texts: Sequence[str], side: int, precision: Precision) -> float:
    """Seconds in which the encoder reads a text, measured on batches of all the lengths there are."""
    lengths = [len(text) for text in texts]
    middle = [texts[i] for i in spread_batches(lengths, _TEXTS_BATCH, 1)[0]]
    for _ in range(2):  # the first call takes longer
        started = time.perf_counter()
        model.encode_kept(middle, side, precision=precision, show_progress_bar=False)
    batches = max(3, min(32, round(_SECONDS / 2 / (time.perf_counter() - started))))
    chosen = [texts[i] for batch in spread_batches(lengths, _TEXTS_BATCH, batches) for i in batch]
    started = time.perf_counter()
    model.encode_kept(chosen, side, precision=precision, show_progress_bar=False)
    return (time.perf_counter() - started) / len(chosen)
