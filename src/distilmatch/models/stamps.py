"""What a set of representations says of itself, and whether it fits a model: side, model, shape and numbers.

Shape legend: n texts; k kept tokens; d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from distilmatch.errors import ModelError
from distilmatch.types import TokenRepresentations

LARGEST = 1e15  # what the squares of a normalisation in fp32 still hold
_SAMPLES = (0, 1, 2)  # of a tensor: its beginning, middle and end


class KnownFingerprints:
    """Fingerprints of what has not changed since they were taken; taking one reads all weights.

    A change is seen by the tensors themselves, where they lie, how often they were written to, and a few of their numbers, for
    what is written past PyTorch's counter (`weight.data.mul_`). A fingerprint that goes to disk is always taken anew.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, str]] = {}

    def get(self, key: Any, tensors: Iterable[torch.Tensor], take: Callable[[], str], *more: Any) -> str:
        """The fingerprint under `key`, by `take()` where `tensors` or `more` are not what they were."""
        seen = _seen(list(tensors))
        if seen is None:
            return take()
        known = self._known.get(key)
        if known is None or known[0] != (seen, more):
            known = (seen, more), take()
            self._known[key] = known
        return known[1]


def _seen(tensors: Sequence[torch.Tensor]) -> tuple[Any, ...] | None:
    """What shows a change of tensors, or None where nothing does."""
    if any(tensor.is_inference() or tensor.device.type == "meta" for tensor in tensors):
        return None  # their writes are not counted
    places = tuple((id(tensor), tensor.data_ptr(), tensor._version, tensor.dtype, tensor.shape) for tensor in tensors)
    samples = []
    filled = [tensor for tensor in tensors if tensor.numel()]
    for kind in dict.fromkeys((tensor.dtype, tensor.device) for tensor in filled):
        flat = [tensor.detach().reshape(-1) for tensor in filled if (tensor.dtype, tensor.device) == kind]
        picked = [numbers[place * (len(numbers) - 1) // 2] for numbers in flat for place in _SAMPLES]
        samples.append(torch.stack(picked).to("cpu").view(torch.uint8).numpy().tobytes())
    return places, tuple(samples)


def check_stamp(texts: TokenRepresentations, side: int, names: Sequence[str], model: Callable[[], str]) -> None:
    """Refuses representations that were encoded for another side or by another model; what says neither is accepted.

    Args:
        side: where they are given.
        names: of the sides.
        model: gives the fingerprint of the model that is to read them.

    Raises:
        ModelError: it says which is which.
    """
    if texts.side is not None and texts.side != side:
        stamped = names[texts.side] if 0 <= texts.side < len(names) else str(texts.side)
        raise ModelError(
            f"side {side} ({names[side]}) was given representations of side {texts.side} ({stamped}): give the sides in the "
            f"order {', '.join(names)}, each from encode(texts, side)"
        )
    if texts.model is not None and texts.model != model():
        raise ModelError(
            f"side {side} ({names[side]}) was given representations of a model {texts.model}, this model is {model()}: "
            "encode the texts again with this model (its weights may have changed since)"
        )


def check_shape(texts: TokenRepresentations, side: int, kept: int, width: int) -> None:
    """Refuses representations that are not (n, k, d) numbers with an (n, k) bool mask.

    Raises:
        ModelError: it says what they are and what is needed.
    """
    if tuple(texts.tokens.shape[1:]) != (kept, width):
        raise ModelError(
            f"side {side} holds {tuple(texts.tokens.shape[1:])} (tokens, width) a text, this model needs {(kept, width)}: "
            "encode it with this model and this side"
        )
    if not texts.tokens.is_floating_point() or texts.mask.dtype != torch.bool:
        raise ModelError(
            f"side {side} holds {texts.tokens.dtype} tokens with a {texts.mask.dtype} mask, not floating numbers with a "
            "torch.bool mask"
        )


def check_numbers(texts: TokenRepresentations, side: int, rows: np.ndarray | torch.Tensor | None = None) -> None:
    """Refuses texts without a real token, and numbers that nothing can be computed with.

    Args:
        rows: (n,) what messages call the rows; None for 0 to n - 1.

    Raises:
        ModelError: the first such row is named.
    """
    if not len(texts):
        return
    empty = ~texts.mask.any(1)
    # The largest magnitude is NaN where any number is.
    bad = ~(texts.tokens.abs().amax((1, 2)) < LARGEST)
    if not bool((empty | bad).any()):
        return
    first = int((empty | bad).nonzero()[0, 0])
    row = first if rows is None else int(rows[first])
    if bool(empty[first]):
        raise ModelError(
            f"side {side}: row {row} has no real token: its mask is False throughout; encode its text again"
        )
    raise ModelError(
        f"side {side}: row {row} holds numbers that are not finite or above {LARGEST:g} (NaN, Inf or damage): encode its "
        "text again"
    )
