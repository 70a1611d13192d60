"""`distilmatch verify`: a line for each thing, exit code 1 where one is damaged."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.helpers import call

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.jobs.encode import encode_table
from distilmatch.models import DiPair
from distilmatch.teachers import SoftLabelCache


@pytest.fixture
def run(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A folder such as a run leaves: a student, representations, a label cache."""
    student = DiPair.from_encoder(
        tiny_encoder, StudentConfig(kept_tokens=(3, 3), max_lengths=(16, 16)), TaskConfig(kind="binary")
    ).eval()
    student.save_pretrained(tmp_path / "run" / "student")
    rows = [{"text": f"text {i}", "id": f"d{i}"} for i in range(9)]
    encode_table(
        student,
        rows,
        tmp_path / "run" / "sides" / "right",
        side=1,
        id_column="id",
        shard_rows=4,
        show_progress_bar=False,
    )
    SoftLabelCache(tmp_path / "run" / "labels")
    return tmp_path / "run"


def verify(capsys: pytest.CaptureFixture[str], *arguments: Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = call("verify", *arguments)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_all_that_is_in_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = verify(capsys, run)
    assert code == 0, told
    for name, kind in (("student", "model"), ("sides/right", "representations"), ("labels", "label cache")):
        assert f"{run / name}  {kind}  whole" in told
    assert verify(capsys, run / "student", run / "labels" / "soft_labels.sqlite", run / "sides" / "right")[0] == 0


@pytest.mark.parametrize(
    "name", ["student/model.safetensors", "sides/right/shard-00001.safetensors", "sides/right/manifest.json"]
)
def test_a_damaged_thing_is_named(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 4
    (run / name).write_bytes(bytes(content))
    code, told, _ = verify(capsys, run)
    assert code == 1
    assert f"{(run / name).parent}  " in told and told.count("  damaged\n") == 1 and told.count("  whole\n") == 2
    assert Path(name).name in told


def test_a_label_cache_that_is_damaged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(run / "labels" / "soft_labels.sqlite") as cache:
        assert cache.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    (run / "labels" / "soft_labels.sqlite").write_bytes(b"SQLite format 3\0" + b"\x07" * 5000)
    code, told, _ = verify(capsys, run / "labels")
    assert code == 1 and "label cache  damaged" in told


def test_an_unfinished_folder_and_nothing_at_all(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "sides" / "right"
    shutil.move(folder / "manifest.json", folder / "progress.json")
    code, told, _ = verify(capsys, folder)
    assert code == 1 and "unfinished" in told
    (tmp_path / "empty").mkdir()
    for place, message in ((tmp_path / "empty", "nothing that can be verified"), (tmp_path / "none", "is not there")):
        code, _, error = verify(capsys, place)
        assert code == 1 and message in error and "Traceback" not in error
