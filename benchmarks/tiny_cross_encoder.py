"""The natural rival: a cross-encoder of few layers, distilled from the same labels in the same time.

    python -m benchmarks.tiny_cross_encoder --transfer DIR --output DIR --minutes M [--layers 2] [--seed 0]

`--transfer` is the `transfer` folder of a DiPair run. Batches hold pairs of about one length; the rate falls to zero over
the given time, as the student's does over its steps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.data.saved import read_saved_table
from distilmatch.files import write_json
from distilmatch.models.attention import trained_attention
from distilmatch.objectives import distillation_loss
from distilmatch.pretrained.names import resolve_model
from distilmatch.runtime import autocast, keep_freed_memory, pick_device, seed_everything

_GROUP = 50


def train(
    transfer: Path,
    output: Path,
    task: TaskConfig,
    *,
    minutes: float,
    layers: int,
    seed: int,
    encoder: str = "all-MiniLM-L6-v2",
    batch_size: int = 128,
    learning_rate: float = 2e-4,
    max_length: int = 128,
) -> dict[str, float]:
    """Trains for `minutes` and saves a `CrossEncoder` folder; returns steps and pairs supervised."""
    seed_everything(seed)
    keep_freed_memory()
    table = read_saved_table(transfer)
    assert table.teacher is not None
    teacher = torch.from_numpy(table.teacher)
    pairs = table.tuples()
    path, device = resolve_model(encoder), pick_device(None)
    config = AutoConfig.from_pretrained(
        path, num_labels=task.num_labels, num_hidden_layers=layers, hidden_dropout_prob=0.0
    )
    model = AutoModelForSequenceClassification.from_pretrained(path, config=config, dtype=torch.float32).to(device)
    tokenizer = AutoTokenizer.from_pretrained(path)
    lengths = np.array([len(text) for text in table.texts])[table.rows].sum(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    random = np.random.default_rng(seed)
    started, spent, steps = time.perf_counter(), 0.0, 0
    model.train()
    with trained_attention([model], device):
        while spent < 1.0:
            order = random.permutation(len(table))[: _GROUP * batch_size]
            order = order[np.argsort(lengths[order], kind="stable")]
            for batch in random.permutation(max(1, len(order) // batch_size)):  # a small table is one batch
                chosen = order[batch * batch_size : (batch + 1) * batch_size]
                tokens = tokenizer(
                    [pairs[int(i)][0] for i in chosen],
                    [pairs[int(i)][1] for i in chosen],
                    padding=True,
                    truncation=True,
                    max_length=max_length,
                    return_tensors="pt",
                ).to(device)
                spent = (time.perf_counter() - started) / (60 * minutes)
                if spent >= 1.0:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * min(1 - spent, spent / 0.05 + 1e-3)
                with autocast("auto", device):
                    logits = model(**tokens).logits
                loss = distillation_loss(logits, teacher[chosen].to(device), task, ObjectiveConfig())
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                steps += 1
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    CrossEncoder(str(output), max_length=max_length).save_pretrained(str(output))
    summary = {"steps": steps, "pairs_supervised": steps * batch_size, "minutes": minutes}
    write_json(output / "tiny.json", summary)
    return summary


def main() -> None:
    """Trains one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encoder", default="all-MiniLM-L6-v2")
    parser.add_argument("--max-length", type=int, default=128, help="tokens a pair")
    parser.add_argument("--task", type=json.loads, required=True, help="the task's settings as JSON")
    arguments = parser.parse_args()
    task = TaskConfig.from_dict(arguments.task)
    print(
        train(
            arguments.transfer,
            arguments.output,
            task,
            minutes=arguments.minutes,
            layers=arguments.layers,
            seed=arguments.seed,
            encoder=arguments.encoder,
            max_length=arguments.max_length,
        )
    )


if __name__ == "__main__":
    main()
