"""Configs of what a score means and how a table is read."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from distilmatch.config.base import FrozenConfig
from distilmatch.config.templates import MOST_TEXTS, Templates, check_templates

TaskKind = Literal["classification", "binary", "regression", "ranking"]
OnBadRows = Literal["stop", "quarantine"]
Quoting = Literal["auto", "rfc4180", "none"]
FileFormat = Literal["jsonl", "csv", "tsv", "parquet"]


class TaskConfig(FrozenConfig):
    """What a score means, and what the gold labels are.

    classification: one logit a class, gold is a class name or index; binary: one logit, gold 0 or 1 (or soft,
    between them); regression: one logit whose sigmoid, stretched over `label_range`, is the value; ranking: one
    logit, gold is a graded relevance >= 0.

    Example:
        ```python
        from distilmatch import TaskConfig

        entailment = TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
        similarity = TaskConfig(kind="regression", label_range=(0, 5))
        ```
    """

    kind: TaskKind
    classes: tuple[str, ...] = ()
    label_range: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "classification" and len(set(self.classes)) < 2:
            raise ValueError("classification needs `classes`: two or more distinct names, in the order of the logits")
        if self.kind != "classification" and self.classes:
            raise ValueError(f"`classes` belongs to classification, not to {self.kind}")
        if not self.label_range[0] < self.label_range[1]:
            raise ValueError("`label_range` must be (lowest, highest) with lowest < highest")
        return self

    @property
    def num_labels(self) -> int:
        """How many logits a score has."""
        return len(self.classes) if self.kind == "classification" else 1


class TableConfig(FrozenConfig):
    """How a pair or tuple table is read.

    Attributes:
        text_columns: the columns of the texts, in the order of the sides; by default those whose names say it (such as
            query and title), else the first that hold texts and are not named otherwise below.
        text_templates: texts made of several columns, in place of `text_columns`: a template for each side, such as
            "{title} ; brand: {brand}", or one for all that names columns without their side (title for left_title and
            right_title). An empty field takes its part of the template with it, see `text_templates`.
        label_column: gold labels, or None.
        teacher_columns: the teacher's logits, one column a label, or one column with lists; empty for none.
        teacher_scale: what these are: "logit", "probability", or "auto": probabilities where all of a table's are within
            [0, 1] and, of several labels, add up to 1. Rows that are streamed are not seen as a whole: there it is "logit".
        id_columns: an id for each side; empty for none. For ranking, rows with the same first id are one query
            (without ids: rows with the same first text).
        layout: "tuples", a row a tuple; or "triplets", columns anchor, positive, negative, ...: a row becomes a
            ranking of one relevant and the other irrelevant texts.
        file_format: by default from the file's ending.
        delimiter: of CSV and TSV, one character; by default the comma or tab, or what the header is seen to have.
        quoting: of CSV and TSV: "rfc4180" takes quotes around a field off, "none" leaves every quote a part of its text,
            "auto" looks at the file and refuses one that could be read both ways.
        split: which split of a Hugging Face dataset.
        on_bad_rows: "stop" before any work, or "quarantine" them to a side file and go on.
        quarantine_file: where to; by default beside the source (or in the working folder) as NAME.bad_rows.jsonl.

    Example:
        ```python
        from distilmatch import TableConfig

        columns = TableConfig(text_columns=("query", "product"), label_column="label", id_columns=("qid", "pid"))
        ```
    """

    sides: int = Field(default=2, ge=2, le=16)
    text_columns: tuple[str, ...] | None = None
    text_templates: Templates | None = None
    label_column: str | None = None
    teacher_columns: tuple[str, ...] = ()
    teacher_scale: Literal["auto", "logit", "probability"] = "auto"
    id_columns: tuple[str, ...] = ()
    layout: Literal["tuples", "triplets"] = "tuples"
    file_format: FileFormat | None = None
    delimiter: str | None = None
    quoting: Quoting = "auto"
    split: str = "train"
    on_bad_rows: OnBadRows = "stop"
    quarantine_file: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.layout == "triplets" and self.text_columns is not None and len(self.text_columns) < 3:
            raise ValueError("triplets need three or more text columns: anchor, positive, negative, ...")
        if self.layout == "tuples" and self.text_columns is not None and len(self.text_columns) != self.sides:
            raise ValueError(f"`text_columns` names {len(self.text_columns)} columns for {self.sides} sides")
        if self.text_templates is not None:
            fewest, most = (3, MOST_TEXTS) if self.layout == "triplets" else (self.sides, self.sides)
            check_templates(self.text_templates, self.text_columns, fewest, most)
        if self.id_columns and self.layout == "tuples" and len(self.id_columns) != self.sides:
            raise ValueError(f"`id_columns` names {len(self.id_columns)} columns for {self.sides} sides")
        if self.delimiter not in (None, "\\t") and (len(self.delimiter or "") != 1 or self.delimiter in '"\r\n'):
            raise ValueError(f"`delimiter` is one character, such as ';' or '\\t', not {self.delimiter!r}")
        return self

    def key_settings(self) -> dict[str, Any]:
        """The settings for the key of what is made of a table: without templates the same as before there were any."""
        settings = self.to_dict()
        if self.text_templates is None:
            del settings["text_templates"]
        return settings
