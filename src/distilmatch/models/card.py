"""The model card that is saved beside a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.files import write_atomically
from distilmatch.metrics.decisions import Decision

_CARD = """---
library_name: distilmatch
tags:
- dipair
- text-matching
- knowledge-distillation
- cross-encoder
pipeline_tag: {pipeline}
---

# DiPair student

A [DiPair](https://arxiv.org/abs/2010.03099) student made with `distilmatch`: every text is encoded alone, its kept
tokens are cached, and a small head scores the cached tokens of a tuple.

## Use

```python
from distilmatch import DiPair

model = DiPair.from_pretrained("path/to/this/folder")
scores = model.predict([({examples})])
```

## Shape

| setting | value |
| --- | --- |
{shape}

A cached text takes {cache} in fp16.
{texts}
## Scores

{scores}
{decision}{training}"""


def write_model_card(
    folder: Path,
    student: StudentConfig,
    task: TaskConfig,
    training: Mapping[str, Any],
    templates: Sequence[str] = (),
    decision: Decision | None = None,
) -> None:
    """Writes README.md: how to use the model, its shape, what its scores mean, and how it was trained.

    Args:
        training: flat rows (teacher, data, figures) for a table; may be empty.
        templates: that made the texts it was trained on, one a side or one for all; none where they were columns.
        decision: the thresholds that lie beside the weights.
    """
    sizes = [kept * student.vector_width * 2 for kept in student.kept_vectors]
    card = _CARD.format(
        pipeline="text-classification" if task.kind == "classification" else "text-ranking",
        examples=", ".join(f'"{name} text"' for name in student.side_names),
        shape="\n".join(f"| {name} | {value} |" for name, value in student.to_dict().items()),
        cache=", ".join(f"{size:,} bytes ({name})" for size, name in zip(sizes, student.side_names, strict=True)),
        texts=_texts_section(student.side_names, templates),
        scores=_score_meaning(task),
        decision="" if decision is None else _decision_section(decision),
        training=_training_section(training),
    )
    write_atomically(folder / "README.md", card)


def _score_meaning(task: TaskConfig) -> str:
    if task.kind == "classification":
        return f"One raw logit a class, in this order: {', '.join(task.classes)}. Softmax gives probabilities."
    if task.kind == "regression":
        low, high = task.label_range
        return f"One logit; its sigmoid (what `predict` returns), stretched from {low:g} to {high:g}, is the value."
    return "One logit; `predict` returns its sigmoid. A higher score is a better match."


def _texts_section(side_names: Sequence[str], templates: Sequence[str]) -> str:
    if not templates:
        return ""
    named = zip(side_names, templates, strict=False) if len(templates) > 1 else [("each side", templates[0])]
    rows = "\n".join(f"| {name} | `{template.replace('|', chr(92) + '|')}` |" for name, template in named)
    return f"""
## Texts

It was trained on texts that were made of several columns. Give it texts of the same form: `--text-template` of `encode`,
`--text-templates` of the other commands, with your columns' names in the braces.

| side | template |
| --- | --- |
{rows}
"""


def _decision_section(decision: Decision) -> str:
    rows = "\n".join(
        f"| `{each.name}` | {each.score:.4f} | {each.precision:.3f} | {each.recall:.3f} | {each.f1:.3f} |"
        for each in decision.thresholds
    )
    raw, calibrated = decision.ece["raw"], decision.ece["calibrated"]
    return f"""
## Match or no match

Thresholds on dev ({decision.rows:,} rows, {decision.matches:,} matches): `predict(pairs, threshold="best_f1")`. They hold for
pairs like those. `calibrated=True` gives probabilities; their expected calibration error on dev is {calibrated:.3f},
{raw:.3f} without.

| threshold | score | precision | recall | F1 |
| --- | ---: | ---: | ---: | ---: |
{rows}
"""


def _training_section(training: Mapping[str, Any]) -> str:
    if not training:
        return ""
    rows = "\n".join(f"| {name} | {value} |" for name, value in training.items())
    return f"\n## Training\n\n| | |\n| --- | --- |\n{rows}\n"
