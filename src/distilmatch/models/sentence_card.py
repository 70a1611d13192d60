"""The model card of a student that embeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from distilmatch.files import write_atomically
from distilmatch.pretrained.sentence import encoder_width

_CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- knowledge-distillation
---

# Sentence-embedding student

A student that embeds texts as its teacher does, made with `distilmatch`: distilled on unlabelled text
([DisCo](https://arxiv.org/abs/2112.05638)), fine-tuned on labelled pairs, or both. It is a plain sentence-transformers
folder.

## Use

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
embeddings = model.encode(["a text", "another text"])  # (2, {width})
similarities = model.similarity(embeddings, embeddings)
```
{matryoshka}
## Shape

| | |
| --- | --- |
{shape}

## Training

| | |
| --- | --- |
{training}
"""


def save_student(
    model: SentenceTransformer, folder: Path, training: Mapping[str, Any], widths: tuple[int, ...] = ()
) -> None:
    """Writes a sentence-transformers folder with its model card.

    Args:
        training: flat rows (teacher, data, figures) for a table.
        widths: further widths at which the beginning of an embedding is one by itself.
    """
    model.save_pretrained(str(folder), create_model_card=False)
    transformer: Any = getattr(model[0], "model", None)
    shape: dict[str, Any] = {"modules": ", ".join(type(module).__name__ for module in model)}
    if transformer is not None:
        shape["layers"] = getattr(transformer.config, "num_hidden_layers", "unknown")
    shape |= {
        "width": encoder_width(model),
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "tokens a text": model.max_seq_length if transformer is not None else "any number",
    }
    matryoshka = (
        f"\nThe first {' or '.join(map(str, widths))} numbers of an embedding are one by themselves: "
        f'`SentenceTransformer("path/to/this/folder", truncate_dim={widths[0]})`.\n'
        if widths
        else ""
    )
    write_atomically(
        folder / "README.md",
        _CARD.format(
            width=encoder_width(model),
            matryoshka=matryoshka,
            shape=_rows(shape),
            training=_rows(training or {"trained": "no"}),
        ),
    )


def _rows(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {name} | {str(value).replace('|', '/')} |" for name, value in values.items())
