"""Stage 1's cache: with frozen encoders nothing below the projection changes, so every text is encoded once.

Shape legend: n texts; k kept tokens; h width of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from distilmatch.models import DiPair
from distilmatch.runtime import Precision, write_json
from distilmatch.types import TupleTable

_CHUNK = 4096


class KeptOutputs:
    """The kept encoder outputs of a side's texts, fp16 in memory-mapped files.

    Args:
        folder: written by `cache_kept_outputs`.
        row_of_text: (texts,) int64, row of each text of the table, -1 for one that the side never holds.
    """

    def __init__(self, folder: Path, row_of_text: np.ndarray) -> None:
        self.states = np.load(folder / "states.npy", mmap_mode="r")
        self.mask = np.load(folder / "mask.npy", mmap_mode="r")
        self.row_of_text = row_of_text

    def take(self, texts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, k, h) fp32 outputs and (n, k) bool mask of texts, by their numbers in the table."""
        rows = self.row_of_text[texts]
        assert (rows >= 0).all()
        return torch.from_numpy(self.states[rows].astype(np.float32)), torch.from_numpy(self.mask[rows])


def cache_kept_outputs(
    model: DiPair, table: TupleTable, folder: Path, precision: Precision, write: bool = True
) -> list[KeptOutputs]:
    """Encodes every distinct text of each side once and opens the cache; a finished side is not encoded again.

    Sides that read the same stream and keep the same tokens share one cache.

    Args:
        folder: where the arrays go.
        precision: of the encoder.
        write: False only opens what another process has written.
    """
    student = model.student
    keys = [(model.side_streams[side], student.kept_tokens[side]) for side in range(student.sides)]
    outputs: list[KeptOutputs] = []
    for side, key in enumerate(keys):
        if key in keys[:side]:
            outputs.append(outputs[keys.index(key)])
            continue
        used = np.unique(np.concatenate([table.rows[:, j] for j, other in enumerate(keys) if other == key]))
        row_of_text = np.full(len(table.texts), -1, dtype=np.int64)
        row_of_text[used] = np.arange(len(used))
        own = folder / f"side_{side}"
        if write and not (own / "complete.json").is_file():
            _write(model, [table.texts[i] for i in used], side, own, precision)
        outputs.append(KeptOutputs(own, row_of_text))
    return outputs


def _write(model: DiPair, texts: Sequence[str], side: int, folder: Path, precision: Precision) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kept = model.student.kept_tokens[side]
    width = model.encoder_width(side)
    states = np.lib.format.open_memmap(
        folder / "states.npy", mode="w+", dtype=np.float16, shape=(len(texts), kept, width)
    )
    mask = np.lib.format.open_memmap(folder / "mask.npy", mode="w+", dtype=np.bool_, shape=(len(texts), kept))
    for start in range(0, len(texts), _CHUNK):
        part, part_mask = model.encode_kept(texts[start : start + _CHUNK], side, precision=precision)
        states[start : start + _CHUNK] = part.numpy().astype(np.float16)
        mask[start : start + _CHUNK] = part_mask.numpy()
    states.flush()
    mask.flush()
    write_json(folder / "complete.json", {"texts": len(texts)})
