"""Students that embed: which layers, which shape, the projection, and that their folder is a plain one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from transformers import (
    AutoModel,
    AutoTokenizer,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    Qwen2Config,
    RobertaConfig,
)

from distilmatch.config.embeddings import EmbeddingStudentConfig
from distilmatch.errors import ConfigError, ModelError
from distilmatch.models.sentence_card import save_student
from distilmatch.models.sentence_student import build_student
from distilmatch.pretrained.layers import chosen_layers
from distilmatch.pretrained.sentence import encoder_width, load_sentence_encoder
from distilmatch.training.embeddings.batches import StudentTokens
from distilmatch.training.embeddings.projected import ProjectedStudent, trained_body

TEXTS = ["the red car", "a dog", "a small green house by the river"]


@pytest.fixture
def teacher(tiny_sentence_encoder: Path) -> SentenceTransformer:
    return load_sentence_encoder(tiny_sentence_encoder, device="cpu")


def _config(**settings: object) -> EmbeddingStudentConfig:
    return EmbeddingStudentConfig(**{"max_length": 32, **settings})


@pytest.mark.parametrize(
    ("layers", "choice", "expected"),
    [
        (None, "first", [0, 1, 2, 3, 4, 5]),
        (3, "first", [0, 1, 2]),
        (3, "last", [3, 4, 5]),
        (3, "spaced", [0, 2, 5]),
        (2, "spaced", [0, 5]),
        (1, "spaced", [5]),
        (6, "spaced", [0, 1, 2, 3, 4, 5]),
        ((1, 4), "first", [1, 4]),
    ],
)
def test_which_layers_are_kept(layers: object, choice: str, expected: list[int]) -> None:
    assert chosen_layers(layers, choice, 6) == expected  # type: ignore[arg-type]


def test_layers_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match="asks for 7, the model has 6"):
        chosen_layers(7, "first", 6)
    with pytest.raises(ConfigError, match="names layer 6"):
        chosen_layers((0, 6), "first", 6)


def test_a_student_of_the_teachers_layers(teacher: SentenceTransformer) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = build_student(_config(layers=(0, 3)), teacher)
    own, source = student[0].model.encoder.layer, teacher[0].model.encoder.layer
    assert len(own) == 2 and student[0].model.config.num_hidden_layers == 2
    for new, old in ((0, 0), (1, 3)):
        for a, b in zip(own[new].parameters(), source[old].parameters(), strict=True):
            assert torch.equal(a, b) and a is not b
    whole = build_student(_config(layers=None), teacher)
    expected = teacher.encode(TEXTS)
    found = whole.encode(TEXTS)
    np.testing.assert_allclose(found / np.linalg.norm(found, axis=1, keepdims=True), expected, atol=1e-6)
    assert not any(isinstance(module, Normalize) for module in whole) and whole.max_seq_length == 32
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(module.p for module in whole.modules() if isinstance(module, torch.nn.Dropout))
    kept = build_student(_config(dropout=None), teacher)
    assert any(module.p for module in kept.modules() if isinstance(module, torch.nn.Dropout))


def test_a_fresh_student_and_another_pooling(teacher: SentenceTransformer) -> None:
    student = build_student(_config(start="fresh", layers=1, width=16, heads=4, intermediate=24), teacher)
    config = student[0].model.config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (16, 4, 24)
    assert student.encode(TEXTS).shape == (3, 16) == (3, encoder_width(student))
    assert build_student(_config(start="fresh", width=48), teacher)[0].model.config.num_attention_heads == 3
    by_first = build_student(_config(pooling="cls"), teacher)
    assert by_first[1].pooling_mode == "cls" and len(by_first) == 2
    with pytest.raises(ConfigError, match="multiple of `student.heads`"):
        build_student(_config(start="fresh", width=16, heads=3), teacher)
    with pytest.raises(ConfigError, match="takes 64 tokens"):
        build_student(_config(max_length=65), teacher)


def test_a_static_student(teacher: SentenceTransformer, tmp_path: Path) -> None:
    student = build_student(_config(start="static"), teacher)
    words = student.encode(["red", "car", "red car"])
    np.testing.assert_allclose(words[2], (words[0] + words[1]) / 2, atol=1e-6)
    # A token's embedding is what the teacher gives it, before centring: differences are the same.
    alone = SentenceTransformer(modules=list(teacher)[:2], device="cpu").encode(["red", "car"])
    np.testing.assert_allclose(words[0] - words[1], alone[0] - alone[1], atol=1e-5)
    narrow = build_student(_config(start="static", width=8), teacher)
    assert narrow.encode(TEXTS).shape == (3, 8)
    save_student(narrow, tmp_path / "static", {})
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "static")).encode(TEXTS), narrow.encode(TEXTS))
    again = build_student(_config(start="static", width=4), narrow)
    assert again.encode(TEXTS).shape == (3, 4)
    with pytest.raises(ConfigError, match="width 33"):
        build_student(_config(start="static", width=33), teacher)
    with pytest.raises(ModelError, match="needs a transformer"):
        build_student(_config(), narrow)


def _other(kind: str, folder: Path, tokenizer_folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 66, "pad_token_id": 0}
    wide = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
    made = {
        "distilbert": lambda: DistilBertConfig(**size, dim=32, n_layers=4, n_heads=2, hidden_dim=48),
        "roberta": lambda: RobertaConfig(**size, **wide),
        "mpnet": lambda: MPNetConfig(**size, **wide),
        "modernbert": lambda: ModernBertConfig(
            **size, **wide, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3
        ),
        "qwen2": lambda: Qwen2Config(**size, **wide, num_key_value_heads=2, bos_token_id=2, eos_token_id=3),
    }[kind]()
    torch.manual_seed(0)
    AutoModel.from_config(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kind", ["distilbert", "roberta", "mpnet", "qwen2", pytest.param("modernbert", marks=pytest.mark.slow)]
)
def test_students_of_other_architectures(tmp_path: Path, tiny_encoder: Path, kind: str) -> None:
    source = load_sentence_encoder(_other(kind, tmp_path / kind, tiny_encoder), device="cpu")
    whole = build_student(_config(start="encoder", encoder="x", layers=None), source)
    np.testing.assert_allclose(whole.encode(TEXTS), source.encode(TEXTS), atol=1e-5)
    config = _config(start="encoder", encoder="x", layers=(1, 3), projection="drop")
    student = ProjectedStudent(build_student(config, source), config, teacher_width=8)
    assert student.encoder[0].model.config.num_hidden_layers == 2
    tokens = StudentTokens(student.encoder, 32)
    chunks, restore = tokens.features([np.asarray(ids) for ids in tokens.ids(TEXTS)])
    embeddings, projected, _ = student(chunks, torch.from_numpy(restore))
    np.testing.assert_allclose(embeddings.detach().numpy(), student.encoder.eval().encode(TEXTS), atol=1e-5)
    (projected[0] ** 2).sum().backward()
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)
    save_student(student.assembled(), tmp_path / "student", {})
    loaded = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    np.testing.assert_allclose(loaded.encode(TEXTS), student.assembled().encode(TEXTS), atol=1e-5)
    static = build_student(_config(start="static", width=6), source)
    assert static.encode(TEXTS).shape == (3, 6)


def _chunks(student: SentenceTransformer, texts: list[str]) -> tuple[list, torch.Tensor]:
    parts = [student.preprocess([text]) for text in texts]
    return [{k: v for k, v in part.items() if isinstance(v, torch.Tensor)} for part in parts], torch.arange(len(texts))


@pytest.mark.parametrize("projection", ["drop", "keep", "none"])
def test_a_saved_student_gives_the_same_embeddings(
    teacher: SentenceTransformer, tmp_path: Path, projection: str
) -> None:
    torch.manual_seed(0)
    config = _config(projection=projection)
    width = 32 if projection == "none" else 40
    student = ProjectedStudent(build_student(config, teacher), config, teacher_width=width, temperature=0.5).eval()
    embeddings, projected, temperature = student(*_chunks(student.encoder, TEXTS))
    assert temperature is not None and temperature.item() == pytest.approx(0.5)
    assert embeddings.shape == (3, 32) and [part.shape for part in projected] == [(3, width)]
    save_student(student.assembled(), tmp_path / "student", {"teacher": "a | b"})
    loaded = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    expected = (projected[0] if projection == "keep" else embeddings).detach()
    np.testing.assert_allclose(loaded.encode(TEXTS), torch.nn.functional.normalize(expected, dim=-1).numpy(), atol=1e-5)
    assert "| teacher | a / b |" in (tmp_path / "student" / "README.md").read_text()
    body = trained_body(tmp_path / "student")
    np.testing.assert_allclose(body.encode(TEXTS), expected.numpy(), atol=1e-5)


def test_matryoshka_widths_have_a_map_each(teacher: SentenceTransformer, tmp_path: Path) -> None:
    config = _config(matryoshka=(8, 4))
    student = ProjectedStudent(build_student(config, teacher), config, teacher_width=32).eval()
    assert student.projection is not None and student.log_scale is None
    embeddings, projected, _ = student(*_chunks(student.encoder, TEXTS))
    assert len(projected) == 3
    for width, part in zip((32, 8, 4), projected, strict=True):
        expected = embeddings[:, :width] @ student.projection.weight[:, :width].T + student.projection.bias
        torch.testing.assert_close(part, expected)
    save_student(student.assembled(), tmp_path / "student", {}, (8, 4))
    assert "first 8 or 4 numbers" in (tmp_path / "student" / "README.md").read_text()
    assert SentenceTransformer(str(tmp_path / "student"), truncate_dim=8).encode(TEXTS).shape == (3, 8)
    with pytest.raises(ConfigError, match="below the student's 32"):
        ProjectedStudent(build_student(config, teacher), _config(matryoshka=(32,)))


def test_the_projection_starts_at_the_nearest_rotation(teacher: SentenceTransformer) -> None:
    rng = np.random.default_rng(0)
    config = _config(projection="drop")
    student = ProjectedStudent(build_student(config, teacher), config, teacher_width=40)
    own = rng.normal(size=(200, 32))
    rotation = np.linalg.qr(rng.normal(size=(40, 32)))[0].T
    student.fit_projection(own, own @ rotation)
    assert student.projection is not None
    np.testing.assert_allclose(student.projection.weight.detach().numpy(), rotation.T, atol=1e-5)
    with pytest.raises(ConfigError, match="32 wide and its teacher 40"):
        ProjectedStudent(build_student(_config(), teacher), _config(projection="none"), teacher_width=40)


def test_every_weight_that_learns_takes_a_gradient(teacher: SentenceTransformer) -> None:
    config = _config(projection="drop")
    student = ProjectedStudent(build_student(config, teacher), config, teacher_width=40, temperature=1.0)
    embeddings, projected, temperature = student(*_chunks(student.encoder, TEXTS))
    assert temperature is not None
    ((projected[0] ** 3).sum() * temperature).backward()
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)
