"""A checkpoint that was not written to its end is passed over, and why one could not be written is one line."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.pairs import StudentConfig
from distilmatch.config.stages import StageConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import CacheError
from distilmatch.models import DiPair
from distilmatch.training import checkpoints
from distilmatch.training.checkpoints import CheckpointTrainer, last_whole_checkpoint, save_beside
from distilmatch.training.pairs.stage import run_stage
from distilmatch.training.processes import Processes
from distilmatch.types import TupleTable


def _checkpoint(folder: Path, step: int, state: str | None = "{}", *more: str) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    for name in more:
        (path / name).write_text("x")
    return path


def test_the_last_whole_one_is_taken_and_parts_are_removed(tmp_path: Path) -> None:
    assert last_whole_checkpoint(tmp_path) is None
    good = _checkpoint(tmp_path, 9, json.dumps({"global_step": 9}), "bank")
    parts = [_checkpoint(tmp_path, 10, None), _checkpoint(tmp_path, 11, '{"global_st'), _checkpoint(tmp_path, 100, "")]
    parts.append(_checkpoint(tmp_path, 12, "{}"))  # without what a callback adds
    assert last_whole_checkpoint(tmp_path, ["bank"], removes=False) == str(good) and all(map(Path.exists, parts))
    assert last_whole_checkpoint(tmp_path) == str(parts[-1])
    assert last_whole_checkpoint(tmp_path, ["bank"]) == str(good) and not any(map(Path.exists, parts))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 198784 vs 198676\nmore"),
        RuntimeError("basic_ios::clear: iostream error"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_full_disk_is_told(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer, TrainingArguments

    def fails(self: Trainer, model: object, trial: object) -> None:
        raise error

    monkeypatch.setattr(Trainer, "_save_checkpoint", fails)
    trainer = CheckpointTrainer(
        model=torch.nn.Linear(1, 1), args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    )
    with pytest.raises(CacheError, match="the disk is full") as told:
        trainer._save_checkpoint(trainer.model, None)  # type: ignore[arg-type]
    assert "\n" not in str(told.value) and str(tmp_path) in str(told.value)


def _train(encoder: str, folder: str) -> torch.Tensor:
    rng = np.random.default_rng(0)
    table = TupleTable(
        texts=[f"red car {i}" for i in range(20)],
        rows=rng.integers(0, 20, (64, 2)),
        teacher=rng.normal(size=(64, 1)).astype(np.float32),
        blocks=np.repeat(np.arange(8), 8),
    )
    torch.manual_seed(0)
    shape = StudentConfig(max_lengths=(16, 16), kept_tokens=(4, 4), width=16, head_heads=2)
    model = DiPair.from_encoder(encoder, shape, TaskConfig(kind="binary"))
    stage = StageConfig(epochs=2, blocks_per_batch=2, evaluations=4, precision="fp32")
    run_stage(
        model, table, Path(folder), stage, ObjectiveConfig(), frozen_encoders=False, dev_set=None,
        processes=Processes(cpu=True), device="cpu",
    )  # fmt: skip
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_a_stage_goes_on_after_a_full_disk_and_after_a_killed_write(tiny_encoder: Path, tmp_path: Path) -> None:
    whole = _train(str(tiny_encoder), str(tmp_path / "whole"))
    stopped = tmp_path / "stopped"
    limit = 150_000  # the model's weights fit, the optimiser's do not
    done = subprocess.run(
        [sys.executable, __file__, str(tiny_encoder), str(stopped)], capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode != 0 and "the disk is full" in done.stderr.strip().splitlines()[-1], done.stderr[-3000:]
    parts = list((stopped / "checkpoints").glob("checkpoint-*"))
    assert parts and not any((part / "trainer_state.json").exists() for part in parts)
    torch.testing.assert_close(_train(str(tiny_encoder), str(stopped)), whole)


if __name__ == "__main__":
    _train(*sys.argv[1:])


def test_what_is_put_beside_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "beside.safetensors"
    save_beside({"a": torch.ones(3)}, path)
    assert torch.equal(load_file(path)["a"], torch.ones(3)) and [found.name for found in tmp_path.iterdir()] == [
        path.name
    ]

    def torn(tensors: object, where: Path) -> None:
        Path(where).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", torn)
    with pytest.raises(CacheError, match="disk is full"):
        save_beside({"a": torch.zeros(3)}, path)
    assert torch.equal(load_file(path)["a"], torch.ones(3))


@pytest.mark.parametrize(
    ("said", "kind"), [("CUDA out of memory", RuntimeError), ("PytorchStreamWriter failed writing file", CacheError)]
)
def test_only_what_the_writer_says_is_called_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(Trainer, "_save_checkpoint", fail)
    trainer = object.__new__(CheckpointTrainer)
    trainer.args = SimpleNamespace(output_dir=str(tmp_path))
    with pytest.raises(kind) as raised:
        trainer._save_checkpoint(torch.nn.Linear(1, 1), None)
    assert type(raised.value) is kind and said in str(raised.value)
