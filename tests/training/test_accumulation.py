"""A step is the mean over its items, however they were cut into batches: by accumulation, or for several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainingArguments

from distilmatch.config.objectives import EmbeddingObjectiveConfig, ObjectiveConfig
from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.models import DiPair
from distilmatch.objectives import distillation_loss, loss_items
from distilmatch.training.accumulation import step_shares
from distilmatch.training.embeddings.batches import Numbers
from distilmatch.training.embeddings.trainer import DistilTrainer
from distilmatch.training.pairs.batches import BlockDataset, TextCollator
from distilmatch.training.pairs.trainer import BlockTrainer
from distilmatch.types import TupleTable

CLASSES = TaskConfig(kind="classification", classes=("a", "b", "c"))
RANKING = TaskConfig(kind="ranking")
WORDS = "red green blue car house dog lamp book coat boat tree one two three".split()
SIZES = (2, 30, 1, 9, 17, 3, 24, 5, 1, 12, 7, 2)  # of blocks
CASES = [
    ("kl", CLASSES, False),
    ("decoupled_kl", CLASSES, False),
    ("skewed_kl", CLASSES, False),
    ("mse", CLASSES, False),
    ("bce", TaskConfig(kind="binary"), False),
    ("margin_mse", RANKING, True),
    ("margin_mse", TaskConfig(kind="regression"), False),
    ("listwise", RANKING, True),
    ("listwise", TaskConfig(kind="binary"), False),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads sum in another order, and a margin's gradient of the last bias is nothing but rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class _Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.found: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.found.append(
            {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        )


def block_table(task: TaskConfig, with_queries: bool, labelled: float = 0.4) -> TupleTable:
    """Blocks of very different sizes, whose queries cross blocks and whose gold labels are few.

    Gold labels of a regression are all above what the student says: margins say nothing of the last bias, and where the
    rows' own terms cancel too, its gradient is rounding alone.
    """
    rng = np.random.default_rng(0)
    count = sum(SIZES)
    high = {"classification": 3, "ranking": 4}.get(task.kind, 2)
    gold = rng.integers(0, high, count).astype(np.float32) + 4.0 * (task.kind == "regression")
    gold[rng.random(count) > labelled] = np.nan
    return TupleTable(
        texts=[" ".join(rng.choice(WORDS, 4)) + f" {i}" for i in range(40)],
        rows=rng.integers(0, 40, (count, 2)),
        gold=gold,
        teacher=rng.normal(size=(count, task.num_labels)).astype(np.float32),
        queries=rng.integers(0, 4, count) if with_queries else None,
        blocks=np.repeat(np.arange(len(SIZES)), SIZES),
    )


def block_gradients(
    folder: Path, encoder: str, kind: str, task: TaskConfig, with_queries: bool, batch: int, accumulated: int
) -> list[dict[str, torch.Tensor]]:
    """The gradients of an epoch's steps, with weights that do not move."""
    table = block_table(task, with_queries)
    torch.manual_seed(0)
    shape = StudentConfig(max_lengths=(16, 16), kept_tokens=(4, 4), width=16, head_heads=2)
    model = DiPair.from_encoder(encoder, shape, task)
    seen = _Gradients()
    BlockTrainer(
        model=model,
        args=arguments(folder, batch, accumulated),
        train_dataset=BlockDataset(table),
        data_collator=TextCollator(table, model),
        callbacks=[seen],
        task=task,
        objective=ObjectiveConfig.from_dict({"kind": kind, "gold_weight": 0.3}),
        encoder_learning_rate=0.0,
        dev_set=None,
        dev_precision="fp32",
        highest_grade=3.0,
    ).train()
    return seen.found


def arguments(folder: Path, batch: int, accumulated: int) -> TrainingArguments:
    """Of one epoch on the CPU that neither cuts nor applies a gradient."""
    many = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return TrainingArguments(
        output_dir=str(folder), num_train_epochs=1, per_device_train_batch_size=batch, max_grad_norm=0.0,
        gradient_accumulation_steps=accumulated, learning_rate=0.0, weight_decay=0.0, use_cpu=True, seed=3,
        save_strategy="no", report_to="none", remove_unused_columns=False, label_names=[], disable_tqdm=True,
        ddp_find_unused_parameters=False, ddp_backend="gloo" if many else None, dataloader_pin_memory=False,
    )  # fmt: skip


def _same(found: list[dict[str, torch.Tensor]], expected: list[dict[str, torch.Tensor]]) -> None:
    assert len(found) == len(expected) > 1
    for own, other in zip(found, expected, strict=True):
        assert own.keys() == other.keys() and len(own) > 10
        for name, gradient in own.items():
            scale = float(other[name].abs().max())
            torch.testing.assert_close(gradient, other[name], rtol=1e-4, atol=1e-5 * scale + 1e-7, msg=name)


@pytest.mark.parametrize(("kind", "task", "with_queries"), CASES, ids=lambda value: str(getattr(value, "kind", value)))
def test_accumulated_unequal_blocks_are_one_step(
    kind: str, task: TaskConfig, with_queries: bool, tiny_encoder: Path, tmp_path: Path
) -> None:
    settings = (str(tiny_encoder), kind, task, with_queries)
    expected = block_gradients(tmp_path / "one", *settings, batch=4, accumulated=1)
    _same(block_gradients(tmp_path / "two", *settings, batch=2, accumulated=2), expected)
    _same(block_gradients(tmp_path / "four", *settings, batch=1, accumulated=4), expected)


@pytest.mark.parametrize(("kind", "task", "with_queries"), CASES, ids=lambda value: str(getattr(value, "kind", value)))
def test_shares_of_parts_add_up_to_the_whole(kind: str, task: TaskConfig, with_queries: bool) -> None:
    # The oracle: the loss of all rows at once, against any cut of them between lists.
    table = block_table(task, True)
    config = ObjectiveConfig.from_dict({"kind": kind, "gold_weight": 0.25})
    assert table.blocks is not None and table.gold is not None and table.queries is not None
    student = torch.randn(len(table), task.num_labels, generator=torch.Generator().manual_seed(1))
    teacher, gold = torch.from_numpy(np.asarray(table.teacher)), torch.from_numpy(table.gold)
    lists = torch.from_numpy(table.blocks * 10 + table.queries)
    whole = distillation_loss(student, teacher, task, config, gold, lists, highest_grade=3.0)
    parts = [table.blocks < 2, (table.blocks >= 2) & (table.blocks < 9), table.blocks >= 9]
    items = [loss_items(config, task, int(own.sum()), gold[own], lists[own]) for own in parts]
    shares, totals = step_shares(items, Accelerator(cpu=True))
    assert totals.tolist() == list(map(float, loss_items(config, task, len(table), gold, lists)))
    total = sum(
        distillation_loss(
            student[own], teacher[own], task, config, gold[own], lists[own], highest_grade=3.0,
            shares=(share[0], share[1]),
        )
        for own, share in zip(parts, shares, strict=True)
    )  # fmt: skip
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-6)


def test_a_list_never_crosses_blocks(tiny_encoder: Path) -> None:
    table = block_table(RANKING, True)
    model = DiPair.from_encoder(str(tiny_encoder), StudentConfig(max_lengths=(8, 8), kept_tokens=(2, 2)), RANKING)
    blocks = BlockDataset(table)
    queries = TextCollator(table, model)([blocks[3], blocks[4]])["queries"].numpy()
    assert table.queries is not None
    expected = [(block, table.queries[row]) for block in (3, 4) for row in blocks[block]]
    pairs = {(i, j) for i in range(len(queries)) for j in range(len(queries)) if queries[i] == queries[j]}
    assert pairs == {(i, j) for i, a in enumerate(expected) for j, b in enumerate(expected) if a == b}


class _Embedder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(6, 5)
        self.more = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(1)) for _ in range(10))

    def forward(self, chunks: torch.Tensor, restore: torch.Tensor) -> Any:
        found = self.layer(chunks) + sum(self.more)
        return found, [found], None


def _texts(numbers: list[int]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    inputs, teacher = torch.randn(22, 6, generator=generator), torch.randn(22, 5, generator=generator)
    chosen = torch.tensor(numbers)
    return {"chunks": inputs[chosen], "restore": chosen, "teacher": teacher[chosen], "ids": chosen}


def _embedding_gradients(folder: Path, batch: int, accumulated: int) -> list[dict[str, torch.Tensor]]:
    seen = _Gradients()
    DistilTrainer(
        model=_Embedder(), args=arguments(folder, batch, accumulated), train_dataset=Numbers(22), data_collator=_texts,
        callbacks=[seen], objective=EmbeddingObjectiveConfig(kind="mse", bank_size=0), bank=None, dev=None,
        dev_precision="fp32",
    ).train()  # fmt: skip
    return seen.found


def test_the_last_step_of_texts_is_their_mean(tmp_path: Path) -> None:
    # 22 texts: the last step has batches of 4 and 2.
    _same(_embedding_gradients(tmp_path / "two", 4, 2), _embedding_gradients(tmp_path / "one", 8, 1))


def _process_main(folder: str, encoder: str) -> None:
    from distilmatch.training.processes import Processes

    processes = Processes(cpu=True)
    for number, (kind, task, with_queries) in enumerate(CASES):
        own = block_gradients(Path(folder) / "out", encoder, kind, task, with_queries, batch=2, accumulated=1)
        mixed = block_gradients(Path(folder) / "out", encoder, kind, task, with_queries, batch=1, accumulated=2)
        if processes.is_main:
            for name, found in (("own", own), ("mixed", mixed)):
                torch.save(found, Path(folder) / f"{number}-{name}.pt")
    processes.wait()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_with_unequal_blocks_are_one_step(tiny_encoder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    done = subprocess.run(
        [*command, str(tmp_path), str(tiny_encoder)], capture_output=True, text=True, timeout=600, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-12000:]
    for number, (kind, task, with_queries) in enumerate(CASES):
        expected = block_gradients(tmp_path / "one", str(tiny_encoder), kind, task, with_queries, 4, 1)
        for name in ("own", "mixed"):
            found = torch.load(tmp_path / f"{number}-{name}.pt", weights_only=True)
            found = [{key.removeprefix("module."): value for key, value in step.items()} for step in found]
            _same(found, expected)


if __name__ == "__main__":
    _process_main(*sys.argv[1:])
