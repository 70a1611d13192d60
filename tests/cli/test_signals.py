"""How a command ends when it is told to, or when what it needs is not there: one line, a code, and work that goes on."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError
from tests.helpers import COLOURS, THINGS, call, write_jsonl

from distilmatch.cli import app, main
from distilmatch.config.pairs import StudentConfig
from distilmatch.models import DiPair
from distilmatch.store.folder import RepresentationFolder

COMMAND = [sys.executable, "-m", "distilmatch.cli"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def encoding(tmp_path: Path, tiny_encoder: Path) -> list[str]:
    """An `encode` of many texts, to `tmp_path / "out"`."""
    shape = StudentConfig(kept_tokens=(4, 4), max_lengths=(48, 48), head="cosine")
    DiPair.from_encoder(str(tiny_encoder), shape).save_pretrained(tmp_path / "student")
    words = " ".join((*COLOURS[:3], *THINGS))
    table = write_jsonl(tmp_path / "texts.jsonl", ({"text": f"{words} {i}"} for i in range(30_000)))
    return [
        "encode", str(tmp_path / "student"), str(table), "--side", "0", "--output", str(tmp_path / "out"),
        "--batch-size", "32",
    ]  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_told_to_end_says_so_and_goes_on(
    encoding: list[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    # A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = subprocess.Popen([*COMMAND, *encoding], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        while not (tmp_path / "out").exists():  # the folder is made when the table is read: texts are being encoded
            assert started.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        assert started.poll() is None
        started.send_signal(number)
        told = started.communicate(timeout=60)[1]
    finally:
        started.kill()
    assert started.returncode == code, told[-2000:]
    assert "Interrupted. The same command goes on" in told and "Traceback" not in told
    done = subprocess.run([*COMMAND, *encoding], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(RepresentationFolder.open(tmp_path / "out")) == 30_000


def _raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", run)


def test_sigterm_is_an_interrupt_and_its_handler_is_put_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object, **settings: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(app, "app", run)
    before = signal.getsignal(signal.SIGTERM)
    assert call("info") == 143 and "Interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    _raising(monkeypatch, KeyboardInterrupt())
    assert call("info") == 130


def test_a_command_in_another_thread_leaves_signals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(app, "app", lambda *arguments, **settings: 0)
    thread = threading.Thread(target=lambda: codes.append(call("info")))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "distilmatch.cli", "info"],
        stdout=writer, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "not enough memory (MemoryError)"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"), "smaller batch size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (SafetensorError("Error while serializing: No space left on device (os error 28)"), "the disk is full"),
        (SafetensorError("Error while deserializing header: header too large"), "SafetensorError: Error while"),
        (pa.ArrowInvalid("Parquet magic bytes not found\nin footer"), "ArrowInvalid: Parquet magic bytes not found"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (sqlite3.DatabaseError("file is not a database"), "file is not a database"),
        (OSError(errno.ENOSPC, "No space left on device", "out/part"), "cannot write out/part: the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "the disk is full, or a limit"),
        (PermissionError(errno.EACCES, "Permission denied", "out/part"), "out/part: Permission denied"),
        (OSError("Can't load the model"), "Can't load the model"),
        (RuntimeError("[enforce fail at inline_container.cc:672] PytorchStreamWriter failed writing"), "checkpoint"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: Exception, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _raising(monkeypatch, error)
    assert call("info") == 1
    told = capsys.readouterr().err
    assert part in told and told.count("\n") == 1 and told.startswith("Error: ")
    with pytest.raises(type(error)):
        main(["info", "--debug"])


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("x"), sqlite3.ProgrammingError("closed")])
def test_a_defect_shows_where_it_is(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    _raising(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["info"])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["train", "recipe.yaml", "--output", ""], "--output"),
        (["evaluate", "m", "t", "--output="], "--output"),
        (["demo", "--output", " "], "--output"),
        (["train", ""], "argument 2"),
        (["tune", "recipe.yaml", "--minutes", "1", "--output", ""], "--output"),
    ],
)
def test_an_empty_text_is_no_place(
    arguments: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    assert f"{name} is empty" in capsys.readouterr().err and not list(tmp_path.iterdir())
