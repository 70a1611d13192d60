"""A student's folder is from anywhere: what it says of itself is compared with what is in it before memory is taken for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from distilmatch.errors import CacheError, ModelError
from distilmatch.files import read_json
from distilmatch.models.integrity import check_student_files
from distilmatch.pretrained.positions import position_limit
from distilmatch.pretrained.sentence import check_model_folder, first_line, safetensors_shapes
from distilmatch.pretrained.weights import check_finite_weights

_LARGEST_CONFIG = 2**24  # bytes
_LARGEST_NUMBER = 2**40  # of a setting: above it nothing is a size
_MOST_PARTS = 1000  # layers, labels and the like, each of which is built
_COUNTED = ("layer", "label", "block", "expert", "group", "stage", "depth")
_LARGEST_TEXT = 2**28  # bytes that one cached text may take
_ADVICE = "copy the student again from where it was saved"


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns whatever another library makes of a folder inside into a `ModelError` of one line.

    Raises:
        ModelError: in place of every error that is not this package's own kind for models and files.
    """
    try:
        yield
    except CacheError:
        raise
    except ModelError as error:
        if name in str(error):
            raise
        raise ModelError(f"{name}: {error}") from error
    except Exception as error:  # a stranger's files fail in ways without number
        raise ModelError(
            f"cannot load a student from {name}: {type(error).__name__}: {first_line(error)[:300]}; {_ADVICE}"
        ) from error


def check_student_folder(kind: type[PreTrainedModel], folder: Path) -> None:
    """Refuses a folder whose config does not describe its weights, before any of them is read.

    Args:
        kind: the model's class.

    Raises:
        ModelError: the file and what does not fit are named.
    """
    check_model_folder(folder)
    path = folder / "config.json"
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ModelError(f"{path} has {path.stat().st_size} bytes, more than any student's; {_ADVICE}")
    settings = read_json(path)
    if settings["model_type"] != "dipair":
        return  # said by the caller
    check_student_files(folder)
    _check_settings(path, settings)
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    with torch.device("meta"):
        planned: Mapping[str, torch.Tensor] = kind(config).state_dict()
    weights: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= safetensors_shapes(file)
    largest = sum(prod(shape) for shape in weights.values())
    for name, tensor in planned.items():
        shape = weights.get(name)
        if shape is None and tensor.numel() > largest:
            raise ModelError(f"{path} asks for {name} of {tuple(tensor.shape)}, which the weights lack; {_ADVICE}")
        if shape is not None and shape != tuple(tensor.shape):
            raise ModelError(
                f"{path} asks for {name} of {tuple(tensor.shape)}, in the weights it is {shape}: they are of different "
                f"students; {_ADVICE}"
            )


def _check_settings(path: Path, settings: Any, name: str = "") -> None:
    """Refuses numbers that nothing can be built of; `name` is that of the setting."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            _check_settings(path, value, str(key))
    elif isinstance(settings, list):
        for value in settings:
            _check_settings(path, value, "")
    elif isinstance(settings, int | float) and not isinstance(settings, bool):
        most = _MOST_PARTS if isinstance(settings, int) and any(word in name for word in _COUNTED) else _LARGEST_NUMBER
        if isinstance(settings, int) and abs(settings) > most:
            raise ModelError(
                f"{path}: `{name}` {settings!r:.40} is beyond what can be built (at most {most}); {_ADVICE}"
            )


def check_loaded(name: str, model: Any, loading: Mapping[str, Any]) -> None:
    """Refuses a loaded student that lacks weights, holds ones that are no numbers, or cannot encode a text.

    Args:
        name: what messages call it.
        model: the `DiPair`, with its tokenizers.
        loading: what `transformers` says of the weights.

    Raises:
        ModelError: it says what is wrong.
    """
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} weights that its config asks for, such as {missing[0]}; {_ADVICE}"
        )
    check_finite_weights(name, model.state_dict())
    student = model.student
    for side, (kept, length) in enumerate(zip(student.kept_vectors, student.max_lengths, strict=True)):
        limit = position_limit(model.encoders[model.streams[model.side_streams[side]].encoder])
        if length > limit:
            raise ModelError(f"{name}: `max_lengths` asks for {length} tokens, its encoder takes {limit}; {_ADVICE}")
        if kept * student.vector_width * 4 > _LARGEST_TEXT:
            raise ModelError(
                f"{name}: {kept} kept vectors of width {student.vector_width} a text fit no memory; {_ADVICE}"
            )
    if model.device.type != "meta":
        model.logits([("a",) * student.sides], show_progress_bar=False)
