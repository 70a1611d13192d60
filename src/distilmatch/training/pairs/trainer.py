"""`BlockTrainer`: `transformers.Trainer` over batches of blocks, with its own loss, optimiser groups and dev metric.

Shape legend: n rows of the dev set; c labels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.metrics import MetricFunction, agreement_metrics, main_metric, own_metrics, sign_of, task_metrics
from distilmatch.metrics.own import agreement_names, check_best
from distilmatch.models import DiPair
from distilmatch.objectives import (
    PairBatch,
    gold_alone_loss,
    gold_items,
    loss_items,
    objective_for,
    pair_objective_loss,
)
from distilmatch.runtime import Precision
from distilmatch.training.accumulation import step_shares
from distilmatch.training.checkpoints import CheckpointTrainer
from distilmatch.training.pairs.online import TeacherBeside
from distilmatch.types import TupleTable

_FEWEST_DEV_ROWS = 500  # of fewer, being as good as the teacher is luck too often


@dataclass(frozen=True, kw_only=True)
class DevSet:
    """What the student is scored on during training; it needs gold labels, teacher labels, or both.

    Attributes:
        own: metrics of the user's own by name, measured on the rows with a gold label (`distilmatch.metrics.own_metrics`).
        best: the metric that picks the best checkpoint; None is the task's usual one.
    """

    table: TupleTable
    task: TaskConfig
    own: Mapping[str, MetricFunction] = field(default_factory=dict)
    best: str | None = None

    @property
    def metric(self) -> str:
        """The metric that picks the best checkpoint; whether more is better says `distilmatch.metrics.sign_of`."""
        if self.best is not None:
            return self.best
        gold = self.table.gold
        return main_metric(self.task, gold) if gold is not None else agreement_names(self.task)[0]

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics that a run prints: the one that picks the checkpoint, agreement with the teacher, the user's own."""
        agreement = () if self.table.teacher is None else (agreement_names(self.task)[0],)
        return tuple(dict.fromkeys((self.metric, *agreement, *self.own)))

    def check(self, has_teacher: bool) -> None:
        """Tries the user's metrics on random logits and looks for `best`, before anything is trained.

        Args:
            has_teacher: whether a teacher will label the table.

        Raises:
            ConfigError: metrics but no gold labels; a metric that fails or gives no number; a `best` that is not measured.
        """
        names: tuple[str, ...] = ()
        if self.table.gold is not None:
            random = np.random.default_rng(0).normal(size=(len(self.table), self.task.num_labels))
            names = tuple(self._task_metrics(random.astype(np.float32)))
        elif self.own:
            raise ConfigError(
                "`metrics` compare scores with gold labels, and the dev table has none: name their column in "
                "`table.label_column`, or leave `metrics` out"
            )
        if has_teacher or self.table.teacher is not None:
            names += agreement_names(self.task)
        if self.best is not None:
            check_best(self.best, names)

    def teacher_quality(self) -> float | None:
        """`metric` of the teacher itself; None where a row has no teacher label."""
        table = self.table
        if table.teacher is None or np.isnan(table.teacher).any():
            return None
        return 1.0 if table.gold is None and self.best is None else self.measured(table.teacher)[self.metric]

    def reaches_teacher(self, reached: float | None) -> bool:
        """Whether a student whose `metric` is `reached` is as good as the teacher, on gold labels enough to tell."""
        gold = self.table.gold
        if reached is None or gold is None or int((~np.isnan(gold)).sum()) < _FEWEST_DEV_ROWS:
            return False
        sign, teacher = sign_of(self.metric), self.teacher_quality()
        return teacher is not None and sign * reached >= sign * teacher

    def _task_metrics(self, logits: np.ndarray) -> dict[str, float]:
        table = self.table
        assert table.gold is not None
        labelled = ~np.isnan(table.gold)
        queries = None if table.queries is None else table.queries[labelled]
        gold, scored = table.gold[labelled], logits[labelled]
        return task_metrics(self.task, gold, scored, queries) | own_metrics(
            self.own, self.task, gold, scored, queries if self.task.kind == "ranking" else None
        )

    def measured(self, logits: np.ndarray) -> dict[str, float]:
        """Task metrics and the user's own (with gold labels) and agreement with the teacher (with its labels, as
        `teacher_*`) of (n, c) logits.
        """
        table = self.table
        metrics: dict[str, float] = {}
        if table.gold is not None:
            metrics |= self._task_metrics(logits)
        if table.teacher is not None:
            known = ~np.isnan(table.teacher).any(axis=1)
            agreement = agreement_metrics(self.task, logits[known], table.teacher[known])
            metrics |= {f"teacher_{name}": value for name, value in agreement.items()}
        return metrics

    def measure(self, model: DiPair, precision: Precision) -> dict[str, float]:
        """`measured` of a student."""
        return self.measured(model.logits(self.table.tuples(), precision=precision, show_progress_bar=False))


class BlockTrainer(CheckpointTrainer):
    """Trains a `DiPair` on blocks; an item of its dataset is a block, a batch a few blocks.

    Args:
        task, objective: what the loss is (`distilmatch.objectives.pair_objective_loss`); of batches without teacher labels
            `gold_alone_loss`.
        encoder_learning_rate: of the encoders; None freezes them.
        highest_grade: of the labels of a ranking table.
        dev_set: scored at every evaluation; None for none.
        dev_precision: of the encoder in evaluations.
        beside: a teacher that learns in every step, whose labels take the place of the batch's.
    """

    def __init__(
        self,
        *,
        task: TaskConfig,
        objective: ObjectiveConfig,
        encoder_learning_rate: float | None,
        dev_set: DevSet | None,
        dev_precision: Precision,
        highest_grade: float = 1.0,
        beside: TeacherBeside | None = None,
        **kwargs: Any,
    ) -> None:
        self.beside = beside
        self.task = task
        self.objective: ObjectiveConfig = objective_for(objective, task)  # a mismatch shows before the first step
        self.encoder_learning_rate = encoder_learning_rate
        self.highest_grade = highest_grade
        self.dev_set = dev_set
        self.dev_precision = dev_precision
        self.pairs_supervised = 0
        # Trainer insists on an evaluation dataset wherever evaluations are asked for; `evaluate` never reads it.
        super().__init__(eval_dataset=[] if dev_set else None, **kwargs)
        self.model_accepts_loss_kwargs = True  # else Trainer averages the batches of a step as equals

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of one step; each gets its share in the step's means, as `shares`."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        shares, totals = step_shares([self._items(batch) for batch in batches], self.accelerator)
        for batch, share in zip(batches, shares, strict=True):
            batch["shares"] = share
        return batches, totals

    def _items(self, batch: dict[str, Any]) -> tuple[int, ...]:
        if "teacher" not in batch:
            return (gold_items(self.task, batch["gold"], batch["queries"]),)
        return loss_items(self.objective, self.task, len(batch["teacher"]), batch.get("gold"), batch.get("queries"))

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one batch, times its share of the step; see `transformers.Trainer.compute_loss`."""
        labels = {name: inputs.pop(name, None) for name in ("teacher", "gold", "queries", "blocks", "texts")}
        shares, mixed = inputs.pop("shares", None), inputs.pop("mixed", None)
        outputs = model(**inputs)
        self.pairs_supervised += len(outputs.logits)
        live = None if self.beside is None else self.beside.labels(labels["texts"])
        if live is not None:
            labels["teacher"] = live.detach()
        if labels["teacher"] is None:
            share = 1.0 if shares is None else shares[0]
            loss = gold_alone_loss(outputs.logits, labels["gold"], self.task, labels["queries"], share)
        else:
            loss = pair_objective_loss(
                PairBatch(logits=outputs.logits, tokens=outputs.sides, rows=inputs["rows"], **labels),
                self.task,
                self.objective,
                highest_grade=self.highest_grade,
                shares=(1.0, 1.0) if shares is None else (shares[0], shares[1]),
            )
        if mixed is not None:
            loss = loss + (1.0 if shares is None else shares[0]) * self._mixed_loss(model, mixed)
        if self.beside is not None and live is not None:
            loss = loss + (1.0 if shares is None else shares[0]) * self.beside.loss(live, outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss

    def _mixed_loss(self, model: nn.Module, mixed: dict[str, Any]) -> torch.Tensor:
        """The objective's soft part over a batch of mixtures, which the teacher has labelled as they are."""
        logits = model(streams=mixed["streams"], rows=mixed["rows"]).logits
        soft = self.objective.replaced(gold_weight=0.0)
        return pair_objective_loss(PairBatch(logits=logits, teacher=mixed["teacher"]), self.task, soft)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with one learning rate for the encoders and one for the rest; no decay on biases and norms."""
        if self.optimizer is None:
            trained = model if model is not None else self.model
            assert isinstance(trained, PreTrainedModel)
            decayed = set(self.get_decay_parameter_names(trained))
            groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
            for name, parameter in trained.named_parameters():
                if parameter.requires_grad:
                    groups.setdefault(("encoders." in name, name in decayed), []).append(parameter)
            optimizer_class, optimizer_settings = self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                        "lr": self.encoder_learning_rate if in_encoder else self.args.learning_rate,
                    }
                    for (in_encoder, decays), parameters in groups.items()
                ]
                + self._teachers_group(),
                **optimizer_settings,
            )
        return self.optimizer

    def _teachers_group(self) -> list[dict[str, Any]]:
        if self.beside is None:
            return []
        teacher = self.beside.teacher
        rate = teacher.config.learning_rate
        return [{"params": list(teacher.matrices().values()), "weight_decay": 0.0, "lr": rate}]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Scores the dev set as a user would: every text encoded once, all rows scored."""
        assert self.dev_set is not None
        started = time.perf_counter()
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, DiPair)
        measured = self.dev_set.measure(model, self.dev_precision)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        metrics[f"{metric_key_prefix}_runtime"] = time.perf_counter() - started
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
