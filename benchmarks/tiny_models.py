"""Models so small that what is measured is not theirs: random weights, a vocabulary of letters, nothing downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.models import DiPair

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
_POSITIONS = 64


def tiny_student(folder: Path, **shape: Any) -> DiPair:
    """A student of one label, whose encoder is a random BERT of two layers; its encoder's folder is made where it is not there.

    Args:
        folder: for the encoder.
        shape: settings of `StudentConfig`.
    """
    encoder = folder / "tiny_encoder"
    if not encoder.is_dir():
        torch.manual_seed(0)
        BertModel(_config()).save_pretrained(encoder)
        _tokenizer().save_pretrained(encoder)
    torch.manual_seed(1)
    settings: dict[str, Any] = {"head_start": "random", "max_lengths": (24, 32), **shape}
    return DiPair.from_encoder(encoder, StudentConfig(**settings), TaskConfig(kind="binary")).eval()


def tiny_teacher(folder: Path) -> Path:
    """The folder of a random cross-encoder of one label, which is made where it is not there."""
    place = folder / "tiny_teacher"
    if not place.is_dir():
        torch.manual_seed(2)
        model = BertForSequenceClassification(_config(num_labels=1))
        torch.nn.init.normal_(model.classifier.weight, std=0.5)
        model.save_pretrained(place)
        _tokenizer().save_pretrained(place)
    return place


def _config(**settings: Any) -> BertConfig:
    return BertConfig(
        vocab_size=len(_tokenizer()), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=_POSITIONS, **settings,
    )  # fmt: skip


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {
        token: number for number, token in enumerate([*special, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)])
    }
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=_POSITIONS, **names)
