"""Stage 1's cache: with frozen encoders nothing below the projection changes, so every text is encoded once.

Shape legend: n texts; k kept tokens; h width of the encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distilmatch.errors import CacheError, ModelError
from distilmatch.files import check_checksums, file_checksums, read_json, reserve, write_json, writing
from distilmatch.fingerprint import fingerprint_tensors, text_key
from distilmatch.models import DiPair
from distilmatch.runtime import Precision
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)

_CHUNK = 4096
_STATES, _MASK, _COMPLETE = "states.npy", "mask.npy", "complete.json"


class KeptOutputs:
    """The kept encoder outputs of a side's texts, fp16 in memory-mapped files.

    Args:
        folder: written by `cache_kept_outputs`.
        row_of_text: (texts,) int64, row of each text of the table, -1 for one that the side never holds.
    """

    def __init__(self, folder: Path, row_of_text: np.ndarray) -> None:
        self.states = np.load(folder / _STATES, mmap_mode="r")
        self.mask = np.load(folder / _MASK, mmap_mode="r")
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

    Sides that read the same stream and keep the same tokens share one cache. One that is damaged, or of other texts or
    another encoder, is made anew.

    Args:
        folder: where the arrays go.
        precision: of the encoder.
        write: False only opens what another process has written.

    Raises:
        CacheError: the arrays cannot be written; or, with `write` False, what is there is damaged or of something else.
        ModelError: an encoder output that is not finite, or too large for fp16.
    """
    student = model.student
    keys = [(model.side_streams[side], student.kept_tokens[side]) for side in range(student.sides)]
    outputs: list[KeptOutputs] = []
    encoders = fingerprint_tensors(
        (f"{number}.{name}", tensor)
        for number, encoder in enumerate(model.encoders)
        for name, tensor in encoder.state_dict().items()
    )
    for side, key in enumerate(keys):
        if key in keys[:side]:
            outputs.append(outputs[keys.index(key)])
            continue
        used = np.unique(np.concatenate([table.rows[:, j] for j, other in enumerate(keys) if other == key]))
        row_of_text = np.full(len(table.texts), -1, dtype=np.int64)
        row_of_text[used] = np.arange(len(used))
        texts = [table.texts[i] for i in used]
        read_as: list[tuple[Any, ...]] = [stream.reading() for stream in model.streams]
        if model.student.lexical:
            read_as.append((fingerprint_tensors(_lexical_tensors(model)),))
        mark = text_key(f"{encoders} {key} {read_as} {precision}", texts).hex()
        side_folder = folder / f"side_{side}"
        problem = _problem(side_folder, mark)
        if problem is not None and write:
            if (side_folder / _COMPLETE).is_file():
                logger.warning("%s: %s; the texts are encoded again", side_folder, problem)
            _write(model, texts, side, side_folder, precision, mark)
        elif problem is not None:
            raise CacheError(
                f"the encoder outputs in {side_folder} cannot be used: {problem}; delete {folder} and run it again"
            )
        outputs.append(KeptOutputs(side_folder, row_of_text))
    return outputs


def _lexical_tensors(model: DiPair) -> dict[str, torch.Tensor]:
    """What lexical vectors depend on beside the text."""
    state = model.head_inputs.state_dict()
    return {name: tensor for name, tensor in state.items() if ".lexical." in name}


def _problem(folder: Path, mark: str) -> str | None:
    """Why the arrays of a folder cannot be used; None where they can."""
    try:
        said = read_json(folder / _COMPLETE)
        if not isinstance(said, dict) or said.get("of") != mark:
            return "they are of other texts, another encoder or an earlier version"
        check_checksums(folder, said.get("checksums"), "encoder outputs")
    except (OSError, ValueError, CacheError) as error:
        return str(error)
    return None


def _write(model: DiPair, texts: Sequence[str], side: int, folder: Path, precision: Precision, mark: str) -> None:
    kept = model.student.kept_vectors[side]
    width = model.encoder_width(side)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (_COMPLETE, _STATES, _MASK):  # what has them mapped keeps the old ones
            (folder / name).unlink(missing_ok=True)
        states = np.lib.format.open_memmap(
            folder / _STATES, mode="w+", dtype=np.float16, shape=(len(texts), kept, width)
        )
        mask = np.lib.format.open_memmap(folder / _MASK, mode="w+", dtype=np.bool_, shape=(len(texts), kept))
        for name in (_STATES, _MASK):
            reserve(folder / name)
    for start in range(0, len(texts), _CHUNK):
        chunk, chunk_mask = model.encode_kept(texts[start : start + _CHUNK], side, precision=precision)
        half = chunk.to(torch.float16)
        if not torch.isfinite(half).all():
            row = int((~torch.isfinite(half)).flatten(1).any(1).nonzero()[0])
            raise ModelError(
                f"what the encoder gives of the text {texts[start + row][:200]!r} is not finite, or too large for fp16 "
                f"({chunk[row].abs().max():.3g}); check its weights, or leave stage 1 out (`stage1.epochs: 0`)"
            )
        states[start : start + _CHUNK] = half.numpy()
        mask[start : start + _CHUNK] = chunk_mask.numpy()
    with writing(folder):
        states.flush()
        mask.flush()
        sums = file_checksums(folder, (_STATES, _MASK))
        write_json(folder / _COMPLETE, {"texts": len(texts), "of": mark, "checksums": sums})
