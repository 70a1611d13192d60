"""A head that starts from an encoder's own layers computes what those layers compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)

from distilmatch.config.pairs import StudentConfig
from distilmatch.errors import ModelError
from distilmatch.models import DiPair
from distilmatch.models.head_input import HeadInput
from distilmatch.models.head_start import start_head
from distilmatch.models.heads import TransformerHead, make_head
from distilmatch.pretrained.layers import pretrained_layers
from distilmatch.types import TokenRepresentations

SIZES = dict(vocab_size=50, hidden_size=16, num_attention_heads=4, intermediate_size=32)
KINDS: dict[str, Any] = {
    "bert": lambda: BertModel(BertConfig(**SIZES, num_hidden_layers=2, max_position_embeddings=32)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SIZES, num_hidden_layers=2, max_position_embeddings=32)),
    "mpnet": lambda: MPNetModel(MPNetConfig(**SIZES, num_hidden_layers=2, max_position_embeddings=32)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(vocab_size=50, dim=16, n_heads=4, hidden_dim=32, n_layers=2, max_position_embeddings=32)
    ),
}


def _randomised(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_word_embeddings_count_for_nothing_at_the_start() -> None:
    encoder = _randomised(KINDS["bert"]())
    student = StudentConfig(
        kept_tokens=(3, 3), max_lengths=(8, 8), width=16, head_heads=4, head_intermediate=32, word_vectors=True
    )
    head, head_input = make_head(student), HeadInput(16, student)
    assert isinstance(head, TransformerHead)
    start_head(head, head_input, pretrained_layers(encoder)[1:], torch.randn(20, 16), None)
    assert torch.equal(head_input.projection.weight, torch.cat([torch.eye(16), torch.zeros(16, 16)], 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copied_head_equals_the_encoders_last_layer(kind: str) -> None:
    encoder = _randomised(KINDS[kind]())
    layers = pretrained_layers(encoder)
    assert len(layers) == 2
    if kind == "mpnet":  # its relative positions are no part of a head
        torch.nn.init.zeros_(encoder.encoder.relative_attention_bias.weight)  # type: ignore[union-attr]
    tokens = torch.randint(5, 50, (3, 6))
    with torch.no_grad():
        states = encoder(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True
        ).hidden_states
    student = StudentConfig(kept_tokens=(3, 3), max_lengths=(8, 8), width=16, head_heads=4, head_intermediate=32)
    head = make_head(student).eval()
    assert isinstance(head, TransformerHead)
    head_input = HeadInput(16, student)
    start_head(head, head_input, layers[1:], states[1].flatten(0, 1), None)
    mask = torch.ones(3, 3, dtype=torch.bool)
    sides = [TokenRepresentations(part, mask) for part in states[1].split(3, dim=1)]
    with torch.no_grad():
        got = head(sides, torch.arange(3)[:, None].expand(3, 2))
    torch.testing.assert_close(got, states[2][:, 0], atol=1e-4, rtol=1e-3)


def test_a_narrower_head_stays_near_the_whole_one() -> None:
    # Tokens that lie in 8 of 16 directions: nothing is lost by the projection, and the queries meet the same keys.
    encoder = _randomised(KINDS["bert"]())
    layers = pretrained_layers(encoder)
    torch.manual_seed(1)
    outputs = torch.randn(200, 8) @ torch.linalg.qr(torch.randn(16, 8))[0].T + torch.randn(16)
    student = StudentConfig(kept_tokens=(3, 3), max_lengths=(8, 8), width=8, head_heads=2, head_intermediate=16)
    head, head_input = make_head(student), HeadInput(16, student)
    assert isinstance(head, TransformerHead)
    start_head(head, head_input, layers[1:], outputs, None)
    projected = head_input.projection(outputs).detach()
    own = head.layers[0].query(projected).detach()  # type: ignore[operator]
    whole = layers[1].query(outputs).detach().view(len(outputs), 4, 4)
    nearest = [min(float((own[:, 4 * j : 4 * j + 4] - whole[:, i]).abs().max()) for i in range(4)) for j in range(2)]
    assert max(nearest) < 1e-4


def test_auto_takes_the_layers_that_follow(tiny_encoder: Path) -> None:
    model = DiPair.from_encoder(tiny_encoder, StudentConfig(max_lengths=(24, 24), head_intermediate=64))
    assert model.student.head_start == "encoder" and model.student.encoder_layers is None
    assert model.student.width == 32 and model.student.head_heads == 2
    whole = AutoModel.from_pretrained(tiny_encoder, dtype=torch.float32)
    assert len(model.encoders[0].encoder.layer) == 2  # type: ignore[union-attr,arg-type]
    torch.testing.assert_close(
        model.head.layers[0].query.weight,  # type: ignore[union-attr,index]
        whole.encoder.layer[1].attention.self.query.weight,
    )


def test_what_does_not_fit_starts_at_random_or_is_refused(tiny_encoder: Path) -> None:
    deep = StudentConfig(max_lengths=(24, 24), head_intermediate=64, head_layers=2)
    model = DiPair.from_encoder(tiny_encoder, deep)
    assert model.student.head_start == "random" and len(model.encoders[0].encoder.layer) == 2  # type: ignore[union-attr,arg-type]
    with pytest.raises(ModelError, match="choose head_start random"):
        DiPair.from_encoder(tiny_encoder, deep.replaced(head_start="encoder"))


def test_a_narrow_head_starts_from_words_of_the_vocabulary_too(minilm: str) -> None:
    texts = ["a man plays a guitar", "two dogs run in the snow"] * 20
    for sample in ([], texts):
        model = DiPair.from_encoder(minilm, StudentConfig(width=64, head_intermediate=128), sample_texts=sample)
        assert model.student.head_start == "encoder" and model.student.head_heads == 2
        assert torch.isfinite(torch.tensor(model.predict([("a man runs", "a dog sits")]))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_encoder_makes_a_student(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    encoder = _randomised(KINDS[kind]())
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    encoder.resize_token_embeddings(len(tokenizer))  # type: ignore[operator]
    encoder.save_pretrained(tmp_path / "encoder")  # type: ignore[operator]
    tokenizer.save_pretrained(tmp_path / "encoder")
    student = StudentConfig(encoder_layers=1, kept_tokens=(3, 3), max_lengths=(8, 8), head_intermediate=32)
    model = DiPair.from_encoder(tmp_path / "encoder", student).eval()
    assert model.student.head_start == "encoder" and len(pretrained_layers(model.encoders[0])) == 1
    pairs = [("red car", "blue car"), ("a small dog", "the old book")]
    model.save_pretrained(tmp_path / "student")
    again = DiPair.from_pretrained(tmp_path / "student").eval()
    assert model.predict(pairs).tolist() == again.predict(pairs).tolist()
