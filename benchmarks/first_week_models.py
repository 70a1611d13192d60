"""Tiny models with random weights for `first_week`, made in a folder; nothing is downloaded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.models.dipair import DiPair

_WORDS = "red blue green black white shoe lamp coat watch table glass cotton leather steel wood small large new old cheap".split()
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def words(count: int, fewest: int, most: int) -> list[str]:
    """So many distinct texts of so many words."""
    draw = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(draw.choices(_WORDS, k=draw.randint(fewest, most)))] = None
    return list(found)


class labelled_by_length:
    """A teacher whose logit of a pair follows from its texts; it is asked as any other."""

    def __init__(self, seed: int) -> None:
        self.fingerprint = f"by length {seed}"
        self.num_labels = 1
        self.class_names = None
        self._seed = seed

    def logits(self, pairs: Sequence[tuple[str, str]], show_progress_bar: bool | None = None) -> np.ndarray:
        """(n, 1) float32."""
        return np.array([[len(a) / (1 + len(b)) + self._seed] for a, b in pairs], dtype=np.float32)


class Models:
    """Folders of an encoder, a cross-encoder and a sentence encoder, and students of the first."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        vocabulary = {word: number for number, word in enumerate((*_SPECIAL, *_WORDS))}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        named: dict[str, Any] = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
        return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **named)

    def _save(self, name: str, kind: Any, **settings: Any) -> Path:
        torch.manual_seed(3)
        shape: dict[str, Any] = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        }
        config = BertConfig(
            vocab_size=len(_SPECIAL) + len(_WORDS),
            max_position_embeddings=64,
            initializer_range=0.2,
            **shape,
            **settings,
        )
        kind(config).eval().save_pretrained(self.root / name)
        self._tokenizer().save_pretrained(self.root / name)
        return self.root / name

    @cached_property
    def encoder(self) -> Path:
        """A BERT of two layers."""
        return self._save("encoder", BertModel)

    @cached_property
    def cross_encoder(self) -> Path:
        """The same with one label."""
        return self._save("cross-encoder", BertForSequenceClassification, num_labels=1)

    @cached_property
    def sentence_encoder(self) -> Path:
        """The same with the mean of its tokens."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        model = SentenceTransformer(
            modules=[Transformer(str(self.encoder)), Pooling(32, pooling_mode="mean")], device="cpu"
        )
        model.save_pretrained(str(self.root / "sentence-encoder"))
        return self.root / "sentence-encoder"

    def student(self, seed: int) -> DiPair:
        """Two sides of different lengths, one label."""
        torch.manual_seed(seed)
        shape = StudentConfig(max_lengths=(8, 32), kept_tokens=(3, 4), width=32, head_heads=2, head_start="random")
        model = DiPair.from_encoder(self.encoder, shape, TaskConfig(kind="binary"))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.0)
        return model.eval()
