"""Threads share teachers and models: no call changes what another reads, and nothing of a given model is changed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from distilmatch.evaluation.sts.measure import evaluate_sts
from distilmatch.evaluation.sts.tasks import StsTask
from distilmatch.teachers import CrossEncoderTeacher, SentenceTeacher
from distilmatch.types import TupleTable

_RANDOM = np.random.default_rng(0)
_WORDS = "the red blue car house dog runs small green book old lamp rain".split()
TEXTS = [" ".join(_RANDOM.choice(_WORDS, _RANDOM.integers(1, 30))) for _ in range(60)]
PAIRS = list(zip(TEXTS, TEXTS[::-1], strict=True))
LENGTHS = (6, 24, None)


def _cross_encoder(folder: Path) -> CrossEncoder:
    return CrossEncoder(str(folder), device="cpu")


def _state(model: Any) -> list[Any]:
    tokenizer = model.tokenizer
    backend = tokenizer.backend_tokenizer
    return [
        [module.training for module in model.modules()],
        model.max_seq_length,
        tokenizer.model_max_length,
        backend.truncation,
        backend.padding,
        [id(module) for module in model.modules()],
        [sorted(module.__dict__) for module in model.modules()],
    ]


@pytest.mark.parametrize("training", [True, False])
def test_teachers_of_several_lengths_share_a_model(tiny_cross_encoder_3: Path, training: bool) -> None:
    model = _cross_encoder(tiny_cross_encoder_3).train(training)
    teachers = [CrossEncoderTeacher(model, max_length=length, precision="fp32", batch_size=7) for length in LENGTHS]
    alone = [
        CrossEncoderTeacher(
            _cross_encoder(tiny_cross_encoder_3).eval(), max_length=n, precision="fp32", batch_size=7
        ).logits(PAIRS)
        for n in LENGTHS
    ]
    assert not np.allclose(alone[0], alone[1]), "the lengths matter"
    before = _state(model)
    _all_at_once(lambda i, part: teachers[i].logits(PAIRS[part]), alone)
    assert _state(model) == before


@pytest.mark.parametrize("training", [True, False])
def test_embedding_teachers_of_several_lengths_share_a_model(tiny_sentence_encoder: Path, training: bool) -> None:
    model = SentenceTransformer(str(tiny_sentence_encoder), device="cpu").train(training)
    teachers = [SentenceTeacher(model, max_length=length, precision="fp32") for length in LENGTHS]
    fresh = SentenceTransformer(str(tiny_sentence_encoder), device="cpu").eval()
    alone = [SentenceTeacher(fresh, max_length=length, precision="fp32").embed(TEXTS) for length in LENGTHS]
    assert not np.allclose(alone[0], alone[1]), "the lengths matter"
    fresh.max_seq_length = LENGTHS[0]
    np.testing.assert_allclose(alone[0], fresh.encode(TEXTS), atol=1e-5)
    before = _state(model)
    _all_at_once(lambda i, part: teachers[i].embed(TEXTS[part]), alone)
    assert _state(model) == before


def _all_at_once(call: Any, alone: list[np.ndarray]) -> None:
    jobs = [(i, slice(start, start + 10)) for start in range(0, 60, 10) for i in range(len(alone))] * 6
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: call(*job), jobs))
    for (i, part), got in zip(jobs, found, strict=True):
        np.testing.assert_allclose(got, alone[i][part], atol=1e-5)


@pytest.mark.parametrize("kind", ["pairs", "texts"])
def test_a_model_put_into_training_under_a_call_drops_nothing_out(
    tiny_cross_encoder_3: Path, tiny_sentence_encoder: Path, kind: str
) -> None:
    if kind == "pairs":
        model: Any = _cross_encoder(tiny_cross_encoder_3)
        teacher: Any = CrossEncoderTeacher(model, precision="fp32", batch_size=4)
        call = lambda: teacher.logits(PAIRS)  # noqa: E731
    else:
        model = SentenceTransformer(str(tiny_sentence_encoder), device="cpu")
        teacher = SentenceTeacher(model, precision="fp32", batch_size=4)
        call = lambda: teacher.embed(TEXTS)  # noqa: E731
    expected = call()
    done = threading.Event()

    def toggle() -> None:
        while not done.is_set():
            model.train()
            model.eval()
            time.sleep(1e-4)  # or the call beside it hardly gets a turn

    other = threading.Thread(target=toggle)
    other.start()
    try:
        for _ in range(5):
            np.testing.assert_allclose(call(), expected, atol=1e-5)
    finally:
        done.set()
        other.join()


def test_an_evaluation_leaves_a_model_in_its_mode(tiny_sentence_encoder: Path) -> None:
    model = SentenceTransformer(str(tiny_sentence_encoder), device="cpu").train()
    table = TupleTable(texts=TEXTS, rows=np.arange(60).reshape(-1, 2), gold=np.linspace(0, 5, 30).astype(np.float32))
    task = StsTask(name="stsb", label="STS-B", table=table, score_range=(0.0, 5.0))
    before = _state(model)
    one, again = (evaluate_sts(model, task, device="cpu", measure_speed=False).results[0] for _ in range(2))
    assert one == again, "dropout would make them differ"
    assert _state(model) == before
    named = evaluate_sts(str(tiny_sentence_encoder), [task], device="cpu", measure_speed=False).results[0]
    assert named.spearman == pytest.approx(one.spearman)


def test_steps_of_training_and_new_tokens_are_seen(tiny_cross_encoder_3: Path) -> None:
    model = _cross_encoder(tiny_cross_encoder_3).train()
    teacher = CrossEncoderTeacher(model, precision="fp32")
    before, key = teacher.logits(PAIRS), teacher.fingerprint
    with torch.no_grad():
        model[0].model.classifier.bias.add_(1.0)
    np.testing.assert_allclose(teacher.logits(PAIRS), before + 1, atol=1e-5)
    assert teacher.fingerprint != key
    model.tokenizer.add_tokens(["reddish"])
    model[0].model.resize_token_embeddings(len(model.tokenizer))
    again = CrossEncoderTeacher(model, precision="fp32").logits([("reddish", "a")])
    np.testing.assert_allclose(teacher.logits([("reddish", "a")]), again, atol=1e-5)


def test_prompts_of_a_shared_model_stay_its_own(tiny_sentence_encoder: Path) -> None:
    model = SentenceTransformer(
        str(tiny_sentence_encoder), device="cpu", prompts={"q": "the red "}, default_prompt_name="q"
    )
    model.set_pooling_include_prompt(False)
    short, whole = SentenceTeacher(model, max_length=4, precision="fp32"), SentenceTeacher(model, precision="fp32")
    expected = model.encode(TEXTS)
    short.embed(TEXTS)
    np.testing.assert_allclose(whole.embed(TEXTS), expected, atol=1e-5)
