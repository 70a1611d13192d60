"""The representation folder gives back what was put in, and a writer stopped anywhere goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from distilmatch.errors import CacheError, ConfigError
from distilmatch.fingerprint import text_key
from distilmatch.store.codec import STORED_DTYPES, StoredDtype, decode_tokens, encode_tokens
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest, RepresentationWriter
from distilmatch.store.layout import IDS_SCHEMA, KeyIndex, key_array
from distilmatch.types import TokenRepresentations


def manifest(**changes: object) -> RepresentationManifest:
    settings = {"model_fingerprint": "a" * 32, "side": 0, "side_name": "left", "kept_tokens": 3, "width": 4}
    return RepresentationManifest(**{**settings, "shard_rows": 4, **changes})


def representations(rows: int, kept: int = 3, width: int = 4, seed: int = 0) -> TokenRepresentations:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, kept, generator=generator) < 0.7
    mask[:, 0] = True
    return TokenRepresentations(torch.randn(rows, kept, width, generator=generator) * mask[..., None], mask)


def keys(start: int, stop: int) -> list[bytes]:
    return [text_key("", (f"text {row}",)) for row in range(start, stop)]


def ids(start: int, stop: int) -> list[str]:
    return [f"id-{row}" for row in range(start, stop)]


def as_read(representations: TokenRepresentations, dtype: StoredDtype) -> TokenRepresentations:
    """What is left of representations that were stored; `test_codec` says what that is."""
    return decode_tokens(encode_tokens(representations, dtype))


def as_format_1(folder: Path) -> None:
    """Makes a folder what the code before there were checksums would have written."""
    path = folder / "manifest.json"
    settings = json.loads(path.read_text())
    del settings["checksum"], settings["checksums"]
    path.write_text(json.dumps({**settings, "format_version": 1}))
    (folder / "items.parquet").unlink(missing_ok=True)


def same(left: TokenRepresentations, right: TokenRepresentations) -> bool:
    return torch.equal(left.tokens, right.tokens) and torch.equal(left.mask, right.mask)


@settings(max_examples=60, deadline=None)
@given(
    kept=st.integers(1, 4),
    width=st.integers(1, 9),
    shard_rows=st.integers(1, 9),
    parts=st.lists(st.integers(0, 7), max_size=5),
    dtype=st.sampled_from(STORED_DTYPES),
    with_ids=st.booleans(),
    data=st.data(),
)
def test_round_trip(
    kept: int, width: int, shard_rows: int, parts: list[int], dtype: StoredDtype, with_ids: bool, data: st.DataObject
) -> None:
    total = sum(parts)
    everything = representations(total, kept, width)
    settings = manifest(kept_tokens=kept, width=width, shard_rows=shard_rows, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        with RepresentationWriter(folder, settings) as writer:
            start = 0
            for part in parts:
                stop = start + part
                writer.append(
                    ids(start, stop) if with_ids else None, keys(start, stop), everything[torch.arange(start, stop)]
                )
                start = stop
        read = RepresentationFolder.open(folder)
        files = sorted(path for path in Path(folder).iterdir() if path.suffix in (".parquet", ".safetensors"))
        checksums = {path.name: xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in files}
        assert len(checksums) == 2 * -(-total // shard_rows)
        assert read.manifest == settings.replaced(rows=total, checksums=checksums)
        assert len(read) == total
        assert read.keys == keys(0, total)
        assert read.ids == (ids(0, total) if with_ids else [None] * total)
        assert read.row_of_key(keys(0, total)).tolist() == list(range(total))
        assert read.row_of_key(keys(total, total + 2)).tolist() == [-1, -1]
        assert read.row_of_id(ids(0, total)).tolist() == (list(range(total)) if with_ids else [-1] * total)
        wanted = data.draw(st.lists(st.integers(0, total - 1), max_size=20)) if total else []
        got = read.read(np.array(wanted, dtype=np.int64))
        index = torch.tensor(wanted, dtype=torch.int64)
        assert got.tokens.dtype == torch.float32 and got.mask.dtype == torch.bool
        assert same(got, as_read(everything[index], dtype))
        shards = sum(path.stat().st_size for path in Path(folder).glob("shard-*"))
        headers = 400 * -(-total // shard_rows)
        assert 0 <= shards - total * settings.bytes_per_item() <= headers


@given(keys=st.lists(st.binary(min_size=16, max_size=16)), asked=st.lists(st.binary(min_size=16, max_size=16)))
def test_key_index_equals_dictionary(keys: list[bytes], asked: list[bytes]) -> None:
    first: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    asked = asked + keys + [key[:-1] + b"\x00" for key in keys]
    assert KeyIndex(key_array(keys)).find(key_array(asked)).tolist() == [first.get(key, -1) for key in asked]


def test_reading_does_not_load_the_shards(tmp_path: Path) -> None:
    with RepresentationWriter(tmp_path, manifest()) as writer:
        writer.append(None, keys(0, 10), representations(10))
    folder = RepresentationFolder.open(tmp_path)
    folder.read([9, 0])
    if os.path.exists("/proc/self/maps"):
        mapped = Path("/proc/self/maps").read_text()
        assert str(tmp_path / "shard-00000.safetensors") in mapped
        assert str(tmp_path / "shard-00001.safetensors") not in mapped


@pytest.mark.parametrize("rows", [[-1], [0, 10], [10**12]])
def test_unknown_rows(tmp_path: Path, rows: list[int]) -> None:
    with RepresentationWriter(tmp_path, manifest()) as writer:
        writer.append(None, keys(0, 10), representations(10))
    with pytest.raises(CacheError, match=f"no row {max(rows, key=abs)}"):
        RepresentationFolder.open(tmp_path).read(rows)


def test_key_of_wrong_length(tmp_path: Path) -> None:
    with RepresentationWriter(tmp_path, manifest()) as writer:
        with pytest.raises(CacheError, match="16 bytes"):
            writer.append(None, [b"short"], representations(1))
        writer.append(None, keys(0, 1), representations(1))
    with pytest.raises(ConfigError, match="16 bytes"):
        RepresentationFolder.open(tmp_path).row_of_key([b"short"])


# Resuming


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("fails_at", range(7))
def test_resume_after_an_exception(tmp_path: Path, fails_at: int, dtype: StoredDtype) -> None:
    everything = representations(21)

    def write(start: int, fail: int | None) -> None:
        with RepresentationWriter(tmp_path, manifest(dtype=dtype)) as writer:
            assert writer.rows_written % 4 == 0 and writer.rows_written >= start
            for number, first in enumerate(range(writer.rows_written, 21, 3)):
                if number == fail:
                    raise KeyboardInterrupt
                stop = min(21, first + 3)
                writer.append(ids(first, stop), keys(first, stop), everything[slice(first, stop)])

    with pytest.raises(KeyboardInterrupt):
        write(0, fails_at)
    with pytest.raises(CacheError, match="unfinished"):
        RepresentationFolder.open(tmp_path)
    write(fails_at * 3 // 4 * 4, None)
    folder = RepresentationFolder.open(tmp_path)
    assert folder.keys == keys(0, 21) and folder.ids == ids(0, 21)
    assert same(folder.read(np.arange(21)), as_read(everything, dtype))


def _write_and_die(folder: str, dies_at: int, dtype: StoredDtype) -> None:
    """Appends 20 rows and kills itself at the `dies_at`-th file operation that counts."""
    operations = 0
    replace = os.replace

    def count(*args: object, **kwargs: object) -> None:
        nonlocal operations
        operations += 1
        if operations == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args, **kwargs)  # type: ignore[arg-type]

    os.replace = count  # type: ignore[assignment]
    everything = representations(20)
    with RepresentationWriter(folder, manifest(shard_rows=8, dtype=dtype)) as writer:
        for first in range(writer.rows_written, 20, 4):
            writer.append(ids(first, first + 4), keys(first, first + 4), everything[slice(first, first + 4)])
        writer.add_alias("another", 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("dies_at", range(1, 10))
def test_resume_after_sigkill(tmp_path: Path, dies_at: int, dtype: StoredDtype) -> None:
    # Renames, in order: progress, shard 0, ids 0, shard 1, ids 1, shard 2, ids 2, aliases, manifest.
    arguments = (str(tmp_path), dies_at, dtype)
    process = multiprocessing.get_context("fork").Process(target=_write_and_die, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(CacheError):
        RepresentationFolder.open(tmp_path)
    everything = representations(20)
    with RepresentationWriter(tmp_path, manifest(shard_rows=8, dtype=dtype)) as writer:
        assert writer.rows_written == min(20, max(0, (dies_at - 2) // 2) * 8)
        first = writer.rows_written
        writer.append(ids(first, 20), keys(first, 20), everything[slice(first, 20)])
        if writer.row_of_id("another") < 0:
            writer.add_alias("another", 3)
    folder = RepresentationFolder.open(tmp_path)
    assert folder.ids == ids(0, 20)
    assert same(folder.read(np.arange(20)), as_read(everything, dtype))
    assert folder.row_of_id(["another", "id-3"]).tolist() == [3, 3]
    allowed = {"manifest.json", "aliases.parquet", ".lock"}
    allowed |= {name for i in range(3) for name in (f"shard-0000{i}.safetensors", f"ids-0000{i}.parquet")}
    assert {path.name for path in tmp_path.iterdir()} <= allowed


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"model_fingerprint": "b" * 32},
        {"side": 1, "side_name": "right"},
        {"dtype": "float16"},
        {"dtype": "int8"},
        {"width": 5},
        {"texts_source": "other texts"},
    ],
)
def test_resume_with_other_settings(tmp_path: Path, finished: bool, changes: dict[str, object]) -> None:
    writer = RepresentationWriter(tmp_path, manifest())
    writer.append(None, keys(0, 5), representations(5))
    writer.close() if finished else writer.abandon()
    with pytest.raises(CacheError, match=next(iter(changes))):
        RepresentationWriter(tmp_path, manifest(**changes))
    with RepresentationWriter(tmp_path, manifest()) as again:
        assert again.rows_written == (5 if finished else 4)


def test_finished_folder(tmp_path: Path) -> None:
    with RepresentationWriter(tmp_path, manifest()) as writer:
        writer.append(None, keys(0, 5), representations(5))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with RepresentationWriter(tmp_path, manifest()) as writer:
        assert writer.finished and writer.rows_written == 5
        with pytest.raises(CacheError, match="finished"):
            writer.append(None, keys(5, 6), representations(1))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(CacheError, match="overwrite"):
        RepresentationWriter(tmp_path, manifest(), resume=False)
    with RepresentationWriter(tmp_path, manifest(width=2), resume=False, overwrite=True) as writer:
        assert writer.rows_written == 0
    assert len(RepresentationFolder.open(tmp_path)) == 0


def test_other_files_are_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(CacheError, match=r"thesis\.txt"):
        RepresentationWriter(tmp_path, manifest(), overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "dear"


def test_two_writers(tmp_path: Path) -> None:
    with RepresentationWriter(tmp_path, manifest()), pytest.raises(CacheError, match="another process"):
        RepresentationWriter(tmp_path, manifest())
    RepresentationWriter(tmp_path, manifest()).close()


# What cannot be written


def test_duplicate_ids(tmp_path: Path) -> None:
    with RepresentationWriter(tmp_path, manifest(shard_rows=2)) as writer:
        writer.append(["a", None, "b"], keys(0, 3), representations(3))
        for names in (["c", "c"], ["c", "a"], ["b", "c"]):
            with pytest.raises(CacheError, match=f"id '{names[0] if names[0] != 'c' else names[1]}' is in"):
                writer.append(names, keys(3, 5), representations(2))
        assert writer.rows == 3
        writer.append(["c", None], keys(3, 5), representations(2))
        writer.add_alias("d", 4)
        with pytest.raises(CacheError, match="id 'd'"):
            writer.add_alias("d", 3)
    assert RepresentationFolder.open(tmp_path).ids == ["a", None, "b", "c", None]
    assert RepresentationFolder.open(tmp_path).row_of_id(["d", "c", "e"]).tolist() == [4, 3, -1]


def test_duplicate_ids_after_a_resume(tmp_path: Path) -> None:
    writer = RepresentationWriter(tmp_path, manifest())
    writer.append(ids(0, 4), keys(0, 4), representations(4))
    writer.abandon()
    with RepresentationWriter(tmp_path, manifest()) as again, pytest.raises(CacheError, match="id-2"):
        again.append(["id-2"], keys(4, 5), representations(1))


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float32", float("nan"), "NaN"),
        ("bfloat16", float("-inf"), "infinity"),
        ("float16", 70000.0, "float16"),
        ("bfloat16", 3.4e38, "bfloat16"),
        ("int8", float("nan"), "NaN"),
        ("int8", float("inf"), "infinity"),
    ],
)
def test_values_that_do_not_fit(tmp_path: Path, dtype: StoredDtype, value: float, message: str) -> None:
    with RepresentationWriter(tmp_path, manifest(dtype=dtype)) as writer:
        writer.append(ids(0, 6), keys(0, 6), representations(6))
        bad = representations(3)
        bad.tokens[1, 2, 3] = value
        with pytest.raises(CacheError, match=rf"row 7 \(id 'id-7'\).*{message}"):
            writer.append(ids(6, 9), keys(6, 9), bad)
        assert writer.rows == 6
        writer.append(ids(6, 9), keys(6, 9), representations(3))


def test_wrong_shape(tmp_path: Path) -> None:
    with RepresentationWriter(tmp_path, manifest()) as writer:
        for wrong in (representations(2, width=5), representations(2, kept=2), representations(3)):
            with pytest.raises(CacheError, match="shape"):
                writer.append(None, keys(0, 2), wrong)


# What cannot be read


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no manifest\.json"):
        RepresentationFolder.open(tmp_path / "nothing")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_damaged_folders(tmp_path: Path, dtype: StoredDtype) -> None:
    def write() -> None:
        with RepresentationWriter(tmp_path, manifest(dtype=dtype), overwrite=True) as writer:
            writer.append(None, keys(0, 10), representations(10))

    write()
    shard = tmp_path / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(CacheError, match="shard-00001"):
        RepresentationFolder.open(tmp_path).read([5])
    write()
    shard.unlink()
    with pytest.raises(CacheError, match="damaged"):
        RepresentationFolder.open(tmp_path)
    write()
    (tmp_path / "ids-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(CacheError, match="ids-00002"):
        RepresentationFolder.open(tmp_path)
    write()
    (tmp_path / "manifest.json").write_text('{"format_version": 3}')
    with pytest.raises(CacheError, match="format version 3"):
        RepresentationFolder.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CacheError, match="cannot read"):
        RepresentationFolder.open(tmp_path)


@pytest.mark.parametrize("dtype", STORED_DTYPES)
def test_shards_that_do_not_hold_what_the_manifest_says(tmp_path: Path, dtype: StoredDtype) -> None:
    with RepresentationWriter(tmp_path, manifest(dtype=dtype)) as writer:
        writer.append(None, keys(0, 6), representations(6))
    as_format_1(tmp_path)  # without checksums, which would see it first
    shard = tmp_path / "shard-00001.safetensors"
    arrays = load_file(shard)
    assert set(arrays) == ({"tokens", "mask", "scales"} if dtype == "int8" else {"tokens", "mask"})
    for name, array in arrays.items():
        other = array.to(torch.float64)
        for damaged in (None, array[:1], array[:, :2].contiguous(), other):
            changed = {**arrays, name: damaged} if damaged is not None else {**arrays}
            if damaged is None:
                del changed[name]
            save_file(changed, shard)
            folder = RepresentationFolder.open(tmp_path)
            assert len(folder.read([0, 3])) == 2
            with pytest.raises(CacheError, match=rf"shard-00001\.safetensors is damaged: it holds .*not {name} of"):
                folder.read([5])
    save_file(arrays, shard)
    assert same(RepresentationFolder.open(tmp_path).read(np.arange(6)), as_read(representations(6), dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_folder_written_before_there_were_scales_opens(tmp_path: Path, dtype: StoredDtype) -> None:
    everything = representations(6)
    for index, rows in enumerate((range(4), range(4, 6))):
        part = everything[slice(rows.start, rows.stop)]
        arrays = {"tokens": part.tokens.to(getattr(torch, dtype)), "mask": part.mask.to(torch.uint8)}
        save_file(arrays, tmp_path / f"shard-0000{index}.safetensors")
        columns = {"row": list(rows), "key": keys(rows.start, rows.stop), "id": ids(rows.start, rows.stop)}
        pq.write_table(pa.table(columns, schema=IDS_SCHEMA), tmp_path / f"ids-0000{index}.parquet")
    settings = {"format_version": 1, "model_fingerprint": "a" * 32, "side": 0, "side_name": "left", "kept_tokens": 3}
    settings |= {"width": 4, "dtype": dtype, "rows": 6, "shard_rows": 4, "texts_source": None}
    (tmp_path / "manifest.json").write_text(json.dumps(settings))
    folder = RepresentationFolder.open(tmp_path)
    assert same(folder.read(np.arange(6)), as_read(everything, dtype))
    assert folder.ids == ids(0, 6)
    with RepresentationWriter(tmp_path, manifest(dtype=dtype)) as writer:
        assert writer.finished


def test_a_dtype_that_is_not_known(tmp_path: Path) -> None:
    with RepresentationWriter(tmp_path, manifest()) as writer:
        writer.append(None, keys(0, 2), representations(2))
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace("float32", "int4"))
    with pytest.raises(CacheError, match="dtype"):
        RepresentationFolder.open(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_what_is_read_is_the_readers_own(tmp_path: Path, dtype: StoredDtype) -> None:
    tokens = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(0))
    manifest = RepresentationManifest(
        model_fingerprint="m", side=0, side_name="left", kept_tokens=3, width=8, dtype=dtype, shard_rows=4
    )
    with RepresentationWriter(tmp_path / "folder", manifest) as writer:
        keys = [bytes([number + 1]) * 16 for number in range(6)]
        writer.append(None, keys, TokenRepresentations(tokens, torch.ones(6, 3, dtype=torch.bool)))
    folder = RepresentationFolder.open(tmp_path / "folder")
    for rows in ([0, 1, 2], [2, 1, 0], [2, 3, 4], [5], [1, 1]):
        before = folder.read(rows)
        expected = torch.stack([folder.read([row]).tokens[0] for row in rows])
        assert torch.equal(before.tokens, expected)
        folder.read(rows).tokens.fill_(7.0)
        folder.read(rows).mask.fill_(False)
        assert torch.equal(folder.read(rows).tokens, expected) and folder.read(rows).mask.all()
