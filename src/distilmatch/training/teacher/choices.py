"""What is chosen for a teacher's training: from the data and the base model alone, and what a search may change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from torch import nn
from transformers import PreTrainedModel

from distilmatch.config.fine_tuning import FineTuneConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ModelError
from distilmatch.metrics.task import RARE
from distilmatch.pretrained.layers import layer_list
from distilmatch.pretrained.positions import position_limit
from distilmatch.teachers.cross_encoder import load_cross_encoder, pair_tokenizer
from distilmatch.training.teacher.fit import Choices, new_head_unsaid
from distilmatch.training.teacher.rows import LabelledRows, needed_length, smallest_share

_MOST_TOKENS = 512
_PAIRS_SEEN = 40_000  # that a training wants, over all epochs
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 10
_RATE, _RATE_WIDTH, _RATE_POWER = 1e-4, 384, 1.75


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """What a base model offers.

    Attributes:
        width: of its outputs; layers: how many it has, None where they cannot be cut; positions: tokens it has places for.
        readouts: those it has, the usual one first.
        dropout: whether it has any of its own.
        tokenizer: of pairs; None where they cannot be tokenised by themselves.
    """

    width: int
    layers: int | None
    positions: int
    readouts: tuple[Literal["mean", "first"], ...]
    dropout: bool
    tokenizer: Any


def base_model(config: FineTuneConfig, labels: int) -> BaseModel:
    """Looks at the base model that `config` names.

    Raises:
        ConfigError, ModelError: it is not there, or cannot be loaded.
    """
    with new_head_unsaid():
        model = load_cross_encoder(
            config.base_model, "cpu", dtype=config.dtype, revision=config.revision, num_labels=labels
        )
    transformer = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if transformer is None:
        raise ModelError(f"{config.base_model!r} has no transformer that could be fine-tuned")
    try:
        _, layers = layer_list(transformer)
    except ModelError:
        layers = 0
    return BaseModel(
        width=int(getattr(transformer.config, "hidden_size", _RATE_WIDTH)),
        layers=layers or None,
        positions=position_limit(model),
        readouts=_readouts(model, labels),
        dropout=any(module.p > 0 for module in transformer.modules() if isinstance(module, nn.Dropout)),
        tokenizer=pair_tokenizer(model),
    )


def _readouts(model: CrossEncoder, labels: int) -> tuple[Literal["mean", "first"], ...]:
    first = model[0]
    if not isinstance(first, Transformer):
        return ("first",)
    if len(model) > 1:  # logits of its own making: kept where they are the task's
        return ("first",) if model.num_labels == labels else ("mean",)
    trained = any("ForSequenceClassification" in kind for kind in getattr(model.config, "architectures", None) or ())
    return ("first",) if trained else ("mean", "first")


def usual_choices(rows: LabelledRows, task: TaskConfig, config: FineTuneConfig, base: BaseModel) -> Choices:
    """The settings that the data and the base model speak for, with those that `config` fixes.

    The learning rate falls with the width of the encoder, 1e-4 at 384 and 3e-5 at 768, as the rates that such models are
    fine-tuned with do. Dropout is 0: labels of matching are few and fine, and the weights of the best epoch are kept.
    The epochs show about 40,000 pairs, three to ten times each.
    """
    epochs = min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(_PAIRS_SEEN / len(rows.pairs))))
    most = min(_MOST_TOKENS, base.positions)
    rate = _RATE * (_RATE_WIDTH / base.width) ** _RATE_POWER
    return Choices(
        readout=base.readouts[0] if config.readout == "auto" else config.readout,
        learning_rate=config.learning_rate or float(f"{rate:.2g}"),
        dropout=0.0 if config.dropout is None else config.dropout,
        encoder_layers=config.encoder_layers,
        balanced=config.class_weights == "balanced",
        max_length=config.max_length or needed_length(base.tokenizer, rows.pairs, most),
        epochs=config.epochs or float(epochs),
    )


@dataclass(frozen=True, kw_only=True)
class Move:
    """One setting changed, and how messages and reports call that.

    Attributes:
        only: another move, and whether it must have been kept for this one to be tried; None for always.
    """

    name: str
    changes: dict[str, Any]
    only: tuple[str, bool] | None = None


def moves(
    usual: Choices, rows: LabelledRows, task: TaskConfig, config: FineTuneConfig, base: BaseModel
) -> Sequence[Move]:
    """What the search tries, the most promising first: each changes one setting that `config` leaves open.

    The learning rate goes on upwards where twice the usual one is better, else downwards.
    """
    return list(_moves(usual, rows, task, config, base))


def _moves(
    usual: Choices, rows: LabelledRows, task: TaskConfig, config: FineTuneConfig, base: BaseModel
) -> Iterator[Move]:
    if config.learning_rate is None:
        rate, twice = usual.learning_rate, "twice the learning rate"
        yield Move(name=twice, changes={"learning_rate": 2 * rate})
        yield Move(name="four times the learning rate", changes={"learning_rate": 4 * rate}, only=(twice, True))
        yield Move(name="half the learning rate", changes={"learning_rate": rate / 2}, only=(twice, False))
    if config.dropout is None and base.dropout:
        yield Move(name="the base model's dropout", changes={"dropout": "model"})
    if config.class_weights == "auto" and smallest_share(rows.targets, task) < RARE:
        yield Move(name="balanced classes", changes={"balanced": True})
    if config.readout == "auto" and len(base.readouts) > 1:
        yield Move(name="the score from the first token", changes={"readout": base.readouts[1]})
    if config.encoder_layers is None and base.layers is not None and base.layers >= 4:
        fewer = base.layers - max(1, base.layers // 6)
        yield Move(name=f"the first {fewer} of {base.layers} layers", changes={"encoder_layers": fewer})


def count(moves: Sequence[Move]) -> int:
    """How many of them are tried: of two that exclude each other one."""
    return sum(move.only is None or move.only[1] for move in moves)


def changed(choices: Choices, move: Move) -> Choices:
    """`choices` with what `move` changes."""
    return replace(choices, **move.changes)
