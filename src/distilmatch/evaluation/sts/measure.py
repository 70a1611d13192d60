"""How well cosines of a sentence encoder follow gold scores, task by task.

Shape legend: n pairs of a task; t distinct texts of all tasks; d width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distilmatch.errors import ConfigError
from distilmatch.evaluation.look import median_seconds
from distilmatch.evaluation.sts.report import StsReport
from distilmatch.evaluation.sts.results import StsResult
from distilmatch.evaluation.sts.retrieval import RetrievalSet, measure_retrieval
from distilmatch.evaluation.sts.tasks import StsTask
from distilmatch.metrics import alignment, cosine_spearman, uniformity
from distilmatch.metrics.checks import spearman as rank_correlation
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.prompts import query_and_document, texts_of
from distilmatch.pretrained.sentence import encoder_width, load_sentence_encoder
from distilmatch.runtime import Precision, pick_device, use_bf16
from distilmatch.teachers.baselines import LETTERS, WORDS
from distilmatch.teachers.lexical import LexicalScores, Unit
from distilmatch.teachers.sentence import SentenceTeacher

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


logger = logging.getLogger(__name__)

_BATCH = 64


_STS = "sts"  # what models call a prompt for texts that are compared with their like


_TIMED_TEXTS = 512


_SPREAD_TEXTS = 4096  # for uniformity, which looks at all pairs


_ALIKE = 0.8  # of the range of scores; SimCSE takes the pairs above 4 of 5


def evaluate_sts(
    models: str | Path | SentenceTransformer | Sequence[str | Path | SentenceTransformer],
    tasks: StsTask | Sequence[StsTask],
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    measure_speed: bool = True,
    split: str = "test",
    retrieval: RetrievalSet | None = None,
    simple_baselines: bool = False,
) -> StsReport:
    """Measures sentence encoders, one after another in memory; each distinct text is embedded once.

    A model's own prompts are used, and said: in the tasks the one that it calls `sts`, else its default prompt where it has one;
    in the retrieval those of queries and of documents.

    Args:
        models: sentence-transformers folders, hub names, transformers (their mean is taken) or loaded models, one or
            several; nothing of a loaded model is changed.
        precision: "fp32", "bf16" (autocast), or "auto".
        split: which one `tasks` are of, for the report.
        retrieval: documents to be found for queries, as a check beside the tasks.
        simple_baselines: also measure the TF-IDF cosines of words and letters, terms counted in each task's own texts; for the
            untrained encoder name it as one of `models`.

    Raises:
        ConfigError: no model, no such folder, or no task.
        ModelError: a model that cannot be loaded, or embeddings that are not finite.
    """
    models = _models(models)
    tasks = [tasks] if isinstance(tasks, StsTask) else list(tasks)
    if not models or not tasks:
        raise ConfigError("an STS evaluation needs one model or more and one task or more")
    target = pick_device(device)
    texts = list(dict.fromkeys(text for task in tasks for text in task.table.texts))
    results = []
    for source in models:
        named = isinstance(source, str | Path)
        model = load_sentence_encoder(source, device=target) if isinstance(source, str | Path) else source
        name = str(source) if named else "a loaded SentenceTransformer"
        logger.info("STS: %s", name)
        results.append(_measure(name, model, tasks, texts, precision, measure_speed, retrieval))
    if simple_baselines:
        results += [_lexical(WORDS, "words", tasks), _lexical(LETTERS, "characters", tasks)]
    used = "bf16" if use_bf16(precision, target) else "fp32"
    return StsReport(
        results=tuple(results),
        pairs={task.name: len(task.table) for task in tasks},
        labels={task.name: task.label for task in tasks},
        split=split,
        precision=used,
        device=target.type,
        retrieval_set=None if retrieval is None else retrieval.name,
    )


def _models(models: Any) -> list[Any]:
    several = [models] if isinstance(models, str | Path) or hasattr(models, "encode") else list(models)
    for position, model in enumerate(several):
        if isinstance(model, str | Path):
            resolve_model(model)  # one that is not there is told before the others are measured
        elif not hasattr(model, "encode"):
            raise ConfigError(
                f"models: item {position} is a {type(model).__name__}, no folder, name or SentenceTransformer"
            )
    return several


def _measure(
    name: str,
    model: SentenceTransformer,
    tasks: Sequence[StsTask],
    texts: list[str],
    precision: Precision,
    measure_speed: bool,
    retrieval: RetrievalSet | None,
) -> StsResult:
    prompts = texts_of(model.prompts or {})
    embed = _embedder(model, precision, next((prompts[key] for key in prompts if key.lower() == _STS), None))
    place = {text: number for number, text in enumerate(texts)}
    embeddings = embed(texts)
    spearman = {}
    for task in tasks:
        left, right = _sides(task, embeddings, place)
        assert task.table.gold is not None
        spearman[task.name] = cosine_spearman(left, right, task.table.gold)
    near, spread = _shape(tasks, embeddings, place)
    rate = None
    if measure_speed:
        # Evenly spaced by length, so that the timed texts are as long as those of the tasks.
        lengths = np.argsort([len(text) for text in texts], kind="stable")
        chosen = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), _TIMED_TEXTS)).astype(int))
        timed = [texts[i] for i in lengths[chosen]]
        rate = len(timed) / median_seconds(lambda: embed(timed))
    return StsResult(
        model=name,
        spearman=spearman,
        average=float(np.mean(list(spearman.values()))),
        alignment=near,
        uniformity=spread,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        width=encoder_width(model),
        texts_per_s=rate,
        retrieval=None if retrieval is None else _retrieval(model, precision, retrieval),
    )


def _lexical(name: str, unit: Unit, tasks: Sequence[StsTask]) -> StsResult:
    """What a simple baseline reaches, which reads no model."""
    spearman = {}
    for task in tasks:
        assert task.table.gold is not None
        cosines, _ = LexicalScores(task.table, unit).scores(task.table)
        spearman[task.name] = rank_correlation(cosines, task.table.gold)
    return StsResult(
        model=name,
        spearman=spearman,
        average=float(np.mean(list(spearman.values()))),
        alignment=None,
        uniformity=None,
        parameters=0,
        width=0,
        texts_per_s=None,
    )


def _embedder(
    model: SentenceTransformer, precision: Precision, prompt: str | None
) -> Callable[[list[str]], np.ndarray]:
    """What embeds texts after a prompt; None for the model's default prompt, where it has one."""
    # As a teacher: in evaluation mode whatever the model's own, and nothing of the model changed.
    encoder = SentenceTeacher(model, batch_size=_BATCH, precision=precision, prompt=prompt)
    if prompt:
        logger.info("asked with the prompt %r", prompt)
    return partial(encoder.embed, show_progress_bar=False)


def _retrieval(model: SentenceTransformer, precision: Precision, task: RetrievalSet) -> dict[str, float]:
    """Queries and documents each after their own prompt, where the model has such."""
    query, document = query_and_document(model.prompts or {}) or (None, None)
    return measure_retrieval(_embedder(model, precision, query), task, _embedder(model, precision, document))


def _sides(task: StsTask, embeddings: np.ndarray, place: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array([place[text] for text in task.table.texts])
    return embeddings[numbers[task.table.rows[:, 0]]], embeddings[numbers[task.table.rows[:, 1]]]


def _shape(tasks: Sequence[StsTask], embeddings: np.ndarray, place: dict[str, int]) -> tuple[float | None, float]:
    """Alignment of the pairs that are alike, and uniformity of the texts."""
    chosen = [task for task in tasks if task.name == "stsb"] or tasks
    left: list[np.ndarray] = []
    right: list[np.ndarray] = []
    for task in chosen:
        low, high = task.score_range
        assert task.table.gold is not None
        alike = task.table.gold > low + _ALIKE * (high - low)
        for chunks, side in zip((left, right), _sides(task, embeddings, place), strict=True):
            chunks.append(side[alike])
    numbers = np.array(sorted({place[text] for task in chosen for text in task.table.texts}))
    spread = numbers[np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), _SPREAD_TEXTS)).astype(int))]
    pairs = np.concatenate(left), np.concatenate(right)
    return alignment(*pairs) if len(pairs[0]) else None, uniformity(embeddings[spread])
