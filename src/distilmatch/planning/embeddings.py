"""How long an embedding job takes and what it leaves on disk, by some real steps of each stage.

Shape legend: n texts of the corpus; d width of the teacher.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distilmatch.config.embeddings import EmbeddingRecipe, NamedEmbeddingStageConfig
from distilmatch.data.corpus import TextCorpus
from distilmatch.estimates import Estimate, disk_bytes, spread_batches
from distilmatch.planning.training import Rehearsed, StageTimes
from distilmatch.runtime import keep_freed_memory, pick_device
from distilmatch.teachers import load_embedding_teacher
from distilmatch.teachers.embedding_cache import embedding_key
from distilmatch.training.embeddings.batches import StudentTokens, TableSampler
from distilmatch.training.embeddings.distil import EmbeddingTables, new_student
from distilmatch.training.embeddings.projected import ProjectedStudent
from distilmatch.training.embeddings.run import EmbeddingRun
from distilmatch.training.embeddings.stages import run_contrastive, run_distillation
from distilmatch.training.processes import Processes
from distilmatch.training.stages import Watch, finished_stage

_SECONDS = 3.0
_BATCHES = 24
_TOKENISED = 20_000
_RECORDS = 20_000


@dataclass(frozen=True, kw_only=True)
class EmbeddingPlan:
    """What an embedding job takes.

    Attributes:
        asked: texts that the teacher has yet to embed; cached: that it has embedded.
        texts_per_s: of the teacher, measured; None where it is not asked.
    """

    estimate: Estimate
    asked: int
    cached: int
    texts_per_s: float | None


def plan_embeddings(
    recipe: EmbeddingRecipe, checked: EmbeddingTables, corpus: TextCorpus | None, start: float
) -> EmbeddingPlan:
    """What `distil_embeddings` takes, of a recipe that is checked.

    Args:
        corpus: its texts, in a folder of their own; None for a recipe without stage 1.
        start: seconds of all that came before, which the run does too.
    """
    run = EmbeddingRun(recipe)
    seconds, disk = {"start": start}, 0
    asked, cached, rate, width = 0, 0, None, None
    if corpus is not None:
        rate, embedded, width = _teacher_rate(recipe, run, corpus)
        asked, cached = (0, len(corpus)) if embedded else (len(corpus), 0)
        seconds["embeddings"] = asked / rate if rate else 0.0
        per_number = 2 if recipe.teacher is not None and recipe.teacher.dtype == "fp16" else 4
        disk += asked * width * per_number + disk_bytes(corpus.folder)
    sizes = [0]
    for stage in recipe.all_stages:
        if finished_stage(run.stage(stage.name)) is not None:
            continue
        items, times, tokens = _stage_times(recipe, stage, checked, corpus, width)
        seconds[stage.name] = (
            times.once + _steps(stage, items) * times.step + _evaluated(recipe, stage, checked, items, times)
        )
        sizes.append(times.student_bytes)
        disk += tokens
    disk += sum(sizes) + (sizes[-1] + _RECORDS if len(sizes) > 1 else 0)
    return EmbeddingPlan(
        estimate=Estimate(seconds=seconds, disk_bytes=disk), asked=asked, cached=cached, texts_per_s=rate
    )


def _teacher_rate(recipe: EmbeddingRecipe, run: EmbeddingRun, corpus: TextCorpus) -> tuple[float | None, bool, int]:
    """Texts a second of the teacher where it has to be asked, whether its embeddings are there, and its width."""
    assert recipe.teacher is not None  # an embedding recipe with a stage 1 has one
    keep_freed_memory()
    teacher = load_embedding_teacher(recipe.teacher, device=recipe.device)
    place = run.embeddings / embedding_key(teacher, corpus, recipe.teacher.dtype)
    if (place / "manifest.json").is_file():
        return None, True, teacher.width
    batch_size = recipe.teacher.batch_size
    lengths = corpus.lengths()

    def embed(chosen: np.ndarray) -> float:
        began = time.perf_counter()
        teacher.embed([corpus[int(i)] for i in chosen], np.asarray(corpus.rows[chosen]), show_progress_bar=False)
        return time.perf_counter() - began

    middle = spread_batches(lengths, batch_size, 1)[0]
    embed(middle)
    batches = spread_batches(lengths, batch_size, max(3, min(64, round(_SECONDS / max(embed(middle), 1e-6)))))
    return sum(map(len, batches)) / sum(map(embed, batches)), False, teacher.width


def _steps(stage: NamedEmbeddingStageConfig, items: int) -> int:
    return max(1, math.ceil(items / stage.batch_size / stage.gradient_accumulation_steps * stage.epochs))


def _evaluated(
    recipe: EmbeddingRecipe,
    stage: NamedEmbeddingStageConfig,
    checked: EmbeddingTables,
    items: int,
    times: StageTimes,
) -> float:
    """Seconds of a stage's evaluations and further checkpoints."""
    evaluations = min(stage.evaluations, _steps(stage, items))
    saving = (evaluations - 1) * times.saving
    if checked.dev is None:
        return saving
    student = new_student(recipe).to(pick_device(recipe.device)).eval()
    began = time.perf_counter()
    checked.dev.measure(student, stage.precision)
    return saving + evaluations * (time.perf_counter() - began)


def _stage_times(
    recipe: EmbeddingRecipe,
    stage: NamedEmbeddingStageConfig,
    checked: EmbeddingTables,
    corpus: TextCorpus | None,
    width: int | None,
) -> tuple[int, StageTimes, int]:
    """Texts or rows of a stage, what it takes, and the bytes of the corpus' token ids."""
    rehearsed = Rehearsed(_SECONDS)
    short = stage.replaced(evaluations=1)
    student = ProjectedStudent(new_student(recipe), recipe.student, teacher_width=width)
    processes = Processes(cpu=pick_device(recipe.device).type == "cpu")
    watch = Watch(callbacks=[rehearsed])
    if stage.kind == "contrastive":
        assert checked.labelled is not None, "a recipe with such a stage has labelled tables"
        tables, items = checked.labelled, len(TableSampler(checked.labelled.starts, stage.batch_size))

        def train(folder: Path) -> object:
            return run_contrastive(
                student, tables, folder, short, recipe.contrastive, dev=None, processes=processes,
                device=recipe.device, watch=watch,
            )  # fmt: skip

        return items, _timed(train, rehearsed), 0
    assert corpus is not None and width is not None
    ids, seconds_a_text = _some_ids(student, recipe, corpus)
    # The memory bank is as full as in the run: texts and random embeddings come again until there are as many.
    wanted = max(_BATCHES * stage.batch_size, recipe.objective.bank_size if recipe.objective.uses_bank else 0)
    count = min(len(corpus), wanted)
    numbers = [ids[i % len(ids)] for i in range(count)]
    embeddings = np.random.default_rng(0).standard_normal((count, width), dtype=np.float32).astype(np.float16)

    def distil(folder: Path) -> object:
        return run_distillation(
            student, numbers, embeddings, folder, short, recipe.objective, dev=None, processes=processes,
            device=recipe.device, watch=watch,
        )  # fmt: skip

    times = _timed(distil, rehearsed)
    tokens = round(len(corpus) * (8 + 4 * float(np.mean([len(text) for text in ids]))))
    once = times.once + len(corpus) * seconds_a_text
    return (
        len(corpus),
        StageTimes(step=times.step, once=once, saving=times.saving, student_bytes=times.student_bytes),
        tokens,
    )


def _some_ids(student: ProjectedStudent, recipe: EmbeddingRecipe, corpus: TextCorpus) -> tuple[list[np.ndarray], float]:
    tokens = StudentTokens(student.encoder, recipe.student.max_length)
    chosen = np.random.default_rng(0).permutation(len(corpus))[:_TOKENISED]
    texts = [corpus[int(i)] for i in chosen]
    began = time.perf_counter()
    ids = [np.asarray(text, dtype=np.int32) for text in tokens.ids(texts)]
    return ids, (time.perf_counter() - began) / len(texts)


def _timed(train: Callable[[Path], object], rehearsed: Rehearsed) -> StageTimes:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        train(Path(folder))
        once = time.perf_counter() - began - sum(rehearsed.steps) - rehearsed.step
        return StageTimes(
            step=rehearsed.step,
            once=max(0.0, once),
            saving=rehearsed.saving,
            student_bytes=disk_bytes(Path(folder) / "student"),
        )
