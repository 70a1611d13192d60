"""The two stages (DiPair, section 3.4): the new layers settle on frozen encoders, then everything learns."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import get_last_checkpoint

from distilmatch.config import ObjectiveConfig, StageConfig
from distilmatch.models import DiPair
from distilmatch.models.attention import trained_attention
from distilmatch.runtime import keep_freed_memory, pick_device, use_bf16, write_json
from distilmatch.training.averaging import WeightAverage
from distilmatch.training.batches import BlockDataset, CachedCollator, TextCollator
from distilmatch.training.frozen import cache_kept_outputs
from distilmatch.training.processes import Processes
from distilmatch.training.progress import StepTimes, show_shortly
from distilmatch.training.trainer import BlockTrainer, DevSet, flat_history
from distilmatch.types import TupleTable

_DONE = "stage.json"


def run_stage(
    model: DiPair,
    table: TupleTable,
    folder: Path,
    stage: StageConfig,
    objective: ObjectiveConfig,
    *,
    frozen_encoders: bool,
    dev_set: DevSet | None,
    processes: Processes,
    device: str | None = None,
    seed: int = 0,
    cached: bool = True,
) -> dict[str, Any]:
    """Trains one stage and saves the student in `folder/student`; goes on from the last checkpoint of a stopped run.

    Args:
        model: the student at the start of the stage; when checkpoints exist its weights are theirs afterwards.
        table: labelled blocks.
        folder: checkpoints, TensorBoard logs, `stage.json` (written last) and the student.
        frozen_encoders: stage 1; the encoders' outputs are cached once and only the new layers learn.
        dev_set: scored at every evaluation; the best checkpoint is kept. None keeps the last.
        cached: False encodes every batch's texts anew in stage 1 too, to compare.

    Returns:
        Steps, seconds, pairs supervised and the log, as in `stage.json`.
    """
    keep_freed_memory()
    stage = stage.with_rates()
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    precision = stage.precision
    for encoder in model.encoders:
        encoder.requires_grad_(not frozen_encoders)
    kept_folder = folder / "kept_outputs"
    collator: TextCollator | CachedCollator
    if frozen_encoders and cached:
        model.to(pick_device(device))  # type: ignore[arg-type]
        if processes.is_main:
            cache_kept_outputs(model, table, kept_folder, precision)
        processes.wait()
        collator = CachedCollator(table, cache_kept_outputs(model, table, kept_folder, precision, write=False))
    else:
        collator = TextCollator(table, model)
    dataset = BlockDataset(table)
    times = StepTimes()
    callbacks: list[TrainerCallback] = [times]
    if processes.is_main:
        callbacks.append(TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"))))
    average = WeightAverage(model, stage.averaging) if stage.averaging else None
    if average is not None:
        callbacks.append(average)
    if dev_set is not None and stage.patience is not None:
        callbacks.append(EarlyStoppingCallback(stage.patience))
    trainer = BlockTrainer(
        model=model,
        args=_arguments(folder, stage, len(dataset), dev_set, frozen_encoders, processes, device, seed),
        train_dataset=dataset,
        data_collator=collator,
        callbacks=callbacks,
        task=model.task,
        objective=objective,
        encoder_learning_rate=None if frozen_encoders else stage.encoder_learning_rate,
        dev_set=dev_set,
        dev_precision=precision,
    )
    show_shortly(trainer, () if dev_set is None else dev_set.shown)
    started = time.perf_counter()
    with trained_attention(list(model.encoders), pick_device(device)):
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)))
    averaged = average is not None and _keep_average(trainer, average, dev_set)
    summary = {
        "steps": trainer.state.global_step,
        "seconds": round(time.perf_counter() - started, 1),
        "seconds_per_step": times.median,
        "pairs_supervised": trainer.pairs_supervised * processes.count,
        "best_metric": trainer.state.best_metric,
        "averaged": averaged,
        "metric": None if dev_set is None else dev_set.metric,
        "history": flat_history(trainer.state.log_history),
    }
    processes.wait()  # every process has read its best checkpoint
    if processes.is_main:
        model.save_pretrained(folder / "student")
        write_json(folder / _DONE, summary)
        shutil.rmtree(checkpoints, ignore_errors=True)
        shutil.rmtree(kept_folder, ignore_errors=True)
    processes.wait()
    return summary


def _keep_average(trainer: BlockTrainer, average: WeightAverage, dev_set: DevSet | None) -> bool:
    """Gives the model its averaged weights, unless it is better on dev without them; returns whether it did."""
    average.swap()
    if dev_set is None:
        return True
    metric = trainer.evaluate(metric_key_prefix="averaged")[f"averaged_{dev_set.metric}"]
    best = trainer.state.best_metric
    if best is not None and metric <= best:
        average.swap()
        return False
    trainer.state.best_metric = metric
    return True


def finished_stage(folder: Path) -> dict[str, Any] | None:
    """The summary of a stage that is done, or None."""
    path = folder / _DONE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _arguments(
    folder: Path,
    stage: StageConfig,
    blocks: int,
    dev_set: DevSet | None,
    frozen_encoders: bool,
    processes: Processes,
    device: str | None,
    seed: int,
) -> TrainingArguments:
    chosen = pick_device(device)
    blocks_per_step = stage.blocks_per_batch * stage.gradient_accumulation_steps * processes.count
    assert stage.learning_rate is not None
    steps = max(1, math.ceil(blocks / blocks_per_step * stage.epochs))
    every = math.ceil(steps / stage.evaluations)
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=stage.epochs,
        per_device_train_batch_size=stage.blocks_per_batch,
        gradient_accumulation_steps=stage.gradient_accumulation_steps,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=stage.warmup_ratio,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        bf16=use_bf16(stage.precision, chosen),
        use_cpu=chosen.type == "cpu",
        ddp_backend="gloo" if chosen.type == "cpu" and processes.count > 1 else None,
        eval_strategy="no" if dev_set is None else "steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=dev_set is not None,
        metric_for_best_model=None if dev_set is None else f"eval_{dev_set.metric}",
        greater_is_better=True,
        logging_steps=max(1, min(50, steps // 20)),
        seed=seed,
        remove_unused_columns=False,
        label_names=[],
        dataloader_pin_memory=chosen.type == "cuda",
        ddp_find_unused_parameters=False,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        run_name="stage1" if frozen_encoders else "stage2",
    )
