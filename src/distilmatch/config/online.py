"""Config of a teacher that learns beside its student."""

from __future__ import annotations

from pydantic import Field

from distilmatch.config.base import FrozenConfig


class OnlineTeacherConfig(FrozenConfig):
    """Small matrices in the frozen teacher (LoRA) that learn beside the student, in the stages in which its encoders do.

    The student learns the labels that the teacher gives at that moment; the matrices learn the gold labels, and `gamma` times
    to be nearer to the student (online distillation, OKD, arXiv 2409.12512; the form here is this package's own). Such labels are
    of one step and not cached: each step asks the teacher for all its pairs, forwards and backwards. Needs `peft`.

    Attributes:
        rank: of the matrices.
        learning_rate: of theirs, without weight decay.
        gamma: weight of the pull to the student.
    """

    rank: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    gamma: float = Field(default=0.5, ge=0)
