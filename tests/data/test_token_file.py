"""Token ids on disk: the same as in memory, made once, refused where damaged."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from distilmatch.data import token_file
from distilmatch.data.token_file import MappedTokenIds, write_token_ids
from distilmatch.errors import CacheError

TEXTS = ["abc", "", "de", "f", "ghijk"]


def _tokenise(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_what_was_written_is_read(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_file, "_CHUNK", chunk)
    ids = write_token_ids(_tokenise, TEXTS, tmp_path, "key")
    monkeypatch.setattr(token_file, "_CHUNK", 3)  # of no matter to what is written
    for one in (ids, pickle.loads(pickle.dumps(ids)), write_token_ids(lambda _: pytest.fail(), TEXTS, tmp_path, "key")):
        assert [part.tolist() for part in (one[i] for i in range(len(one)))] == _tokenise(TEXTS)
        assert one[0].dtype == np.int32
    with pytest.raises(IndexError):
        ids[5]
    assert len(write_token_ids(_tokenise, TEXTS[:2], tmp_path, "other")) == 2


def test_damaged_token_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no finished token ids"):
        MappedTokenIds(tmp_path)
    write_token_ids(_tokenise, TEXTS, tmp_path, "key")
    (tmp_path / "tokens.arrow").write_bytes(b"x")
    with pytest.raises(CacheError, match="damaged"):
        write_token_ids(_tokenise, TEXTS, tmp_path, "key")
