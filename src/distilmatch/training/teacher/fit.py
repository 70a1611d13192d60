"""One training of a cross-encoder on sentence-transformers' trainer, all of whose settings are chosen.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, CrossEntropyLoss
from sentence_transformers.cross_encoder.trainer import CrossEncoderTrainer
from sentence_transformers.cross_encoder.training_args import CrossEncoderTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import (
    AutoConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, ModelError
from distilmatch.metrics import main_metric
from distilmatch.models.attention import trained_attention
from distilmatch.pretrained.layers import cut_layers
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.positions import position_limit
from distilmatch.pretrained.sentence import load_sentence_encoder
from distilmatch.runtime import seed_everything, use_bf16
from distilmatch.teachers.classes import name_order
from distilmatch.teachers.cross_encoder import configured_names, load_cross_encoder
from distilmatch.teachers.views import score_layers
from distilmatch.training.arguments import one_device, training_device
from distilmatch.training.progress import show_shortly
from distilmatch.training.teacher.dev import DevEvaluator
from distilmatch.training.teacher.rows import LabelledRows, LengthGroupedBatches

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """All that a training depends on besides its rows, base model and seed: nothing is left open.

    Attributes:
        readout: "mean" or "first", as in `FineTuneConfig`.
        dropout: a number, or "model" for the base model's own.
        encoder_layers: how many are kept; None for all.
        balanced: whether the rows of each class weigh the same together.
    """

    readout: Literal["mean", "first"]
    learning_rate: float
    dropout: float | Literal["model"]
    encoder_layers: int | None
    balanced: bool
    max_length: int
    epochs: float

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, for a JSON file."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained model, with the weights that were best on dev where there is one.

    Attributes:
        steps: how many were taken; seconds: how long the training took, evaluations included.
        loss: (epoch, mean training loss since the entry before).
    """

    model: CrossEncoder
    steps: int
    seconds: float
    loss: tuple[tuple[float, float], ...]


def fit(
    rows: LabelledRows,
    task: TaskConfig,
    config: FineTuneConfig,
    choices: Choices,
    folder: Path,
    *,
    evaluator: DevEvaluator | None = None,
    evaluations: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    seed: int | None = None,
) -> Fitted:
    """Trains a new cross-encoder.

    Args:
        folder: where the trainer may write its logs; the model is not saved.
        evaluations: how many times dev is scored; None for once an epoch.
        seed: None for the config's.
    """
    seed = config.seed if seed is None else seed
    seed_everything(seed)
    model = new_cross_encoder(task, config, choices)
    texts = {"left": [pair[0] for pair in rows.pairs], "right": [pair[1] for pair in rows.pairs]}
    dataset = Dataset.from_dict(texts | {"label": rows.targets.tolist()})
    args = training_arguments(folder, config, choices, model.device, seed, len(rows.pairs), evaluator, evaluations)
    started = time.perf_counter()
    trainer = CrossEncoderTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        loss=loss_of(model, task, rows.targets, choices.balanced),
        evaluator=evaluator,
        callbacks=[*callbacks, *([] if evaluator is None else [_NoBetter(evaluator, config.patience)])],
    )
    show_shortly(trainer, (main_metric(task),) if evaluator is None else evaluator.shown)
    transformers = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    with trained_attention(transformers[:1], model.device):
        trainer.train()
    if evaluator is not None:
        evaluator.restore_best(model)
    logged = [(float(entry["epoch"]), float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]
    return Fitted(
        model=model,
        steps=trainer.state.global_step,
        seconds=time.perf_counter() - started,
        loss=tuple(point for point in logged if math.isfinite(point[1])),
    )


class _NoBetter(TrainerCallback):
    """Ends a training after so many evaluations on dev without a better one."""

    def __init__(self, evaluator: DevEvaluator, patience: int) -> None:
        self.evaluator, self.patience = evaluator, patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Counts."""
        if self.evaluator.since_best >= self.patience:
            control.should_training_stop = True


def loss_of(model: CrossEncoder, task: TaskConfig, targets: np.ndarray, balanced: bool) -> nn.Module:
    """Cross-entropy for classes, binary cross-entropy for one logit; `balanced` weighs classes by the inverse of their
    number of rows (King and Zeng 2001), or the positive rows by that of negative ones over theirs.
    """
    if task.kind == "classification":
        weights = None
        if balanced:
            counts = np.bincount(targets, minlength=task.num_labels).clip(min=1)
            weights = torch.tensor(len(targets) / (task.num_labels * counts), dtype=torch.float32, device=model.device)
        return CrossEntropyLoss(model, weight=weights)
    positive = None
    if balanced:
        share = float(np.clip(targets.mean(), 1e-3, 1 - 1e-3))
        positive = torch.tensor((1 - share) / share, device=model.device)
    return BinaryCrossEntropyLoss(model, pos_weight=positive)


def new_cross_encoder(task: TaskConfig, config: FineTuneConfig, choices: Choices) -> CrossEncoder:
    """The base model with a head for the task, as `choices` says.

    Raises:
        ConfigError: more layers than there are. ModelError: the base model cannot be loaded.
    """
    device = training_device(config.device)
    weights: dict[str, Any] = {"dtype": config.dtype, "revision": config.revision}
    names: dict[str, Any] = {}
    if task.kind == "classification":
        names = {
            "id2label": dict(enumerate(task.classes)),
            "label2id": {label: number for number, label in enumerate(task.classes)},
        }
    if choices.readout == "mean":
        transformer = load_sentence_encoder(config.base_model, device=device, **weights)[0]
        if not isinstance(transformer, Transformer):
            raise ModelError(f"{config.base_model!r} has no tokens to take the mean of: use `readout: first`")
        _prepare(transformer.model, choices)
        model = mean_cross_encoder(transformer, task.num_labels, device)
        for name, value in (names or {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}}).items():
            setattr(model.config, name, value)
    else:
        with new_head_unsaid():
            model = load_cross_encoder(
                config.base_model,
                device,
                **weights,
                num_labels=task.num_labels,
                max_length=choices.max_length,
                config_kwargs=names,
            )
        _put_head_in_order(model, config, task)
        _prepare(next(module for module in model.modules() if isinstance(module, PreTrainedModel)), choices)
    limit = position_limit(model)
    if choices.max_length > limit:
        logger.warning(
            "%s has positions for %d tokens: max_length %d is cut to that", config.base_model, limit, choices.max_length
        )
    model.max_seq_length = min(choices.max_length, limit)
    return model


@contextmanager
def new_head_unsaid() -> Iterator[None]:
    """Inside, `transformers` does not warn that a new head has no trained weights: it is about to be trained."""
    said = logging.getLogger("transformers.modeling_utils")
    before = said.level
    said.setLevel(logging.ERROR)
    try:
        yield
    finally:
        said.setLevel(before)


def mean_cross_encoder(transformer: Transformer, labels: int, device: torch.device) -> CrossEncoder:
    """A cross-encoder whose logits are a linear layer on the mean output of a pair's tokens.

    A sentence encoder was trained by that mean, and its first token by nothing: the logits start from what it knows.
    """
    width = transformer.get_embedding_dimension()
    assert width is not None, "a transformer says how wide its outputs are"
    logits = Dense(width, labels, activation_function=nn.Identity(), module_output_name="scores")
    return CrossEncoder(modules=[transformer, Pooling(width, pooling_mode="mean"), logits], device=str(device))


def _prepare(encoder: PreTrainedModel, choices: Choices) -> None:
    if choices.encoder_layers is not None:
        cut_layers(encoder, choices.encoder_layers)
    if choices.dropout != "model":
        for module in encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = choices.dropout


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


def training_arguments(
    folder: Path,
    config: FineTuneConfig,
    choices: Choices,
    device: torch.device,
    seed: int,
    rows: int,
    evaluator: DevEvaluator | None,
    evaluations: int | None,
) -> CrossEncoderTrainingArguments:
    """The trainer's settings, for one device."""
    steps = max(1, math.ceil(rows / config.batch_size * choices.epochs))
    every = None if evaluations is None else max(1, math.ceil(steps / evaluations))
    made = CrossEncoderTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=choices.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=choices.learning_rate,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        bf16=use_bf16(config.precision, device),
        use_cpu=device.type == "cpu",
        seed=seed,
        batch_sampler=LengthGroupedBatches,
        eval_strategy="no" if evaluator is None else "epoch" if every is None else "steps",
        eval_steps=every,
        save_strategy="no",
        logging_strategy="epoch" if every is None else "steps",
        logging_steps=every or 500,
        report_to=list(config.report_to) or "none",
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=device.type == "cuda",
    )
    one_device(made)
    return made
