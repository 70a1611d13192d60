"""How token representations are written down: fp32 exactly, fp16 and bf16 rounded, int8 in steps of a scale a token.

int8 is symmetric: a token x is stored as integers q of -127 to 127 and one scale s, about max |x| / 127, and read as q s. As
q is x / s rounded to the nearest (ties to even), |x - q s| <= s / 2 for every number; this holds exactly, not up to
rounding, because the scale has so few bits that q s is exact in fp32. A token of zeros has the scale 0 and stays zero.

Scales are fp32: fp16 has none for tokens beyond 8e6, loses bits where the largest number is below 8e-3, and would save 2 bytes
beside the d of a token.

Shape legend: n texts; k kept tokens; d width; m texts asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from distilmatch.arguments import number_format, one_of
from distilmatch.errors import CacheError
from distilmatch.types import TokenRepresentations

StoredDtype = Literal["float32", "float16", "bfloat16", "int8"]
STORED_DTYPES: tuple[StoredDtype, ...] = get_args(StoredDtype)
_SETTINGS: dict[str, StoredDtype] = {str(number_format(dtype)): dtype for dtype in STORED_DTYPES}

_TORCH_DTYPES: dict[StoredDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
_SCALE_DTYPE = torch.float32
_LARGEST_INTEGER = 127
_SCALE_BITS_DROPPED = 8  # of fp32's 24: the 16 that stay and the 7 of an integer fit into 24 again


def stored_dtype(setting: str, value: str) -> StoredDtype:
    """What files call the number format that a setting names: fp32, fp16, bf16 or int8, or already as files do.

    Raises:
        ConfigError: there is no such format; `setting` is what the message calls it.
    """
    known = number_format(value)
    one_of(setting, known, tuple(_SETTINGS))
    return _SETTINGS[known]


@dataclass(frozen=True, kw_only=True)
class StoredTokens:
    """n texts as a shard holds them.

    Attributes:
        tokens: (n, k, d) in the stored dtype.
        mask: (n, k) uint8, 1 for a real token.
        scales: (n, k) fp32, by which the integers of a token are multiplied; None where tokens are floating.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    scales: torch.Tensor | None = None

    @classmethod
    def joined(cls, batches: Sequence[StoredTokens]) -> StoredTokens:
        """The texts of `batches`, which are of one dtype, one after another."""
        if len(batches) == 1:
            return batches[0]
        columns = [batch.arrays() for batch in batches]
        return cls(**{name: torch.cat([column[name] for column in columns]) for name in columns[0]})

    def arrays(self) -> dict[str, torch.Tensor]:
        """The arrays by name, as `array_layout` describes them."""
        arrays = {"tokens": self.tokens, "mask": self.mask}
        return arrays if self.scales is None else arrays | {"scales": self.scales}

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> StoredTokens:
        return StoredTokens(**{name: array[rows] for name, array in self.arrays().items()})

    def take(self, rows: torch.Tensor) -> StoredTokens:
        """The texts at `rows`, (m,) int64, copied."""
        return StoredTokens(**{name: array.index_select(0, rows) for name, array in self.arrays().items()})


def array_layout(
    dtype: StoredDtype, rows: int, kept_tokens: int, width: int
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """PyTorch dtype and shape of every array in a shard of so many rows."""
    layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "tokens": (_TORCH_DTYPES[dtype], (rows, kept_tokens, width)),
        "mask": (torch.uint8, (rows, kept_tokens)),
    }
    if not _TORCH_DTYPES[dtype].is_floating_point:
        layout["scales"] = (_SCALE_DTYPE, (rows, kept_tokens))
    return layout


def bytes_per_item(kept_tokens: int, width: int, dtype: StoredDtype) -> int:
    """Bytes that one text takes on disk: its (kept_tokens, width) array, its mask and, in int8, its scales."""
    arrays = array_layout(dtype, 1, kept_tokens, width).values()
    return sum(array_dtype.itemsize * math.prod(shape) for array_dtype, shape in arrays)


def encode_tokens(
    texts: TokenRepresentations, dtype: StoredDtype, name_row: Callable[[int], str] = lambda row: f"row {row}"
) -> StoredTokens:
    """`texts`, floating and on any device, as `dtype` on the CPU, contiguous.

    Args:
        name_row: what an error calls the row at an index of `texts`.

    Raises:
        CacheError: a row holds NaN or infinity, or a value too large for `dtype`; the message names it.
    """
    tokens = texts.tokens.detach().cpu()
    finite = torch.isfinite(tokens)
    if not finite.all():
        row = int((~finite).flatten(1).any(1).nonzero()[0, 0])
        raise CacheError(
            f"the representation of {name_row(row)} holds NaN or infinity, it was not written; "
            "check the model (its training may have diverged), or encode in fp32"
        )
    # int8 holds whatever its scale does.
    range_dtype = _TORCH_DTYPES[dtype] if _TORCH_DTYPES[dtype].is_floating_point else _SCALE_DTYPE
    values = tokens.to(range_dtype).contiguous()
    finite = torch.isfinite(values)
    if not finite.all():
        row = int((~finite).flatten(1).any(1).nonzero()[0, 0])
        largest = float(tokens[row].abs().max())
        raise CacheError(
            f"the representation of {name_row(row)} does not fit {dtype}: its largest value is {largest:.6g}, "
            f"the largest {dtype} is {torch.finfo(range_dtype).max:.6g}; use float32"
        )
    mask = texts.mask.to("cpu", torch.uint8).contiguous()
    if values.dtype == _TORCH_DTYPES[dtype]:
        return StoredTokens(tokens=values, mask=mask)
    scales = _scales(values)
    return StoredTokens(tokens=_integers(values, scales), mask=mask, scales=scales)


def decode_tokens(stored: StoredTokens) -> TokenRepresentations:
    """Stored texts as representations in fp32, (n, k, d)."""
    tokens = stored.tokens.to(torch.float32)
    if stored.scales is not None:
        tokens = tokens * stored.scales[..., None]
    return TokenRepresentations(tokens, stored.mask.bool())


def _scales(values: torch.Tensor) -> torch.Tensor:
    # (n, k) fp32 from (n, k, d) fp32. Not below the smallest normal number: under it fp32 loses bits, and a scale of
    # max |x| / 127 could round to 0. Low bits are cut off, not rounded, so that 127 scales never leave fp32; what that
    # takes from a scale is 2^-15 of it, and the largest number still rounds to 127.
    largest = values.abs().amax(-1)
    scales = (largest / _LARGEST_INTEGER).clamp_min(torch.finfo(_SCALE_DTYPE).tiny)
    scales = (scales.view(torch.int32) & -(1 << _SCALE_BITS_DROPPED)).view(_SCALE_DTYPE)
    return torch.where(largest > 0, scales, 0.0)


def _integers(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    # (n, k, d) int8. In fp64 a quotient beside a tie does not become one; a token at a time, so that little of it is
    # held in fp64.
    divisors = torch.where(scales > 0, scales, 1.0).double()
    integers = torch.empty(values.shape, dtype=torch.int8)
    for place in range(values.shape[1]):
        integers[:, place] = (values[:, place] / divisors[:, place, None]).round()
    return integers
