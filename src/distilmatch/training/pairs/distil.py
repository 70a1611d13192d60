"""The DiPair recipe, whole: make and label the transfer set, then train the student in two stages.

Shape legend: n rows or texts; h width of the encoder; c labels.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig

from distilmatch.config.pairs import PairRecipe, StageConfig, StudentConfig
from distilmatch.data.blocks import build_blocks
from distilmatch.data.saved import read_saved_table, save_table
from distilmatch.data.tables import check_table, load_table
from distilmatch.data.texts import read_texts
from distilmatch.errors import ConfigError
from distilmatch.files import write_json
from distilmatch.models import DiPair
from distilmatch.objectives import check_soft_labels, objective_kind
from distilmatch.pretrained.names import resolve_model
from distilmatch.runtime import keep_freed_memory, pick_device, seed_everything
from distilmatch.teachers import SoftLabelCache, in_task_order, load_teacher
from distilmatch.training.arguments import training_device
from distilmatch.training.checks import check_dev
from distilmatch.training.pairs.run import RunFolder
from distilmatch.training.pairs.stage import run_stage
from distilmatch.training.pairs.trainer import DevSet
from distilmatch.training.processes import Processes
from distilmatch.training.stages import better_stage, finished_stage
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)

_CLEAR_LEAD = 1 / 3
_GENTLE = 0.5
_ARCHITECTURE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
)


def distil_pairs(recipe: PairRecipe) -> DiPair:
    """Distils a cross-encoder into a DiPair student.

    Every part goes on where it was when the same recipe is run again after a stop: labels from their cache, training
    from the last checkpoint, a finished stage is not repeated. Under `torchrun` the processes share the work.

    Args:
        recipe: everything; `recipe.output` receives the student (`student/`), labels, logs and records.

    Returns:
        The trained student, in evaluation mode, as `DiPair.from_pretrained(output / "student")` loads it.

    Raises:
        ConfigError: the settings do not go together, or the output folder belongs to another recipe.
        DataError: a table cannot be used.
    """
    device = training_device(recipe.device)
    processes = Processes(cpu=device.type == "cpu")
    checked = check_pair_recipe(recipe)
    run, dev = RunFolder(recipe), checked.dev
    seed_everything(recipe.seed)
    if processes.is_main:
        run.claim()
        run.record()
        make_transfer_set(recipe, run, checked.train)
    processes.wait()
    del checked  # the train table is not needed any more
    table = read_saved_table(run.transfer)
    dev_set = None if dev is None else _dev_set(recipe, run, dev, processes)
    folders = (run.stage1, run.stage2)
    latest: Path | None = None

    def train(folder: Path, stage: StageConfig, number: int, start: str) -> None:
        if finished_stage(folder) is not None:
            return
        logger.info("stage %d: %s", number, "encoders frozen" if number == 1 else "everything learns")
        seed_everything(recipe.seed + number)
        model = new_student(recipe, table.texts, start) if latest is None else DiPair.from_pretrained(latest)
        run_stage(
            model,
            table,
            folder,
            stage,
            recipe.objective,
            frozen_encoders=number == 1,
            dev_set=dev_set,
            processes=processes,
            device=recipe.device,
            seed=recipe.seed + number,
        )

    starts = possible_starts(recipe)
    for number, folder in enumerate(folders, start=1):
        stage = stages_from(recipe, _start_of(run))[number - 1]
        if stage.epochs == 0:
            continue
        if number == 1 and len(starts) > 1:
            if finished_stage(folder) is None:
                for start in starts:
                    logger.info("start: from the %s", start)
                    train(run.starts / start, stage, number, start)
                if processes.is_main:
                    assert dev_set is not None  # else there is one start
                    _keep_better_start(run, dev_set)
                processes.wait()
        else:
            train(folder, stage, number, starts[0])
        latest = folder / "student"
    assert latest is not None
    if processes.is_main:
        _finish(run, better_stage(run.stage1, run.stage2, latest, "try a lower stage2.encoder_learning_rate"), table)
    processes.wait()
    student = DiPair.from_pretrained(run.student).eval()
    return student.to(device)  # type: ignore[arg-type]


def label_transfer_set(recipe: PairRecipe) -> TupleTable:
    """Makes the transfer set and has the teacher label it; saved in `output/transfer`, and read from there again.

    Returns:
        Blocks of rows with (n, c) teacher logits.
    """
    run = RunFolder(recipe)
    return make_transfer_set(recipe, run, check_pair_recipe(recipe, trains=False).train)


def make_transfer_set(recipe: PairRecipe, run: RunFolder, train: TupleTable | None) -> TupleTable:
    """As `label_transfer_set`, of a recipe that is checked.

    Args:
        train: the train table; None where the transfer set is there.
    """
    if train is None:  # the transfer set is made
        return read_saved_table(run.transfer)
    table = plan_transfer_set(recipe, train)
    if len(unlabelled_rows(table)):
        table = with_soft_labels(recipe, run, table)
    assert table.teacher is not None
    check_soft_labels(recipe.objective, recipe.task, table.teacher)
    if run.transfer.exists():
        shutil.rmtree(run.transfer)
    save_table(table, run.transfer)
    run.mark_transfer()
    return table


@dataclass(frozen=True, kw_only=True)
class PairTables:
    """What `check_pair_recipe` has read; `train` is None where the transfer set is made already."""

    train: TupleTable | None
    dev: TupleTable | None


def check_pair_recipe(recipe: PairRecipe, *, trains: bool = True, encoder: str | None = None) -> PairTables:
    """Looks at all that can be refused, before the teacher is asked for the first label; nothing is written.

    Args:
        trains: False for what only labels.
        encoder: a folder in the place of the recipe's encoder, which is not made yet.

    Raises:
        ConfigError: settings that do not go together, an output that cannot be used or belongs to another recipe.
        DataError: a table that cannot be read, or a dev table on which the metric is not defined.
        ModelError: a teacher or an encoder that does not exist or does not fit.
    """
    from distilmatch.teachers.ensemble import check_teacher

    objective_kind(recipe.objective, recipe.task)
    if trains and recipe.stage1.epochs == recipe.stage2.epochs == 0:
        raise ConfigError("both stages have 0 epochs: nothing to train")
    run = RunFolder(recipe)
    run.check()
    dev = None if recipe.dev is None else _load(recipe, recipe.dev)
    if dev is not None:
        assert recipe.dev is not None
        check_dev(dev, recipe.task, recipe.dev, recipe.teacher is not None)
    if recipe.test is not None:
        check_table(recipe.test, recipe.table, recipe.task)
    train = None if run.has_transfer() else _load(recipe, recipe.train)
    if train is not None and recipe.unlabelled:
        read_texts(recipe.unlabelled, recipe.table)
    if train is not None and recipe.teacher is None and len(unlabelled_rows(train)):
        raise ConfigError("some rows have no teacher label and the recipe names no `teacher`")
    stages = ((recipe.stage1, run.stage1), (recipe.stage2, run.stage2))
    if train is not None or any(stage.epochs and finished_stage(folder) is None for stage, folder in stages):
        if recipe.teacher is not None:
            check_teacher(recipe.teacher, recipe.task)
        own = recipe if encoder is None else recipe.model_copy(update={"encoder": (encoder,)})
        for start in possible_starts(own):
            new_student(own, start=start)
    return PairTables(train=train, dev=dev)


def plan_transfer_set(recipe: PairRecipe, train: TupleTable | None = None) -> TupleTable:
    """The blocks of the transfer set, before any label: also what a dry run counts.

    Args:
        train: the train table, where it is read already.
    """
    source = _load(recipe, recipe.train) if train is None else train
    if recipe.unlabelled and recipe.transfer.rounds != 0 and recipe.transfer.unlabelled:
        more = read_texts(recipe.unlabelled, recipe.table)
        source = replace(source, texts=list(dict.fromkeys([*source.texts, *more])))
    embeddings = mean_embeddings(recipe, source.texts)
    return build_blocks(source, embeddings, recipe.transfer, recipe.transfer_seed)


def with_soft_labels(recipe: PairRecipe, run: RunFolder, table: TupleTable) -> TupleTable:
    """The table with the teacher's logits, from the label cache where they are there already.

    Rows that have teacher labels keep them; the teacher is asked for the others alone.

    Raises:
        ConfigError: there is no teacher to ask, or its labels do not fit the task.
    """
    if recipe.teacher is None:
        raise ConfigError("some rows have no teacher label and the recipe names no `teacher`")
    keep_freed_memory()
    teacher = in_task_order(load_teacher(recipe.teacher, device=recipe.device), recipe.task)
    missing = unlabelled_rows(table)
    pairs = [(left, right) for left, right in table.take(missing).tuples()]
    asked = SoftLabelCache(run.labels).label(teacher, pairs)
    if table.teacher is None:
        return table.with_teacher(asked)
    logits = table.teacher.copy()
    logits[missing] = asked
    return table.with_teacher(logits)


def unlabelled_rows(table: TupleTable) -> np.ndarray:
    """The numbers of the rows that lack a teacher label, or one of its c logits."""
    if table.teacher is None:
        return np.arange(len(table))
    return np.flatnonzero(np.isnan(table.teacher).any(axis=1))


def new_student(recipe: PairRecipe, texts: Sequence[str] = (), start: str | None = None) -> DiPair:
    """The untrained student of a recipe.

    Args:
        texts: those that it will learn from.
        start: "encoder" or "teacher"; None is the first of `possible_starts`.
    """
    encoder: str | list[str] = recipe.encoder[0] if len(recipe.encoder) == 1 else list(recipe.encoder)
    student = recipe.student
    if (start or possible_starts(recipe)[0]) == "teacher":
        assert recipe.teacher is not None
        encoder = recipe.teacher.models[0]
        if student.encoder_layers is None:
            layers = int(AutoConfig.from_pretrained(resolve_model(encoder), trust_remote_code=False).num_hidden_layers)
            student = student.replaced(encoder_layers=max(1, layers - student.head_layers))
    spread = [texts[i] for i in np.linspace(0, len(texts) - 1, min(len(texts), 512)).astype(int)]
    return DiPair.from_encoder(encoder, student, recipe.task, sample_texts=spread)


def possible_starts(recipe: PairRecipe) -> tuple[str, ...]:
    """What the student's first weights may be, as `recipe.start` says: "encoder", "teacher", or both to be compared.

    A teacher that looked at both texts in every layer still reads each text alone well enough in its lower layers
    (DeFormer, arXiv 2005.00697); the layers above, as the head, already know the task. A sentence encoder knows what is
    similar. Which of them serves a task is seen after stage 1.

    Raises:
        ConfigError: the recipe insists on the teacher, and it cannot be.
    """
    if recipe.start == "encoder":
        return ("encoder",)
    reason = _no_teacher_start(recipe)
    if recipe.start == "teacher":
        if reason is not None:
            raise ConfigError(f"the student cannot start from the teacher: {reason}; set `start: encoder`")
        return ("teacher",)
    if reason is not None or recipe.dev is None or recipe.stage1.epochs == 0:
        return ("encoder",)
    return ("encoder", "teacher")


def stages_from(recipe: PairRecipe, start: str) -> tuple[StageConfig, StageConfig]:
    """Both stages with their learning rates, which depend on the start (see `StageConfig`)."""
    gentle = start == "encoder" and recipe.stage1.epochs > 0
    return recipe.stage1.with_rates(), recipe.stage2.with_rates(_GENTLE if gentle else 1.0)


def _keep_better_start(run: RunFolder, dev_set: DevSet) -> None:
    """Makes the chosen start's stage 1 the run's stage 1."""
    summaries = {start: finished_stage(run.starts / start) for start in ("encoder", "teacher")}
    metrics = {start: float(summary["best_metric"]) for start, summary in summaries.items() if summary is not None}
    chosen = better_start(metrics, dev_set.teacher_quality())
    logger.info("start: %s; going on from the %s", ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()), chosen)
    write_json(run.root / "start.json", {"start": chosen, "dev": metrics})
    shutil.rmtree(run.stage1, ignore_errors=True)
    (run.starts / chosen).rename(run.stage1)
    shutil.rmtree(run.starts, ignore_errors=True)


def better_start(metrics: Mapping[str, float], teacher: float | None) -> str:
    """Which start goes on to stage 2, by the dev metric of both after stage 1.

    The encoder's must be clearly ahead: where both are far from the teacher, its layers learn faster in stage 2 (on
    SICK they were behind after stage 1 and ahead at the end).

    Args:
        metrics: of "encoder" and "teacher".
        teacher: the same metric of the teacher, None where it is not known.

    Returns:
        "encoder" where that start makes up for more than a third of what the other lacks, else "teacher".
    """
    lead = metrics["encoder"] - metrics["teacher"]
    lacking = 0.0 if teacher is None else max(0.0, teacher - metrics["teacher"])
    return "encoder" if lead > _CLEAR_LEAD * lacking else "teacher"


def _no_teacher_start(recipe: PairRecipe) -> str | None:
    if recipe.teacher is None or len(recipe.teacher.models) != 1 or len(recipe.encoder) != 1:
        return "that needs one teacher and one encoder"
    if recipe.student.head != "transformer" or recipe.student.head_start == "random":
        return "its last layers start a transformer head, and this student's head does not start from layers"
    configs = []
    for name in (recipe.teacher.models[0], recipe.encoder[0]):
        try:
            configs.append(AutoConfig.from_pretrained(resolve_model(name), trust_remote_code=False).to_dict())
        except Exception as error:  # whatever a stranger's folder makes of it
            return f"the configuration of {name} cannot be read ({error})"
    different = [key for key in _ARCHITECTURE if configs[0].get(key) != configs[1].get(key)]
    return f"it differs from {recipe.encoder[0]} in {', '.join(different)}" if different else None


def mean_embeddings(recipe: PairRecipe, texts: Sequence[str]) -> np.ndarray:
    """(n, h) float32 normalised mean-pooled embeddings of texts under the untrained (first) encoder, whole."""
    pooled = StudentConfig(
        kept_tokens=(1, 1),
        kept_strategy="first_pooled",
        max_lengths=(max(recipe.student.max_lengths),) * 2,
        head="cosine",
    )
    model = DiPair.from_encoder(recipe.encoder[0], pooled).to(pick_device(recipe.device))  # type: ignore[arg-type]
    kept, _ = model.encode_kept(list(texts), precision="auto")
    return torch.nn.functional.normalize(kept[:, 0], dim=-1).numpy()


def _load(recipe: PairRecipe, source: str) -> TupleTable:
    return load_table(source, recipe.table, recipe.task, side_names=recipe.student.side_names)


def _dev_set(recipe: PairRecipe, run: RunFolder, table: TupleTable, processes: Processes) -> DevSet:
    if recipe.teacher is not None and len(unlabelled_rows(table)):
        if processes.is_main:  # the others find every label in the cache
            with_soft_labels(recipe, run, table)
        processes.wait()
        table = with_soft_labels(recipe, run, table)
    return DevSet(table=table, task=recipe.task)


def _start_of(run: RunFolder) -> str:
    path = run.root / "start.json"
    return str(json.loads(path.read_text())["start"]) if path.is_file() else possible_starts(run.recipe)[0]


def _finish(run: RunFolder, latest: Path, table: TupleTable) -> None:
    model = DiPair.from_pretrained(latest)
    recipe = run.recipe
    stages = {name: finished_stage(folder) for name, folder in (("stage 1", run.stage1), ("stage 2", run.stage2))}
    model.training_summary = {
        "teacher": ", ".join(Path(name).name for name in recipe.teacher.models) if recipe.teacher else "given labels",
        "encoder": ", ".join(Path(name).name for name in recipe.encoder),
        "started from": f"the {_start_of(run)}",
        "labelled pairs": f"{len(table):,}",
        "distinct texts": f"{len(table.texts):,}",
        "seed": recipe.seed,
    }
    for name, summary in stages.items():
        if summary:
            best = (
                "" if summary["best_metric"] is None else f", best dev {summary['metric']} {summary['best_metric']:.4f}"
            )
            model.training_summary[name] = f"{summary['steps']} steps, {summary['seconds']:.0f} s{best}"
    model.save_pretrained(run.student)
    run.copy_records()
