"""One stage of a pair student's training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.stages import StageConfig
from distilmatch.metrics import sign_of
from distilmatch.models import DiPair
from distilmatch.runtime import pick_device
from distilmatch.teachers.online import OnlineTeacher
from distilmatch.training.arguments import training_arguments
from distilmatch.training.averaging import WeightAverage
from distilmatch.training.pairs.batches import BlockDataset, CachedCollator, TextCollator
from distilmatch.training.pairs.frozen import cache_kept_outputs
from distilmatch.training.pairs.mixtures import MixingCollator
from distilmatch.training.pairs.online import TeacherBeside
from distilmatch.training.pairs.trainer import BlockTrainer, DevSet
from distilmatch.training.processes import Processes
from distilmatch.training.stages import StageWork, Watch, stage_callbacks, train_stage
from distilmatch.types import TupleTable

_KEPT = "kept_outputs"


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
    watch: Watch | None = None,
    mixtures: TupleTable | None = None,
    online: OnlineTeacher | None = None,
    save: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Trains one stage and saves the student in `folder/student`; goes on from the last checkpoint of a stopped run.

    Args:
        model: the student at the start of the stage; when checkpoints exist its weights are theirs afterwards.
        table: labelled blocks.
        folder: checkpoints, TensorBoard logs, `stage.json` (written last) and the student.
        frozen_encoders: stage 1; the encoders' outputs are cached once and only the new layers learn.
        dev_set: scored at every evaluation; the best checkpoint is kept. None keeps the last.
        watch: services and callbacks of the user.
        mixtures: labelled pairs of virtual texts that are learnt beside the blocks.
        online: a teacher that learns in every step; its matrices are in `folder` afterwards.
        save: writes the student into a folder at the end; None is its own `save_pretrained`.
        cached: False encodes every batch's texts anew in stage 1 too, to compare.

    Returns:
        Steps, seconds, pairs supervised and the log, as in `stage.json`.
    """
    stage = stage.with_rates()
    folder.mkdir(parents=True, exist_ok=True)
    for encoder in model.encoders:
        encoder.requires_grad_(not frozen_encoders)
    collator: TextCollator | CachedCollator | MixingCollator = TextCollator(table, model)
    if frozen_encoders and cached:
        collator = _kept_outputs(model, table, folder, stage, processes, device)
    callbacks = stage_callbacks(folder, stage, has_dev=dev_set is not None, processes=processes, watch=watch)
    average = WeightAverage(model, stage.averaging) if stage.averaging else None
    beside = None
    if online is not None:
        beside = TeacherBeside(online, table.texts, model.task, objective, highest_grade(table))
    states = [state for state in (average, beside) if state is not None]
    dataset = BlockDataset(table)
    if mixtures is not None:
        collator = MixingCollator(collator, dataset.bounds, mixtures, model)
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
            run_name=folder.name,
        ),
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[*callbacks, *states],
        task=model.task,
        objective=objective,
        encoder_learning_rate=None if frozen_encoders else stage.encoder_learning_rate,
        dev_set=dev_set,
        dev_precision=stage.precision,
        highest_grade=highest_grade(table),
        beside=beside,
    )

    def saved(student: Path) -> None:
        (save or model.save_pretrained)(student)
        if beside is not None:
            beside.save(folder / beside.file)

    work = StageWork(
        trainer=trainer,
        encoders=list(model.encoders),
        metric=None if dev_set is None else dev_set.metric,
        shown=() if dev_set is None else dev_set.shown,
        needs=[state.file for state in states],
        finish=lambda: {"averaged": average is not None and _keep_average(trainer, average, dev_set)},
        facts=lambda: {"pairs_supervised": trainer.pairs_supervised * processes.count},
        save=saved,
        scratch=(folder / _KEPT,),
    )
    return train_stage(work, folder, processes, device)


def _kept_outputs(
    model: DiPair, table: TupleTable, folder: Path, stage: StageConfig, processes: Processes, device: str | None
) -> CachedCollator:
    """Batches of encoder outputs that the main process has cached."""
    model.to(pick_device(device))  # type: ignore[arg-type]
    if processes.is_main:
        cache_kept_outputs(model, table, folder / _KEPT, stage.precision)
    processes.wait()
    return CachedCollator(table, cache_kept_outputs(model, table, folder / _KEPT, stage.precision, write=False))


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
    sign = sign_of(dev_set.metric)
    if best is not None and sign * metric <= sign * best:
        average.swap()
        return False
    trainer.state.best_metric = metric
    return True
