"""What was damaged on disk is refused, or is nothing that is read: every kind of damage to every kind of file."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers import interrupt

from distilmatch.errors import CacheError, ConfigError, DataError
from distilmatch.fingerprint import text_key
from distilmatch.store import integrity
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest, RepresentationWriter, verify_folder
from distilmatch.store.layout import ALIASES_SCHEMA, IDS_SCHEMA, _json_checksum, write_manifest
from distilmatch.types import TokenRepresentations

FIXTURE = Path(__file__).parent / "fixtures" / "version_1"
ROWS, SHARD_ROWS = 22, 6


def manifest(**changes: object) -> RepresentationManifest:
    settings = {"model_fingerprint": "a" * 32, "side": 0, "side_name": "left", "kept_tokens": 3, "width": 4}
    return RepresentationManifest(**{**settings, "shard_rows": SHARD_ROWS, **changes})


def representations(rows: int, seed: int = 0) -> TokenRepresentations:
    generator = torch.Generator().manual_seed(seed)
    return TokenRepresentations(torch.randn(rows, 3, 4, generator=generator), torch.ones(rows, 3, dtype=torch.bool))


def keys(start: int, stop: int, name: str = "text") -> list[bytes]:
    return [text_key("", (f"{name} {row}",)) for row in range(start, stop)]


def write(folder: Path, seed: int = 0, name: str = "text", **settings: object) -> Path:
    with RepresentationWriter(folder, manifest(**settings)) as writer:
        names = [f"{name}-{row}" if row % 3 else None for row in range(ROWS)]
        writer.append(names, keys(0, ROWS, name), representations(ROWS, seed))
        writer.add_alias(f"{name}-again", 4)
        for row in range(ROWS):
            writer.add_item(2 * row, row, names[row])
        writer.add_item(2 * ROWS, 4, f"{name}-again")
    return folder


def everything(folder: Path) -> list[Any]:
    """All that is read from a folder."""
    opened = RepresentationFolder.open(folder)
    read = opened.read(np.arange(len(opened)))
    rows, texts, ids = opened.items()
    known = [opened.row_of_id(["text-4", "text-again", "none"]).tolist(), opened.row_of_key(keys(0, ROWS)).tolist()]
    return [
        opened.manifest, opened.keys, opened.ids, rows.tolist(), texts.tolist(), ids, known,
        read.tokens.numpy().tobytes(), read.mask.numpy().tobytes(),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    where = tmp_path_factory.mktemp("damage")
    return write(where / "one"), write(where / "other", seed=1, name="other")


Damage = Callable[[Path, Path, random.Random], None]


def flip(path: Path, other: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))


def truncate(path: Path, other: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.choice([0, len(content) - 1, draw.randrange(len(content))])])


def lengthen(path: Path, other: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes() + draw.randbytes(9))


def blank(path: Path, other: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    start = draw.randrange(len(content))
    path.write_bytes(content[:start] + bytes(len(content[start : start + 64])) + content[start + 64 :])


def swap(path: Path, other: Path, draw: random.Random) -> None:
    alike = [some for some in path.parent.iterdir() if some.suffix == path.suffix and some != path]
    beside = draw.choice(alike or [some for some in path.parent.iterdir() if some != path])
    # By renaming: size and times go with the content, as they do when somebody sorts files by hand.
    path.rename(path.parent / "between")
    beside.rename(path)
    (path.parent / "between").rename(beside)


def foreign(path: Path, other: Path, draw: random.Random) -> None:
    shutil.copy2(other / path.name, path)


def delete(path: Path, other: Path, draw: random.Random) -> None:
    path.unlink()


def double(path: Path, other: Path, draw: random.Random) -> None:
    number = f"{draw.randrange(4, 9):05d}"
    kind, _, _ = path.name.partition("-")
    shutil.copy2(path, path.with_name(f"{kind}-{number}{path.suffix}" if "-" in path.name else f"{path.name}.copy"))


DAMAGES: tuple[Damage, ...] = (flip, truncate, lengthen, blank, swap, foreign, delete, double)


def _files() -> list[str]:
    shards = [f"{kind}" for i in (0, 3) for kind in (f"shard-{i:05d}.safetensors", f"ids-{i:05d}.parquet")]
    return ["manifest.json", "aliases.parquet", "items.parquet", *shards]


@pytest.mark.parametrize("name", _files())
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_refused_or_changes_nothing(
    folders: tuple[Path, Path], tmp_path: Path, name: str, damage: Damage
) -> None:
    whole, other = folders
    expected = everything(whole)
    refused = 0
    for seed in range(6 if damage in (flip, truncate, blank) else 1):
        copy = tmp_path / f"copy{seed}"
        shutil.copytree(whole, copy)
        damage(copy / name, other, random.Random(f"{name} {seed}"))
        try:
            assert everything(copy) == expected
            assert verify_folder(copy) == []
        except CacheError as error:
            refused += 1
            assert str(copy) in str(error), "the message does not name the place"
            assert any(word in str(error) for word in ("overwrite", "encode", "take the file away"))
            told = verify_folder(copy)
            assert told and all(str(copy) in line for line in told)
    if damage is not double and name != "manifest.json":
        assert refused, "this damage must have been seen"


def test_a_whole_folder_is_whole(folders: tuple[Path, Path]) -> None:
    assert verify_folder(folders[0]) == []
    assert verify_folder(folders[0] / "nothing") != []


def test_all_damages_are_told_at_once(folders: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders[0], copy)
    for name in ("shard-00001.safetensors", "shard-00002.safetensors", "items.parquet"):
        flip(copy / name, copy, random.Random(name))
    told = verify_folder(copy)
    assert len(told) == 3 and all(
        sum(name in line for line in told) == 1 for name in ("shard-00001", "shard-00002", "items")
    )


def test_a_file_is_checked_once_a_process(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders[0], copy)
    monkeypatch.setattr(integrity, "_SETTLED_NS", -(10**18))
    summed: list[str] = []
    checksum = integrity.checksum
    monkeypatch.setattr(integrity, "checksum", lambda path: summed.append(path.name) or checksum(path))
    RepresentationFolder.open(copy).read([0])
    assert summed == [f"ids-0000{i}.parquet" for i in range(4)] + ["shard-00000.safetensors"]
    everything(copy)
    assert sorted(summed) == sorted(set(summed)), "a file was checked twice"
    flip(copy / "shard-00000.safetensors", copy, random.Random(0))  # later than the check: another time, checked again
    with pytest.raises(CacheError, match="shard-00000"):
        RepresentationFolder.open(copy).read([0])
    # A disk that changes bytes changes no times: verify reads all of it.
    state = (copy / "shard-00001.safetensors").stat()
    with (copy / "shard-00001.safetensors").open("r+b") as file:
        file.seek(200)
        file.write(b"\x99")
    os.utime(copy / "shard-00001.safetensors", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert any("shard-00001" in line for line in verify_folder(copy))


# A folder in the making


def unfinished(folder: Path) -> Path:
    writer = RepresentationWriter(folder, manifest())
    writer.append([f"text-{row}" for row in range(20)], keys(0, 20), representations(20))
    writer.abandon()
    return folder


_PARTS = ("shard-00001.safetensors", "ids-00001.parquet", "progress.json")


def test_a_last_shard_stays_where_the_next_rows_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RepresentationWriter(tmp_path / "f", manifest(shard_rows=3)) as writer:
        writer.append(None, keys(0, 5), representations(5))  # killed after the last shard, before the manifest
        writer._write_shard(2)
        raise KeyboardInterrupt
    before = {path.name: path.read_bytes() for path in (tmp_path / "f").glob("*-0*")}
    assert len(before) == 4
    spoiled = representations(2, seed=1)
    spoiled.tokens[1, 0, 0] = float("nan")
    with (
        pytest.raises(CacheError, match="row 6"),
        RepresentationWriter(tmp_path / "f", manifest(shard_rows=3)) as writer,
    ):
        assert writer.rows == 5
        writer.append(None, keys(5, 7), spoiled)
    assert {path.name: path.read_bytes() for path in (tmp_path / "f").glob("*-0*")} == before
    with RepresentationWriter(tmp_path / "f", manifest(shard_rows=3)) as writer:
        writer.append(None, keys(5, 7), representations(2, seed=1))
    expected = torch.cat([representations(5).tokens, representations(2, seed=1).tokens])
    assert torch.equal(RepresentationFolder.open(tmp_path / "f").read(np.arange(7)).tokens, expected)


@pytest.mark.parametrize(
    ("damage", "name"),
    [(damage, name) for damage in (flip, truncate, blank) for name in _PARTS]
    + [(foreign, name) for name in _PARTS[:2]],  # another folder has no progress
)
def test_what_was_damaged_while_an_encode_was_stopped_is_seen_when_it_goes_on(
    folders: tuple[Path, Path], tmp_path: Path, name: str, damage: Damage
) -> None:
    expected = representations(20)
    for seed in range(4 if damage is not foreign else 1):
        copy = unfinished(tmp_path / f"copy{seed}")
        damage(copy / name, folders[1], random.Random(seed))
        try:
            with RepresentationWriter(copy, manifest()) as writer:
                start = writer.rows_written
                writer.append(
                    [f"text-{row}" for row in range(start, 20)], keys(start, 20), representations(20)[slice(start, 20)]
                )
        except CacheError as error:
            assert str(copy) in str(error)
            continue
        read = RepresentationFolder.open(copy)
        assert read.keys == keys(0, 20) and read.ids == [f"text-{row}" for row in range(20)]
        assert torch.equal(read.read(np.arange(20)).tokens, expected.tokens)
        assert damage is not foreign


def test_a_resumed_folder_has_all_checksums(tmp_path: Path) -> None:
    with RepresentationWriter(unfinished(tmp_path / "stopped"), manifest()) as writer:
        assert writer.rows_written == 18
        names = [f"text-{row}" for row in range(18, 20)]
        writer.append(names, keys(18, 20), representations(20)[slice(18, 20)])
    with RepresentationWriter(tmp_path / "whole", manifest()) as writer:
        writer.append([f"text-{row}" for row in range(20)], keys(0, 20), representations(20))
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "stopped" / path.name).read_bytes() == path.read_bytes(), path.name
    assert verify_folder(tmp_path / "stopped") == []


def test_rows_after_a_last_shard_that_was_not_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "distilmatch.store.writer.write_manifest", lambda path, _: interrupt() if "manifest" in path.name else None
        )
        with RepresentationWriter(tmp_path, manifest()) as writer:
            writer.append(None, keys(0, 8), representations(8))
    assert len(list(tmp_path.glob("ids-*"))) == 2
    (tmp_path / "progress.json").unlink(missing_ok=True)
    write_manifest(tmp_path / "progress.json", manifest())
    with RepresentationWriter(tmp_path, manifest()) as writer:
        assert writer.rows_written == 8
        writer.append(None, keys(8, 15), representations(15)[slice(8, 15)])
    read = RepresentationFolder.open(tmp_path)
    assert read.keys == keys(0, 15) and torch.equal(read.read(np.arange(15)).tokens, representations(15).tokens)
    assert verify_folder(tmp_path) == []


# Manifests that somebody made


def _crafted(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    settings = json.loads(path.read_text()) | changes
    settings.pop("checksum")
    path.write_text(json.dumps({**settings, "checksum": _json_checksum(settings)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"kept_tokens": 1025}, {"kept_tokens": 0}, {"kept_tokens": 1024, "width": 65_536}, {"kept_tokens": 3.0},
        {"width": 65_537}, {"width": 10**12}, {"width": -4}, {"width": "4"}, {"width": True}, {"width": None},
        {"rows": 10**12}, {"rows": 21}, {"rows": -1}, {"rows": 2**63}, {"rows": 1e400}, {"rows": [22]},
        {"shard_rows": 0}, {"shard_rows": 1}, {"shard_rows": 7}, {"shard_rows": 2**31},
        {"side": -1}, {"side": {}}, {"dtype": "float64"}, {"dtype": ["float32"]}, {"side_name": ["left"]},
        {"format_version": 3}, {"format_version": "2"}, {"format_version": 2.0}, {"format_version": True},
        {"checksums": None}, {"checksums": {}}, {"checksums": []}, {"checksums": {"manifest.json": "0" * 32}},
        {"checksums": {f"shard-{i:05d}.safetensors": "0" * 32 for i in range(8)}}, {"unknown": 1},
    ],
    ids=lambda changes: str(changes)[:40],
)  # fmt: skip
def test_a_crafted_manifest_is_refused(folders: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders[0], copy)
    _crafted(copy, **changes)
    with pytest.raises(CacheError, match="copy"):
        everything(copy)


@pytest.mark.parametrize(
    "content", ["[" * 200_000, '{"format_version": 2, "side": ' + "[" * 100_000, "", "null", "[1]", "\0", '{"a": 1', "\udcff",
                '{"format_version": ' + "9" * 5000 + "}"], ids=range(9)
)  # fmt: skip
def test_a_manifest_that_is_no_manifest(folders: tuple[Path, Path], tmp_path: Path, content: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders[0], copy)
    (copy / "manifest.json").write_bytes(content.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(CacheError, match=r"manifest\.json"):
        RepresentationFolder.open(copy)
    with pytest.raises(CacheError):
        RepresentationWriter(copy, manifest())


# Folders of format 1, which have no checksums: what they say of themselves is still compared with what is in them


def test_the_fixture_of_format_1_opens_and_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = tmp_path / "version_1"
    shutil.copytree(FIXTURE, copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            folder = RepresentationFolder.open(copy)
    assert (
        sum(
            "no checksums" in one.getMessage() or "before there were checksums" in one.getMessage()
            for one in caplog.records
        )
        == 1
    )
    assert folder.manifest.format_version == 1 and len(folder) == 7
    assert folder.ids == ["d0", "d1", "d2", "d3", "d4", None, "d6"]
    assert folder.row_of_id(["d0-again", "d6", "d5"]).tolist() == [0, 6, -1]
    assert torch.isfinite(folder.read(np.arange(7)).tokens).all()
    rows, texts, ids = folder.items()
    assert rows.tolist() == texts.tolist() == [0, 0, 1, 2, 3, 4, 5, 6]
    assert ids == ["d0", "d0-again", "d1", "d2", "d3", "d4", None, "d6"]
    assert verify_folder(copy) == []
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before, "reading changed it"


def _replace(path: Path, schema: pa.Schema, **columns: list[Any]) -> None:
    table = pq.read_table(path).to_pydict()
    pq.write_table(pa.table({**table, **columns}, schema=schema), path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: _replace(p / "ids-00001.parquet", IDS_SCHEMA, row=[5, 4, 6]),
        lambda p: _replace(p / "ids-00001.parquet", IDS_SCHEMA, row=[0, 1, 2]),
        lambda p: _replace(p / "ids-00001.parquet", IDS_SCHEMA, row=[4, None, 6]),
        lambda p: _replace(p / "ids-00001.parquet", IDS_SCHEMA, key=[b"k" * 16, None, b"l" * 16]),
        lambda p: pq.write_table(pq.read_table(p / "ids-00001.parquet").drop_columns(["id"]), p / "ids-00001.parquet"),
        lambda p: pq.write_table(pq.read_table(p / "ids-00001.parquet").slice(1), p / "ids-00001.parquet"),
        lambda p: _replace(p / "aliases.parquet", ALIASES_SCHEMA, row=[7]),
        lambda p: _replace(p / "aliases.parquet", ALIASES_SCHEMA, row=[-1]),
        lambda p: _replace(p / "aliases.parquet", ALIASES_SCHEMA, id=[None]),
        lambda p: (p / "shard-00001.safetensors").unlink(),
        lambda p: shutil.copy(p / "shard-00001.safetensors", p / "shard-00007.safetensors"),
        lambda p: shutil.copy(p / "shard-00000.safetensors", p / "shard-00001.safetensors"),
        lambda p: shutil.copy(p / "ids-00000.parquet", p / "ids-00001.parquet"),
        lambda p: save_file({name: array * 0 for name, array in load_file(p / "shard-00000.safetensors").items()},
                            p / "shard-00000.safetensors"),
    ],
)  # fmt: skip
def test_a_folder_of_format_1_is_compared_with_itself(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    copy = tmp_path / "version_1"
    shutil.copytree(FIXTURE, copy)
    damage(copy)
    with pytest.raises(CacheError):
        opened = RepresentationFolder.open(copy)
        opened.row_of_id(["d0"])
        opened.items()
        opened.read(np.arange(len(opened)))


# Arguments and threads


def test_one_id_one_text_one_key(folders: tuple[Path, Path]) -> None:
    folder = RepresentationFolder.open(folders[0])
    assert folder.row_of_id("text-4").tolist() == [4]
    assert folder.row_of_text("text 5").tolist() == [5]
    assert folder.row_of_key(keys(6, 7)[0]).tolist() == [6]
    assert folder.row_of_id(np.array(["text-4", "text-5"])).tolist() == [4, 5]
    assert folder.row_of_id([]).tolist() == []
    for wrong in (None, {"text-4": 1}, b"text-4", [4], [None]):
        with pytest.raises(DataError):
            folder.row_of_id(wrong)
        with pytest.raises(DataError):
            folder.row_of_text(wrong)
    for rows in ([0.5], [True, False], ["1"], np.array([1.0])):
        with pytest.raises(ConfigError, match="whole numbers"):
            folder.read(rows)
    assert len(folder.read([])) == 0


def test_rows_without_a_token_are_named(tmp_path: Path) -> None:
    with RepresentationWriter(tmp_path, manifest()) as writer:
        writer.append(None, keys(0, 5), representations(5))
        bad = representations(3)
        bad.mask[1] = False
        with pytest.raises(CacheError, match=r"row 6 \(id 'b'\) has no token"):
            writer.append(["a", "b", "c"], keys(5, 8), bad)
        assert writer.rows == 5


def test_eight_threads_read_one_folder(folders: tuple[Path, Path]) -> None:
    expected = everything(folders[0])
    tokens = representations(ROWS).tokens
    for _ in range(5):
        folder = RepresentationFolder.open(folders[0])

        def work(seed: int, folder: RepresentationFolder = folder) -> bool:
            rows = np.random.default_rng(seed).integers(0, ROWS, 50)
            assert folder.row_of_id(["text-4", "text-again", "none"]).tolist() == [4, 4, -1]
            assert folder.keys == expected[1] and folder.items()[2] == expected[5]
            return torch.equal(folder.read(rows).tokens, tokens[rows])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(64)))
