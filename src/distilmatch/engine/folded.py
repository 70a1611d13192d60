"""Folded texts in files: chunks of a side, each folded once, written whole, and looked at where they lie.

A file is safetensors whose numbers begin at a multiple of 64 bytes, as the kernels like to read them. It says what it is of,
and its checksum; one that is of something else is not read, one that is damaged is refused.

Shape legend: n texts of a side.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from distilmatch.engine.kernels.forms import Form
from distilmatch.errors import CacheError
from distilmatch.files import checksum_tensors, move_into_place, writing

_ALIGNED = 64
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.uint8: "U8",
          torch.bool: "BOOL", torch.int8: "I8", torch.int32: "I32"}  # fmt: skip
_OF, _CHECKSUM = "of", "xxh3"


class FoldedFolder:
    """A folder of chunks of one side, folded by one kernel; several processes may use it.

    Attributes:
        path: the folder.
        made_of: the fingerprint without the cut, for another process that opens it.
        read_bytes: of all chunks that were opened, each time counted.
    """

    def __init__(self, path: Path, of: str, form: Form, made_of: str | None = None) -> None:
        """`of`: a fingerprint of model, kernel, side, texts and the cut into chunks."""
        self.path, self.of, self.form = path, of, form
        self.made_of = of if made_of is None else made_of
        self.read_bytes = 0

    def file(self, number: int) -> Path:
        """Where a chunk is, or will be."""
        return self.path / f"chunk-{number:06d}.safetensors"

    def open(self, number: int) -> Any | None:
        """The prepared texts of a chunk; None where there is none of this side and model.

        Raises:
            CacheError: it is damaged.
        """
        path = self.file(number)
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                said = file.metadata() or {}
                if said.get(_OF) != self.of:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if said.get(_CHECKSUM) != checksum_tensors(tensors):
                raise ValueError("it is not what its checksum says")
            texts = self.form.opened(tensors)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError) as error:
            raise CacheError(
                f"the folded texts in {path} are damaged: {error}; delete {self.path} and run it again"
            ) from error
        self.read_bytes += path.stat().st_size
        return texts

    def write(self, number: int, prepared: Any) -> None:
        """Writes a chunk, whole or not at all.

        Raises:
            CacheError: it cannot be written; a full disk is told.
        """
        tensors = self.form.tensors(prepared)
        path = self.file(number)
        with writing(path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=".writing-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_header(tensors, {_OF: self.of, _CHECKSUM: checksum_tensors(tensors)}))
                    for tensor in tensors.values():
                        file.write(_bytes(tensor))
                os.chmod(temporary, 0o644)
                move_into_place(Path(temporary), path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _header(tensors: Mapping[str, torch.Tensor], said: Mapping[str, str]) -> bytes:
    # As safetensors has it: the length, then JSON, which blanks may follow.
    entries: dict[str, Any] = {"__metadata__": dict(said)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    return np.uint64(len(text)).astype("<u8").tobytes() + text
