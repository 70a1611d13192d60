"""The DiPair recipe, whole: make and label the transfer set, then train the student in two stages.

Shape legend: n rows or texts; h width of the encoder; c labels.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, TrainerCallback

from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.pairs import PairRecipe
from distilmatch.config.stages import NamedStageConfig
from distilmatch.data.corpus import read_texts
from distilmatch.data.saved import read_saved_table, save_table
from distilmatch.data.tables import check_table
from distilmatch.errors import ConfigError, DataError
from distilmatch.metrics import MetricFunction, checked_metrics, sign_of
from distilmatch.metrics.decisions import Decision, decide_on, decides
from distilmatch.metrics.thresholds import BEST_F1
from distilmatch.models import DiPair
from distilmatch.objectives import check_soft_labels, objective_for
from distilmatch.pretrained.names import resolve_model
from distilmatch.runtime import seed_everything
from distilmatch.teachers import in_task_order, label_order, load_teacher
from distilmatch.teachers.mixtures import check_mixes
from distilmatch.teachers.online import OnlineTeacher, check_online, check_peft
from distilmatch.training.arguments import training_device
from distilmatch.training.checks import check_dev, check_reporters, check_teacher_texts
from distilmatch.training.curves import save_training_curves
from distilmatch.training.pairs.inputs import PairInputs, with_inputs
from distilmatch.training.pairs.kept import with_shape
from distilmatch.training.pairs.labelling import (
    load_pairs,
    plan_transfer_set,
    unlabelled_rows,
    with_soft_labels,
    with_unlabelled,
)
from distilmatch.training.pairs.mining import joined, mined_blocks
from distilmatch.training.pairs.mixtures import make_mixtures
from distilmatch.training.pairs.online import MATRICES
from distilmatch.training.pairs.own_labels import check_own_labels
from distilmatch.training.pairs.predictions import predictions_table, with_kinds
from distilmatch.training.pairs.run import RunFolder
from distilmatch.training.pairs.stage import run_stage
from distilmatch.training.pairs.starts import keep_better_start, possible_starts, stages_from, start_of
from distilmatch.training.pairs.trainer import DevSet
from distilmatch.training.processes import Processes
from distilmatch.training.stages import Stage, Watch, best_stage, finished_stage, run_stages, stage_curves
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)


def distil_pairs(
    recipe: PairRecipe | Mapping[str, Any],
    *,
    train: Any = None,
    dev: Any = None,
    test: Any = None,
    teacher: Any = None,
    metrics: Mapping[str, MetricFunction] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> DiPair:
    """Distils a cross-encoder into a DiPair student; without a teacher the student learns from the table's own labels.

    Every part goes on where it was when the same recipe is run again after a stop: labels from their cache, training
    from the last checkpoint, a finished stage is not repeated. Under `torchrun` the processes share the work.

    Args:
        recipe: everything; `recipe.output` receives the student (`student/`), labels, logs and records. With gold labels in
            dev a binary student, and one of two classes, has its `decision`: thresholds and calibration.
        train, dev, test: tables in the place of the recipe's: a path, pandas, polars, Arrow, a `datasets` dataset, or rows as
            mappings.
        teacher: in the place of the recipe's: a folder or hub name, a loaded `CrossEncoder`, a teacher, or a function that takes
            a list of pairs and returns their logits. Its labels are cached under its attribute `name`; without one none are,
            and that is said (`distilmatch.teachers.FunctionTeacher`).
        metrics: of your own, by name, measured on dev at every evaluation: functions of (n,) gold labels and the logits, (n,)
            or of several classes (n, c), and where they take a third argument (n,) numbers of the queries. `metric_for_best`
            of the recipe may name one: more is better.
        callbacks: of `transformers.Trainer`, called in every stage.

    Returns:
        The trained student, in evaluation mode, as `DiPair.from_pretrained(output / "student")` loads it.

    Raises:
        ConfigError: the settings do not go together, the output folder belongs to another recipe, or a metric gives no number.
        DataError: a table cannot be used.
    """
    recipe, inputs = with_inputs(recipe, train=train, dev=dev, test=test, teacher=teacher)
    own = checked_metrics(metrics)
    device = training_device(recipe.device)
    processes = Processes(cpu=device.type == "cpu")
    if processes.count > 1 and recipe.teacher is not None and recipe.teacher.online is not None:
        raise ConfigError("`teacher.online` trains the teacher in one process: start it without torchrun")
    recipe = recipe.replaced(further=RunFolder(recipe, inputs).further())
    run = RunFolder(recipe, inputs)
    checked = check_pair_recipe(recipe, inputs, metrics=own)
    dev_table = checked.dev
    seed_everything(recipe.seed)
    if processes.is_main:
        run.claim()
        run.record_pairs(checked.train, dev_table)
        make_mixtures(recipe, run, make_transfer_set(recipe, run, checked.train))
    processes.wait()
    del checked  # the train table is not needed any more
    table = read_saved_table(run.transfer)
    mixtures = make_mixtures(recipe, run, table)  # they are there
    dev_set = None if dev_table is None else _dev_set(recipe, run, dev_table, own, processes)
    watch = Watch(report_to=recipe.report_to, callbacks=callbacks)
    training = _Training(recipe, run, table, dev_set, processes, watch, mixtures)
    stages = training.stages()
    run_stages(stages, training.left_out)
    stages = [stage for stage in stages if finished_stage(stage.folder) is not None]
    if processes.is_main:
        latest = best_stage(stages, f"try a lower {stages[-1].name}.encoder_learning_rate")
        _finish(run, stages, latest, table, dev_set)
        _say_quality(stages, dev_set)
    processes.wait()
    student = DiPair.from_pretrained(run.student).eval()
    return student.to(device)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Training:
    """What the stages of a run train with."""

    recipe: PairRecipe
    run: RunFolder
    table: TupleTable
    dev_set: DevSet | None
    processes: Processes
    watch: Watch
    mixtures: TupleTable | None

    def stages(self) -> list[Stage]:
        """Those that have epochs."""
        made = []
        for number, config in enumerate(self.recipe.all_stages):
            if config.epochs > 0:
                title = "encoders frozen" if config.frozen_encoders else "everything learns"
                train = partial(self._train_first if number == 0 else self._train, number)
                made.append(Stage(name=config.name, title=title, folder=self.run.stage(config.name), train=train))
        return made

    def left_out(self, stage: Stage, before: Stage) -> bool:
        """Whether a stage is not needed: the student is as good on dev as its teacher already."""
        further = len(self.recipe.further)
        asked_for = {own.name for own in self.recipe.all_stages[-further:]} if further else set()
        reached = (finished_stage(before.folder) or {})["best_metric"]
        if not self.recipe.stop_at_teacher or stage.name in asked_for or self.dev_set is None:
            return False
        if not self.dev_set.reaches_teacher(reached):
            return False
        told = "dev %s: %.4f after %s, the teacher %.4f: %s is left out (`stop_at_teacher: false` trains it)"
        teacher = self.dev_set.teacher_quality()
        logger.info(told, self.dev_set.metric, reached, before.shown, teacher, stage.shown)
        return True

    def _train_first(self, number: int, latest: Path | None) -> None:
        """Where there are several starts, from each of them; the better one stays."""
        starts = possible_starts(self.recipe)
        if len(starts) == 1:
            return self._train(number, latest)
        for start in starts:
            if finished_stage(self.run.starts / start) is None:
                logger.info("start: from the %s", start)
                self._train(number, latest, start, self.run.starts / start)
        if self.processes.is_main:
            assert self.dev_set is not None  # else there is one start
            keep_better_start(self.run, self.dev_set, self.run.stage(self.recipe.all_stages[number].name))
        self.processes.wait()

    def _train(self, number: int, latest: Path | None, start: str | None = None, folder: Path | None = None) -> None:
        recipe = self.recipe
        table = self._table(number, latest)
        config = stages_from(recipe, start or start_of(self.run))[number]
        seed = recipe.seed + number + 1
        seed_everything(seed)
        start = start or possible_starts(recipe)[0]
        model = new_student(recipe, table, start) if latest is None else DiPair.from_pretrained(latest)
        objective, dev_set, mixtures, save = recipe.objective, self.dev_set, self.mixtures, None
        if config.learns == "teacher_predictions":
            table, objective, dev_set, mixtures = predictions_table(table, config), ObjectiveConfig(), None, None
            save = with_kinds(model)
        run_stage(
            model,
            table,
            folder or self.run.stage(config.name),
            config,
            objective,
            frozen_encoders=config.frozen_encoders,
            dev_set=dev_set,
            processes=self.processes,
            device=recipe.device,
            seed=seed,
            watch=self.watch,
            mixtures=mixtures,
            online=self._online(config, latest),
            save=save,
        )

    def _online(self, config: NamedStageConfig, latest: Path | None) -> OnlineTeacher | None:
        """The teacher that learns beside the student, as the stage before has left it; None where it does not learn."""
        settings = None if self.recipe.teacher is None else self.recipe.teacher.online
        if settings is None or config.frozen_encoders or config.learns != "labels":
            return None
        assert self.recipe.teacher is not None
        device = training_device(self.recipe.device)
        teacher = self.run.inputs.teacher or load_teacher(self.recipe.teacher, device=self.recipe.device)
        online = OnlineTeacher(in_task_order(teacher, self.recipe.task), settings, device, self.recipe.seed)
        before = None if latest is None else latest.parent / MATRICES
        if before is not None and before.is_file():
            online.load(before)
        logger.info(
            "the teacher learns beside the student (%d numbers): each step asks it for all its pairs, forwards and backwards, "
            "and no label of it is kept",
            sum(weight.numel() for weight in online.matrices().values()),
        )
        return online

    def _table(self, number: int, latest: Path | None) -> TupleTable:
        """What a stage learns: the transfer set, and after the first stage the pairs that were mined with its student."""
        if number <= self.recipe.first_of_labels or latest is None or not self.recipe.mines:
            return self.table
        if self.processes.is_main and not self.run.has_mined():
            make_mined_set(self.recipe, self.run, self.table, latest)
        self.processes.wait()
        return joined(self.table, read_saved_table(self.run.mined))


def make_mined_set(recipe: PairRecipe, run: RunFolder, transfer: TupleTable, student: Path) -> None:
    """Mines pairs with a student, has the teacher label them and saves them in the run's folder."""
    model = DiPair.from_pretrained(student).eval().to(training_device(recipe.device))  # type: ignore[arg-type]
    train = with_unlabelled(recipe, load_pairs(recipe, run.inputs.train))
    table = mined_blocks(model, transfer, train, recipe.used_transfer, recipe.transfer_seed)
    if len(unlabelled_rows(table)):
        table = with_soft_labels(recipe, run, table)
    if run.mined.exists():
        shutil.rmtree(run.mined)
    save_table(table, run.mined)
    run.mark_mined()


def label_transfer_set(
    recipe: PairRecipe | Mapping[str, Any], *, train: Any = None, dev: Any = None, teacher: Any = None
) -> TupleTable:
    """Makes the transfer set and has the teacher label it; saved in `output/transfer`, and read from there again.

    Args:
        recipe, train, dev, teacher: as of `distil_pairs`.

    Returns:
        Blocks of rows with (n, c) teacher logits.
    """
    recipe, inputs = with_inputs(recipe, train=train, dev=dev, teacher=teacher)
    checked = check_pair_recipe(recipe, inputs, trains=False)
    return make_transfer_set(recipe, RunFolder(recipe, inputs), checked.train)


def make_transfer_set(recipe: PairRecipe, run: RunFolder, train: TupleTable | None) -> TupleTable:
    """As `label_transfer_set`, of a recipe that is checked.

    Args:
        train: the train table; None where the transfer set is there.
    """
    if train is None:  # the transfer set is made
        return read_saved_table(run.transfer)
    table = plan_transfer_set(recipe, train)
    if not recipe.learns_gold_alone:
        if len(unlabelled_rows(table)):
            table = with_soft_labels(recipe, run, table)
        assert table.teacher is not None
        check_soft_labels(recipe.objective, recipe.task, table.teacher)
    if run.transfer.exists():
        shutil.rmtree(run.transfer)
    save_table(table, run.transfer)
    run.mark_transfer()
    return table


def _check_teacher(recipe: PairRecipe, run: RunFolder) -> None:
    """Refuses a teacher that does not exist, does not fit the task, or cannot do what is asked of it."""
    from distilmatch.teachers.ensemble import check_teacher

    config, given = recipe.teacher, run.inputs.teacher
    if config is None:
        return
    if given is not None:
        label_order(given, recipe.task)
        if recipe.transfer.mixtures:
            check_mixes(given)
        if config.online is not None:
            check_online(given)
        return
    check_teacher(config, recipe.task)
    check_teacher_texts(config.models, recipe.table.text_templates)
    if config.online is not None:
        check_peft()


@dataclass(frozen=True, kw_only=True)
class PairTables:
    """What `check_pair_recipe` has read; `train` is None where the transfer set is made already."""

    train: TupleTable | None
    dev: TupleTable | None


def check_pair_recipe(
    recipe: PairRecipe,
    inputs: PairInputs | None = None,
    *,
    trains: bool = True,
    encoder: str | None = None,
    metrics: Mapping[str, MetricFunction] | None = None,
) -> PairTables:
    """Looks at all that can be refused, before the teacher is asked for the first label; nothing is written.

    Args:
        inputs: what the job reads; None for what the recipe names.
        trains: False for what only labels, which needs a teacher or its labels.
        encoder: a folder in the place of the recipe's encoder, which is not made yet.
        metrics: of the user's own.

    Raises:
        ConfigError: settings that do not go together, an output that cannot be used or belongs to another recipe.
        DataError: a table that cannot be read, or a dev table on which the metric is not defined.
        ModelError: a teacher or an encoder that does not exist or does not fit.
    """
    objective_for(recipe.objective, recipe.task)
    check_reporters(recipe.report_to)
    if trains and not any(stage.epochs for stage in recipe.all_stages):
        raise ConfigError("all stages have 0 epochs: nothing to train")
    run = RunFolder(recipe, inputs)
    run.check()
    dev = None if recipe.dev is None else load_pairs(recipe, run.inputs.dev)
    if dev is not None:
        assert recipe.dev is not None
        check_dev(dev, recipe.task, recipe.dev, recipe.labels_dev)
        measured = DevSet(table=dev, task=recipe.task, own=metrics or {}, best=recipe.metric_for_best)
        measured.check(recipe.labels_dev)
    elif metrics or recipe.metric_for_best is not None:
        raise ConfigError(
            f"`{'metrics' if metrics else 'metric_for_best'}` needs a dev table to be measured on: name one as `dev`"
        )
    if recipe.test is not None:
        check_table(run.inputs.test, recipe.table, recipe.task)
    train = None if run.has_transfer() else load_pairs(recipe, run.inputs.train)
    if train is not None and recipe.unlabelled:
        read_texts(recipe.unlabelled, recipe.table)
    if recipe.teacher is None:
        check_own_labels(recipe, train, trains=trains)
    unfinished = any(stage.epochs and finished_stage(run.stage(stage.name)) is None for stage in recipe.all_stages)
    if train is not None or unfinished:
        _check_teacher(recipe, run)
        probed = recipe if encoder is None else recipe.model_copy(update={"encoder": (encoder,)})
        for start in possible_starts(probed):
            new_student(probed, start=start)
    return PairTables(train=train, dev=dev)


def new_student(recipe: PairRecipe, table: TupleTable | None = None, start: str | None = None) -> DiPair:
    """The untrained student of a recipe.

    Args:
        table: what it will learn from; its texts say how many tokens are kept, where the recipe leaves that open.
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
    if table is None:
        return DiPair.from_encoder(encoder, student, recipe.task)
    student = with_shape(student, [encoder] if isinstance(encoder, str) else encoder, table)
    texts = table.texts
    spread = [texts[i] for i in np.linspace(0, len(texts) - 1, min(len(texts), 512)).astype(int)]
    model = DiPair.from_encoder(encoder, student, recipe.task, sample_texts=spread)
    model.count_terms(texts)
    return model


def _dev_set(
    recipe: PairRecipe, run: RunFolder, table: TupleTable, own: Mapping[str, MetricFunction], processes: Processes
) -> DevSet:
    if recipe.labels_dev and len(unlabelled_rows(table)):
        if processes.is_main:  # the others find every label in the cache
            with_soft_labels(recipe, run, table)
        processes.wait()
        table = with_soft_labels(recipe, run, table)
    return DevSet(table=table, task=recipe.task, own=own, best=recipe.metric_for_best)


def _say_quality(stages: Sequence[Stage], dev_set: DevSet | None) -> None:
    """Says what the student reaches on dev, beside its teacher."""
    metrics = [summary["best_metric"] for stage in stages if (summary := finished_stage(stage.folder)) is not None]
    reached = [metric for metric in metrics if metric is not None]
    if dev_set is None or not reached:
        return
    teacher = dev_set.teacher_quality() if dev_set.table.gold is not None else None
    sign = sign_of(dev_set.metric)
    best = sign * max(sign * metric for metric in reached)
    share = f" ({best / teacher:.1%} of it)" if teacher and teacher > 0 and sign > 0 else ""
    beside = "" if teacher is None else f", the teacher {teacher:.4f}{share}"
    logger.info("dev %s: the student %.4f%s", dev_set.metric, best, beside)
    curve = stage_curves(stages)[-1]
    if curve.dev and curve.dev[-1][0] == max(curve.dev, key=lambda point: sign * point[1])[0]:
        logger.info(
            "dev %s was highest at the end of %s: more epochs may help (`distilmatch train RECIPE --more-epochs 5` goes on)",
            dev_set.metric,
            stages[-1].shown,
        )


def _finish(run: RunFolder, stages: Sequence[Stage], latest: Path, table: TupleTable, dev_set: DevSet | None) -> None:
    """Writes the student; on a dev table of gold labels its decision too."""
    recipe = run.recipe
    model = DiPair.from_pretrained(latest).eval().to(training_device(recipe.device))  # type: ignore[arg-type]
    model.decision = _decision(recipe, model, dev_set)
    model.training_summary = {
        "teacher": _taught_by(recipe),
        "encoder": ", ".join(Path(name).name for name in recipe.encoder),
        "started from": f"the {start_of(run)}",
        "labelled pairs": f"{len(table):,}",
        "distinct texts": f"{len(table.texts):,}",
        "seed": recipe.seed,
    }
    model.training_summary |= {stage.shown: stage.described() for stage in stages}
    model.config.text_templates = None if recipe.table.text_templates is None else list(recipe.table.text_templates)
    model.save_pretrained(run.student)
    save_training_curves(stage_curves(stages), run.student)
    run.copy_records()


def _decision(recipe: PairRecipe, model: DiPair, dev_set: DevSet | None) -> Decision | None:
    """Thresholds and calibration on dev; None where it has no gold labels, or those of one class alone."""
    if dev_set is None or dev_set.table.gold is None or not decides(recipe.task):
        return None
    logits = model.logits(dev_set.table.tuples(), show_progress_bar=False)
    try:
        decision = decide_on(dev_set.table, recipe.task, logits, recipe.seed)
    except DataError as error:
        logger.warning("no threshold and no calibration: %s", error)
        return None
    best = decision.threshold(BEST_F1)
    logger.info("dev F1: %.4f above the score %.4f", best.f1, best.score)
    return decision


def _taught_by(recipe: PairRecipe) -> str:
    if recipe.teacher is not None:
        return ", ".join(Path(name).name for name in recipe.teacher.models)
    return "none, gold labels alone" if recipe.learns_gold_alone else "given labels"
