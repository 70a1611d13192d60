"""Texts per second of a distilled sentence encoder beside its teacher, and training steps beside sentence-transformers' own.

Theory of the bottleneck: a text costs an encoder its layers' matrix products, so that half the layers give twice the texts,
less what tokenising, padding and pooling cost both. In training the teacher's embeddings are read from disk by both
trainers; the difference is padding (texts of like length go together here), the batch, and what the losses cost.

    python -m benchmarks.embedding_throughput --data DIR [--texts N] [--corpus N] [--steps N] [--seconds S]
        [--peers-python PATH]

`--data` holds `unlabelled/sentences.txt.gz`. The students are untrained and the embeddings to be learnt random: speed does
not depend on that. Training is measured on the same texts, in the same precision and by the same attention, at 128 texts a
step, with a full memory bank; in texts a second, medians of one run. ONNX Runtime and OpenVINO need an environment of their
own (`benchmarks.engine_peers` says which).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MSELoss
from transformers import PreTrainedModel, TrainerCallback

from benchmarks.results import publish
from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.models.attention import trained_attention
from distilmatch.planning.limits import rate
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.sentence import encoder_width, load_sentence_encoder
from distilmatch.runtime import has_fast_bf16, pick_device
from distilmatch.training.embeddings.distil import distil_embeddings, embed_corpus, new_student
from distilmatch.training.stages import finished_stage

TEACHER = "all-MiniLM-L6-v2"
SHAPES: dict[str, dict[str, Any]] = {
    "student3": {"layers": 3},
    "student2": {"layers": 2},
    "student6_half": {"start": "fresh", "layers": 6, "width": 192},
    "static": {"start": "static"},
}
BATCH = 128


class _Clock(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_step_begin(self, *arguments: Any, **settings: Any) -> None:
        self.moments.append(time.perf_counter())


def student_folder(shape: dict[str, Any], folder: Path) -> Path:
    """An untrained student, saved."""
    recipe = EmbeddingRecipe.model_validate(
        {"labelled": [{"source": "none.jsonl", "kind": "pairs"}], "teacher": {"models": [TEACHER]}, "student": shape}
        | {"output": str(folder)}
    )
    new_student(recipe).save_pretrained(str(folder))
    return folder


def encoding_rates(folder: Path, texts: list[str], seconds: float) -> dict[str, float]:
    """`SentenceTransformer.encode`, texts a second in fp32 and with the weights in bf16."""
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = load_sentence_encoder(str(folder)).to(dtype)
        encode = partial(model.encode, texts, batch_size=64, show_progress_bar=False)
        found[name] = rate(encode, len(texts), rounds=3, seconds=seconds)
    return found


def own_recipe(source: Path, embeddings: Path, rows: int, steps: int, objective: str, folder: Path) -> EmbeddingRecipe:
    """Stage 1 with the package's defaults, the memory bank full from the first step."""
    return EmbeddingRecipe.model_validate(
        {
            "corpus": {"sources": [str(source)]},
            "teacher": {"embeddings": [str(embeddings)], "cache_folder": str(folder / "embeddings")},
            "student": {"start": "encoder", "encoder": TEACHER, **SHAPES["student3"]},
            "objective": {"kind": objective},
            "stage1": {"batch_size": BATCH, "epochs": steps * BATCH / rows, "evaluations": 1},
            "output": str(folder / objective),
        }
    )


def own_training(recipe: EmbeddingRecipe) -> float:
    """Texts a second of stage 1, by its median step."""
    distil_embeddings(recipe)
    summary = finished_stage(Path(recipe.output) / "stage1")
    assert summary is not None
    return BATCH / float(summary["seconds_per_step"])


def mse_trainer(texts: list[str], embeddings: np.ndarray, steps: int, folder: Path) -> float:
    """Texts a second of `SentenceTransformerTrainer` with `MSELoss` on the teacher's embeddings."""
    student = SentenceTransformer(str(folder / "student3"))
    dataset = Dataset.from_dict({"sentence": texts, "label": list(np.asarray(embeddings, dtype=np.float32))})
    clock = _Clock()
    device = pick_device(None)
    trainer = SentenceTransformerTrainer(
        model=student,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder / "peer"),
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=1e-4,
            bf16=has_fast_bf16(device),
            use_cpu=device.type == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        loss=MSELoss(student),
        callbacks=[clock],
    )
    transformers = [module for module in student.modules() if isinstance(module, PreTrainedModel)][:1]
    with trained_attention(transformers, device):  # as our own trainer
        trainer.train()
    return BATCH / statistics.median(np.diff(clock.moments)[1:].tolist())


def main() -> None:
    """Measures all in turn and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--corpus", type=int, default=70_000, help="texts of the training runs")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--peers-python", type=Path, help="interpreter with sentence-transformers[onnx,openvino]")
    arguments = parser.parse_args()
    metrics: dict[str, float] = {}
    left_out: list[str] = []
    with (
        tempfile.TemporaryDirectory() as name,
        gzip.open(arguments.data / "unlabelled" / "sentences.txt.gz", "rt", encoding="utf-8") as stream,
    ):
        folder = Path(name)
        lines = list(dict.fromkeys(filter(None, (line.strip() for line in stream))))
        texts = lines[: arguments.texts]
        folders = {"teacher": folder / "teacher"}
        shutil.copytree(resolve_model(TEACHER), folders["teacher"])
        folders |= {shape: student_folder(settings, folder / shape) for shape, settings in SHAPES.items()}
        for shape, place in folders.items():
            for precision, found in encoding_rates(place, texts, arguments.seconds).items():
                metrics[f"{shape}_{precision}_texts_per_s"] = found
                print(f"{shape} {precision}: {found:,.0f} texts/s", flush=True)
        if arguments.peers_python is None:
            left_out.append("ONNX Runtime and OpenVINO: no --peers-python")
        else:
            (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
            command = [str(arguments.peers_python), "-m", "benchmarks.embedding_peers", str(folder / "texts.json")]
            places = [str(folders[shape]) for shape in ("teacher", "student3")]
            environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
            answer = subprocess.run(
                [*command, str(arguments.seconds), *places], capture_output=True, text=True, check=True, env=environment
            )
            for key, found in json.loads(answer.stdout.strip().splitlines()[-1]).items():
                metrics[f"{key}_texts_per_s"] = found
                print(f"{key}: {found:,.0f} texts/s", flush=True)
        rows = min(len(lines), arguments.corpus)
        source, embeddings = folder / "lines.txt", folder / "embeddings.npy"
        source.write_text("\n".join(lines[:rows]) + "\n", encoding="utf-8")
        width = encoder_width(load_sentence_encoder(TEACHER))
        np.save(embeddings, np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32))
        for objective in ("ckd", "mse"):
            recipe = own_recipe(source, embeddings, rows, arguments.steps, objective, folder)
            metrics[f"training_{objective}_texts_per_s"] = own_training(recipe)
            print(f"training, {objective}: {metrics[f'training_{objective}_texts_per_s']:,.0f} texts/s", flush=True)
        corpus, found_embeddings = embed_corpus(own_recipe(source, embeddings, rows, arguments.steps, "ckd", folder))
        count = min(len(corpus), 2 * arguments.steps * BATCH)
        distinct = [corpus[i] for i in range(count)]
        metrics["training_mse_trainer_texts_per_s"] = mse_trainer(
            distinct, found_embeddings[:count], arguments.steps, folder
        )
        print(f"training, MSELoss: {metrics['training_mse_trainer_texts_per_s']:,.0f} texts/s", flush=True)
    metrics |= {
        "student_vs_teacher_texts_per_s": metrics["student3_bf16_texts_per_s"] / metrics["teacher_bf16_texts_per_s"],
        "student_vs_teacher_fp32": metrics["student3_fp32_texts_per_s"] / metrics["teacher_fp32_texts_per_s"],
        "training_ratio_vs_mse_trainer": metrics["training_ckd_texts_per_s"]
        / metrics["training_mse_trainer_texts_per_s"],
    }
    print({name: round(value, 2) for name, value in metrics.items()})
    publish("embedding_throughput", metrics, [0], {"texts": arguments.texts, "batch": BATCH, "left_out": left_out})


if __name__ == "__main__":
    main()
