"""A new loss is a config and a function: the recipe reads it, the trainer hands it all that a batch has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import Field
from transformers import TrainingArguments

from distilmatch.config import ObjectiveConfig, PairRecipe, StudentConfig, TaskConfig
from distilmatch.errors import ConfigError
from distilmatch.models import DiPair
from distilmatch.objectives import PairBatch, objective_for, ordered_pairs, pair_loss, pair_objective_loss
from distilmatch.objectives.registry import PAIR_LOSSES
from distilmatch.training.pairs.batches import BlockDataset, CachedCollator, TextCollator
from distilmatch.training.pairs.frozen import cache_kept_outputs
from distilmatch.training.pairs.trainer import BlockTrainer
from distilmatch.types import TupleTable

BINARY = TaskConfig(kind="binary")


@pytest.fixture
def seen() -> Iterator[list[PairBatch]]:
    """The batches that a relational loss is handed, which is known as long as the test runs."""
    batches: list[PairBatch] = []

    class RelationalObjective(ObjectiveConfig):
        kind: Literal["relational"] = "relational"
        scale: float = Field(default=1.0, gt=0)

    @pair_loss(RelationalObjective, labels="one", items=ordered_pairs)
    def relational(objective: RelationalObjective, batch: PairBatch) -> torch.Tensor:
        batches.append(batch)
        left, right = batch.embeddings(0), batch.embeddings(1)
        distances = (left[:, None] - right[None]).norm(dim=-1)
        wanted = (batch.teacher[:, 0][:, None] - batch.teacher[:, 0][None]).abs()
        return objective.scale * (distances - wanted).square().mean() + 0.0 * batch.logits.sum()

    yield batches
    del ObjectiveConfig.kinds["relational"], PAIR_LOSSES[RelationalObjective]


def _table() -> TupleTable:
    rng = np.random.default_rng(0)
    words = ["red", "blue", "car", "coat", "small", "large"]
    return TupleTable(
        texts=[" ".join(rng.choice(words, 3)) + f" {i}" for i in range(30)],
        rows=rng.integers(0, 30, (40, 2)),
        teacher=rng.normal(size=(40, 1)).astype(np.float32),
        blocks=np.repeat(np.arange(10), 4),
    )


def test_a_recipe_reads_it_with_its_parameters(seen: list[PairBatch], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "train: a.jsonl\noutput: run\ntask: {kind: binary}\nteacher: {models: [t]}\nobjective: {kind: relational, scale: 3}\n"
    )
    recipe = PairRecipe.from_yaml(tmp_path / "recipe.yaml")
    assert recipe.to_dict()["objective"] == {"kind": "relational", "gold_weight": 0.0, "scale": 3.0}
    assert PairRecipe.from_dict(recipe.to_dict()) == recipe
    assert PairRecipe.unknown_setting("objective.scale") is None
    with pytest.raises(ConfigError, match=r"objective\.scale: must be greater than 0"):
        recipe.replaced(objective={"kind": "relational", "scale": 0})
    with pytest.raises(ConfigError, match="relational needs one label"):
        objective_for(recipe.objective, TaskConfig(kind="classification", classes=("a", "b")))


@pytest.mark.parametrize("cached", [False, True])
def test_the_trainer_hands_it_all_that_a_batch_has(
    seen: list[PairBatch], cached: bool, tiny_encoder: Path, tmp_path: Path
) -> None:
    table = _table()
    shape = StudentConfig(max_lengths=(16, 16), kept_tokens=(3, 4), width=16, head_heads=2)
    torch.manual_seed(0)
    model = DiPair.from_encoder(str(tiny_encoder), shape, BINARY)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for encoder in model.encoders:
        encoder.requires_grad_(not cached)
    collator: Any = TextCollator(table, model)
    if cached:
        collator = CachedCollator(table, cache_kept_outputs(model, table, tmp_path / "kept", "fp32"))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=2, learning_rate=1e-3, use_cpu=True,
        save_strategy="no", report_to="none", remove_unused_columns=False, label_names=[], disable_tqdm=True,
    )  # fmt: skip
    BlockTrainer(
        model=model, args=arguments, train_dataset=BlockDataset(table), data_collator=collator, task=BINARY,
        objective=ObjectiveConfig(kind="relational"), encoder_learning_rate=None if cached else 1e-3, dev_set=None,
        dev_precision="fp32",
    ).train()  # fmt: skip
    assert len(seen) == 5 and sorted(len(batch.logits) for batch in seen) == [8] * 5
    known = {(tuple(row), float(score)) for row, score in zip(table.rows.tolist(), table.teacher[:, 0], strict=True)}  # type: ignore[index]
    for batch in seen:
        assert batch.tokens is not None and batch.rows is not None and batch.texts is not None
        assert [side.tokens.shape[1:] for side in batch.tokens] == [(3, 16), (4, 16)]
        pairs = zip(batch.texts.tolist(), batch.teacher[:, 0].tolist(), strict=True)
        assert all((tuple(row), float(np.float32(score))) in known for row, score in pairs)
        assert batch.embeddings(0).shape == (8, 16)
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert any("projection" in name for name in moved) and any("encoders." in name for name in moved) != cached


def test_tokens_are_those_of_the_tuples(tiny_encoder: Path) -> None:
    """The oracle: each text of a batch encoded alone, by the id that the batch gives it."""
    table = _table()
    shape = StudentConfig(max_lengths=(16, 16), kept_tokens=(3, 4), width=16, head_heads=2)
    model = DiPair.from_encoder(str(tiny_encoder), shape, BINARY).eval()
    blocks = BlockDataset(table)
    inputs = TextCollator(table, model)([blocks[2], blocks[7]])
    labels = {name: inputs.pop(name) for name in ("teacher", "queries", "blocks", "texts")}
    with torch.no_grad():
        outputs = model(**inputs)
    batch = PairBatch(logits=outputs.logits, tokens=outputs.sides, rows=inputs["rows"], **labels)
    for side in range(2):
        texts = [table.texts[int(number)] for number in batch.texts[:, side]]  # type: ignore[index]
        kept = model.encode(texts, side=side, precision="fp32")
        mask = torch.as_tensor(kept.mask)[..., None].float()
        means = (torch.as_tensor(kept.tokens).float() * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(batch.embeddings(side), means, rtol=1e-4, atol=1e-5)


def test_a_batch_of_logits_alone_says_that_it_has_no_tokens() -> None:
    with pytest.raises(ValueError, match="no kept tokens"):
        PairBatch(logits=torch.zeros(2, 1), teacher=torch.zeros(2, 1)).embeddings(0)


def test_a_config_without_a_loss_is_refused() -> None:
    class Lonely(ObjectiveConfig):
        kind: Literal["lonely"] = "lonely"

    try:
        batch = PairBatch(logits=torch.zeros(2, 1), teacher=torch.zeros(2, 1))
        with pytest.raises(ConfigError, match="lonely has no loss"):
            pair_objective_loss(batch, BINARY, ObjectiveConfig(kind="lonely"))
    finally:
        del ObjectiveConfig.kinds["lonely"]


def test_every_kind_has_a_loss() -> None:
    from distilmatch.config import EmbeddingObjectiveConfig
    from distilmatch.objectives.registry import EMBEDDING_LOSSES

    assert set(PAIR_LOSSES) == {cls for kind, cls in ObjectiveConfig.kinds.items() if kind != "auto"}
    assert set(EMBEDDING_LOSSES) == set(EmbeddingObjectiveConfig.kinds.values())
