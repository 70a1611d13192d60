"""Tasks of semantic textual similarity, read as SentEval's "all" setting has it: all subsets of a year put together."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distilmatch.config.embeddings import LabelledConfig
from distilmatch.data.tables import load_table
from distilmatch.errors import ConfigError, DataError, MissingExtraError, did_you_mean
from distilmatch.text_arguments import text_list
from distilmatch.types import TupleTable

if TYPE_CHECKING:
    pass


_TASKS: dict[str, tuple[str, str, tuple[float, float]]] = {
    **{f"sts{year}": (f"STS{year}", "score", (0.0, 5.0)) for year in range(12, 17)},
    "stsb": ("STS-B", "score", (0.0, 5.0)),
    "sick": ("SICK-R", "relatedness", (1.0, 5.0)),
}


TASK_NAMES = tuple(_TASKS)


_MTEB_NAMES = {**{f"sts{year}": f"STS{year}" for year in range(12, 17)}, "stsb": "STSBenchmark", "sick": "SICK-R"}


@dataclass(frozen=True, kw_only=True)
class StsTask:
    """One task: `name` of its folder, `label` as papers write it, its pairs with gold scores."""

    name: str
    label: str
    table: TupleTable
    score_range: tuple[float, float]


def load_sts_tasks(folder: str | Path, names: str | Sequence[str] | None = None, split: str = "test") -> list[StsTask]:
    """The tasks in `folder`: NAME/SPLIT.jsonl with columns sentence1, sentence2 and score (of `sick` relatedness).

    Args:
        names: one or several of "sts12" to "sts16", "stsb" and "sick"; None takes those that are there.
        split: "test" or, where there is one, "dev" or "train".

    Raises:
        ConfigError: a name that is no task's.
        DataError: no file of a named task or of any; rows that cannot be used.
    """
    chosen = _check_names(names)
    tasks = []
    for name in chosen or _TASKS:
        path = Path(folder) / name / f"{split}.jsonl"
        if chosen is None and not path.is_file():
            continue
        tasks.append(_task(name, str(path), str(path), _TASKS[name][1]))
    if not tasks:
        raise DataError(
            f"no STS task in {folder}: expected NAME/{split}.jsonl with sentence1, sentence2 and score, NAME one of "
            f"{', '.join(_TASKS)}"
        )
    return tasks


def load_mteb_tasks(names: str | Sequence[str] | None = None, split: str = "test") -> list[StsTask]:
    """The tasks as the package `mteb` has them from the hub: the same pairs that its own STS scores are of.

    Args:
        names: as of `load_sts_tasks`; None takes all seven.
        split: "test", or another one that the hub's data has.

    Raises:
        MissingExtraError: `mteb` is not installed.
        ConfigError: a name that is no task's.
        DataError: the data cannot be had (no network), or has no such split.
    """
    chosen = _check_names(names)
    if importlib.util.find_spec("mteb") is None:
        raise MissingExtraError("mteb", "mteb")
    import mteb

    tasks = []
    for name in chosen or _TASKS:
        known: Any = mteb.get_task(_MTEB_NAMES[name])
        try:
            known.load_data()
        except (OSError, ValueError, RuntimeError) as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"mteb cannot load {_MTEB_NAMES[name]}: {first_line} Without a network, give the tasks as local files"
            ) from error
        if split not in known.dataset:
            raise DataError(f"mteb's {_MTEB_NAMES[name]} has no split {split}, only {', '.join(known.dataset)}")
        tasks.append(_task(name, known.dataset[split], f"mteb's {_MTEB_NAMES[name]}", "score", known.column_names))
    return tasks


def _check_names(names: str | Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    chosen = text_list(names, "names", ConfigError)
    unknown = [name for name in chosen if name not in _TASKS]
    if unknown:
        raise ConfigError(
            f"no STS task is called {', '.join(unknown)}; choose from {', '.join(_TASKS)}"
            f"{did_you_mean(unknown[0], _TASKS)}"
        )
    return chosen


def _task(
    name: str, source: Any, where: str, column: str, texts: tuple[str, str] = ("sentence1", "sentence2")
) -> StsTask:
    label, _, score_range = _TASKS[name]
    config = LabelledConfig(source=where, text_columns=texts, score_column=column, score_range=score_range)
    table = load_table(source, config.table, config.task)
    if table.gold is None or np.isnan(table.gold).any():
        raise DataError(f"{where}: every pair needs a {column}; remove the pairs without one")
    return StsTask(name=name, label=label, table=table, score_range=score_range)
