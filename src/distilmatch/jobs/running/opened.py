"""What a worker opens by its name: the student, checked to be the one that the job is of, on the worker's device."""

from __future__ import annotations

from pathlib import Path

import torch

from distilmatch.errors import ConfigError, ModelError
from distilmatch.fingerprint import fingerprint_tensors
from distilmatch.models import DiPair
from distilmatch.runtime import keep_freed_memory


def student_place(model: DiPair) -> str:
    """The folder or hub name that workers load a student from.

    Raises:
        ConfigError: it was loaded from none.
    """
    name = str(model.name_or_path or "")
    if not name:
        raise ConfigError(
            "workers load the student from its folder, and this one has none: save it (save_pretrained) and load it from there"
        )
    return str(Path(name).absolute()) if Path(name).exists() else name


def weights_of(model: DiPair) -> str:
    """A fingerprint of all of a student's weights."""
    return fingerprint_tensors(model.state_dict())


def opened_student(place: str, weights: str, device: str, worker: int) -> DiPair:
    """The student of a folder on the worker's device: of several GPUs each worker takes the next.

    Args:
        weights: what `weights_of` says of it.
        device: "cpu", "cuda" and the like.

    Raises:
        ModelError: the folder holds another student here.
    """
    keep_freed_memory()
    if device == "cuda":
        device = f"cuda:{worker % torch.cuda.device_count()}"
    model: DiPair = DiPair.from_pretrained(place).eval().to(device)  # type: ignore[arg-type,assignment]
    if weights_of(model) != weights:
        raise ModelError(
            f"a worker found another student in {place} than the one that the job is of: save the student there (weights that "
            "were trained since are in memory alone), and give all machines the same files"
        )
    return model
