"""A teacher's embeddings of a corpus: made once, longest texts first, resumable, read as a memory-mapped array.

Shape legend: n texts of the corpus; d width of the embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from distilmatch.config.embeddings import StoredPrecision
from distilmatch.data.corpus import TextCorpus
from distilmatch.data.tokenising import length_order
from distilmatch.errors import CacheError, ModelError
from distilmatch.files import (
    MANIFEST,
    check_files,
    read_json,
    read_manifest,
    reserve,
    write_json,
    write_manifest,
    writing,
)
from distilmatch.fingerprint import fingerprint, fingerprint_tensors
from distilmatch.teachers.sentence import EmbeddingTeacher

FORMAT = "distilmatch-embeddings"
FORMAT_VERSION = 1
_ARRAY, _PROGRESS = "embeddings.npy", "progress.json"
_DTYPES: dict[StoredPrecision, type[np.floating]] = {"fp16": np.float16, "fp32": np.float32}


def embedding_key(teacher: EmbeddingTeacher, corpus: TextCorpus, dtype: StoredPrecision) -> str:
    """What cached embeddings depend on: the teacher's weights, tokenizer and settings, the texts and the number format."""
    rows = fingerprint_tensors({"rows": torch.tensor(corpus.rows)}) if teacher.needs_rows else None
    return fingerprint(teacher.fingerprint, corpus.fingerprint, rows, dtype)


def cached_embeddings(
    teacher: EmbeddingTeacher,
    corpus: TextCorpus,
    folder: str | Path,
    *,
    dtype: StoredPrecision = "fp16",
    show_progress_bar: bool | None = None,
    chunk_texts: int = 4096,
) -> np.ndarray:
    """The teacher's embeddings of a corpus, asked for only where `folder` does not hold them yet.

    One process at a time may write; each teacher, corpus and number format has a folder of its own in `folder`.

    Args:
        dtype: in which they are kept.
        show_progress_bar: None shows one in a terminal.
        chunk_texts: the step in which a killed job goes on.

    Returns:
        (n, d) float16 or float32, in the order of the corpus, read-only and memory-mapped.

    Raises:
        DataError: a file of embeddings that does not fit the corpus.
        ModelError: embeddings that are not finite, or too large for fp16.
        CacheError: the folder is damaged.
    """
    teacher.check_rows(corpus.source_rows)
    key = embedding_key(teacher, corpus, dtype)
    place = Path(folder) / key
    if (place / MANIFEST).exists():
        return read_embeddings(place)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        array, done = _begun(place, (len(corpus), teacher.width), dtype)
        reserve(place / _ARRAY)
    order, _ = length_order(corpus.lengths())
    quiet = None if show_progress_bar is None else not show_progress_bar
    with tqdm(total=len(corpus), initial=done, desc="Teacher", unit="text", disable=quiet) as bar:
        for start in range(done, len(corpus), chunk_texts):
            chosen = order[start : start + chunk_texts]
            rows = np.asarray(corpus.rows[chosen])
            embeddings = teacher.embed([corpus[int(i)] for i in chosen], rows, show_progress_bar=False)
            array[chosen] = _stored(embeddings, dtype)
            # The array is on disk before the count that vouches for it.
            with writing(place):
                array.flush()
                write_json(place / _PROGRESS, {"done": start + len(chosen)})
            bar.update(len(chosen))
    del array
    write_manifest(
        place,
        FORMAT,
        FORMAT_VERSION,
        checked=[_ARRAY],
        texts=len(corpus),
        width=teacher.width,
        dtype=dtype,
        teacher=teacher.name,
        corpus=corpus.fingerprint,
    )
    (place / _PROGRESS).unlink(missing_ok=True)
    return read_embeddings(place)


def read_embeddings(place: str | Path) -> np.ndarray:
    """The finished array of a folder, (n, d), read-only and memory-mapped.

    Raises:
        CacheError: it is not finished, damaged, or something else.
    """
    place = Path(place)
    manifest = read_manifest(place, FORMAT, FORMAT_VERSION, "embeddings")
    check_files(place, manifest, "embeddings")
    try:
        array = np.load(place / _ARRAY, mmap_mode="r", allow_pickle=False)
        expected = (manifest["texts"], manifest["width"]), np.dtype(_DTYPES[manifest["dtype"]])
    except (ValueError, KeyError, TypeError, OverflowError, EOFError, OSError) as error:
        raise CacheError(f"{place} is damaged ({type(error).__name__}: {error}); delete the folder") from error
    if (array.shape, array.dtype) != expected:
        raise CacheError(f"{place / _ARRAY} is {array.dtype} of shape {array.shape}, not {expected}; delete the folder")
    return array  # type: ignore[no-any-return]


def _begun(place: Path, shape: tuple[int, int], dtype: StoredPrecision) -> tuple[np.memmap[Any, Any], int]:
    """The array that is written to, and how many texts (longest first) are in it already."""
    path, kind = place / _ARRAY, _DTYPES[dtype]
    try:
        done = int(read_json(place / _PROGRESS)["done"])
        array = np.lib.format.open_memmap(path, mode="r+")
        if array.shape == shape and array.dtype == kind and 0 <= done <= shape[0]:
            return array, done
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        pass  # nothing there that can be gone on with
    (place / _PROGRESS).unlink(missing_ok=True)
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape), 0


def _stored(embeddings: np.ndarray, dtype: StoredPrecision) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = embeddings.astype(_DTYPES[dtype])
    if not np.isfinite(stored).all():
        raise ModelError(
            f"the teacher's embeddings reach {np.abs(embeddings).max():.3g}, more than fp16 holds: set `teacher.dtype: fp32`"
        )
    return stored
