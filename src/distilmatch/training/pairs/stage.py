"""One stage of a pair student's training."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback

from distilmatch.config.pairs import ObjectiveConfig, StageConfig
from distilmatch.files import write_json
from distilmatch.models import DiPair
from distilmatch.models.attention import trained_attention
from distilmatch.runtime import keep_freed_memory, pick_device
from distilmatch.training.arguments import training_arguments
from distilmatch.training.averaging import WeightAverage
from distilmatch.training.checkpoints import last_whole_checkpoint
from distilmatch.training.pairs.batches import BlockDataset, CachedCollator, TextCollator
from distilmatch.training.pairs.frozen import cache_kept_outputs
from distilmatch.training.pairs.trainer import BlockTrainer, DevSet, flat_history
from distilmatch.training.processes import Processes
from distilmatch.training.progress import StepTimes, show_shortly
from distilmatch.training.stages import DONE
from distilmatch.types import TupleTable


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
        args=training_arguments(
            folder,
            stage,
            items=len(dataset),
            batch_size=stage.blocks_per_batch,
            warmup_steps=stage.warmup_ratio,
            metric=None if dev_set is None else dev_set.metric,
            processes=processes,
            device=device,
            seed=seed,
            run_name="stage1" if frozen_encoders else "stage2",
        ),
        train_dataset=dataset,
        data_collator=collator,
        callbacks=callbacks,
        task=model.task,
        objective=objective,
        encoder_learning_rate=None if frozen_encoders else stage.encoder_learning_rate,
        dev_set=dev_set,
        dev_precision=precision,
        highest_grade=highest_grade(table),
    )
    show_shortly(trainer, () if dev_set is None else dev_set.shown)
    needs = () if average is None else (average.file,)
    last = last_whole_checkpoint(checkpoints, needs, removes=processes.is_main)
    started = time.perf_counter()
    with trained_attention(list(model.encoders), pick_device(device)):
        trainer.train(resume_from_checkpoint=last)
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
        write_json(folder / DONE, summary)
        shutil.rmtree(checkpoints, ignore_errors=True)
        shutil.rmtree(kept_folder, ignore_errors=True)
    processes.wait()
    return summary


def highest_grade(table: TupleTable) -> float:
    """The largest gold label of a table, by which those of a ranking are divided; 1 where there is none above 0."""
    highest = 0.0 if table.gold is None or np.isnan(table.gold).all() else float(np.nanmax(table.gold))
    return highest if highest > 0 else 1.0


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
