"""The two stages of the embedding job: distillation on unlabelled text, then contrastive learning on labelled rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distilmatch.config.embeddings import ContrastiveConfig, EmbeddingStageConfig
from distilmatch.config.objectives import EmbeddingObjectiveConfig
from distilmatch.models.sentence_card import save_student
from distilmatch.objectives import MemoryBank
from distilmatch.training.arguments import steps_an_epoch, training_arguments
from distilmatch.training.embeddings.batches import (
    ContrastiveCollator,
    DistilCollator,
    LabelledTables,
    Numbers,
    StudentTokens,
    TableSampler,
)
from distilmatch.training.embeddings.projected import ProjectedStudent
from distilmatch.training.embeddings.trainer import (
    METRIC,
    BankState,
    ContrastiveTrainer,
    DevPairs,
    DistilTrainer,
    EmbeddingTrainer,
)
from distilmatch.training.processes import Processes
from distilmatch.training.stages import StageWork, Watch, stage_callbacks, train_stage


def run_distillation(
    student: ProjectedStudent,
    token_ids: Sequence[np.ndarray],
    embeddings: np.ndarray,
    folder: Path,
    stage: EmbeddingStageConfig,
    objective: EmbeddingObjectiveConfig,
    *,
    dev: DevPairs | None,
    processes: Processes,
    device: str | None = None,
    seed: int = 0,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Stage 1: trains `student` on the teacher's embeddings and saves it in `folder/student`; goes on from the last
    checkpoint of a stopped run, the memory bank with it.

    Args:
        student: with a projection where the widths differ; its weights are the trained ones afterwards.
        token_ids: the student's, of each text of the corpus.
        embeddings: (texts, width), the teacher's.
        folder: checkpoints, TensorBoard logs, `stage.json` (written last) and the student.
        dev: measured at every evaluation; the best checkpoint is kept. None keeps the last.
        watch: services and callbacks of the user.

    Returns:
        Steps, seconds, texts seen and the log, as in `stage.json`.
    """
    settings = _settings(student, len(token_ids), folder, stage, dev, processes, device, seed, watch)
    bank = None
    if objective.uses_bank:
        bank = MemoryBank(objective.bank_size, embeddings.shape[1], device=settings["args"].device)
        _fill(bank, embeddings, seed)
        settings["callbacks"].append(BankState(bank, process=processes.rank, shared=objective.gather))
    tokens = StudentTokens(student.encoder, student.shape.max_length)
    trainer = DistilTrainer(
        objective=objective,
        bank=bank,
        **settings,
        train_dataset=Numbers(len(token_ids)),
        data_collator=DistilCollator(tokens, token_ids, embeddings),
    )
    return _train(trainer, student, folder, stage, processes, device)


def _fill(bank: MemoryBank, embeddings: np.ndarray, seed: int) -> None:
    """Starts the bank with random texts of the corpus, the same in every process: the teacher's embeddings are all there,
    so that no step has to do with fewer negatives than the last one.
    """
    count = min(bank.capacity, len(embeddings))
    chosen = np.sort(np.random.default_rng(seed).choice(len(embeddings), count, replace=False))  # read in their order
    bank.push(torch.from_numpy(np.asarray(embeddings[chosen], dtype=np.float32)), torch.from_numpy(chosen))


def run_contrastive(
    student: ProjectedStudent,
    tables: LabelledTables,
    folder: Path,
    stage: EmbeddingStageConfig,
    contrastive: ContrastiveConfig,
    *,
    dev: DevPairs | None,
    processes: Processes,
    device: str | None = None,
    seed: int = 0,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Stage 2: trains `student` on labelled rows; else as `run_distillation`."""
    start = {name: weight.clone() for name, weight in student.encoder.state_dict().items()}
    tokens = StudentTokens(student.encoder, student.shape.max_length)
    rows = len(TableSampler(tables.starts, stage.batch_size * processes.count))
    trainer = ContrastiveTrainer(
        tables=tables,
        contrastive=contrastive,
        **_settings(student, rows, folder, stage, dev, processes, device, seed, watch),
        train_dataset=Numbers(len(tables)),
        data_collator=ContrastiveCollator(tokens, tables),
    )
    blend = None if contrastive.start_share == 0 else partial(_blend, student.encoder, start, contrastive.start_share)
    return _train(trainer, student, folder, stage, processes, device, blend)


@torch.no_grad()
def _blend(encoder: nn.Module, start: Mapping[str, torch.Tensor], share: float) -> None:
    """Moves the weights by this share of the way back to where they began (Wortsman et al. 2022, eq. 1)."""
    for name, weight in encoder.state_dict().items():
        if weight.is_floating_point():
            weight.lerp_(start[name].to(weight), share)


def _settings(
    student: ProjectedStudent,
    items: int,
    folder: Path,
    stage: EmbeddingStageConfig,
    dev: DevPairs | None,
    processes: Processes,
    device: str | None,
    seed: int,
    watch: Watch | None,
) -> dict[str, Any]:
    return {
        "model": student,
        "args": training_arguments(
            folder,
            stage,
            items=items,
            batch_size=stage.batch_size,
            warmup_steps=round(steps_an_epoch(stage, items, stage.batch_size, processes) * stage.warmup_epochs),
            metric=None if dev is None else METRIC,
            processes=processes,
            device=device,
            seed=seed,
            run_name=folder.name,
            adam_beta2=stage.beta2,
        ),
        "callbacks": stage_callbacks(folder, stage, has_dev=dev is not None, processes=processes, watch=watch),
        "dev": dev,
        "dev_precision": stage.precision,
    }


def _train(
    trainer: EmbeddingTrainer,
    student: ProjectedStudent,
    folder: Path,
    stage: EmbeddingStageConfig,
    processes: Processes,
    device: str | None,
    finish: Callable[[], None] | None = None,
) -> dict[str, Any]:
    transformer = getattr(student.encoder[0], "model", None)
    has_bank = any(isinstance(callback, BankState) for callback in trainer.callback_handler.callbacks)
    texts_a_step = stage.batch_size * stage.gradient_accumulation_steps * processes.count

    def finished() -> dict[str, Any]:
        if finish is not None:
            finish()
            if trainer.dev is not None:
                trainer.state.best_metric = trainer.evaluate()[f"eval_{METRIC}"]
        return {"temperature": None if student.log_scale is None else float((-student.log_scale).detach().exp())}

    work = StageWork(
        trainer=trainer,
        encoders=[transformer] if isinstance(transformer, nn.Module) else [],
        metric=None if trainer.dev is None else METRIC,
        shown=() if trainer.dev is None else (METRIC,),
        needs=[BankState.first] if has_bank else [],  # the same for every process
        finish=finished,
        facts=lambda: {"items_seen": trainer.state.global_step * texts_a_step},
        save=lambda place: save_student(student.eval().assembled(), place, {}, student.shape.matryoshka),
    )
    return train_stage(work, folder, processes, device)
