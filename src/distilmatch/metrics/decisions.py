"""From scores to a decision: the thresholds and the calibration of a model, fitted on labelled rows that it was not trained on.

Both are of one number a row, the match logit: of a binary task the logit; of two classes the logit of the second less that of the
first, whose sigmoid is the second's softmax.

Shape legend: n rows; c labels.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from pydantic import Field, ValidationError
from scipy.special import expit

from distilmatch.config.base import FrozenConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError, DataError, ModelError
from distilmatch.files import checksum, read_json, write_json, writing
from distilmatch.fingerprint import fingerprint
from distilmatch.metrics.calibration import (
    METHODS,
    Calibration,
    Method,
    expected_calibration_error,
    fit,
    held_out_probabilities,
    log_loss,
)
from distilmatch.metrics.checks import checked_logits
from distilmatch.metrics.resampling import Interval, drawn_rows, interval_of
from distilmatch.metrics.thresholds import BEST_F1, Cut, Cuts, parsed_name
from distilmatch.types import TupleTable

DECISION = "decision.json"
USUAL_NAMES = (BEST_F1, *(f"{kind}={share:g}" for kind in ("precision", "recall") for share in (0.8, 0.9, 0.95, 0.99)))
"""The thresholds that get intervals; those of any other precision and recall are known without."""

_VERSION = 1
_MAKE = "make one with `distilmatch evaluate STUDENT TABLE --dev DEV --write-decision`"


class Threshold(FrozenConfig):
    """A threshold of the match logit, and what it gives on dev.

    Attributes:
        name: "best_f1", "precision=P" or "recall=R".
        logit: rows whose match logit is above it are matches.
        f1, precision, recall: on dev.
        intervals: 95 % by name. "logit": where the threshold falls when it is chosen anew on resampled rows. "f1", "precision"
            and "recall": what this threshold gives on them. Empty where it has none.
    """

    name: str
    logit: float
    f1: float
    precision: float
    recall: float
    intervals: dict[str, Interval] = Field(default_factory=dict)

    @property
    def score(self) -> float:
        """The threshold as `predict` gives scores: the sigmoid of the logit."""
        return float(expit(self.logit))


class Decision(FrozenConfig):
    """The thresholds and the calibration of a model.

    Attributes:
        task: binary, or a classification of two classes.
        rows, matches: of dev, those without a gold label left out.
        queries: distinct queries, by which rows were drawn and held out; None where each row stood alone.
        thresholds: those of `USUAL_NAMES` that can be had.
        efficient: (logit, precision, recall) of thresholds that no other one beats in both, the highest first. Any wanted
            share is answered from them: exactly where it is a multiple of 0.005, else by the nearest of them that has it.
        calibration: fitted on all rows, by the method of the least held-out log loss.
        log_loss: on dev: "raw" (the sigmoid of the match logit), and of each method held out.
        ece: on dev, 15 bins of equal width: "raw", and "calibrated", held out.
        resamples, seed: of the intervals and folds.
        weights: fingerprint of the model's weights; None before it is saved beside them.

    Example:
        ```python
        from distilmatch import Decision, TaskConfig, decide

        gold, logits = [0, 0, 1, 1, 1], [-2.0, 0.5, 0.2, 1.0, 3.0]
        decision: Decision = decide(TaskConfig(kind="binary"), gold, logits)
        print(decision.threshold("recall=0.9").score, decision.calibration.method)
        ```
    """

    format_version: Literal[1] = 1
    task: TaskConfig
    rows: int = Field(ge=1)
    matches: int = Field(ge=1)
    queries: int | None = None
    thresholds: tuple[Threshold, ...]
    efficient: tuple[tuple[float, float, float], ...] = Field(min_length=1)
    calibration: Calibration
    log_loss: dict[str, float]
    ece: dict[str, float]
    resamples: int = 0
    seed: int = 0
    weights: str | None = None

    def threshold(self, name: str) -> Threshold:
        """The threshold of a name: "best_f1", "precision=0.95", "recall=0.9", or of any other share.

        Raises:
            ConfigError: no such name, or a precision that no threshold reaches on dev.
        """
        kind, wanted = parsed_name(name)
        for known in self.thresholds:
            if parsed_name(known.name) == (kind, wanted):
                return known
        cuts = np.array(self.efficient)  # (m, 3); from one to the next recall rises and precision falls
        enough = np.flatnonzero(cuts[:, 1 if kind == "precision" else 2] >= wanted)
        if kind == BEST_F1:
            enough = np.array([int(np.argmax(2 * cuts[:, 1] * cuts[:, 2] / (cuts[:, 1] + cuts[:, 2])))])
        if not len(enough):
            raise ConfigError(
                f"no threshold reaches the precision {wanted:g} on dev: the highest is {cuts[:, 1].max():.4f}; ask for less, "
                "or train a better student"
            )
        logit, precision, recall = cuts[enough[-1] if kind == "precision" else enough[0]].tolist()
        f1 = 2 * precision * recall / (precision + recall)
        return Threshold(name=name.strip(), logit=logit, f1=f1, precision=precision, recall=recall)

    def save(self, folder: str | Path) -> Decision:
        """Writes decision.json into a model's folder, atomically, for the weights that are there; the decision as it is written.

        Raises:
            ModelError: the folder holds no weights.
            CacheError: it cannot be written, or the disk is full.
        """
        saved = self.model_copy(update={"weights": weights_fingerprint(folder)})
        place = Path(folder) / DECISION
        with writing(place):
            write_json(place, {**saved.to_dict(), "checksum": _own_checksum(saved.to_dict())})
        return saved


def load_decision(folder: str | Path, *, advice: str = _MAKE) -> Decision:
    """The decision of a model's folder.

    Args:
        advice: what messages say to do; by default how a student's decision is made.

    Raises:
        ConfigError: there is none.
        ModelError: it is damaged, of a newer version, or belongs to other weights than those that are there.
    """
    decision = read_decision(folder, advice=advice)
    if decision is None:
        raise ConfigError(
            f"{folder} has no {DECISION}, which holds thresholds and calibration: {advice}, or give the threshold as a number"
        )
    if decision.weights != weights_fingerprint(folder):
        raise ModelError(
            f"{Path(folder) / DECISION} belongs to other weights than those beside it, so that its thresholds do not hold: "
            f"{advice}"
        )
    return decision


def read_decision(folder: str | Path, *, advice: str = _MAKE) -> Decision | None:
    """What decision.json says, whichever weights it belongs to; None where there is none.

    Args:
        advice: as of `load_decision`.

    Raises:
        ModelError: it is damaged or of a newer version.
    """
    path = Path(folder) / DECISION
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error), advice) from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > _VERSION:
        raise ModelError(
            f"{path} has format version {version}, this distilmatch reads {_VERSION}: update the package, or {advice}"
        )
    if not isinstance(content, dict) or content.pop("checksum", None) != _own_checksum(content):
        raise _damaged(path, "its checksum does not fit", advice)
    try:
        return Decision.from_dict(content, str(path))
    except (ConfigError, ValidationError) as error:
        raise _damaged(path, str(error), advice) from error


def verify_decision(folder: str | Path) -> list[str]:
    """What is wrong with a folder's decision.json, a sentence each; nothing where there is none."""
    try:
        if read_decision(folder) is not None:
            load_decision(folder)
    except (ConfigError, ModelError) as error:
        return [str(error)]
    return []


def _damaged(path: Path, reason: str, advice: str) -> ModelError:
    return ModelError(f"{path} is damaged ({reason}): delete it, or {advice}")


def _own_checksum(content: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace"))


def weights_fingerprint(folder: str | Path) -> str:
    """A fingerprint of the weights in a model's folder: the names and bytes of its safetensors files, those of the modules of
    a sentence-transformers folder (`2_Dense` and the like) among them.

    Raises:
        ModelError: there are none, or they cannot be read.
    """
    root = Path(folder)
    files = [*sorted(root.glob("*.safetensors")), *sorted(root.glob("[0-9]*_*/*.safetensors"))]
    if not files:
        raise ModelError(
            f"{folder} holds no weights (*.safetensors) that thresholds could belong to: give a model's folder"
        )
    try:
        return fingerprint([[file.relative_to(root).as_posix(), checksum(file)] for file in files])
    except OSError as error:
        raise ModelError(f"the weights in {folder} cannot be read ({error.strerror}): copy the model again") from error


# --- the match logit -------------------------------------------------------------------------------------------------


def decides(task: TaskConfig) -> bool:
    """Whether a task's scores say match or no match: a binary one's, and those of two classes."""
    return task.kind == "binary" or (task.kind == "classification" and task.num_labels == 2)


def check_decides(task: TaskConfig, what: str = "a threshold") -> None:
    """Checks that scores of a task say match or no match.

    Raises:
        ConfigError: they do not.
    """
    if not decides(task):
        shown = f"classification of {task.num_labels} classes" if task.kind == "classification" else task.kind
        raise ConfigError(
            f"{what} needs a binary task or a classification of two classes, whose second counts as a match; this task is a "
            f"{shown}: take its scores as they are"
        )


def match_logits(task: TaskConfig, logits: np.ndarray) -> np.ndarray:
    """(n,) float64 match logits of (n, c) raw logits; (n,) will do for one label.

    Raises:
        ConfigError: a task that does not say match or no match.
        DataError: no rows, or not c logits a row.
        ModelError: logits that are NaN or infinite.
    """
    check_decides(task)
    values = checked_logits(task, logits, "the decision")
    return np.asarray(values[:, 0] if task.num_labels == 1 else values[:, 1] - values[:, 0])


# --- fitting ---------------------------------------------------------------------------------------------------------


def decide(
    task: TaskConfig,
    gold: np.ndarray,
    logits: np.ndarray,
    queries: np.ndarray | None = None,
    seed: int = 0,
    *,
    resamples: int = 200,
) -> Decision:
    """Fits thresholds and calibration on dev rows.

    Args:
        task: binary, or a classification of two classes, of which the second counts as a match.
        gold: (n,) labels; rows with NaN are left out; a soft binary label is a match from 0.5 on.
        logits: (n, c) raw logits; (n,) will do for one label.
        queries: (n,) numbers of the queries; rows of one query are drawn, and held out, together. None takes each row alone.
        seed: of the resamples and the folds.
        resamples: of the intervals; 0 for none.

    Raises:
        ConfigError: another task.
        DataError: shapes that do not fit, or gold labels that are all matches, or none of them.
        ModelError: logits that are NaN or infinite.
    """
    check_decides(task, "a decision")
    labels = np.asarray(gold, dtype=np.float64)
    given = np.asarray(logits)
    if labels.ndim != 1 or len(given) != len(labels) or (queries is not None and len(queries) != len(labels)):
        raise DataError(
            f"a decision needs one gold label (and, where there are queries, one query) for each row of logits: {labels.shape} "
            f"labels do not fit logits of the shape {given.shape}"
        )
    kept = ~np.isnan(labels)
    if not kept.any():
        raise DataError("a decision needs gold labels, and no row has one: name the label column")
    scores = match_logits(task, given[kept])
    positive = labels[kept] >= 0.5
    asked = None if queries is None else np.asarray(queries)[kept]
    if positive.all() or not positive.any():
        raise DataError(
            f"a decision needs matches and others, and all {len(positive)} gold labels are "
            f"{'matches' if positive[0] else 'no matches'}: give other rows"
        )
    cuts = Cuts.of(positive, scores)
    raw = expit(scores)
    held: dict[Method, np.ndarray] = {}
    losses: dict[str, float] = {}
    for method in METHODS:
        held[method] = held_out_probabilities(method, positive, scores, seed=seed, queries=asked)
        losses[method] = log_loss(positive, held[method])
    best: Method = min(METHODS, key=losses.__getitem__)
    return Decision(
        task=task,
        rows=len(positive),
        matches=int(positive.sum()),
        queries=None if asked is None else len(np.unique(asked)),
        thresholds=_thresholds(cuts, positive, scores, asked, resamples, seed),
        efficient=tuple((cut.threshold, cut.precision, cut.recall) for cut in cuts.table()),
        calibration=fit(best, positive, scores),
        log_loss={"raw": log_loss(positive, raw), **losses},
        ece={
            "raw": expected_calibration_error(positive, raw),
            "calibrated": expected_calibration_error(positive, held[best]),
        },
        resamples=resamples,
        seed=seed,
    )


def decide_on(table: TupleTable, task: TaskConfig, logits: np.ndarray, seed: int = 0) -> Decision:
    """`decide` on a table of n rows with gold labels and (n, c) logits; rows with one text on the first side are a query.

    Raises:
        As `decide`; DataError: the table has no gold labels.
    """
    if table.gold is None:
        raise DataError("a decision needs gold labels, and the dev table has none: name the label column")
    queries = table.rows[:, 0] if table.queries is None else table.queries
    alone = len(np.unique(queries)) == len(table)
    return decide(task, table.gold, logits, None if alone else queries, seed)


def _thresholds(
    cuts: Cuts,
    positive: np.ndarray,
    scores: np.ndarray,
    queries: np.ndarray | None,
    resamples: int,
    seed: int,
) -> tuple[Threshold, ...]:
    """The usual thresholds with their intervals."""
    found = {name: cut for name in USUAL_NAMES if (cut := cuts.named(name)) is not None}
    drawn: dict[str, list[list[float]]] = {name: [] for name in found}
    levels, where = np.unique(-scores, return_inverse=True)
    above = {name: int(np.searchsorted(levels, -cut.threshold)) for name, cut in found.items()}
    for rows in drawn_rows(len(scores), resamples=resamples, seed=seed, queries=queries):
        places = where[rows]
        counts = np.bincount(places, minlength=len(levels))
        matches = np.bincount(places, weights=positive[rows], minlength=len(levels))
        if not matches.any():
            continue
        again = Cuts.sorted(-levels, matches, counts)
        hits, predicted = np.cumsum(matches), np.cumsum(counts)
        for name in found:
            chosen = again.named(name)
            threshold = math.nan if chosen is None else chosen.threshold
            drawn[name].append([threshold, *_at(hits, predicted, above[name])])
    return tuple(_with_intervals(name, cut, drawn[name], resamples) for name, cut in found.items())


def _at(hits: np.ndarray, predicted: np.ndarray, above: int) -> tuple[float, float, float]:
    """F1, precision and recall of what the `above` highest scores keep; of no rows the precision is NaN.

    Args:
        hits, predicted: (m,) matches, and rows, of so many of the highest scores.
    """
    found, said, positives = (float(hits[above - 1]), float(predicted[above - 1]), float(hits[-1]))
    return 2 * found / (said + positives), found / said if said else math.nan, found / positives


def _with_intervals(name: str, cut: Cut, drawn: list[list[float]], resamples: int) -> Threshold:
    """Each figure's interval is of the resamples on which it is defined, where these are the half of all or more."""
    intervals = {}
    for place, measure in enumerate(("logit", "f1", "precision", "recall")):
        values = np.array([row[place] for row in drawn if not math.isnan(row[place])])
        if len(values) and 2 * len(values) >= resamples:
            intervals[measure] = interval_of(values)
    return Threshold(
        name=name, logit=cut.threshold, f1=cut.f1, precision=cut.precision, recall=cut.recall, intervals=intervals
    )
