"""Whether a student's folder holds what was saved in it: checksums of its files, and weights that are numbers."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from distilmatch.errors import DistilmatchError, ModelError
from distilmatch.files import checksum, read_json, write_atomically
from distilmatch.metrics.decisions import verify_decision
from distilmatch.pretrained.sentence import check_model_folder
from distilmatch.pretrained.weights import not_finite

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
_METHOD = "xxh3-128"
_COVERED = ("config.json", "*.safetensors", "*.safetensors.index.json")

_checked: set[tuple[Any, ...]] = set()  # files of this process that were found whole
_checking = threading.Lock()


def write_checksums(folder: Path, tokenizer_files: Iterable[str | Path]) -> None:
    """Writes checksums.json, the last file of a student; the model card is not covered, it may be edited, nor decision.json,
    which has a checksum of its own and may be made anew.

    Args:
        tokenizer_files: those that the tokenizers were saved to, inside `folder`.
    """
    files = {path for pattern in _COVERED for path in folder.glob(pattern)}
    files |= {Path(path) for path in tokenizer_files if Path(path).is_file()}
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    write_atomically(folder / CHECKSUMS, _content({name: checksum(folder / name) for name in names}))


def _content(files: Mapping[str, str]) -> str:
    return json.dumps({"method": _METHOD, "files": dict(files)}, indent=2) + "\n"


def read_checksums(folder: str | Path) -> dict[str, str] | None:
    """The checksums of a student's files by name, or None where the folder has none, as those of older versions.

    Raises:
        ModelError: checksums.json itself is damaged.
    """
    path = Path(folder) / CHECKSUMS
    if not path.is_file():
        return None
    try:
        stored = read_json(path)
        files = {str(name): str(value) for name, value in stored["files"].items()}
        inside = not any(Path(name).is_absolute() or ".." in Path(name).parts for name in files)
        whole = inside and path.read_text(encoding="utf-8") == _content(files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise ModelError(f"{path} is damaged: copy the student again, or delete that file to use the rest unchecked")
    return files


def check_student_files(folder: str | Path) -> None:
    """Refuses a student whose files are not what was saved; each is read once a process, and again when it changes.

    Raises:
        ModelError: the damaged or missing file is named.
    """
    files = read_checksums(folder)
    if files is None:
        with _checking:
            if (str(folder),) not in _checked:
                _checked.add((str(folder),))
                logger.info(
                    "%s has no %s: its files are used unchecked; save_pretrained writes them", folder, CHECKSUMS
                )
        return
    for problem in _problems(Path(folder), files, remembered=True):
        raise ModelError(problem)


def _problems(folder: Path, files: Mapping[str, str], *, remembered: bool) -> Iterable[str]:
    for name, wanted in files.items():
        path = folder / name
        try:
            state = os.stat(path)
            key = (wanted, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            if remembered and key in _checked:
                continue
            whole = stat.S_ISREG(state.st_mode) and checksum(path) == wanted
        except OSError as error:
            yield f"{path} is missing or cannot be read ({error.strerror}): copy the student again"
            continue
        if whole:
            _checked.add(key)
            continue
        yield (
            f"{path} is not what was saved (its checksum differs): it is damaged or another student's; copy the student again. "
            f"If it was changed on purpose, delete {folder / CHECKSUMS}"
        )


def verify_student(folder: str | Path) -> list[str]:
    """All that is wrong with a student's folder: every file is read anew.

    Returns:
        A sentence for each problem; none where all is well. A folder without checksums.json, as older versions wrote, has
        none for lacking it (`read_checksums` tells), and damage in it may go unseen.
    """
    place = Path(folder)
    problems: list[str] = []
    try:
        files = read_checksums(place)
        if files is not None:
            problems += _problems(place, files, remembered=False)
        if not problems:
            check_model_folder(place)
            for path in sorted(place.glob("*.safetensors")):
                with safe_open(str(path), framework="pt") as tensors:
                    named = ((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
                    problems += not_finite(path, named)
            problems += verify_decision(place)
    except DistilmatchError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{place} cannot be read: {error}")
    return problems
