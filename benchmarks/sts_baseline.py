"""sentence-transformers' own distillation as its example has it: `MSELoss` to the teacher's embeddings in its own trainer.

    python -m benchmarks.sts_baseline DATA WORK SEED [--epochs N] [--texts N] [--batch N]

The same student (layers of the teacher), texts and number of epochs as `quality_sts` gives its own; learning rate, warm-up
and batch are the example's. Needs the embeddings that a run of `quality_sts` left in WORK.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MSELoss
from transformers import PreTrainedModel

from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.files import write_json
from distilmatch.models.attention import trained_attention
from distilmatch.runtime import has_fast_bf16, pick_device
from distilmatch.training.embeddings.distil import embed_corpus, new_student


def main() -> None:
    """Trains and saves `WORK/sentence_transformers_mse/student`."""
    from benchmarks.quality_sts import THREE_LAYERS, recipe

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    name = "sentence_transformers_mse"
    settings: dict[str, Any] = recipe(
        arguments.data, arguments.work, name, seed=arguments.seed, stages="1", student=THREE_LAYERS
    )
    made = EmbeddingRecipe.model_validate(settings)
    corpus, embeddings = embed_corpus(made)
    student: SentenceTransformer = new_student(made)
    train = Dataset.from_dict(
        {"sentence": [corpus[i] for i in range(len(corpus))], "label": list(np.asarray(embeddings, dtype=np.float32))}
    )
    trainer = SentenceTransformerTrainer(
        model=student,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(arguments.work / name / "checkpoints"),
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=arguments.batch,
            learning_rate=1e-4,
            warmup_ratio=0.1,
            bf16=has_fast_bf16(pick_device(None)),
            save_strategy="no",
            report_to="none",
            seed=arguments.seed,
            use_cpu=pick_device(None).type == "cpu",
        ),
        train_dataset=train,
        loss=MSELoss(student),
    )
    started = time.perf_counter()
    transformers = [module for module in student.modules() if isinstance(module, PreTrainedModel)][:1]
    with trained_attention(transformers, pick_device(None)):  # as our own trainer
        trainer.train()
    seconds = time.perf_counter() - started
    student.save_pretrained(str(arguments.work / name / "student"))
    write_json(arguments.work / name / "done.json", {"seconds": seconds, "texts": len(corpus) * arguments.epochs})


if __name__ == "__main__":
    main()
