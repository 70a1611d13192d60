"""A teacher that learns: LoRA matrices in a copy of a cross-encoder, whose logits have a gradient (OKD, arXiv 2409.12512).

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from distilmatch.config.online import OnlineTeacherConfig
from distilmatch.errors import ConfigError, MissingExtraError
from distilmatch.pretrained.positions import UNLIMITED
from distilmatch.teachers.base import Teacher
from distilmatch.teachers.classes import InTaskOrder
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher


def check_online(teacher: Any) -> None:
    """Refuses a teacher that has no weights here to learn with, and a missing peft.

    Raises:
        ConfigError: another teacher than one cross-encoder.
        MissingExtraError: peft is not installed.
    """
    if isinstance(teacher, InTaskOrder):
        return check_online(teacher.teacher)
    if not isinstance(teacher, CrossEncoderTeacher):
        raise ConfigError(
            f"`teacher.online` needs one cross-encoder, whose weights learn; this teacher is a {type(teacher).__name__}: leave "
            "it out"
        )
    check_peft()


def check_peft() -> None:
    """Refuses to begin without peft.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", "lora")


class OnlineTeacher(nn.Module):
    """A cross-encoder with matrices of low rank beside each of its encoder's linear layers; it begins as the teacher it is of.

    Without dropout, as a teacher labels. The teacher that is given stays as it is.

    Args:
        teacher: a cross-encoder, or one in a task's order.
        seed: of the matrices' first numbers; the products of two begin as 0.

    Raises:
        ConfigError, MissingExtraError: see `check_online`.
    """

    def __init__(
        self, teacher: Teacher, config: OnlineTeacherConfig, device: torch.device | str, seed: int = 0
    ) -> None:
        super().__init__()
        check_online(teacher)
        from peft import LoraConfig, inject_adapter_in_model

        self.order: Any = teacher.order if isinstance(teacher, InTaskOrder) else None
        source: Any = teacher.teacher if isinstance(teacher, InTaskOrder) else teacher
        self.batch_size, self.config = source.batch_size, config
        self.limit = source.max_length if source.max_length < UNLIMITED else None
        self.model = copy.deepcopy(source.model).to(device).requires_grad_(False).eval()
        settings = LoraConfig(r=config.rank, lora_alpha=2 * config.rank, target_modules="all-linear", lora_dropout=0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(settings, self.model[0].model)

    def matrices(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def load(self, path: Path) -> None:
        """Takes the matrices of a file."""
        own = self.matrices()
        for name, weight in load_file(path).items():
            own[name].data.copy_(weight)

    def forward(self, pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
        """(n, c) raw logits with a gradient, fp32, in the task's order."""
        limit = {} if self.limit is None else {"text": {"max_length": self.limit}}
        prompt = self.model._resolve_prompt(None, None)
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        parts = []
        for start in range(0, len(pairs), self.batch_size):
            chosen = [tuple(pairs[i]) for i in order[start : start + self.batch_size]]
            features = self.model.preprocess(chosen, prompt=prompt, processing_kwargs=limit)
            on_device = {
                name: value.to(self.model.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            parts.append(self.model(on_device)["scores"].float().reshape(len(chosen), -1))
        logits = torch.cat(parts)[torch.tensor(order).argsort().to(self.model.device)]
        return logits if self.order is None else logits[:, torch.as_tensor(self.order, device=logits.device)]
