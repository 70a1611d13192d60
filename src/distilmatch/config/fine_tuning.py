"""The config of a teacher's fine-tuning: what is fixed, and what is chosen from the data and a search on dev."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distilmatch.config.base import FrozenConfig, Place, Precision, Reporter

Readout = Literal["auto", "mean", "first"]
"""What the logits of a cross-encoder are computed from."""
ClassWeights = Literal["auto", "none", "balanced"]


class FineTuneConfig(FrozenConfig):
    """Fine-tuning of a cross-encoder teacher on the user's gold labels, on sentence-transformers' trainer.

    A setting that is None or "auto" is chosen: some from the data alone, the others by short trainings that are compared on
    the dev set. A setting that is given is fixed.

    Attributes:
        base_model: what it starts from; revision: its commit or tag on the hub; None for what the hub has now.
        dtype: of the weights that are trained; "auto" is fp32. In bf16 they take half the space and learn less exactly.
        device: None for the best one here.
        minutes: wall time that the search and the trainings after it may take; 0 for one training, with nothing searched.
        readout: what the logits are computed from: "mean", the mean output of all tokens; "first", the output of the first
            token, as in BERT. "auto" is searched, the mean first; a base model that is a trained cross-encoder keeps its head.
        encoder_layers: how many of the base model's layers are kept, the first ones; None for all, or fewer where the search
            finds these better.
        learning_rate: the highest; None is searched around that which suits the base model's width.
        dropout: in training: a number, or "model" for the base model's own; None is searched.
        class_weights: "balanced" lets the rows of each class weigh the same together; "auto" is searched where a class has
            less than a quarter of the rows.
        epochs: passes over the rows; None for as many as their number wants and the minutes allow.
        max_length: tokens a pair at most; None for what the longest pairs of the data need, 512 at most.
        patience: evaluations on dev without a better one after which a training ends.
        seeds: how many teachers are trained, each from another seed; several are an ensemble, a folder each. The first one
            searches, the others are trained with what it found, beyond the minutes.
        report_to: services that `transformers` logs to, such as wandb or mlflow, whose packages are to be installed.
        metric_for_best: the dev metric that everything is chosen by; None is the task's (accuracy, auc, spearman or ndcg@10; for
            matches that are less than a quarter of the rows average_precision).

    Example:
        ```python
        from distilmatch import FineTuneConfig

        config = FineTuneConfig(base_model="all-MiniLM-L6-v2", minutes=20)
        fixed = FineTuneConfig(minutes=0, epochs=2, dropout=0, learning_rate=1e-4)
        ```
    """

    base_model: Place = "all-MiniLM-L6-v2"
    revision: Place | None = None
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    device: Place | None = None
    minutes: float = Field(default=30.0, ge=0)
    readout: Readout = "auto"
    encoder_layers: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["model"] | None = None
    class_weights: ClassWeights = "auto"
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=32, ge=1)
    max_length: int | None = Field(default=None, ge=8)
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    patience: int = Field(default=3, ge=1)
    seeds: int = Field(default=1, ge=1)
    report_to: tuple[Reporter, ...] = ()
    metric_for_best: Place | None = None
    precision: Precision = "auto"
    seed: int = 0
