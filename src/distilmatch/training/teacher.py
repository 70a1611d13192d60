"""Fine-tuning of a cross-encoder teacher on gold labels, on sentence-transformers' trainer.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, CrossEntropyLoss
from sentence_transformers.cross_encoder.trainer import CrossEncoderTrainer
from sentence_transformers.cross_encoder.training_args import CrossEncoderTrainingArguments
from transformers import AutoConfig, PreTrainedModel, TrainerCallback

from distilmatch.config.pairs import FineTuneConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import TableSource, tuple_table
from distilmatch.errors import ConfigError, DataError
from distilmatch.files import write_json, writing
from distilmatch.metrics import MetricFunction, checked_metrics, main_metric, own_metrics, sign_of, task_metrics
from distilmatch.metrics.own import check_best
from distilmatch.models.attention import trained_attention
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.positions import position_limit
from distilmatch.runtime import Precision, environment, keep_freed_memory, seed_everything, use_bf16
from distilmatch.teachers.classes import name_order
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher, configured_names, load_cross_encoder
from distilmatch.teachers.views import score_layers
from distilmatch.training.arguments import one_device, training_device
from distilmatch.training.checks import check_reporters
from distilmatch.training.progress import show_shortly
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)

_RECORD = "fine_tuning.json"


def fine_tune_teacher(
    train: TupleTable | TableSource,
    task: TaskConfig,
    output: str | Path,
    config: FineTuneConfig = FineTuneConfig(),
    dev: TupleTable | TableSource | None = None,
    *,
    read_as: TableConfig | None = None,
    metrics: Mapping[str, MetricFunction] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Fine-tunes a cross-encoder on the rows of `train` that have a gold label.

    classification learns by cross-entropy; binary, regression (the gold value scaled from `label_range` to [0, 1])
    and ranking (the relevance divided by the largest one) by binary cross-entropy on the one logit.

    Args:
        train: n pairs; rows without gold label are left out. A `TupleTable`, a path, or a table in memory (pandas, polars,
            Arrow, `datasets`, rows).
        read_as: which columns are what, of tables that are yet to be read: `TableConfig(label_column="label")` at least.
        output: a folder that does not exist yet, or is empty; it appears whole, when all is done.
        config: base model, epochs and so on; a `max_length` beyond the base model's positions is cut to them.
        dev: scored after each epoch; the weights of the epoch that is best by `config.metric_for_best`, else by
            `main_metric(task)`, are kept.
        metrics: of your own, by name, measured on dev too; see `distil_pairs`.
        callbacks: of `transformers.Trainer`.

    Returns:
        `output`: a sentence-transformers `CrossEncoder` folder with its model card, tokenizer, label names and
        `fine_tuning.json`, the record of what was done.

    Raises:
        ConfigError: `output` holds something already, or the base model's name looks like a folder that is not there.
        DataError: no row with a gold label, rows that are not pairs, or labels that do not fit the task.
        ModelError: the base model cannot be loaded.
        CacheError: the output cannot be written, or the disk is full.
    """
    place = Path(output)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError(f"{place} exists already; choose another output for the teacher, or delete it first")
    check_reporters(config.report_to)
    own = checked_metrics(metrics)
    if dev is None and (own or config.metric_for_best is not None):
        raise ConfigError(
            f"`{'metrics' if own else 'metric_for_best'}` needs a dev table to be measured on: give `dev`"
        )
    train = tuple_table(train, read_as, task)
    dev = None if dev is None else tuple_table(dev, read_as, task)
    rows, targets = labelled_pairs(train, task, "train")
    evaluator = None if dev is None else DevEvaluator(dev, task, config, own)
    seed_everything(config.seed)
    model = _new_cross_encoder(task, config)
    dataset = Dataset.from_dict(
        {"left": [pair[0] for pair in rows], "right": [pair[1] for pair in rows], "label": targets.tolist()}
    )
    keep_freed_memory()
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    try:
        trainer = CrossEncoderTrainer(
            model=model,
            args=_training_arguments(work / "trainer", config, evaluator is not None, model.device),
            train_dataset=dataset,
            loss=CrossEntropyLoss(model) if task.kind == "classification" else BinaryCrossEntropyLoss(model),
            evaluator=evaluator,
            callbacks=list(callbacks),
        )
        show_shortly(trainer, (main_metric(task),) if evaluator is None else evaluator.shown)
        transformers = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
        with trained_attention(transformers[:1], model.device):
            trainer.train()
        if evaluator is not None:
            evaluator.restore_best(model)
        if trainer.is_world_process_zero():
            with writing(place):
                _save(model, work / "model", place, _record(task, config, len(targets), trainer, evaluator))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return place


class LengthGroupedBatches(DefaultBatchSampler):
    """Random batches of pairs of about the same length: rows are shuffled, cut into groups of 50 batches, each group
    is sorted by length and cut into batches, and the batches are shuffled.
    """

    group = 50

    def __init__(self, dataset: Dataset, **settings: Any) -> None:
        super().__init__(dataset, **settings)
        self.lengths = np.array(
            [len(left) + len(right) for left, right in zip(dataset["left"], dataset["right"], strict=True)],
            dtype=np.int64,
        )

    def __iter__(self) -> Iterator[list[int]]:
        """The row numbers of each batch; another order in every epoch, the same for the same seed."""
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        width = self.group * self.batch_size
        for start in range(0, len(order), width):
            window = order[start : start + width]
            order[start : start + width] = window[np.argsort(-self.lengths[window], kind="stable")]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        if self.drop_last and batches and len(batches[-1]) < self.batch_size:
            batches.pop()
        for batch in random.permutation(len(batches)):
            yield batches[batch].tolist()


class DevEvaluator(BaseEvaluator):
    """Scores the dev set by the task's metrics and keeps a copy of the best weights seen, in memory.

    Attributes:
        shown: the metrics that are printed: the one that picks the epoch, and the user's own.
        best: the best metrics so far, by name; None before the first evaluation.
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
        self.primary_metric: str = config.metric_for_best or main_metric(task)
        self.shown = tuple(dict.fromkeys((self.primary_metric, *self.own)))
        self.best: dict[str, float] | None = None
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
        metrics = self._measured(teacher.logits(self.pairs, False))
        primary, sign = self.primary_metric, sign_of(self.primary_metric)
        self.history.append((float(epoch), metrics))
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)  # type: ignore[arg-type]
        if self.best is None or sign * metrics[primary] > sign * self.best[primary]:
            self.best = metrics
            self._best_weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        return dict(metrics)

    def restore_best(self, model: CrossEncoder) -> None:
        """Puts the best weights back into `model`."""
        if self._best_weights:
            model.load_state_dict(self._best_weights)


def labelled_pairs(table: TupleTable, task: TaskConfig, name: str) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The pairs with a gold label, (n,) long, and their targets: (n,) int64 classes, or float32 in [0, 1]."""
    if table.sides != 2:
        raise DataError(f"a cross-encoder reads pairs, the {name} table has {table.sides} texts a row")
    labelled = np.zeros(len(table), dtype=bool) if table.gold is None else ~np.isnan(table.gold)
    if not labelled.any():
        raise DataError(
            f"the {name} table has no row with a gold label, so a teacher cannot learn from it; name its column with "
            "`table.label_column` (--label-column)"
        )
    assert table.gold is not None
    gold = table.gold[labelled].astype(np.float64)
    pairs = [(table.texts[left], table.texts[right]) for left, right in table.rows[labelled]]
    lowest, highest = _target_range(task, gold, name)
    if gold.min() < lowest or gold.max() > highest:
        raise DataError(f"gold labels of the {name} table must lie between {lowest:g} and {highest:g} for {task.kind}")
    if task.kind == "classification":
        return pairs, gold.astype(np.int64)
    return pairs, ((gold - lowest) / (highest - lowest)).astype(np.float32)


def _target_range(task: TaskConfig, gold: np.ndarray, name: str) -> tuple[float, float]:
    if task.kind == "classification":
        if (gold != np.floor(gold)).any():
            raise DataError(f"gold labels of the {name} table must be class indices for classification")
        return 0.0, float(task.num_labels - 1)
    if task.kind == "regression":
        return task.label_range
    if task.kind == "ranking":
        if gold.max() <= 0:
            raise DataError(f"no row of the {name} table has a relevance above 0, so there is nothing to learn")
        return 0.0, float(gold.max())
    return 0.0, 1.0


def _new_cross_encoder(task: TaskConfig, config: FineTuneConfig) -> CrossEncoder:
    names: dict[str, Any] = {}
    if task.kind == "classification":
        names = {
            "id2label": dict(enumerate(task.classes)),
            "label2id": {label: number for number, label in enumerate(task.classes)},
        }
    model = load_cross_encoder(
        config.base_model,
        training_device(config.device),
        dtype=config.dtype,
        revision=config.revision,
        num_labels=task.num_labels,
        max_length=config.max_length,
        config_kwargs=names,
    )
    _put_head_in_order(model, config, task)
    limit = position_limit(model)
    if config.max_length > limit:
        logger.warning(
            "%s has positions for %d tokens: max_length %d is cut to that", config.base_model, limit, config.max_length
        )
        model.max_seq_length = limit
    if config.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = config.dropout
    return model


def _put_head_in_order(model: CrossEncoder, settings: FineTuneConfig, task: TaskConfig) -> None:
    """Where the base model has the task's classes in another order, its head learns on with each row at its own class."""
    if task.kind != "classification":
        return
    name, revision = settings.base_model, settings.revision
    place = resolve_model(name, revision=revision)
    config = AutoConfig.from_pretrained(place, trust_remote_code=False, revision=revision or "main")
    names = configured_names(config, task.num_labels)
    if names is None or config.num_labels != task.num_labels:
        return
    try:
        order = name_order(names, task.classes, name)
    except ConfigError:
        return  # other classes: it learns the new ones
    if order is None:
        return
    chosen = torch.from_numpy(order)
    with torch.no_grad():
        for layer in score_layers(model):
            layer.weight.copy_(layer.weight[chosen.to(layer.weight.device)])
            if layer.bias is not None:
                layer.bias.copy_(layer.bias[chosen.to(layer.bias.device)])


def _training_arguments(
    folder: Path, config: FineTuneConfig, evaluates: bool, device: torch.device
) -> CrossEncoderTrainingArguments:
    made = CrossEncoderTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        bf16=use_bf16(config.precision, device),
        use_cpu=device.type == "cpu",
        seed=config.seed,
        batch_sampler=LengthGroupedBatches,
        eval_strategy="epoch" if evaluates else "no",
        save_strategy="no",
        logging_strategy="epoch",
        report_to=list(config.report_to) or "none",
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=device.type == "cuda",
    )
    one_device(made)
    return made


def _record(
    task: TaskConfig, config: FineTuneConfig, rows: int, trainer: CrossEncoderTrainer, evaluator: DevEvaluator | None
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "task": task.to_dict(),
        "config": config.to_dict(),
        "rows": rows,
        "steps": trainer.state.global_step,
        "environment": environment(),
    }
    if evaluator is not None:
        record["dev"] = evaluator.best
        record["dev_history"] = [{"epoch": epoch, **metrics} for epoch, metrics in evaluator.history]
    return record


def _save(model: CrossEncoder, folder: Path, output: Path, record: dict[str, Any]) -> None:
    """Writes the model to `folder` and moves it to `output` in one step."""
    model.save_pretrained(str(folder))
    write_json(folder / _RECORD, record)
    folder.chmod(0o755)
    os.replace(folder, output)
