"""Pairs supervised per second: group batches, cached and not, against sentence-transformers' own trainer.

Theory of the bottleneck: a pair costs a cross-encoder one pass over both texts forward and two backward. A group batch
passes each of its distinct texts through the encoder once and then scores several pairs for each (8 of them here: 512
pairs of some 70 texts), of which the head costs a small part; with frozen encoders and their outputs cached, only the
head is left.

    python -m benchmarks.training_throughput --transfer DIR [--steps N]

`--transfer` is the `transfer` folder of a run (labelled blocks). All trainers see the same pairs, labels and encoder, in
their own default settings otherwise, in bf16 where the machine multiplies in it; steps of each are timed in turn, in one
process, and the medians compared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import CrossEntropyLoss, MSELoss
from sentence_transformers.cross_encoder.trainer import CrossEncoderTrainer
from sentence_transformers.cross_encoder.training_args import CrossEncoderTrainingArguments
from transformers import TrainerCallback

from benchmarks.results import publish
from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.pairs import StudentConfig
from distilmatch.config.stages import StageConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.data.saved import read_saved_table
from distilmatch.models import DiPair
from distilmatch.pretrained.names import resolve_model
from distilmatch.runtime import pick_device, seed_everything, use_bf16
from distilmatch.training.pairs.throughput import seconds_per_step
from distilmatch.training.processes import Processes
from distilmatch.types import TupleTable

ENCODER = "all-MiniLM-L6-v2"


class _Clock(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_step_begin(self, *arguments: Any, **settings: Any) -> None:
        self.moments.append(time.perf_counter())

    def median(self) -> float:
        return statistics.median(np.diff(self.moments)[1:].tolist())


def cross_encoder_pairs_per_s(table: TupleTable, steps: int, batch_size: int) -> float:
    """`CrossEncoderTrainer` with its `MSELoss` on the teacher's logits, as its documentation distils; its losses for
    several labels know hard ones only, so there `CrossEntropyLoss` learns the teacher's classes.
    """
    assert table.teacher is not None
    chosen = np.random.default_rng(0).choice(len(table), steps * batch_size, replace=False)
    pairs = table.take(chosen).tuples()
    labels = table.teacher[chosen]
    targets = labels[:, 0].tolist() if labels.shape[1] == 1 else labels.argmax(1).tolist()
    dataset = Dataset.from_dict({"left": [a for a, _ in pairs], "right": [b for _, b in pairs], "label": targets})
    model = CrossEncoder(resolve_model(ENCODER), num_labels=labels.shape[1])
    loss = MSELoss(model) if labels.shape[1] == 1 else CrossEntropyLoss(model)
    clock = _Clock()
    device = pick_device(None)
    with tempfile.TemporaryDirectory() as folder:
        arguments = CrossEncoderTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            max_steps=steps,
            bf16=use_bf16("auto", device),
            use_cpu=device.type == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        CrossEncoderTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss, callbacks=[clock]).train()
    return batch_size / clock.median()


def student_pairs_per_s(table: TupleTable, task: TaskConfig, *, frozen: bool, steps: int, layers: int = 1) -> float:
    """The package's own stages at their default batch."""
    assert table.blocks is not None
    seed_everything(0)
    model = DiPair.from_encoder(ENCODER, StudentConfig(head_layers=layers), task)
    stage = StageConfig()
    seconds = seconds_per_step(
        model,
        table,
        stage,
        ObjectiveConfig(),
        frozen_encoders=frozen,
        processes=Processes(cpu=pick_device(None).type == "cpu"),
        steps=steps,
    )
    return stage.blocks_per_batch * len(table) / len(np.unique(table.blocks)) / seconds


def plain(table: TupleTable) -> TupleTable:
    """The same pairs in batches drawn at random: blocks without any text in common, but by chance."""
    assert table.blocks is not None
    order = np.random.default_rng(0).permutation(len(table))
    return replace(table.take(order), blocks=np.sort(table.blocks))


def main() -> None:
    """Measures all and publishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfer", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    table = read_saved_table(arguments.transfer)
    assert table.teacher is not None
    labels = table.teacher.shape[1]
    task = (
        TaskConfig(kind="classification", classes=tuple(f"class {i}" for i in range(labels)))
        if labels > 1
        else TaskConfig(kind="binary")
    )
    steps = arguments.steps
    scattered = plain(table)
    measured: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        rates = {
            "cross_encoder_trainer_batch_16": cross_encoder_pairs_per_s(table, steps, 16),
            "cross_encoder_trainer_batch_64": cross_encoder_pairs_per_s(table, steps, 64),
            "group_batches": student_pairs_per_s(table, task, frozen=False, steps=steps),
            "group_batches_cached": student_pairs_per_s(table, task, frozen=True, steps=2 * steps),
            "group_batches_two_layers": student_pairs_per_s(table, task, frozen=False, steps=steps, layers=2),
            "plain_batches": student_pairs_per_s(scattered, task, frozen=False, steps=6),
        }
        for name, rate in rates.items():
            measured.setdefault(name, []).append(rate)
            print(f"{name}: {rate:,.0f} pairs/s", flush=True)
    medians = {name: statistics.median(rates) for name, rates in measured.items()}
    peer = max(medians["cross_encoder_trainer_batch_16"], medians["cross_encoder_trainer_batch_64"])
    metrics = {f"{name}_pairs_per_s": rate for name, rate in medians.items()}
    metrics |= {
        f"{name}_pairs_per_s_{end}": pick(rates)
        for name, rates in measured.items()
        for end, pick in (("min", min), ("max", max))
    }
    metrics |= {
        "ratio_vs_cross_encoder_trainer": medians["group_batches_cached"] / peer,
        "ratio_uncached_vs_cross_encoder_trainer": medians["group_batches"] / peer,
        "ratio_group_vs_plain": medians["group_batches"] / medians["plain_batches"],
        "ratio_cached_vs_uncached": medians["group_batches_cached"] / medians["group_batches"],
    }
    publish("training_throughput", metrics, [0], {"threads": torch.get_num_threads(), "rounds": arguments.rounds})


if __name__ == "__main__":
    main()
