"""The arguments of `transformers.Trainer` that every stage of every job has."""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from distilmatch.config.embeddings import EmbeddingStageConfig
from distilmatch.config.stages import StageConfig
from distilmatch.errors import ConfigError
from distilmatch.metrics import sign_of
from distilmatch.runtime import pick_device, use_bf16
from distilmatch.training.processes import Processes

logger = logging.getLogger(__name__)


def one_device(args: TrainingArguments) -> TrainingArguments:
    """`args` for one device a process, told once where there are more.

    Where a process sees several GPUs, `transformers.Trainer` cuts each batch in as many parts with `DataParallel`, which
    knows nothing of what a batch here is made of: the texts would be parted from the rows that name them.
    """
    if args.n_gpu > 1:
        _say_that_one_is_used(args.n_gpu, str(args.device))
        args._n_gpu = 1
    return args


@functools.cache
def _say_that_one_is_used(count: int, device: str) -> None:
    logger.warning(
        "%d GPUs are visible and one is used, %s: to train on all of them start the command with torchrun "
        "--nproc_per_node=%d -m distilmatch.cli",
        count,
        device,
        count,
    )


def training_device(name: str | None) -> torch.device:
    """The device that training takes place on, as `pick_device` says.

    Raises:
        ConfigError: a GPU by number that is not the first one a process sees, which is the one that `transformers` takes.
    """
    chosen = pick_device(name)
    if chosen.type == "cuda" and chosen.index and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise ConfigError(
            f"training takes the first GPU that it sees, not {chosen}: set CUDA_VISIBLE_DEVICES={chosen.index} and "
            "device: cuda"
        )
    return chosen


def steps_an_epoch(
    stage: StageConfig | EmbeddingStageConfig, items: int, batch_size: int, processes: Processes
) -> float:
    """How many optimiser steps a pass over the items takes, not rounded."""
    return items / (batch_size * stage.gradient_accumulation_steps * processes.count)


def training_arguments(
    folder: Path,
    stage: StageConfig | EmbeddingStageConfig,
    *,
    items: int,
    batch_size: int,
    warmup_steps: float,
    metric: str | None,
    processes: Processes,
    device: str | None,
    seed: int,
    run_name: str,
    **more: Any,
) -> TrainingArguments:
    """Checkpoints in `folder/checkpoints` at every evaluation, the best of which is read again at the end.

    Args:
        items: of the dataset; batch_size: how many of them a step and a process.
        warmup_steps: steps, or below 1 a share of them.
        metric: on dev; None evaluates nothing and keeps the last.
        more: what only this job has.
    """
    chosen = training_device(device)
    steps = max(1, math.ceil(steps_an_epoch(stage, items, batch_size, processes) * stage.epochs))
    every = math.ceil(steps / stage.evaluations)
    assert stage.learning_rate is not None
    made = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=stage.epochs,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=stage.gradient_accumulation_steps,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=min(steps - 1, warmup_steps),
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        bf16=use_bf16(stage.precision, chosen),
        use_cpu=chosen.type == "cpu",
        ddp_backend="gloo" if chosen.type == "cpu" and processes.count > 1 else None,
        eval_strategy="no" if metric is None else "steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=metric is not None,
        metric_for_best_model=None if metric is None else f"eval_{metric}",
        greater_is_better=metric is None or sign_of(metric) > 0,
        logging_steps=max(1, min(50, steps // 20)),
        seed=seed,
        remove_unused_columns=False,
        label_names=[],
        dataloader_pin_memory=chosen.type == "cuda",
        ddp_find_unused_parameters=False,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        run_name=run_name,
        **more,
    )
    return one_device(made)
