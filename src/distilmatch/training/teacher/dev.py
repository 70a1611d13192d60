"""The dev set of a teacher's training: what is measured on it, and the best weights seen.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator

from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.metrics import MetricFunction, main_metric, own_metrics, sign_of, task_metrics
from distilmatch.metrics.own import check_best
from distilmatch.runtime import Precision
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher
from distilmatch.training.teacher.rows import labelled_pairs
from distilmatch.types import TupleTable


class DevEvaluator(BaseEvaluator):
    """Scores the dev set by the task's metrics and keeps a copy of the best weights seen, in memory.

    Attributes:
        shown: the metrics that are printed: the one that picks the epoch, and the user's own.
        best: the best metrics so far, by name; None before the first evaluation.
        best_logits: (n, c) float32 of the best weights.
        since_best: evaluations since the best one.
        history: (epoch, metrics) of each evaluation.
    """

    def __init__(
        self, dev: TupleTable, task: TaskConfig, config: FineTuneConfig, own: Mapping[str, MetricFunction] | None = None
    ) -> None:
        super().__init__()
        self.task, self.own = task, own or {}
        self.pairs, _ = labelled_pairs(dev, task, "dev")
        assert dev.gold is not None
        labelled = ~np.isnan(dev.gold)
        self.gold = dev.gold[labelled]
        self.queries = None if dev.queries is None else dev.queries[labelled]
        self.batch_size = 2 * config.batch_size
        self.precision: Precision = config.precision
        self.primary_metric: str = config.metric_for_best or main_metric(task, self.gold)
        self.shown = tuple(dict.fromkeys((self.primary_metric, *self.own)))
        self.best: dict[str, float] | None = None
        self.best_logits: np.ndarray | None = None
        self.since_best = 0
        self.history: list[tuple[float, dict[str, float]]] = []
        self._best_weights: dict[str, torch.Tensor] = {}
        # Metrics that are not defined must show before the training, not after its first epoch.
        random = np.random.default_rng(0).normal(size=(len(self.gold), task.num_labels))
        check_best(self.primary_metric, tuple(self._measured(random.astype(np.float32))))

    def _measured(self, logits: np.ndarray) -> dict[str, float]:
        queries = self.queries if self.task.kind == "ranking" else None
        own = own_metrics(self.own, self.task, self.gold, logits, queries)
        return task_metrics(self.task, self.gold, logits, self.queries) | own

    def __call__(  # type: ignore[override]
        self, model: CrossEncoder, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """The metrics of `model` on the dev set, by name."""
        teacher = CrossEncoderTeacher(model, batch_size=self.batch_size, precision=self.precision)
        logits = teacher.logits(self.pairs, False)
        metrics = self._measured(logits)
        primary, sign = self.primary_metric, sign_of(self.primary_metric)
        self.history.append((float(epoch), metrics))
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)  # type: ignore[arg-type]
        self.since_best += 1
        if self.best is None or sign * metrics[primary] > sign * self.best[primary]:
            self.best, self.best_logits, self.since_best = metrics, logits, 0
            self._best_weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        return dict(metrics)

    def restore_best(self, model: CrossEncoder) -> None:
        """Puts the best weights back into `model`."""
        if self._best_weights:
            model.load_state_dict(self._best_weights)

    @property
    def score(self) -> float:
        """The best value of the metric that picks, of which more is better; minus infinity before the first evaluation."""
        return -np.inf if self.best is None else sign_of(self.primary_metric) * self.best[self.primary_metric]


def dev_rows(dev: TupleTable, task: TaskConfig, most: int | None) -> TupleTable:
    """The labelled rows of dev; about `most` of them, all of a query's together, and no class left out that occurs."""
    assert dev.gold is not None
    labelled = np.flatnonzero(~np.isnan(dev.gold))
    if most is None or len(labelled) <= most:
        return dev
    random = np.random.default_rng(0)
    if task.kind == "ranking" and dev.queries is not None:
        queries = dev.queries[labelled]
        names = random.permutation(np.unique(queries))
        sizes = dict(zip(*np.unique(queries, return_counts=True), strict=True))
        kept = names[: max(1, int(np.searchsorted(np.cumsum([sizes[name] for name in names]), most)))]
        return dev.take(labelled[np.isin(queries, kept)])
    # Systematic: every class and grade keeps its share.
    order = labelled[np.lexsort((random.random(len(labelled)), dev.gold[labelled]))]
    places = np.unique(np.linspace(0, len(order) - 1, most).round().astype(np.int64))
    return dev.take(np.sort(order[places]))
