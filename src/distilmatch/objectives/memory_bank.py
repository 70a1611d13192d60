"""The memory bank of contrastive distillation: earlier embeddings of the teacher, first in, first out.

Shape legend: n texts; c capacity; k embeddings held, at most c; d width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import normalize

from distilmatch.errors import CacheError, ConfigError


class MemoryBank:
    """The last `capacity` embeddings of the teacher, normalised (DisCo, section 3.2); none of them takes a gradient.

    Only the teacher's are kept, and the teacher does not change, so that old ones are as good as new and no momentum
    encoder is needed. The bank is part of a run's state: `state_dict` goes with a checkpoint.

    Args:
        capacity: c, 1 or more; 65,536 in the paper.
        width: d.
        dtype, device: of the embeddings held.

    Raises:
        ConfigError: a capacity or width below 1.
    """

    def __init__(
        self,
        capacity: int,
        width: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        if capacity < 1 or width < 1:
            raise ConfigError(f"a memory bank needs a capacity and a width of 1 or more, not {capacity} and {width}")
        self.capacity = capacity
        self.width = width
        self._embeddings = torch.zeros(capacity, width, dtype=dtype, device=device)
        self._ids = torch.full((capacity,), -1, dtype=torch.int64, device=device)
        self._next = 0
        self._held = 0

    def __len__(self) -> int:
        return self._held

    @property
    def embeddings(self) -> torch.Tensor:
        """(k, d), of length one, in no certain order; a view that the next `push` changes, so that it comes after the
        backward pass of a loss that read it.
        """
        return self._embeddings[: self._held]

    @property
    def ids(self) -> torch.Tensor:
        """(k,) int64, which text each of `embeddings` is; -1 where that was not said."""
        return self._ids[: self._held]

    def ordered(self) -> torch.Tensor:
        """(k, d), a copy, the oldest first."""
        shift = -self._next if self._held == self.capacity else 0
        return self.embeddings.roll(shift, dims=0)

    @torch.no_grad()
    def push(self, embeddings: torch.Tensor, ids: torch.Tensor | None = None) -> None:
        """Takes (n, d) embeddings in, normalised, in their order; the oldest make room.

        Args:
            ids: (n,) int64, which text each is.

        Raises:
            ConfigError: embeddings of another width.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
            raise ConfigError(f"this memory bank holds rows of width {self.width}, not of shape {embeddings.shape}")
        start = max(0, len(embeddings) - self.capacity)
        newest = normalize(embeddings[start:].float(), dim=-1).to(self._embeddings)
        places = (self._next + torch.arange(len(newest), device=self._ids.device)) % self.capacity
        self._embeddings[places] = newest
        self._ids[places] = -1 if ids is None else ids[start:].to(self._ids)
        self._next = (self._next + len(newest)) % self.capacity
        self._held = min(self.capacity, self._held + len(newest))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What is held: `embeddings` (k, d), `ids` (k,), and `next`, the place (1,) that the next one takes."""
        return {
            "embeddings": self.embeddings.clone(),
            "ids": self.ids.clone(),
            "next": torch.tensor([self._next]),
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Puts back what `state_dict` gave, place by place.

        Raises:
            CacheError: a part is missing, or it is of a bank of another width or capacity.
        """
        missing = sorted({"embeddings", "ids", "next"} - set(state))
        if missing:
            raise CacheError(f"this is no state of a memory bank: it lacks {', '.join(missing)}")
        held, place = state["embeddings"], int(state["next"])
        full = len(held) == self.capacity
        if held.shape[1:] != (self.width,) or len(state["ids"]) != len(held):
            raise CacheError(
                f"the saved memory bank has shape {tuple(held.shape)}, this one rows of width {self.width}"
            )
        if len(held) > self.capacity or place >= self.capacity or (not full and place != len(held)):
            raise CacheError(
                f"the saved memory bank ({len(held)} rows, next place {place}) is not of capacity {self.capacity}: "
                "go on with the `bank_size` that the run was started with"
            )
        self._embeddings[: len(held)] = held.to(self._embeddings)
        self._ids[: len(held)] = state["ids"].to(self._ids)
        self._next, self._held = place, len(held)
