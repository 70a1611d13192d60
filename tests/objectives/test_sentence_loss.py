"""The loss module: the same as the function, and at work in sentence-transformers' own trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from distilmatch.errors import ConfigError
from distilmatch.objectives import ContrastiveDistillationLoss, contrastive_distillation
from distilmatch.pretrained.sentence import load_sentence_encoder

TEXTS = ["the red car", "a dog", "a small green house", "two books", "one old lamp", "the blue coat"]


@pytest.fixture
def student(tiny_encoder: Path) -> SentenceTransformer:
    return load_sentence_encoder(tiny_encoder, device="cpu")


def test_it_is_the_function_with_a_bank(student: SentenceTransformer) -> None:
    teacher = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    loss = ContrastiveDistillationLoss(student, width=32, teacher_width=8, bank_size=4, temperature=0.2).eval()
    first = loss([student.preprocess(TEXTS[:3])], teacher[:3])
    own = loss.projection(torch.as_tensor(student.encode(TEXTS)))
    torch.testing.assert_close(first, contrastive_distillation(own[:3], teacher[:3], temperature=0.2))
    assert loss.bank is not None and not len(loss.bank)
    loss.train()
    student.eval()
    loss([student.preprocess(TEXTS[:3])], teacher[:3])
    second = loss([student.preprocess(TEXTS[3:])], teacher[3:])
    torch.testing.assert_close(second, contrastive_distillation(own[3:], teacher[3:], teacher[:3], temperature=0.2))
    second.backward()
    assert loss.log_scale.grad is not None and len(loss.bank) == 3
    loss([student.preprocess(TEXTS[3:])], teacher[3:])
    assert len(loss.bank) == 4
    with pytest.raises(ConfigError, match="not 2 columns"):
        loss([student.preprocess(TEXTS)] * 2, teacher)


def test_in_the_trainer_of_sentence_transformers(
    student: SentenceTransformer, tiny_sentence_encoder: Path, tmp_path: Path
) -> None:
    teacher = load_sentence_encoder(tiny_sentence_encoder, device="cpu").encode(TEXTS)
    data = Dataset.from_dict({"sentence": TEXTS, "label": teacher.tolist()})
    loss = ContrastiveDistillationLoss(student, width=32, teacher_width=32, bank_size=4, temperature=0.2)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=10, per_device_train_batch_size=3, learning_rate=1e-3, use_cpu=True,
        report_to="none", logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(model=student, args=arguments, train_dataset=data, loss=loss)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[4] and loss.bank is not None and len(loss.bank) == 4
    assert loss.log_scale.item() != pytest.approx(1.6094, abs=1e-4)
