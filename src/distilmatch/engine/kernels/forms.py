"""What a kernel's prepared texts are in memory, and how they are cut, put together and kept in files.

Shape legend: n texts; f hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from distilmatch.engine.heads.base import FoldedTexts

_BYTES, _FACTS, _SUMMAND = "bytes", "facts", "summand"


class Form(Protocol):
    """The prepared texts of one kernel. Of other bytes than `tensors` gave, `opened` raises ValueError."""

    def part(self, prepared: Any, start: int, stop: int) -> Any:
        """Texts `start` to `stop`, in the same memory."""
        ...

    def room(self, like: Any, count: int) -> Any:
        """Room for `count` texts of the kind of `like`, which `put` fills."""
        ...

    def put(self, room: Any, start: int, prepared: Any) -> None:
        """Copies texts to the places of `room` from `start` on."""
        ...

    def tensors(self, prepared: Any) -> dict[str, torch.Tensor]:
        """What a file keeps of them: tensors in the CPU's memory, contiguous."""
        ...

    def opened(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """The texts of what `tensors` gave; they may look at its memory."""
        ...


@dataclass(frozen=True)
class TorchTexts:
    """Folded texts of one side, n of each tensor."""

    texts: FoldedTexts

    def __len__(self) -> int:
        return len(next(iter(self.texts.values())))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(tensor.nbytes for tensor in self.texts.values())


class TensorForm:
    """`TorchTexts` on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def part(self, prepared: TorchTexts, start: int, stop: int) -> TorchTexts:
        """As `Form.part`."""
        return TorchTexts({name: tensor[start:stop] for name, tensor in prepared.texts.items()})

    def room(self, like: TorchTexts, count: int) -> TorchTexts:
        """As `Form.room`."""
        shapes = {name: (count, *tensor.shape[1:]) for name, tensor in like.texts.items()}
        return TorchTexts({name: like.texts[name].new_empty(shape) for name, shape in shapes.items()})

    def put(self, room: TorchTexts, start: int, prepared: TorchTexts) -> None:
        """As `Form.put`."""
        for name, tensor in prepared.texts.items():
            room.texts[name][start : start + len(tensor)] = tensor

    def tensors(self, prepared: TorchTexts) -> dict[str, torch.Tensor]:
        """As `Form.tensors`."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in prepared.texts.items()}

    def opened(self, tensors: Mapping[str, torch.Tensor]) -> TorchTexts:
        """As `Form.opened`."""
        if not tensors or len({len(tensor) for tensor in tensors.values()}) != 1:
            raise ValueError("its tensors are not of equally many texts")
        return TorchTexts({name: tensor.to(self.device) for name, tensor in tensors.items()})


class ArrayForm:
    """(n, f) fp32 arrays, of a feed-forward head in the native kernel."""

    def part(self, prepared: np.ndarray, start: int, stop: int) -> np.ndarray:
        """As `Form.part`."""
        return prepared[start:stop]

    def room(self, like: np.ndarray, count: int) -> np.ndarray:
        """As `Form.room`."""
        return np.empty((count, like.shape[1]), dtype=like.dtype)

    def put(self, room: np.ndarray, start: int, prepared: np.ndarray) -> None:
        """As `Form.put`."""
        room[start : start + len(prepared)] = prepared

    def tensors(self, prepared: np.ndarray) -> dict[str, torch.Tensor]:
        """As `Form.tensors`."""
        return {_SUMMAND: torch.from_numpy(np.ascontiguousarray(prepared))}

    def opened(self, tensors: Mapping[str, torch.Tensor]) -> np.ndarray:
        """As `Form.opened`."""
        summand = tensors.get(_SUMMAND)
        if summand is None or summand.dtype != torch.float32 or summand.dim() != 2:
            raise ValueError("it holds no summands of texts")
        return summand.numpy()


class PackedForm:
    """Texts that the native kernel has packed for a transformer head."""

    def __init__(self, native: Any) -> None:
        self.kinds = (native.LeftTexts, native.RightTexts)

    def part(self, prepared: Any, start: int, stop: int) -> Any:
        """As `Form.part`."""
        return prepared.part(start, stop)

    def room(self, like: Any, count: int) -> Any:
        """As `Form.room`."""
        return type(like).room(count, _numbers(like.facts))

    def put(self, room: Any, start: int, prepared: Any) -> None:
        """As `Form.put`."""
        room.put(start, prepared)

    def tensors(self, prepared: Any) -> dict[str, torch.Tensor]:
        """As `Form.tensors`."""
        facts = [self.kinds.index(type(prepared)), len(prepared), *_numbers(prepared.facts)]
        return {_BYTES: torch.from_numpy(prepared.packed_bytes()), _FACTS: torch.tensor(facts)}

    def opened(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """As `Form.opened`."""
        packed, facts = tensors.get(_BYTES), tensors.get(_FACTS)
        if packed is None or facts is None or len(facts) < 2 or int(facts[0]) not in (0, 1):
            raise ValueError("it holds no packed texts")
        return self.kinds[int(facts[0])].opened(packed.numpy(), int(facts[1]), facts[2:].tolist())


def _numbers(facts: tuple[Any, ...]) -> list[int]:
    return [int(fact) for fact in facts]
