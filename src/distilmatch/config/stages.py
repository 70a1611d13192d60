"""Configs of the stages of a pair student's training."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from distilmatch.config.base import FrozenConfig, Precision

_LEARNING_RATE, _ENCODER_LEARNING_RATE = 5e-4, 2e-4


class StageConfig(FrozenConfig):
    """One of the two training stages.

    Attributes:
        epochs: passes over the blocks; 0 skips the stage.
        blocks_per_batch: blocks a step (and a process).
        learning_rate: of projection and head; encoder_learning_rate: of the encoders (stage 2 only). None is 5e-4 and 2e-4,
            and half of that in stage 2 of a student that started from the encoder, which has more to forget.
        evaluations: how many times the dev set is scored during the stage, spread evenly.
        patience: evaluations without a better dev metric before the stage ends; None never.
        averaging: decay of an exponential average of the weights, such as 0.999, which is kept at the end of the stage
            where it is better on dev (or where there is no dev set); 0 keeps none.

    Example:
        ```python
        from distilmatch import StageConfig

        stage = StageConfig(epochs=2, evaluations=4, patience=2)
        ```
    """

    epochs: float = Field(default=1.0, ge=0)
    blocks_per_batch: int = Field(default=4, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    encoder_learning_rate: float | None = Field(default=None, ge=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    evaluations: int = Field(default=8, ge=1)
    patience: int | None = Field(default=None, ge=1)
    averaging: float = Field(default=0.0, ge=0, lt=1)
    precision: Precision = "auto"

    def with_rates(self, scale: float = 1.0) -> Self:
        """The same stage with the learning rates that are None filled in, times `scale`."""
        learning_rate, encoders = self.learning_rate, self.encoder_learning_rate
        return self.replaced(
            learning_rate=scale * _LEARNING_RATE if learning_rate is None else learning_rate,
            encoder_learning_rate=scale * _ENCODER_LEARNING_RATE if encoders is None else encoders,
        )


class NamedStageConfig(StageConfig):
    """A stage of a list: `StageConfig` with a name, whether the encoders learn in it, and what is learnt.

    Attributes:
        name: of its folder and in the log; letters, digits, - and _.
        frozen_encoders: their outputs are computed once and only projection and head learn.
        learns: "labels", the recipe's objective; or, before stages that do, "teacher_predictions": on rows with a gold label,
            which of four classes the teacher's prediction is of, right or wrong and confident or not (PTP of Pea-KD, Cho and
            Kang 2022). The layer that tells the four apart is dropped afterwards. Dev is not measured in such a stage.
        confident_right, confident_wrong: the probability of its prediction from which on a teacher that is right, or wrong,
            counts as confident.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=60)
    frozen_encoders: bool = False
    learns: Literal["labels", "teacher_predictions"] = "labels"
    confident_right: float = Field(default=0.8, gt=0, lt=1)
    confident_wrong: float = Field(default=0.6, gt=0, lt=1)

    def halved(self) -> Self:
        """The same stage at half its learning rates."""
        stage = self.with_rates()
        assert stage.learning_rate is not None and stage.encoder_learning_rate is not None
        return stage.replaced(
            learning_rate=stage.learning_rate / 2, encoder_learning_rate=stage.encoder_learning_rate / 2
        )
