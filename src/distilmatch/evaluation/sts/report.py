"""Semantic textual similarity: how well cosines of a sentence encoder follow gold scores, task by task.

The tasks are read as SentEval's "all" setting has it: Spearman's correlation over all subsets of a year put together.

Shape legend: n pairs of a task; t distinct texts of all tasks; d width.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distilmatch.config.embeddings import LabelledConfig
from distilmatch.data.tables import load_table
from distilmatch.errors import ConfigError, DataError, MissingExtraError, did_you_mean
from distilmatch.evaluation.look import median_seconds
from distilmatch.evaluation.sts.retrieval import RetrievalSet, measure_retrieval
from distilmatch.files import write_atomically, write_json, writing
from distilmatch.metrics import alignment, cosine_spearman, uniformity
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.sentence import encoder_width, load_sentence_encoder
from distilmatch.runtime import Precision, pick_device, use_bf16
from distilmatch.teachers.sentence import SentenceTeacher
from distilmatch.text_arguments import text_list
from distilmatch.types import TupleTable

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_TASKS: dict[str, tuple[str, str, tuple[float, float]]] = {
    **{f"sts{year}": (f"STS{year}", "score", (0.0, 5.0)) for year in range(12, 17)},
    "stsb": ("STS-B", "score", (0.0, 5.0)),
    "sick": ("SICK-R", "relatedness", (1.0, 5.0)),
}
TASK_NAMES = tuple(_TASKS)
_MTEB_NAMES = {**{f"sts{year}": f"STS{year}" for year in range(12, 17)}, "stsb": "STSBenchmark", "sick": "SICK-R"}
_BATCH = 64
_TIMED_TEXTS = 512
_SPREAD_TEXTS = 4096  # for uniformity, which looks at all pairs
_ALIKE = 0.8  # of the range of scores; SimCSE takes the pairs above 4 of 5


@dataclass(frozen=True, kw_only=True)
class StsTask:
    """One task: `name` of its folder, `label` as papers write it, its pairs with gold scores."""

    name: str
    label: str
    table: TupleTable
    score_range: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class StsResult:
    """What one model reached.

    Attributes:
        model: its name or folder.
        spearman: by the name of the task, from -1 to 1.
        average: of these, each task counting once.
        alignment, uniformity: on STS-B where it is there, else on all tasks; None without a pair that is alike.
        parameters, width: of the model.
        texts_per_s: of `encode`, texts as long as the tasks'; None where it was not measured.
        retrieval: ndcg@10, map and mrr@10; None where there was nothing to retrieve from.
    """

    model: str
    spearman: dict[str, float]
    average: float
    alignment: float | None
    uniformity: float
    parameters: int
    width: int
    texts_per_s: float | None
    retrieval: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class StsReport:
    """The results of several models on the same tasks, the first of them the one that others are compared with."""

    results: tuple[StsResult, ...]
    pairs: dict[str, int]
    labels: dict[str, str]
    split: str
    precision: str
    device: str
    retrieval_set: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-like values."""
        return asdict(self)

    def header(self) -> list[str]:
        """The columns of the table."""
        tasks = [self.labels[name] for name in self.pairs]
        more = [*(["nDCG@10", "MAP"] if self._retrieved else []), *(["Texts/s"] if self._timed else [])]
        return ["Model", *tasks, "Average", "Align.", "Unif.", "Param.", "Width", *more]

    def rows(self) -> list[list[str]]:
        """The table's cells: correlations times 100, as papers write them."""
        rows = []
        for name, one in zip(short_names([one.model for one in self.results]), self.results, strict=True):
            cells = [name, *(f"{100 * one.spearman[name]:.2f}" for name in self.pairs)]
            near = "" if one.alignment is None else f"{one.alignment:.3f}"
            cells += [f"{100 * one.average:.2f}", near, f"{one.uniformity:.3f}", f"{one.parameters / 1e6:.1f} M"]
            cells += [str(one.width)]
            if self._retrieved:
                cells += [f"{100 * one.retrieval[name]:.2f}" if one.retrieval else "" for name in ("ndcg@10", "map")]
            if self._timed:
                cells.append("" if one.texts_per_s is None else f"{one.texts_per_s:,.0f}")
            rows.append(cells)
        return rows

    @property
    def _timed(self) -> bool:
        return any(one.texts_per_s is not None for one in self.results)

    @property
    def _retrieved(self) -> bool:
        return any(one.retrieval is not None for one in self.results)

    def markdown(self) -> str:
        """The table and what it says, as Markdown."""
        header = self.header()
        lines = ["# Semantic textual similarity", "", f"| {' | '.join(header)} |"]
        lines.append(f"| --- |{' ---: |' * (len(header) - 1)}")
        lines += [f"| {' | '.join(row)} |" for row in self.rows()]
        counts = ", ".join(f"{self.labels[name]} {count:,}" for name, count in self.pairs.items())
        found = (
            f" nDCG@10 and MAP (x 100) of all documents of {self.retrieval_set}, ranked by their cosine."
            if self.retrieval_set
            else ""
        )
        lines += [
            "",
            f"Spearman's correlation x 100 of the cosines with the gold scores, all subsets of a year together (split "
            f"{self.split}; pairs: {counts}). Alignment and uniformity (Wang and Isola 2020): less is better. Measured in "
            f"{self.precision} on {self.device}.{found}",
            "",
        ]
        return "\n".join(lines)

    def save(self, folder: str | Path) -> None:
        """Writes sts.json, sts.md and sts.png.

        Raises:
            CacheError: the folder cannot be written, or the disk is full.
        """
        from distilmatch.evaluation.sts.plot import render_sts_plot

        folder = Path(folder)
        plot = render_sts_plot(self)
        with writing(folder):
            write_atomically(folder / "sts.png", plot)
            write_atomically(folder / "sts.md", self.markdown())
            write_json(folder / "sts.json", self.to_dict())


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
            f"no STS task is called {', '.join(unknown)}; there are {', '.join(_TASKS)}{did_you_mean(unknown[0], _TASKS)}"
        )
    return chosen


def _task(
    name: str, source: Any, where: str, column: str, texts: tuple[str, str] = ("sentence1", "sentence2")
) -> StsTask:
    label, _, score_range = _TASKS[name]
    config = LabelledConfig(source=where, text_columns=texts, score_column=column, score_range=score_range)
    table = load_table(source, config.table, config.task)
    if table.gold is None or np.isnan(table.gold).any():
        raise DataError(f"{where}: every pair needs a {column}; leave those without one out")
    return StsTask(name=name, label=label, table=table, score_range=score_range)


def evaluate_sts(
    models: str | Path | SentenceTransformer | Sequence[str | Path | SentenceTransformer],
    tasks: StsTask | Sequence[StsTask],
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    measure_speed: bool = True,
    split: str = "test",
    retrieval: RetrievalSet | None = None,
) -> StsReport:
    """Measures sentence encoders, one after another in memory; each distinct text is embedded once.

    Args:
        models: sentence-transformers folders, hub names, transformers (their mean is taken) or loaded models, one or
            several; nothing of a loaded model is changed.
        precision: "fp32", "bf16" (autocast), or "auto".
        split: which one `tasks` are of, for the report.
        retrieval: documents to be found for queries, as a check beside the tasks.

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
    for given in models:
        named = isinstance(given, str | Path)
        model = load_sentence_encoder(given, device=target) if isinstance(given, str | Path) else given
        name = str(given) if named else "a loaded SentenceTransformer"
        logger.info("STS: %s", name)
        results.append(_measure(name, model, tasks, texts, precision, measure_speed, retrieval))
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
    # As a teacher: in evaluation mode whatever the model's own, and nothing of the model changed.
    encoder = SentenceTeacher(model, batch_size=_BATCH, precision=precision)

    def embed(some: list[str]) -> np.ndarray:
        return encoder.embed(some, show_progress_bar=False)

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
        retrieval=None if retrieval is None else measure_retrieval(embed, retrieval),
    )


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
        for parts, side in zip((left, right), _sides(task, embeddings, place), strict=True):
            parts.append(side[alike])
    numbers = np.array(sorted({place[text] for task in chosen for text in task.table.texts}))
    spread = numbers[np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), _SPREAD_TEXTS)).astype(int))]
    pairs = np.concatenate(left), np.concatenate(right)
    return alignment(*pairs) if len(pairs[0]) else None, uniformity(embeddings[spread])


def short_names(models: Sequence[str]) -> list[str]:
    """The last parts of each path or name, as many as tell them all apart, at most four."""
    for parts in range(1, 5):
        names = ["/".join(Path(model).parts[-parts:]) or model for model in models]
        if len(set(names)) == len(set(models)):
            break
    return names
