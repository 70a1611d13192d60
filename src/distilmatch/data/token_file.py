"""Token ids of a corpus on disk, memory-mapped: tokenised once, four bytes a token, larger than memory if need be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distilmatch.data.saved import mapped_column
from distilmatch.errors import CacheError
from distilmatch.files import MANIFEST, check_files, read_manifest, write_manifest, writing

FORMAT = "distilmatch-tokens"
FORMAT_VERSION = 1
_WHAT = "token ids"
_FILE = "tokens.arrow"
_CHUNK = 16_384
_SCHEMA = pa.schema([pa.field("tokens", pa.large_list(pa.int32()), nullable=False)])

Tokenise = Callable[[list[str]], Sequence[Sequence[int]]]


class MappedTokenIds(Sequence[np.ndarray]):
    """The token ids of each text of a folder that `write_token_ids` made: item i is (tokens,) int32; cheap to pickle.

    Args:
        checked: leaves out the look through the whole file, for one that has been looked through.

    Raises:
        CacheError: no finished token ids in the folder, or damaged ones.
    """

    def __init__(self, folder: str | Path, checked: bool = False) -> None:
        self._folder = str(folder)
        manifest = read_manifest(Path(folder), FORMAT, FORMAT_VERSION, _WHAT)
        if not checked:
            check_files(Path(folder), manifest, _WHAT)
        try:
            chunks = mapped_column(Path(folder) / _FILE, _SCHEMA, checked).chunks
            expected = int(manifest["texts"])
            self._chunk = int(manifest["chunk"])
            self._parts = [(chunk.values.to_numpy(), chunk.offsets.to_numpy()) for chunk in chunks]
        except (OSError, KeyError, ValueError, TypeError, OverflowError, pa.ArrowException) as error:
            raise CacheError(f"the token ids in {folder} are damaged ({error}); delete the folder") from error
        self._count = sum(len(chunk) for chunk in chunks)
        even = all(len(chunk) == self._chunk for chunk in chunks[:-1]) and all(
            len(chunk) <= self._chunk for chunk in chunks
        )
        if self._count != expected or not even:
            raise CacheError(f"the token ids in {folder} are damaged: {self._count} texts, not {expected}; delete it")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        assert not isinstance(index, slice)
        position = int(index)
        if not 0 <= position < self._count:
            raise IndexError(index)
        values, offsets = self._parts[position // self._chunk]
        place = position % self._chunk
        return values[offsets[place] : offsets[place + 1]]

    def __reduce__(self) -> tuple[type[MappedTokenIds], tuple[str, bool]]:
        return type(self), (self._folder, True)


def write_token_ids(tokenise: Tokenise, texts: Sequence[str], folder: str | Path, key: str) -> MappedTokenIds:
    """The token ids of `texts`, from `folder` where they are there already.

    Args:
        tokenise: the token ids of each of some texts.
        key: what they depend on: tokenizer, greatest length and texts.

    Raises:
        CacheError: what is there is damaged, or the folder cannot be written.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists() and read_manifest(folder, FORMAT, FORMAT_VERSION, _WHAT).get("key") == key:
        return MappedTokenIds(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        with pa.OSFile(str(folder / _FILE), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            for start in range(0, len(texts), _CHUNK):
                ids = tokenise([texts[i] for i in range(start, min(start + _CHUNK, len(texts)))])
                column = pa.array([np.asarray(text_ids, dtype=np.int32) for text_ids in ids], pa.large_list(pa.int32()))
                writer.write_batch(pa.record_batch([column], schema=_SCHEMA))
    write_manifest(folder, FORMAT, FORMAT_VERSION, checked=[_FILE], key=key, texts=len(texts), chunk=_CHUNK)
    return MappedTokenIds(folder)
