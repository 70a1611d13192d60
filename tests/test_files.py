"""Checksums, JSON from strangers, failed writes in one line, and outputs that are inputs."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from distilmatch.errors import CacheError, ConfigError
from distilmatch.files import check_outputs, checksum, read_json, writing


@given(content=st.binary(min_size=1, max_size=300), data=st.data())
def test_a_checksum_finds_any_flipped_bit_and_any_cut(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    file = tmp_path_factory.getbasetemp() / "checked"
    file.write_bytes(content)
    whole = checksum(file)
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    damaged = bytearray(content)
    damaged[place] ^= 1 << bit
    file.write_bytes(bytes(damaged))
    assert checksum(file) != whole
    file.write_bytes(content[:place])
    assert checksum(file) != whole
    file.write_bytes(content)
    assert checksum(file) == whole


def test_a_large_file_is_read_in_parts(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(9 * 2**20))
    first = checksum(file)
    with open(file, "r+b") as stream:
        stream.seek(8 * 2**20 + 5)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))
    assert checksum(file) != first


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a": ' * 100_000, b"{", b"\xff\xfe", b""])
def test_json_from_strangers_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "odd.json"
    file.write_bytes(content)
    with pytest.raises(ValueError):
        read_json(file)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        pa.ArrowInvalid("IOError: disk full"),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_a_full_disk_is_one_line(error: Exception) -> None:
    with pytest.raises(CacheError) as told, writing("out/scores.parquet"):
        raise error
    assert "out/scores.parquet" in str(told.value) and "disk is full" in str(told.value)
    assert "\n" not in str(told.value)


def test_another_failed_write_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="Not a directory"), writing(tmp_path / "file" / "below"):
        (tmp_path / "file" / "below").write_text("x")
    with pytest.raises(KeyError), writing("x"):  # a defect stays one
        raise KeyError("x")


def test_outputs_are_compared_with_inputs_and_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, folder = tmp_path / "table.jsonl", tmp_path / "folder"
    table.write_text("{}")
    folder.mkdir()
    (tmp_path / "link").symlink_to(table)
    os.link(table, tmp_path / "hard")
    monkeypatch.chdir(tmp_path)
    inputs = {"TABLE": table, "--left": folder, "MODEL": "some/hub-name", "rows": [{"a": 1}], "none": None}
    for output in (table, "table.jsonl", "./folder/../table.jsonl", "link", "hard", "folder", folder / "inside" / "x"):
        with pytest.raises(ConfigError, match="--output"):
            check_outputs({"--output": output}, inputs)
    with pytest.raises(ConfigError, match="--reverse-output and --output"):
        check_outputs({"--output": "new.parquet", "--reverse-output": tmp_path / "new.parquet"}, inputs)
    check_outputs({"--output": "new.parquet", "--reverse-output": None}, inputs)
    check_outputs({"--output": tmp_path}, {"TABLE": table})  # a run may go where its table is
