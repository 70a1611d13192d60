"""Logits are multiplied in fp32 whatever the precision: what is ranked and learnt is not rounded to eight bits."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import AutoTokenizer

from distilmatch.teachers import CrossEncoderTeacher, SentenceTeacher
from distilmatch.teachers.views import score_layers

_RANDOM = np.random.default_rng(0)
_WORDS = "the red blue car house dog runs small green book old lamp rain a child sits".split()
PAIRS = [(" ".join(_RANDOM.choice(_WORDS, 6)), " ".join(_RANDOM.choice(_WORDS, 12))) for _ in range(200)]
TEXTS = [pair[1] for pair in PAIRS]

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_FAMILIES = {
    "Bert": _SMALL,
    "Roberta": _SMALL | {"pad_token_id": 0},
    "XLMRoberta": _SMALL | {"pad_token_id": 0},
    "Electra": _SMALL | {"embedding_size": 32},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "MPNet": _SMALL,
    "DebertaV2": _SMALL,
    "Albert": _SMALL | {"embedding_size": 32},
    "ModernBert": _SMALL
    | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
}


def _rounded(values: np.ndarray) -> bool:
    return bool(np.all(np.ascontiguousarray(values).view(np.uint32) & 0xFFFF == 0))


def _family(name: str, labels: int, tokenizer_of: Path, folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer), num_labels=labels, max_position_embeddings=80, **_FAMILIES[name]
    )
    getattr(transformers, f"{name}ForSequenceClassification")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("family", list(_FAMILIES))
def test_logits_in_bf16_are_not_rounded(family: str, labels: int, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    folder = _family(family, labels, tiny_cross_encoder, tmp_path)
    exact = CrossEncoderTeacher(folder, precision="fp32", device="cpu")
    half = CrossEncoderTeacher(folder, precision="bf16", device="cpu")
    assert half.precision == "bf16"
    low, full = half.logits(PAIRS), exact.logits(PAIRS)
    assert low.dtype == np.float32 and not _rounded(low)
    for label in range(labels):
        assert len(np.unique(low[:, label])) > 0.95 * len(np.unique(full[:, label]))
    np.testing.assert_allclose(low, full, atol=0.05)
    assert (low != full).any(), "all of it in fp32"
    assert half.fingerprint != exact.fingerprint


def test_the_given_model_is_as_it_was(tiny_cross_encoder_3: Path) -> None:
    model = CrossEncoder(str(tiny_cross_encoder_3), device="cpu")
    (layer,) = score_layers(model)
    assert layer is model[0].model.classifier
    CrossEncoderTeacher(model, precision="bf16").logits(PAIRS[:3])
    assert "forward" not in layer.__dict__ and layer.weight.dtype == torch.float32


def test_labels_that_were_rounded_are_not_found_again(tiny_cross_encoder: Path) -> None:
    # The fingerprint of an earlier version, whose bf16 logits were rounded.
    teacher = CrossEncoderTeacher(tiny_cross_encoder, precision="bf16")
    now = teacher.fingerprint
    teacher.__dict__.pop("_fingerprint")
    teacher._numbers = lambda: "bf16"  # type: ignore[method-assign]
    assert teacher.fingerprint != now


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_gives_logits_in_fp32(tiny_cross_encoder_3: Path, dtype: torch.dtype) -> None:
    model = CrossEncoder(str(tiny_cross_encoder_3), device="cpu", model_kwargs={"dtype": dtype})
    low = CrossEncoderTeacher(model, precision="auto").logits(PAIRS)
    full = CrossEncoderTeacher(tiny_cross_encoder_3, precision="fp32").logits(PAIRS)
    assert len(np.unique(low[:, 0])) > 0.95 * len(PAIRS)
    np.testing.assert_allclose(low, full, atol=0.1)


def test_a_cross_encoder_of_several_modules(tiny_encoder: Path) -> None:
    torch.manual_seed(0)
    modules: list[nn.Module] = [
        Transformer(str(tiny_encoder)),
        Pooling(32, pooling_mode="mean"),
        Dense(
            32,
            1,
            activation_function=nn.Identity(),
            module_input_name="sentence_embedding",
            module_output_name="scores",
        ),
    ]
    model = CrossEncoder(modules=modules, device="cpu")
    low, full = (CrossEncoderTeacher(model, precision=p).logits(PAIRS) for p in ("bf16", "fp32"))  # type: ignore[arg-type]
    assert len(np.unique(low)) > 0.95 * len(np.unique(full)) and not _rounded(low)
    np.testing.assert_allclose(low, full, atol=0.05)


def test_a_model_whose_last_layer_is_not_known_labels_in_fp32(
    tiny_cross_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(1, 32))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs @ self.weight.T

    model = CrossEncoder(str(tiny_cross_encoder), device="cpu")
    model[0].model.classifier = Own()
    with caplog.at_level(logging.WARNING):
        teacher = CrossEncoderTeacher(model, precision="bf16")
    assert teacher.precision == "fp32" and "labels in fp32" in caplog.text
    assert len(np.unique(teacher.logits(PAIRS))) > 190


def test_embeddings_in_bf16_are_pooled_in_fp32(tiny_sentence_encoder: Path) -> None:
    exact, half = (SentenceTeacher(tiny_sentence_encoder, precision=p) for p in ("fp32", "bf16"))  # type: ignore[arg-type]
    low, full = half.embed(TEXTS), exact.embed(TEXTS)
    assert not _rounded(low) and (low != full).any()
    np.testing.assert_allclose(low, full, atol=0.03)
    assert half.fingerprint != exact.fingerprint
    # Cosines of a query with all texts: hardly any tie.
    assert len(np.unique(low @ low[0])) > 0.95 * len(np.unique(full @ full[0]))
    given = SentenceTransformer(str(tiny_sentence_encoder), device="cpu")
    SentenceTeacher(given, precision="bf16").embed(TEXTS[:2])
    assert "forward" not in given[0].__dict__


def test_a_language_model_that_scores_by_a_token(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_cross_encoder)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3, **_SMALL
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    modules = [Transformer(str(tmp_path), transformer_task="text-generation"), LogitScore(8, 9)]
    model = CrossEncoder(modules=modules, device="cpu")
    low, full = (CrossEncoderTeacher(model, precision=p).logits(PAIRS) for p in ("bf16", "fp32"))  # type: ignore[arg-type]
    assert not _rounded(low) and len(np.unique(low)) > 0.95 * len(np.unique(full))
    np.testing.assert_allclose(low, full, atol=0.05)
