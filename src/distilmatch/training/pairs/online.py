"""The teacher beside the student: what it learns in each step, and that a stopped run goes on with it.

Shape legend: p pairs of a batch; c labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.objectives import PairBatch, gold_loss, pair_objective_loss
from distilmatch.teachers.online import OnlineTeacher
from distilmatch.training.checkpoints import save_beside

MATRICES = "teacher_matrices.safetensors"


class TeacherBeside(TrainerCallback):
    """Labels a batch anew with a teacher that learns, and has it learn.

    Its matrices are saved with every checkpoint and read again with it, as the optimiser's numbers for them are.

    Args:
        texts: of the table that batches are made of.
    """

    file = MATRICES  # beside a checkpoint

    def __init__(
        self,
        teacher: OnlineTeacher,
        texts: Sequence[str],
        task: TaskConfig,
        objective: ObjectiveConfig,
        highest_grade: float,
    ) -> None:
        self.teacher, self.texts = teacher, texts
        self.task, self.objective, self.highest_grade = task, objective.replaced(gold_weight=0.0), highest_grade

    def labels(self, rows: torch.Tensor) -> torch.Tensor:
        """(p, c) logits with a gradient of the pairs at (p, 2) `rows` of the texts."""
        return self.teacher([(self.texts[left], self.texts[right]) for left, right in rows.tolist()])  # type: ignore[no-any-return]

    def loss(self, own: torch.Tensor, student: torch.Tensor, labels: dict[str, Any]) -> torch.Tensor:
        """The teacher's: cross-entropy with the gold labels, and gamma times the objective with the student's logits, which
        take no gradient from it, as the target.

        Args:
            own: (p, c) of the teacher, with a gradient.
            student: (p, c).
            labels: of the batch: gold, queries and blocks.
        """
        gold = labels.get("gold")
        total = own.sum() * 0.0 if gold is None else gold_loss(own, gold, self.task, self.highest_grade)
        batch = PairBatch(logits=own, teacher=student.detach(), queries=labels["queries"], blocks=labels["blocks"])
        return total + self.teacher.config.gamma * pair_objective_loss(batch, self.task, self.objective)

    def save(self, path: Path) -> None:
        """Writes the matrices."""
        save_beside({name: weight.detach().contiguous() for name, weight in self.teacher.matrices().items()}, path)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes the matrices of the checkpoint that the run goes on from."""
        path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / MATRICES
        if state.global_step and path.is_file():
            self.teacher.load(path)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Cuts the gradient as the trainer cuts the student's."""
        torch.nn.utils.clip_grad_norm_(self.teacher.matrices().values(), args.max_grad_norm)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Forgets the gradient: the trainer forgets the student's alone."""
        self.teacher.zero_grad()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Puts the matrices beside the checkpoint that was just written."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self.save(folder / MATRICES)
