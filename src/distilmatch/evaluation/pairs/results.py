"""What was measured of a pair student beside its teacher and the baselines: plain values."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from distilmatch.config.base import FrozenConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.evaluation.pairs.details import PairDetails
from distilmatch.metrics.calibration import Method, ReliabilityBin
from distilmatch.training.curves import StageCurve

Role = Literal["teacher", "student", "baseline"]


class SystemResult(FrozenConfig):
    """What one system reached: the teacher, the student or a baseline.

    Attributes:
        metrics: against the gold labels; empty without gold labels; None for a value that is not defined.
        agreement: with the teacher; empty for the teacher itself and without one.
        metric_intervals, agreement_intervals: 95 % bootstrap intervals (low, high), where there is one.
        simple: a baseline that the package computes itself, see `simple_baselines`.
    """

    name: str
    role: Role
    metrics: dict[str, float | None] = Field(default_factory=dict)
    metric_intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    agreement: dict[str, float | None] = Field(default_factory=dict)
    agreement_intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    simple: bool = False


class DecisionResult(FrozenConfig):
    """What a system's decision, made on dev, gives on this table.

    Attributes:
        threshold: "best_f1" of dev, as a match logit; see `distilmatch.metrics.decisions`.
        metrics: f1, precision and recall above it; intervals: 95 % bootstrap intervals of these.
        method: of the calibration.
        ece: expected calibration error, 15 bins of equal width: "raw" (of the sigmoid of the match logit) and "calibrated".
        reliability: the bins behind both.
    """

    name: str
    role: Role
    threshold: float
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    method: Method
    ece: dict[str, float]
    reliability: dict[str, tuple[ReliabilityBin, ...]]


class SpeedResult(FrozenConfig):
    """Pairs per second: of the student's head from cached representations, of the student from text, of the teacher.

    Attributes:
        head_pairs_per_s: in the precision that was asked for; PyTorch where that is fp32.
        teacher_pairs: how many pairs the teacher was timed on.
        kernel_pairs_per_s: from cached representations by the kernel that `score` and `match` take here; None in reports of
            older versions.
        kernel: its name; kernel_why: why it is this one.
        kernel_difference: the largest difference of its logits from those in fp32.
    """

    head_pairs_per_s: float
    end_to_end_pairs_per_s: float
    teacher_pairs_per_s: float | None = None
    teacher_pairs: int | None = None
    kernel_pairs_per_s: float | None = None
    kernel: str | None = None
    kernel_why: str = ""
    kernel_difference: float | None = None

    @property
    def cached_pairs_per_s(self) -> float:
        """From cached representations, as `score` and `match` do it: by the kernel, where it was measured."""
        return self.head_pairs_per_s if self.kernel_pairs_per_s is None else self.kernel_pairs_per_s

    @property
    def cached_speedup(self) -> float | None:
        """How many times as fast as the teacher that is; None without a teacher's speed."""
        return self.cached_pairs_per_s / self.teacher_pairs_per_s if self.teacher_pairs_per_s else None

    @property
    def head_speedup(self) -> float | None:
        """How many times as fast as the teacher the head is; None without a teacher's speed."""
        return self.head_pairs_per_s / self.teacher_pairs_per_s if self.teacher_pairs_per_s else None

    @property
    def end_to_end_speedup(self) -> float | None:
        """How many times as fast as the teacher the student is from text; None without a teacher's speed."""
        return self.end_to_end_pairs_per_s / self.teacher_pairs_per_s if self.teacher_pairs_per_s else None


class CacheSize(FrozenConfig):
    """What one cached text of a side takes, in bytes, its id not counted; a lexical vector is one more than the kept tokens."""

    side_name: str
    kept_tokens: int
    lexical: bool = False
    width: int
    fp32_bytes: int
    fp16_bytes: int


class PairResults(FrozenConfig):
    """Quality and speed of a student beside its teacher and the baselines.

    Attributes:
        rows: rows of the table; measured_rows: those that the task metrics were measured on.
        queries: distinct queries, for ranking.
        distinct_texts: how many distinct texts each side has.
        main_metric: the task metric to compare by; None without gold labels.
        main_agreement: the measure of agreement to compare by; None without a teacher.
        systems: the teacher (if there is one), the student, the baselines.
        speed: None where it was not measured.
        notes: what a reader must know to read the figures rightly.
        model: where the student was loaded from; None where that is not known.
        student_numbers, teacher_numbers: what their products were computed in, such as "bf16"; None where it is not known, as
            of labels that were given.
        details: confusions, scores and the worst rows and queries; None in reports of older versions.
        curves: how the student's training went; none where its folder does not tell.
        decisions: thresholds and calibrations of the systems that have them, on the rows that the task metrics were measured on.
    """

    format_version: Literal[1] = 1
    task: TaskConfig
    rows: int
    measured_rows: int
    queries: int | None = None
    distinct_texts: dict[str, int]
    main_metric: str | None
    main_agreement: str | None
    systems: tuple[SystemResult, ...]
    speed: SpeedResult | None = None
    cache: tuple[CacheSize, ...]
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    student_numbers: str | None = None
    teacher_numbers: str | None = None
    details: PairDetails | None = None
    curves: tuple[StageCurve, ...] = ()
    decisions: tuple[DecisionResult, ...] = ()

    @property
    def student(self) -> SystemResult:
        """The student's row."""
        return next(system for system in self.systems if system.role == "student")

    @property
    def teacher(self) -> SystemResult | None:
        """The teacher's row; None without a teacher."""
        return next((system for system in self.systems if system.role == "teacher"), None)

    @property
    def best_simple(self) -> SystemResult | None:
        """The simple baseline with the best main metric; None without one."""
        main = self.main_metric or ""
        measured = [
            (value, each) for each in self.systems if each.simple and (value := each.metrics.get(main)) is not None
        ]
        return max(measured, key=lambda pair: pair[0])[1] if measured else None

    @property
    def share_of_teacher(self) -> float | None:
        """The student's main metric as a share of the teacher's; None without a teacher, gold, or where it is <= 0."""
        if self.main_metric is None or self.teacher is None:
            return None
        student_value = self.student.metrics.get(self.main_metric)
        teacher_value = self.teacher.metrics.get(self.main_metric)
        if student_value is None or teacher_value is None or teacher_value <= 0:
            return None
        return student_value / teacher_value

    def flat_metrics(self) -> dict[str, float]:
        """Every figure by one name: `student_accuracy`, `teacher_pairs_per_s`, `share_of_teacher`, ..."""
        flat: dict[str, float | None] = {"rows": float(self.rows), "share_of_teacher": self.share_of_teacher}
        for system in self.systems:
            name = system.name.lower().replace(" ", "_") if system.simple else system.name
            prefix = f"baseline_{name}" if system.role == "baseline" else system.role
            flat |= {f"{prefix}_{name}": value for name, value in system.metrics.items()}
            flat |= {f"{prefix}_teacher_{name}": value for name, value in system.agreement.items()}
        for each in self.decisions:
            prefix = f"baseline_{each.name}" if each.role == "baseline" else each.role
            flat |= {f"{prefix}_dev_threshold_{name}": value for name, value in each.metrics.items()}
            flat |= {f"{prefix}_ece_{name}": value for name, value in each.ece.items()}
        if self.speed is not None:
            flat["student_head_pairs_per_s"] = self.speed.head_pairs_per_s
            flat["student_end_to_end_pairs_per_s"] = self.speed.end_to_end_pairs_per_s
            flat["teacher_pairs_per_s"] = self.speed.teacher_pairs_per_s
            flat["head_speedup"] = self.speed.head_speedup
            flat["end_to_end_speedup"] = self.speed.end_to_end_speedup
            if self.speed.kernel_pairs_per_s is not None:
                flat["student_kernel_pairs_per_s"] = self.speed.kernel_pairs_per_s
                flat["kernel_speedup"] = self.speed.cached_speedup
                flat["kernel_difference"] = self.speed.kernel_difference
        for side in self.cache:
            flat[f"cache_bytes_per_item_{side.side_name}_fp32"] = float(side.fp32_bytes)
            flat[f"cache_bytes_per_item_{side.side_name}_fp16"] = float(side.fp16_bytes)
        return {name: value for name, value in flat.items() if value is not None}
