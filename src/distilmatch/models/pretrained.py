"""Pre-trained encoders: loaded whole, cut to the layers that a student keeps, and what its head starts from."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from distilmatch.config import StudentConfig
from distilmatch.encoders import position_limit
from distilmatch.errors import ModelError
from distilmatch.models.head_start import PretrainedLayer, fits, pretrained_layers
from distilmatch.runtime import resolve_model

# RoBERTa and its kin count positions from 2.


def without_pooler(encoder: nn.Module) -> nn.Module:
    """The encoder without the layer over its first token: only token outputs are read here, and dead weights stop data
    parallel training.
    """
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # type: ignore[assignment]
    return encoder


@dataclass(frozen=True)
class PretrainedEncoder:
    """A pre-trained encoder with all its layers."""

    path: str
    model: PreTrainedModel
    tokenizer: Any

    @classmethod
    def load(cls, name: str | Path) -> PretrainedEncoder:
        """Loads a folder or hub name, in fp32, with its tokenizer.

        Raises:
            ModelError: it cannot be loaded.
        """
        path = resolve_model(name)
        try:
            config = AutoConfig.from_pretrained(path)
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot load an encoder from {path!r}: {error}") from error
        tokenizer.padding_side = "right"
        return cls(path, AutoModel.from_pretrained(path, config=config, dtype=torch.float32), tokenizer)

    def truncated(self, student: StudentConfig) -> PreTrainedModel:
        """The encoder with the layers that the student keeps, without pooler."""
        config = copy.deepcopy(self.model.config)
        if student.encoder_layers is not None:
            layers = config.num_hidden_layers
            if student.encoder_layers > layers:
                raise ModelError(f"{self.path} has {layers} layers, encoder_layers asks for {student.encoder_layers}")
            config.num_hidden_layers = student.encoder_layers
        positions = position_limit(self.model)
        if max(student.max_lengths) > positions:
            raise ModelError(f"{self.path} takes {positions} tokens, max_lengths asks for {max(student.max_lengths)}")
        own = without_pooler(AutoModel.from_config(config))
        weights = self.model.state_dict()
        own.load_state_dict({name: weights[name] for name in own.state_dict()})
        return own  # type: ignore[return-value]


def fitted(source: PretrainedEncoder, student: StudentConfig) -> tuple[StudentConfig, list[PretrainedLayer]]:
    """The student's shape with the encoder's numbers filled in, and the layers that its head starts from, if any."""
    config = source.model.config
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    student = student.for_encoder(width, int(config.num_attention_heads))
    if student.head_start == "random" or student.head != "transformer":
        return student.replaced(head_start="random"), []
    first = min(student.encoder_layers or layers, layers - student.head_layers)
    start = pretrained_layers(source.model)[first : first + student.head_layers] if first > 0 else []
    if not start or not fits(student, start):
        if student.head_start == "encoder":
            raise ModelError(
                f"a head of {student.head_layers} layer(s), width {student.vector_width}, {student.attention_heads} heads "
                f"cannot start from {source.path} ({layers} layers, width {width}): choose head_start random"
            )
        return student.replaced(head_start="random"), []
    return student.replaced(head_start="encoder"), start
