"""Checkpoints that are whole: what a failed write says, and the last one that a stopped run can go on from."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME

from distilmatch.errors import CacheError
from distilmatch.files import move_into_place, read_json, writing

logger = logging.getLogger(__name__)


# What PyTorch's writer of files says; other RuntimeErrors, such as memory of a GPU, are none of the disk's.
_WRITER_WORDS = ("PytorchStreamWriter", "unexpected pos", "iostream", "file write failed", "write failed")


class CheckpointTrainer(Trainer):
    """`transformers.Trainer` that says in one line why a checkpoint could not be written."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = str(self.args.output_dir)
        try:
            with writing(folder):
                super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if isinstance(error, CacheError) or not any(word in str(error) for word in _WRITER_WORDS):
                raise
            # PyTorch's writer says no more than that its stream failed, or where.
            raise CacheError(
                f"cannot write a checkpoint to {folder}, most likely because the disk is full "
                f"({str(error).splitlines()[0]}); free some space and run the same command again: it goes on where it stopped"
            ) from error


def save_beside(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Puts tensors beside a checkpoint that the trainer has written, atomically.

    Raises:
        CacheError: they cannot be written.
    """
    temporary = path.with_name(f".{path.name}.writing")
    with writing(path):
        save_file(dict(tensors), temporary)
        move_into_place(temporary, path)


def last_whole_checkpoint(folder: Path, needs: Sequence[str] = (), *, removes: bool = True) -> str | None:
    """The last checkpoint that was written to its end, from which a stopped run goes on; None where there is none.

    A process that is killed while it writes, or that meets a full disk, leaves a part of one.

    Args:
        needs: files that callbacks put beside the trainer's own.
        removes: whether parts are deleted, which the main process does.
    """
    checkpoints = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for path in sorted(checkpoints, key=lambda path: int(path.name.partition("-")[2]), reverse=True):
        if _is_whole(path, needs):
            return str(path)
        if removes:
            logger.warning("%s was not written to its end and is left out", path)
            shutil.rmtree(path, ignore_errors=True)
    return None


def _is_whole(path: Path, needs: Sequence[str]) -> bool:
    if not all((path / name).is_file() for name in needs):
        return False
    try:
        return isinstance(read_json(path / TRAINER_STATE_NAME), dict)  # the last file that the trainer writes
    except (OSError, ValueError):
        return False
