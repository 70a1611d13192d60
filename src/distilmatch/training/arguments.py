"""The arguments of `transformers.Trainer` that every stage of every job has."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from distilmatch.config import StageConfig
from distilmatch.embedding_config import EmbeddingStageConfig
from distilmatch.runtime import pick_device, use_bf16
from distilmatch.training.processes import Processes


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
    chosen = pick_device(device)
    steps = max(1, math.ceil(steps_an_epoch(stage, items, batch_size, processes) * stage.epochs))
    every = math.ceil(steps / stage.evaluations)
    assert stage.learning_rate is not None
    return TrainingArguments(
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
        greater_is_better=True,
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
