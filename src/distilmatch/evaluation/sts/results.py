"""What sentence encoders reached on the same tasks: plain values, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class StsResult:
    """What one model reached.

    Attributes:
        model: its name or folder.
        spearman: by the name of the task, from -1 to 1.
        average: of these, each task counting once.
        alignment, uniformity: on STS-B where it is there, else on all tasks; None without a pair that is alike, and of a simple
            baseline, which has no embeddings.
        parameters, width: of the model; 0 of a simple baseline.
        texts_per_s: of `encode`, texts as long as the tasks'; None where it was not measured.
        retrieval: ndcg@10, map and mrr@10; None where there was nothing to retrieve from.
    """

    model: str
    spearman: dict[str, float]
    average: float
    alignment: float | None
    uniformity: float | None
    parameters: int
    width: int
    texts_per_s: float | None
    retrieval: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class StsResults:
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
        for name, result in zip(short_names([result.model for result in self.results]), self.results, strict=True):
            cells = [name, *(f"{100 * result.spearman[name]:.2f}" for name in self.pairs)]
            shape = ["" if value is None else f"{value:.3f}" for value in (result.alignment, result.uniformity)]
            size = [f"{result.parameters / 1e6:.1f} M", str(result.width)] if result.width else ["", ""]
            cells += [f"{100 * result.average:.2f}", *shape, *size]
            if self._retrieved:
                cells += [
                    f"{100 * result.retrieval[name]:.2f}" if result.retrieval else "" for name in ("ndcg@10", "map")
                ]
            if self._timed:
                cells.append("" if result.texts_per_s is None else f"{result.texts_per_s:,.0f}")
            rows.append(cells)
        return rows

    @property
    def _timed(self) -> bool:
        return any(result.texts_per_s is not None for result in self.results)

    @property
    def _retrieved(self) -> bool:
        return any(result.retrieval is not None for result in self.results)

    def markdown(self) -> str:
        """The table and what it says, as Markdown."""
        header = self.header()
        lines = ["# Semantic textual similarity", "", f"| {' | '.join(header)} |"]
        lines.append(f"| --- |{' ---: |' * (len(header) - 1)}")
        lines += [f"| {' | '.join(row)} |" for row in self.rows()]
        counts = ", ".join(f"{self.labels[name]} {count:,}" for name, count in self.pairs.items())
        retrieval_note = (
            f" nDCG@10 and MAP (x 100) of all documents of {self.retrieval_set}, ranked by their cosine."
            if self.retrieval_set
            else ""
        )
        lines += [
            "",
            f"Spearman's correlation x 100 of the cosines with the gold scores, all subsets of a year together (split "
            f"{self.split}; pairs: {counts}). Alignment and uniformity (Wang and Isola 2020): less is better. Measured in "
            f"{self.precision} on {self.device}.{retrieval_note}",
            "",
        ]
        return "\n".join(lines)


def short_names(models: Sequence[str]) -> list[str]:
    """The last parts of each path or name, as many as tell them all apart, at most four."""
    for depth in range(1, 5):
        names = ["/".join(Path(model).parts[-depth:]) or model for model in models]
        if len(set(names)) == len(set(models)):
            break
    return names
