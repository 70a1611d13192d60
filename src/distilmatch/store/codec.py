"""How token representations are written down: fp32 exactly, fp16 and bf16 rounded to nearest.

Shape legend: n texts; k kept tokens; d width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch

from distilmatch.errors import CacheError

StoredDtype = Literal["float32", "float16", "bfloat16"]
STORED_DTYPES: tuple[StoredDtype, ...] = get_args(StoredDtype)

_TORCH_DTYPES: dict[StoredDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def torch_dtype(dtype: StoredDtype) -> torch.dtype:
    """The PyTorch dtype of a stored one."""
    return _TORCH_DTYPES[dtype]


def bytes_per_item(kept_tokens: int, width: int, dtype: StoredDtype) -> int:
    """Bytes that one text takes on disk: its (kept_tokens, width) array and its mask, one byte a token."""
    return kept_tokens * (width * _TORCH_DTYPES[dtype].itemsize + 1)


def encode_tokens(
    tokens: torch.Tensor, dtype: StoredDtype, name_row: Callable[[int], str] = lambda row: f"row {row}"
) -> torch.Tensor:
    """`tokens`, (n, k, d) floating on any device, as `dtype` on the CPU, contiguous.

    Args:
        name_row: what an error calls the row at an index of `tokens`.

    Raises:
        CacheError: a row holds NaN or infinity, or a value too large for `dtype`; the message names it.
    """
    tokens = tokens.detach().cpu()
    finite = torch.isfinite(tokens)
    if not finite.all():
        row = int((~finite).flatten(1).any(1).nonzero()[0, 0])
        raise CacheError(
            f"the representation of {name_row(row)} holds NaN or infinity, it was not written; "
            "check the model (its training may have diverged), or encode in fp32"
        )
    stored = tokens.to(_TORCH_DTYPES[dtype]).contiguous()
    finite = torch.isfinite(stored)
    if not finite.all():
        row = int((~finite).flatten(1).any(1).nonzero()[0, 0])
        largest = float(tokens[row].abs().max())
        raise CacheError(
            f"the representation of {name_row(row)} does not fit {dtype}: its largest value is {largest:.6g}, "
            f"the largest {dtype} is {torch.finfo(stored.dtype).max:.6g}; use float32"
        )
    return stored


def decode_tokens(stored: torch.Tensor) -> torch.Tensor:
    """Stored tokens, (n, k, d) in any stored dtype, as fp32."""
    return stored.to(torch.float32)
