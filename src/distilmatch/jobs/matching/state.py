"""What a match has found since its last part: the best so far of some texts, and where the scan is. Whole or not there.

Shape legend: g left texts at work; b right texts of the block at work; k best.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from distilmatch.engine.scan import Place
from distilmatch.errors import CacheError
from distilmatch.files import checksum_tensors, move_into_place, writing

Found = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class MatchState:
    """A match at work.

    Attributes:
        rows: of the left side.
        place: how far their scan is.
        of_left: (g, k) fp32 scores of the best so far, and (g, k) int64 right rows.
        of_right: the same of the right texts of the block at work, (b, k), with left rows counted from the first of `rows`;
            None without, and where the block has met all of them.
    """

    rows: range
    place: Place
    of_left: Found
    of_right: Found | None = None

    def save(self, path: Path) -> None:
        """Writes it in the place of an earlier one.

        Raises:
            CacheError: it cannot be written.
        """
        tensors: dict[str, torch.Tensor] = {}
        for name, found in (("left", self.of_left), ("right", self.of_right)):
            if found is not None:
                tensors |= {f"{name}_scores": torch.from_numpy(found[0]), f"{name}_rows": torch.from_numpy(found[1])}
        numbers = [self.rows.start, self.rows.stop, self.place.first, self.place.last, self.place.row]
        tensors["numbers"] = torch.tensor(numbers)
        temporary = path.with_suffix(".writing")
        with writing(path):
            save_file(tensors, temporary, metadata={"xxh3": checksum_tensors(tensors)})
            move_into_place(temporary, path)

    @classmethod
    def load(cls, path: Path) -> MatchState | None:
        """The state of a file; None where there is none.

        Raises:
            CacheError: it is damaged.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
                told = (file.metadata() or {}).get("xxh3")
            if told != checksum_tensors(tensors):
                raise ValueError("it is not what its checksum says")
            start, stop, first, last, row = tensors["numbers"].tolist()
            found = {
                name: (tensors[f"{name}_scores"].numpy(), tensors[f"{name}_rows"].numpy())
                for name in ("left", "right")
                if f"{name}_scores" in tensors
            }
            return cls(
                rows=range(start, stop),
                place=Place(first=first, last=last, row=row),
                of_left=found["left"],
                of_right=found.get("right"),
            )
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise CacheError(
                f"{path} is damaged ({error}); delete it and run the same command again: it goes on after the last whole part"
            ) from error
