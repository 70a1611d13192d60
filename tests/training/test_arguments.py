"""One device a process: a visible second GPU changes nothing but a line in the log."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Trainer

from distilmatch.config.embeddings import EmbeddingStageConfig
from distilmatch.config.stages import StageConfig
from distilmatch.errors import ConfigError
from distilmatch.training import arguments
from distilmatch.training.arguments import one_device, training_arguments, training_device
from distilmatch.training.processes import Processes


def _arguments(folder: Path, stage: StageConfig | EmbeddingStageConfig) -> object:
    return training_arguments(
        folder, stage, items=8, batch_size=4, warmup_steps=0, metric=None, processes=Processes(cpu=True), device="cpu",
        seed=0, run_name="stage",
    )  # fmt: skip


@pytest.mark.parametrize("stage", [StageConfig().with_rates(), EmbeddingStageConfig()])
def test_two_visible_gpus_are_not_shared_by_cutting_batches(
    stage: StageConfig | EmbeddingStageConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        "transformers.TrainingArguments.n_gpu", property(lambda self: self.__dict__.get("_gpus", 2)), raising=True
    )
    monkeypatch.setattr(
        "transformers.TrainingArguments._n_gpu",
        property(lambda self: self.n_gpu, lambda self, count: self.__dict__.update(_gpus=count or 2)),
        raising=False,
    )
    arguments._say_that_one_is_used.cache_clear()
    made = [_arguments(tmp_path, stage) for _ in range(2)]
    assert caplog.text.count("2 GPUs are visible") == 1 and "torchrun --nproc_per_node=2" in caplog.text
    for one in made:
        assert one.n_gpu == 1  # type: ignore[attr-defined]
        model = torch.nn.Linear(2, 2)
        assert Trainer(model=model, args=one)._wrap_model(model) is model  # type: ignore[arg-type]
    arguments._say_that_one_is_used.cache_clear()


def test_one_device_leaves_one_device_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = _arguments(tmp_path, StageConfig().with_rates())
    assert one_device(made) is made and made.n_gpu == 0 and caplog.text == ""  # type: ignore[arg-type,attr-defined]


def test_a_gpu_that_training_would_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "pick_device", lambda name: torch.device(name))
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=1"):
        training_device("cuda:1")
    assert training_device("cuda:0").type == training_device("cuda").type == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert training_device("cuda:1").index == 1
