"""The search: short trainings of students of many shapes on one labelled transfer set, chosen by Optuna.

Three things are wanted at once, and none can be had alone: quality on the dev set, pairs per second of the cached
head, and bytes of cache an item. What no other student beats in all three is the frontier.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import shutil
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distilmatch.config.pairs import USUAL_KEPT, PairRecipe, StudentConfig
from distilmatch.config.stages import NamedStageConfig, StageConfig
from distilmatch.errors import ConfigError, MissingExtraError, ModelError
from distilmatch.evaluation.pairs.speed import head_pairs_per_s
from distilmatch.files import check_outputs, write_json
from distilmatch.models import DiPair
from distilmatch.runtime import pick_device, seed_everything
from distilmatch.training.pairs.distil import (
    PairTables,
    check_pair_recipe,
    make_transfer_set,
    new_student,
    possible_starts,
    stages_from,
)
from distilmatch.training.pairs.kept import with_shape
from distilmatch.training.pairs.labelling import unlabelled_rows, with_soft_labels
from distilmatch.training.pairs.run import RunFolder
from distilmatch.training.pairs.stage import run_stage
from distilmatch.training.pairs.throughput import epochs_for, seconds_per_step
from distilmatch.training.pairs.trainer import DevSet
from distilmatch.training.processes import Processes
from distilmatch.training.run_folder import check_folder
from distilmatch.types import TupleTable

logger = logging.getLogger(__name__)

_FP16_BYTES = 2
_STAGE1_SHARE = 0.4  # in minutes, not hours, the frozen stage teaches most (docs/results/ablations.md)
_KEPT = (2, 4, 8, 16, 32, 48)
_WIDTHS = ("own", 256, 128, 64)
_HEADS = ("transformer 1", "transformer 2", "lite", "feed_forward")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One student of the search.

    Attributes:
        number: its number in the study.
        quality: the dev metric.
        pairs_per_s: of the head alone, from cached representations.
        bytes_per_item: fp16 cache of the side that takes more.
        minutes: its training, measuring included.
        fits: whether it meets the targets.
        on_frontier: whether no other trial is at least as good in all three and better in one.
        start, student: what differed from the recipe.
        rate: what the learning rates of that start (`stages_from`) were multiplied by.
    """

    number: int
    quality: float
    pairs_per_s: float
    bytes_per_item: int
    minutes: float
    fits: bool
    on_frontier: bool
    start: str
    student: dict[str, Any]
    rate: float


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What a search found: all trials, best quality first, the name of the quality, and the recipe to train with."""

    metric: str
    trials: tuple[Trial, ...]
    best: Trial | None
    recipe: Path | None


def tune(
    recipe: PairRecipe,
    output: Path,
    *,
    minutes: float,
    trials: int = 12,
    min_pairs_per_s: float | None = None,
    max_bytes_per_item: int | None = None,
) -> Frontier:
    """Searches shapes and learning rates; the same call goes on where a stopped one was.

    Args:
        recipe: data, teacher and whatever is not searched; needs `dev`.
        output: labels, the study (`study.db`), `frontier.json`, `best.yaml`.
        minutes: for all trainings together; labelling comes before and is not counted.
        trials: how many students share the time. The recipe's own is the first, from each of its `possible_starts`.
        min_pairs_per_s, max_bytes_per_item: what the chosen student must keep to; None for no target.

    Returns:
        The trials and the recipe of the best student that fits, with its full length of training.

    Raises:
        ConfigError: no dev table, no time, or what `check_pair_recipe` refuses, before any work.
        MissingExtraError: Optuna is not installed.
    """
    output = Path(output)
    checked = check_tune(recipe, output, minutes=minutes, trials=trials)
    import optuna

    recipe = recipe.replaced(output=str(output / "base"))
    run = RunFolder(recipe)
    run.claim()
    table = make_transfer_set(recipe, run, checked.train)
    recipe = recipe.replaced(student=with_shape(recipe.student, recipe.encoder, table))
    dev_set = _dev_set(recipe, run, checked.dev)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `multivariate`
        seed = recipe.seed + _done(output)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=6)
    study = optuna.create_study(
        study_name="distilmatch",
        storage=f"sqlite:///{(output / 'study.db').resolve()}",
        load_if_exists=True,
        directions=["maximize", "maximize", "minimize"],
        sampler=sampler,
    )
    # The recipe's own student first: what the search finds is compared with it.
    if not study.trials:
        for start in possible_starts(recipe):
            study.enqueue_trial({**_parameters(recipe), "start": start})
    for stale in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # a stopped run's
        study.tell(stale.number, state=optuna.trial.TrialState.FAIL)
    each = minutes / trials
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    while len(study.get_trials(states=finished)) < trials:
        study.optimize(
            lambda trial: _objective(trial, recipe, table, dev_set, each, output),
            n_trials=1,
        )
    return _frontier(study, recipe, dev_set.metric, output, min_pairs_per_s, max_bytes_per_item)


def check_tune(recipe: PairRecipe, output: str | Path, *, minutes: float, trials: int = 12) -> PairTables:
    """Looks at all that can be refused, before the teacher is asked for the first label; nothing is written.

    Raises:
        ConfigError, DataError, ModelError: as `tune` and `check_pair_recipe`.
        MissingExtraError: Optuna is not installed.
    """
    if recipe.metric_for_best is not None:
        raise ConfigError("tune compares students by the task's own metric: leave `metric_for_best` out")
    if recipe.dev is None:
        raise ConfigError("tune compares students on the dev table: name one as `dev` in the recipe")
    if not (math.isfinite(minutes) and minutes > 0) or trials < 1:
        raise ConfigError("tune needs some minutes and at least one trial")
    if importlib.util.find_spec("optuna") is None:
        raise MissingExtraError("optuna", "tune")
    check_folder(output, "the output")
    root = Path(output)
    base = RunFolder(recipe.replaced(output=str(root / "base")))
    inputs = {f"`{name}`": source for name, source in {**base.sources(), **base.models()}.items()}
    for name in ("", "trials", "best", "best.yaml", "frontier.json", "study.db"):
        check_outputs({f"the output {root / name}": root / name}, inputs)
    return check_pair_recipe(base.recipe)


def _done(output: Path) -> int:
    # The sampler's stream must not start again where a stopped search began.
    return len(list((output / "trials").glob("*.json"))) if (output / "trials").is_dir() else 0


def _dev_set(recipe: PairRecipe, run: RunFolder, table: TupleTable | None) -> DevSet:
    assert table is not None  # `check_tune` asks for one
    if recipe.labels_dev and len(unlabelled_rows(table)):
        table = with_soft_labels(recipe, run, table)
    return DevSet(table=table, task=recipe.task)


def _parameters(recipe: PairRecipe) -> dict[str, Any]:
    """The recipe's own student in the terms of the search, as near as these come."""
    student = recipe.student
    head = f"transformer {min(student.head_layers, 2)}" if student.head == "transformer" else student.head
    width = student.width if student.width in _WIDTHS else "own"
    usual = student.kept_tokens or (USUAL_KEPT,) * student.sides
    nearest = {side: min(_KEPT, key=lambda k: abs(k - kept)) for side, kept in enumerate(usual)}
    return {
        **{f"kept_{side}": kept for side, kept in nearest.items()},
        "head": head if head in _HEADS else "transformer 1",
        "width": width,
        "rate": 1.0,
    }


def shape(recipe: PairRecipe, parameters: dict[str, Any]) -> StudentConfig:
    """The student that the parameters of a trial describe."""
    head, _, layers = str(parameters["head"]).partition(" ")
    student = recipe.student
    kept = [min(int(parameters[f"kept_{side}"]), length) for side, length in enumerate(student.max_lengths)]
    width = None if parameters["width"] == "own" else int(parameters["width"])
    changes: dict[str, Any] = {"kept_tokens": kept, "head": head, "width": width, "head_layers": int(layers or 1)}
    if width is not None or head != student.head:
        changes |= {"head_heads": None, "head_intermediate": None}
    if head != student.head:
        changes["head_start"] = "auto"
    if head != "transformer":
        changes["lexical"] = False
    return student.replaced(**changes)


def _objective(
    trial: Any, recipe: PairRecipe, table: TupleTable, dev_set: DevSet, minutes: float, output: Path
) -> tuple[float, float, float]:
    import optuna

    sides = range(recipe.student.sides)
    parameters: dict[str, Any] = {f"kept_{side}": trial.suggest_categorical(f"kept_{side}", _KEPT) for side in sides}
    heads = _HEADS if recipe.student.sides == 2 else tuple(head for head in _HEADS if head != "lite")
    parameters["head"] = trial.suggest_categorical("head", heads)
    parameters["width"] = trial.suggest_categorical("width", _WIDTHS)
    rate = trial.suggest_float("rate", 0.4, 2.5, log=True)
    start = trial.suggest_categorical("start", possible_starts(recipe))
    trial_recipe = recipe.replaced(student=shape(recipe, parameters))
    # Not every shape can begin as the recipe's own student does.
    trial_recipe = trial_recipe.replaced(start=start if start in possible_starts(trial_recipe) else "encoder")
    folder = output / "trials" / f"{trial.number:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    try:
        model = _train(trial_recipe, table, dev_set, minutes, rate, folder)
    except ModelError as error:
        logger.warning("trial %d: %s", trial.number, error)
        raise optuna.TrialPruned from error
    quality = dev_set.measure(model, "auto")[dev_set.metric]
    speed = head_pairs_per_s(model, dev_set.table, precision="auto")
    size = max(model.student.kept_vectors) * model.student.vector_width * _FP16_BYTES
    spent = (time.perf_counter() - started) / 60
    trial.set_user_attr("minutes", spent)
    trial.set_user_attr("student", trial_recipe.student.to_dict())
    trial.set_user_attr("start", trial_recipe.start)
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder.with_suffix(".json"), {"quality": quality, "parameters": trial.params})
    logger.info(
        "trial %d: %s %.4f, %s pairs/s, %s bytes an item, %.1f min\n  %s",
        trial.number, dev_set.metric, quality, f"{speed:,.0f}", f"{size:,}", spent,
        ", ".join(f"{name} {value}" for name, value in trial.params.items()),
    )  # fmt: skip
    return quality, speed, float(size)


def _train(recipe: PairRecipe, table: TupleTable, dev_set: DevSet, minutes: float, rate: float, folder: Path) -> DiPair:
    processes = Processes(cpu=pick_device(recipe.device).type == "cpu")
    seed_everything(recipe.seed)
    started = time.perf_counter()
    start = possible_starts(recipe)[0]
    model = new_student(recipe, table, start)
    stages = [stage for stage in stages_from(recipe, start) if stage.epochs > 0]
    frozen = sum(stage.frozen_encoders for stage in stages)
    shares = {True: _STAGE1_SHARE / max(1, frozen), False: (1 - _STAGE1_SHARE) / max(1, len(stages) - frozen)}
    for stage in stages:
        stage = scaled(stage, rate).replaced(evaluations=1)
        settings: dict[str, Any] = dict(
            frozen_encoders=stage.frozen_encoders, processes=processes, device=recipe.device
        )
        step = seconds_per_step(model, table, stage, recipe.objective, **settings)
        share = minutes * shares[stage.frozen_encoders]
        if stage.name == stages[-1].name:  # what the making, the measuring and the stages before have left
            share = max(0.0, minutes - (time.perf_counter() - started) / 60)
        stage = stage.replaced(epochs=epochs_for(share, step, table, stage))
        place = folder / stage.name
        run_stage(model, table, place, stage, recipe.objective, dev_set=dev_set, seed=recipe.seed, **settings)
    return model.eval()


def scaled(stage: NamedStageConfig, rate: float) -> NamedStageConfig:
    """The stage with its learning rates, which are filled in, times `rate`."""
    assert stage.learning_rate is not None and stage.encoder_learning_rate is not None  # of `stages_from`
    return stage.replaced(
        learning_rate=stage.learning_rate * rate, encoder_learning_rate=stage.encoder_learning_rate * rate
    )


def _frontier(
    study: Any,
    recipe: PairRecipe,
    metric: str,
    output: Path,
    min_pairs_per_s: float | None,
    max_bytes_per_item: int | None,
) -> Frontier:
    import optuna

    on_frontier = {trial.number for trial in study.best_trials}
    trials = []
    for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        quality, speed, size = trial.values
        fits = (min_pairs_per_s is None or speed >= min_pairs_per_s) and (
            max_bytes_per_item is None or size <= max_bytes_per_item
        )
        trials.append(
            Trial(
                number=trial.number,
                quality=quality,
                pairs_per_s=speed,
                bytes_per_item=int(size),
                minutes=trial.user_attrs["minutes"],
                fits=fits,
                on_frontier=trial.number in on_frontier,
                start=trial.user_attrs["start"],
                student=trial.user_attrs["student"],
                rate=trial.params["rate"],
            )
        )
    trials.sort(key=lambda trial: -trial.quality)
    best = next((trial for trial in trials if trial.fits), None)
    path = None
    if best is not None:
        path = output / "best.yaml"
        stages = [scaled(stage, best.rate).to_dict() for stage in stages_from(recipe, best.start)]
        changes: dict[str, Any] = {"stages": stages}
        if not recipe.stages:
            # A recipe without `stages` has the default ones' settings under their names; what a list says besides is fixed.
            settings = StageConfig.model_fields
            changes = {stage["name"]: {k: v for k, v in stage.items() if k in settings} for stage in stages}
        recipe.replaced(start=best.start, student=best.student, output=str(output / "best"), **changes).to_yaml(path)
    targets = {"min_pairs_per_s": min_pairs_per_s, "max_bytes_per_item": max_bytes_per_item}
    write_json(
        output / "frontier.json",
        {"metric": metric, "targets": targets, "best": best and best.number, "trials": [asdict(t) for t in trials]},
    )
    return Frontier(metric=metric, trials=tuple(trials), best=best, recipe=path)
