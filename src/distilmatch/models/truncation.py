"""Truncated output sequences: which of a text's output tokens are kept (DiPair, section 3.2).

Shape legend: n texts; t tokens of the padded input; k kept tokens; h width of the encoder.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from distilmatch.config.pairs import KeptStrategy


def keep_tokens(
    states: torch.Tensor, mask: torch.Tensor, kept: int, strategy: KeptStrategy
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `kept` vectors of each text, and which of them are real.

    Args:
        states: (n, t, h) output tokens of right-padded texts.
        mask: (n, t), non-zero for a real token; every text has one at least.
        kept: k.
        strategy: see `StudentConfig.kept_strategy`.

    Returns:
        (n, k, h) in the dtype of `states`, zero where masked, and (n, k) bool.
    """
    mask = mask.bool()
    if strategy == "first":
        return _first(states, mask, kept)
    if strategy == "first_pooled":
        weights = mask.to(states.dtype)[:, :, None]
        mean = (states * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        first, first_mask = _first(states, mask, kept - 1)
        return torch.cat([mean, first], 1), torch.cat([torch.ones_like(mask[:, :1]), first_mask], 1)
    if strategy == "averaged":
        return _averaged(states, mask, kept)
    lengths = mask.sum(1, keepdim=True)
    steps = torch.arange(kept, device=states.device)[None, :]
    index = torch.where(lengths > kept, steps * lengths // kept, steps)
    kept_mask = steps < lengths
    index = torch.where(kept_mask, index, 0)
    chosen = states.gather(1, index[:, :, None].expand(-1, -1, states.shape[2]))
    return chosen * kept_mask[:, :, None].to(states.dtype), kept_mask


def _first(states: torch.Tensor, mask: torch.Tensor, kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    missing = max(0, kept - states.shape[1])
    chosen = pad(states[:, :kept], (0, 0, 0, missing))
    chosen_mask = pad(mask[:, :kept], (0, missing))
    return chosen * chosen_mask[:, :, None].to(chosen.dtype), chosen_mask


def _averaged(states: torch.Tensor, mask: torch.Tensor, kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first token, and the others where they fit; else the means of k - 1 runs of them, as even as can be."""
    lengths = mask.sum(1)[:, None]
    place = torch.arange(mask.shape[1], device=mask.device)[None, :]
    runs = (lengths - 1).clamp(max=kept - 1)  # of each text; 0 where one vector is all
    # Run j holds the tokens 1 + floor(j (length - 1) / runs) to the next one's: token i lies in ceil(i runs / (length - 1)).
    run = torch.where(
        place == 0, 0, (place * runs + lengths - 2).div((lengths - 1).clamp(min=1), rounding_mode="floor")
    )
    belongs = (run[:, None, :] == torch.arange(kept, device=mask.device)[None, :, None]) & mask[:, None, :]
    counts = belongs.sum(2)
    weights = belongs.to(states.dtype) / counts.clamp(min=1)[:, :, None].to(states.dtype)
    return weights @ states, counts > 0
