"""One student in many threads: every call gives what it gives alone, and changes nothing that another reads."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.data.tokenising import token_ids
from distilmatch.models import DiPair
from distilmatch.models.head_start import sampled_outputs

WORDS = "red blue big small car house dog cat runs sits old new tea food river sun".split()
CALLS = 240


@pytest.fixture(params=[False, True], ids=["evaluating", "in training mode"])
def student(request: pytest.FixtureRequest, tiny_encoder: Path) -> DiPair:
    torch.manual_seed(0)
    # Dropout shows a call that ran in training mode; sides of two lengths share one tokenizer.
    shape = StudentConfig(
        max_lengths=(6, 40), kept_tokens=(3, 5), encoder_dropout=0.4, head_dropout=0.4, head_start="random"
    )
    model = DiPair.from_encoder(tiny_encoder, shape, TaskConfig(kind="binary")).train(request.param)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


def _texts(count: int = 60) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 30))) for _ in range(count)]


def _call(model: DiPair, texts: list[str], number: int) -> np.ndarray:
    part = [texts[(number + i) % len(texts)] for i in range(6)]
    kind = number % 5
    if kind < 2:
        return model.encode(part, kind).tokens.numpy()
    if kind == 2:
        return np.asarray(model.predict(list(zip(part, part[::-1], strict=True))))
    if kind == 3:
        return np.array([hit["score"] for hit in model.rank(part[0], part)])
    return model.encode_kept(part, 1)[0].numpy()


def test_calls_beside_each_other_give_what_they_give_alone(student: DiPair) -> None:
    texts, training = _texts(), student.training
    flags = [module.training for module in student.modules()]
    expected = [_call(student, texts, number) for number in range(CALLS)]

    def call(number: int) -> tuple[np.ndarray, list[bool]]:
        found = _call(student, texts, number)
        return found, [module.training for module in student.modules()]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(call, random.Random(1).sample(range(CALLS), CALLS)))
    order = random.Random(1).sample(range(CALLS), CALLS)
    for number, (values, during) in zip(order, found, strict=True):
        np.testing.assert_allclose(values, expected[number], atol=1e-5)
        assert during == flags
    assert student.training == training


def test_no_call_changes_mode_or_tokenizer(student: DiPair) -> None:
    tokenizer = student.tokenizers[0]
    before = tokenizer.backend_tokenizer.to_str(), tokenizer.padding_side
    flags = [module.training for module in student.modules()]
    for number in range(5):
        _call(student, _texts(), number)
    student.score(student.encode(WORDS, 0), student.encode(WORDS, 1))
    sampled_outputs(student.encoders[0], tokenizer, 8, _texts())
    assert [module.training for module in student.modules()] == flags
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer.padding_side) == before


def test_two_lengths_of_one_tokenizer(student: DiPair) -> None:
    tokenizer, texts = student.tokenizers[0], _texts(200)
    alone = {length: [ids.tolist() for ids in token_ids(tokenizer, texts, length)] for length in (4, 9, 33)}
    assert [ids[:3] for ids in alone[33]] == [ids[:3] for ids in alone[9]]

    def ids(number: int) -> bool:
        length, start = (4, 9, 33)[number % 3], number % 150
        found = token_ids(tokenizer, texts[start : start + 20], length)
        return [own.tolist() for own in found] == alone[length][start : start + 20]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ids, range(600)))
