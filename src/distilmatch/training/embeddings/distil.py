"""The DisCo recipe, whole: a teacher's embeddings of unlabelled text, then the student in two stages.

Shape legend: n texts of the corpus; d width of the teacher.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from distilmatch.config.embeddings import EmbeddingRecipe, LabelledConfig, NamedEmbeddingStageConfig
from distilmatch.config.weights import revision_of
from distilmatch.data.corpus import TextCorpus, write_corpus
from distilmatch.data.readers import local_file
from distilmatch.data.tables import load_table
from distilmatch.data.token_file import MappedTokenIds, write_token_ids
from distilmatch.errors import ConfigError, DataError
from distilmatch.files import MANIFEST, write_json
from distilmatch.fingerprint import fingerprint
from distilmatch.models.sentence_card import save_student
from distilmatch.models.sentence_student import build_student
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.prompts import default_prompt, named_prompts, texts_of
from distilmatch.pretrained.sentence import encoder_width, load_sentence_encoder
from distilmatch.runtime import keep_freed_memory, seed_everything
from distilmatch.teachers import PrecomputedTeacher, cached_embeddings, load_embedding_teacher, read_embeddings
from distilmatch.teachers.embedding_cache import embedding_key
from distilmatch.teachers.in_memory import is_cached
from distilmatch.teachers.sentence import EmbeddingTeacher, SentenceTeacher
from distilmatch.training.arguments import training_device
from distilmatch.training.checks import check_model, check_reporters, check_scores
from distilmatch.training.curves import save_training_curves
from distilmatch.training.embeddings.batches import LabelledTables, StudentTokens, prompted
from distilmatch.training.embeddings.inputs import EmbeddingInputs, with_inputs
from distilmatch.training.embeddings.projected import ProjectedStudent, trained_body
from distilmatch.training.embeddings.run import EmbeddingRun
from distilmatch.training.embeddings.stages import run_contrastive, run_distillation
from distilmatch.training.embeddings.trainer import DevPairs
from distilmatch.training.processes import Processes
from distilmatch.training.stages import Stage, Watch, best_stage, finished_stage, run_stages, stage_curves
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)

_FITTED_TEXTS = 2048


def distil_embeddings(
    recipe: EmbeddingRecipe | Mapping[str, Any],
    *,
    corpus: Any = None,
    labelled: Any = None,
    dev: Any = None,
    teacher: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> SentenceTransformer:
    """Distils a sentence encoder into a smaller student.

    Every part goes on where it was when the same recipe is run again after a stop: the teacher's embeddings from their
    cache, training from the last checkpoint and its memory bank, a finished stage is not repeated. Under `torchrun` the
    processes share the training; the first one makes the corpus and asks the teacher. What is given in memory must be the
    same in each of them.

    Args:
        recipe: everything; `recipe.output` receives the student (`student/`), embeddings, logs and records.
        corpus: the texts, in the place of the recipe's: a list, an iterator or a column of texts, a table (pandas, polars,
            Arrow, `datasets`, rows as mappings) whose columns `recipe.corpus.text_columns` names, or a path.
        labelled, dev: tables in the place of the recipe's, one or a list, of the same forms; the entries of
            `recipe.labelled` and `recipe.dev` say in turn how each is read. A list of mappings is one table.
        teacher: in the place of the recipe's: a folder or hub name, a loaded `SentenceTransformer`, a `SentenceTeacher`, or a
            function that takes a list of texts and returns (n, t) numbers. Its embeddings are cached under its attribute
            `name`; without one none are, and that is said (`distilmatch.teachers.FunctionEmbeddingTeacher`).
        callbacks: of `transformers.Trainer`, called in every stage.

    Returns:
        The trained student, in evaluation mode, as `SentenceTransformer(output / "student")` loads it.

    Raises:
        ConfigError: the settings do not go together, or the output folder belongs to another recipe.
        DataError: texts, tables or embeddings that cannot be used.
    """
    recipe, inputs = with_inputs(recipe, corpus=corpus, labelled=labelled, dev=dev, teacher=teacher)
    device = training_device(recipe.device)
    checked = check_embedding_recipe(recipe, inputs)
    tables, run = checked.labelled, EmbeddingRun(recipe, inputs)
    processes = Processes(cpu=device.type == "cpu")
    _share(run, processes)
    seed_everything(recipe.seed)
    watch = Watch(report_to=recipe.report_to, callbacks=callbacks)
    stages = _Training(run, tables, checked.dev, processes, watch).stages()
    try:
        run_stages(stages)
    finally:
        if processes.is_main:
            _forget_uncached(run)
    if processes.is_main:
        _finish(run, stages, best_stage(stages, f"try a lower {stages[-1].name}.learning_rate"), tables)
    processes.wait()
    return SentenceTransformer(str(run.student), device=str(device), trust_remote_code=False).eval()


def _share(run: EmbeddingRun, processes: Processes) -> None:
    """The first process records the run; the others check that they were given the same.

    Raises:
        ConfigError: they were not, or their teacher is a function without a name.
    """
    teacher = run.inputs.teacher
    if processes.count > 1 and teacher is not None and not is_cached(teacher):
        raise ConfigError("several processes share a teacher's embeddings by its name: give the function a `name`")
    if processes.is_main:
        run.claim()
        run.record()
    processes.wait()
    if not processes.is_main:
        run.check_shared()


def _forget_uncached(run: EmbeddingRun) -> None:
    """Takes away the embeddings of a function without a name: no other run could know them again."""
    teacher, config = run.inputs.teacher, run.recipe.teacher
    if teacher is None or config is None or is_cached(teacher) or not (run.corpus / MANIFEST).is_file():
        return
    folder = run.embeddings / embedding_key(teacher, TextCorpus(run.corpus, checked=True), config.dtype)
    shutil.rmtree(folder, ignore_errors=True)
    if _pointer(run).get("folder") == str(folder):
        run.teacher.unlink()


@dataclass(frozen=True, kw_only=True)
class EmbeddingTables:
    """What `check_embedding_recipe` has read; None for what the recipe does not have."""

    labelled: LabelledTables | None
    dev: DevPairs | None


def check_embedding_recipe(recipe: EmbeddingRecipe, inputs: EmbeddingInputs | None = None) -> EmbeddingTables:
    """Looks at all that can be refused, before the corpus is made and the teacher asked; nothing is written.

    Args:
        inputs: what the job reads; None for what the recipe names.

    Raises:
        ConfigError: settings that do not go together, an output that cannot be used or belongs to another recipe.
        DataError: a table or a file of embeddings that cannot be read, or a dev table on which no correlation is defined.
        ModelError: a teacher or a model that does not exist, or with which the student cannot begin.
    """
    check_reporters(recipe.report_to)
    run = EmbeddingRun(recipe, inputs)
    inputs = run.inputs
    run.check()
    for source in inputs.corpus:
        path = local_file(source)
        if path is not None and not path.is_file():
            raise DataError(f"no file at {path}; check `corpus.sources`")
    dev = None
    if recipe.dev:
        dev = DevPairs(tables=tuple(map(_load, recipe.dev, inputs.dev)))
        for table, config in zip(dev.tables, recipe.dev, strict=True):
            check_scores(table, config.source)
    labelled = _tables(recipe, inputs) if recipe.fine_tunes else None
    first = recipe.all_stages[0]
    if finished_stage(run.stage(first.name)) is None:
        student = new_student(recipe, inputs)
        StudentTokens(student, recipe.student.max_length)
        width = _checked_teacher(recipe, inputs) if recipe.distils else None
        ProjectedStudent(student, recipe.student, teacher_width=width or encoder_width(student))
    return EmbeddingTables(labelled=labelled, dev=dev)


def _checked_teacher(recipe: EmbeddingRecipe, inputs: EmbeddingInputs) -> int | None:
    """Checks that the teacher can be loaded; its width, where the student must have the same."""
    if inputs.teacher is not None:
        return inputs.teacher.width if recipe.student.projection == "none" else None
    assert recipe.teacher is not None  # `EmbeddingRecipe` refuses a stage 1 without
    if recipe.student.projection == "none":
        return load_embedding_teacher(recipe.teacher.replaced(device=None), device="cpu").width
    for number, name in enumerate(recipe.teacher.models):
        check_model(name, revision_of(recipe.teacher.revision, number))
    for file in recipe.teacher.embeddings:
        PrecomputedTeacher(file, recipe.teacher.embedding_column)
    return None


def embed_corpus(
    recipe: EmbeddingRecipe | Mapping[str, Any], *, corpus: Any = None, teacher: Any = None
) -> tuple[TextCorpus, np.ndarray]:
    """Makes the corpus and has the teacher embed it; both are taken from disk where they are there already.

    Args:
        recipe, corpus, teacher: as of `distil_embeddings`.

    Returns:
        The n distinct texts, and (n, d) float16 or float32, memory-mapped; in memory where the teacher is a function without a
        name. A teacher that the recipe names has left memory.

    Raises:
        ConfigError: the recipe has no corpus or no teacher.
        DataError, ModelError, CacheError: see `write_corpus` and `cached_embeddings`.
    """
    recipe, inputs = with_inputs(recipe, corpus=corpus, teacher=teacher)
    run = EmbeddingRun(recipe, inputs)
    try:
        texts, embeddings = _embedded(run)
        if inputs.teacher is not None and not is_cached(inputs.teacher):
            embeddings = np.array(embeddings)
    finally:
        _forget_uncached(run)
    return texts, embeddings


def _embedded(run: EmbeddingRun) -> tuple[TextCorpus, np.ndarray]:
    """The corpus and its embeddings, both on disk."""
    recipe = run.recipe
    if recipe.corpus is None or recipe.teacher is None:
        raise ConfigError("embedding a corpus needs a `corpus` and a `teacher`: add them to the recipe")
    corpus = write_corpus(recipe.corpus, run.corpus, run.inputs.corpus)
    wanted = fingerprint(corpus.fingerprint, recipe.teacher.embedding_settings())
    known = _pointer(run)
    if known.get("wanted") == wanted and (Path(known["folder"]) / "manifest.json").is_file():
        return corpus, read_embeddings(known["folder"])
    keep_freed_memory()
    teacher = run.inputs.teacher or load_embedding_teacher(recipe.teacher, device=recipe.device)
    folder = run.embeddings / embedding_key(teacher, corpus, recipe.teacher.dtype)
    embeddings = cached_embeddings(teacher, corpus, run.embeddings, dtype=recipe.teacher.dtype)
    write_json(run.teacher, {"wanted": wanted, "folder": str(folder), "width": teacher.width})
    del teacher
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the student's memory now
    return corpus, embeddings


def new_student(recipe: EmbeddingRecipe, inputs: EmbeddingInputs | None = None) -> SentenceTransformer:
    """The untrained student of a recipe, on the CPU, without projection and normalisation.

    Args:
        inputs: what the job reads, its teacher among it; None for what the recipe names.

    Raises:
        ConfigError, ModelError: see `build_student`.
    """
    name, pooling, revision = recipe.student.encoder, recipe.student.pooling, None
    loaded = None if inputs is None else inputs.teacher
    if name is None and isinstance(loaded, SentenceTeacher):
        source = copy.deepcopy(loaded.model).cpu().float().eval()  # as loading it by its name would
    else:
        if name is None:
            assert recipe.teacher is not None and recipe.teacher.models
            name, pooling = recipe.teacher.models[0], recipe.teacher.pooling
            revision = revision_of(recipe.teacher.revision, 0)
        source = load_sentence_encoder(name, pooling=pooling, device="cpu", revision=revision)
    seed_everything(recipe.seed)
    student = build_student(recipe.student, source)
    student.prompts.update(_prompts(recipe, loaded, source))
    return student


def _prompts(recipe: EmbeddingRecipe, loaded: EmbeddingTeacher | None, source: SentenceTransformer) -> dict[str, str]:
    """The prompts that the student keeps, by name: those of the teacher that it is distilled from, else those of the model
    that it begins with. None of a teacher that puts a prompt before each text by itself: the student learns what it gives
    with that prompt for texts without.
    """
    if not recipe.distils or recipe.teacher is None:
        return texts_of(source.prompts)
    asked = recipe.teacher.prompt
    if isinstance(loaded, SentenceTeacher):
        known, usual = texts_of(loaded.model.prompts), loaded.model.default_prompt_name
        asked = loaded.prompt
    elif recipe.teacher.models and recipe.student.encoder is None:
        known, usual = texts_of(source.prompts), source.default_prompt_name
    else:
        folder = resolve_model(recipe.teacher.models[0]) if recipe.teacher.models and loaded is None else ""
        known, usual = named_prompts(folder), default_prompt(folder)
    used = known.get(usual or "") if asked is None else asked
    if known and used:
        logger.info(
            "the teacher reads each text after the prompt %r: the student learns to do without, and keeps none", used
        )
        return {}
    if known:
        logger.info(
            "the student keeps the teacher's prompts: %s", ", ".join(f"{n} {text!r}" for n, text in known.items())
        )
    return known


@dataclass(frozen=True)
class _Training:
    """What the stages of a run train with."""

    run: EmbeddingRun
    tables: LabelledTables | None
    dev: DevPairs | None
    processes: Processes
    watch: Watch

    def stages(self) -> list[Stage]:
        """Those of the recipe."""
        kinds = {
            "distillation": ("the teacher's embeddings", self._distil),
            "contrastive": ("labelled rows", self._fine_tune),
        }
        made = []
        for number, config in enumerate(self.run.recipe.all_stages, start=1):
            # The usual second stage has its seed where the first one is left out, too.
            seed = self.run.recipe.seed + (2 if config.name == "stage2" else number)
            title, train = kinds[config.kind]
            folder = self.run.stage(config.name)
            made.append(Stage(name=config.name, title=title, folder=folder, train=partial(train, config, seed)))
        return made

    def _distil(self, config: NamedEmbeddingStageConfig, seed: int, latest: Path | None) -> None:
        recipe, processes = self.run.recipe, self.processes
        if processes.is_main:
            _embedded(self.run)
        processes.wait()
        corpus, embeddings = TextCorpus(self.run.corpus), read_embeddings(_pointer(self.run)["folder"])
        logger.info("%s texts, the teacher is %d wide", f"{len(corpus):,}", embeddings.shape[1])
        objective = recipe.objective
        student = ProjectedStudent(
            new_student(recipe, self.run.inputs) if latest is None else trained_body(latest),
            recipe.student,
            teacher_width=int(embeddings.shape[1]),
            temperature=objective.learned_temperature,
        )
        seed_everything(seed)
        _fit_projection(student, corpus, embeddings, recipe)
        tokens = StudentTokens(student.encoder, recipe.student.max_length)
        if processes.is_main:
            write_token_ids(tokens.ids, corpus, self.run.tokens, fingerprint(tokens.fingerprint, corpus.fingerprint))
        processes.wait()
        run_distillation(
            student,
            MappedTokenIds(self.run.tokens),
            embeddings,
            self.run.stage(config.name),
            config,
            objective,
            dev=self.dev,
            processes=processes,
            device=recipe.device,
            seed=seed,
            watch=self.watch,
        )

    def _fine_tune(self, config: NamedEmbeddingStageConfig, seed: int, latest: Path | None) -> None:
        recipe, tables = self.run.recipe, self.tables
        assert tables is not None, "a recipe with such a stage has labelled tables"
        logger.info("%s labelled rows in %d table(s)", f"{len(tables):,}", len(tables.tables))
        encoder = new_student(recipe, self.run.inputs) if latest is None else trained_body(latest)
        contrastive = recipe.contrastive
        learns = contrastive.learn_temperature and any(kind != "scored" for kind in tables.kinds)
        student = ProjectedStudent(encoder, recipe.student, temperature=contrastive.temperature if learns else None)
        seed_everything(seed)
        run_contrastive(
            student,
            tables,
            self.run.stage(config.name),
            config,
            contrastive,
            dev=self.dev,
            processes=self.processes,
            device=recipe.device,
            seed=seed,
            watch=self.watch,
        )


def _fit_projection(
    student: ProjectedStudent, corpus: TextCorpus, embeddings: np.ndarray, recipe: EmbeddingRecipe
) -> None:
    if student.projection is None:
        return
    chosen = np.unique(np.linspace(0, len(corpus) - 1, min(len(corpus), _FITTED_TEXTS)).astype(int))
    with torch.inference_mode():
        student_embeddings = student.encoder.eval().encode([corpus[int(i)] for i in chosen], show_progress_bar=False)
    student.fit_projection(
        np.asarray(student_embeddings, dtype=np.float32), np.asarray(embeddings[chosen], dtype=np.float32)
    )
    student.train()


def _load(config: LabelledConfig, source: Any) -> TupleTable:
    table = load_table(source, config.table, config.task if config.kind == "scored" else None)
    return prompted(table, config.prompts) if config.prompts else table


def _tables(recipe: EmbeddingRecipe, inputs: EmbeddingInputs) -> LabelledTables:
    tables = []
    for config, source in zip(recipe.labelled, inputs.labelled, strict=True):
        table = _load(config, source)
        if config.kind == "scored" and (table.gold is None or np.isnan(table.gold).any()):
            raise DataError(f"{config.source}: scored pairs need a score in every row; leave those without one out")
        tables.append(table)
    return LabelledTables(
        tables, [config.kind for config in recipe.labelled], [config.score_range for config in recipe.labelled]
    )


def _pointer(run: EmbeddingRun) -> dict[str, Any]:
    return json.loads(run.teacher.read_text(encoding="utf-8")) if run.teacher.is_file() else {}


def _finish(run: EmbeddingRun, stages: Sequence[Stage], latest: Path, tables: LabelledTables | None) -> None:
    recipe = run.recipe
    facts: dict[str, Any] = {}
    if recipe.teacher is not None:
        facts["teacher"] = ", ".join(Path(name).name for name in (*recipe.teacher.models, *recipe.teacher.embeddings))
    facts["started from"] = recipe.student.start + (
        f" {Path(recipe.student.encoder).name}" if recipe.student.encoder else ""
    )
    if recipe.corpus is not None and recipe.distils:
        corpus = TextCorpus(run.corpus)
        names = ", ".join(Path(source).name for source in recipe.corpus.sources)
        facts["unlabelled texts"] = f"{len(corpus):,} ({names})"
        if recipe.corpus.text_templates is not None:
            facts["made of columns by"] = _quoted(recipe.corpus.text_templates)
        facts["objective"] = recipe.objective.kind
    for number, config in enumerate(recipe.labelled if tables is not None else ()):
        assert tables is not None
        made = "" if config.text_templates is None else f", made of columns by {_quoted(config.text_templates)}"
        facts[f"labelled {config.kind} {number + 1}"] = (
            f"{len(tables.tables[number]):,} ({Path(config.source).name}{made})"
        )
    facts["seed"] = recipe.seed
    facts |= {stage.shown: stage.described() for stage in stages}
    save_student(
        SentenceTransformer(str(latest), device="cpu", trust_remote_code=False),
        run.student,
        facts,
        recipe.student.matryoshka,
    )
    save_training_curves(stage_curves(stages), run.student)
    run.copy_records()


def _quoted(templates: Sequence[str]) -> str:
    return " and ".join(f"`{template}`" for template in templates)
