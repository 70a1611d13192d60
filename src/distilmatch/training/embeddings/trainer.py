"""Trainers of the embedding job: `transformers.Trainer` with the two stages' losses, the memory bank, the dev set.

sentence-transformers' own trainer would have the teacher's embeddings as lists in a dataset's column, pad each column's
batch to its longest text and wrap a loss that owns the model; here they stay in a mapped array, and nothing is padded.

Shape legend: n texts or rows; s texts of a row; d width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import AnglELoss, CoSENTLoss
from torch import nn
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distilmatch.concurrency import evaluation_view
from distilmatch.config.embeddings import ContrastiveConfig
from distilmatch.config.objectives import EmbeddingObjectiveConfig
from distilmatch.errors import DataError
from distilmatch.metrics import cosine_spearman
from distilmatch.models.gathering import gather
from distilmatch.objectives import EmbeddingBatch, MemoryBank, embedding_objective_loss, gather_rows, info_nce
from distilmatch.runtime import Precision, autocast
from distilmatch.training.accumulation import step_shares
from distilmatch.training.checkpoints import CheckpointTrainer, save_beside
from distilmatch.training.embeddings.batches import LabelledTables, TableSampler
from distilmatch.training.embeddings.projected import ProjectedStudent
from distilmatch.types import TupleTable

METRIC = "spearman"


@dataclass(frozen=True, kw_only=True)
class DevPairs:
    """Tables of scored pairs on which a student is measured in training."""

    tables: tuple[TupleTable, ...]

    def __post_init__(self) -> None:
        for table in self.tables:
            if table.gold is None or np.isnan(table.gold).any():
                raise DataError("the dev set needs a score in every row: leave those without one out")

    @torch.no_grad()
    def measure(self, model: SentenceTransformer, precision: Precision = "fp32") -> float:
        """Spearman's correlation of the cosines with the scores, the mean over the tables; each text is embedded once."""
        place = {
            text: number for number, text in enumerate(dict.fromkeys(t for table in self.tables for t in table.texts))
        }
        with autocast(precision, model.device):
            encoded = evaluation_view(model).encode(
                list(place), batch_size=128, convert_to_tensor=True, show_progress_bar=False
            )
        embeddings = encoded.float().cpu().numpy()
        correlations = []
        for table in self.tables:
            assert table.gold is not None
            numbers = np.array([place[text] for text in table.texts])[table.rows]
            correlations.append(cosine_spearman(embeddings[numbers[:, 0]], embeddings[numbers[:, 1]], table.gold))
        return float(np.mean(correlations))


class EmbeddingTrainer(CheckpointTrainer):
    """`transformers.Trainer` over a `ProjectedStudent`, measured on scored pairs as a user would use it."""

    def __init__(self, *, dev: DevPairs | None, dev_precision: Precision, **kwargs: Any) -> None:
        self.dev = dev
        self.dev_precision = dev_precision
        # Trainer insists on an evaluation dataset wherever evaluations are asked for; `evaluate` never reads it.
        super().__init__(eval_dataset=[] if dev else None, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measures the student, in every process."""
        assert self.dev is not None
        started = time.perf_counter()
        student = cast(ProjectedStudent, self.accelerator.unwrap_model(self.model))
        metrics = {
            f"{metric_key_prefix}_{METRIC}": self.dev.measure(student.assembled(), self.dev_precision),
            f"{metric_key_prefix}_runtime": time.perf_counter() - started,
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class DistilTrainer(EmbeddingTrainer):
    """Stage 1: the student learns the teacher's embeddings (DisCo, section 3.2).

    Args:
        objective: what is minimised.
        bank: the earlier embeddings of the teacher; each batch goes in after its gradient. None for none.
    """

    def __init__(self, *, objective: EmbeddingObjectiveConfig, bank: MemoryBank | None, **kwargs: Any) -> None:
        self.objective: EmbeddingObjectiveConfig = objective
        self.bank = bank
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = True  # else Trainer averages the batches of a step as equals

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of one step; each gets its share of the step's texts, as `share`: the last one may be shorter."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        shares, totals = step_shares([[len(batch["ids"])] for batch in batches], self.accelerator)
        for batch, share in zip(batches, shares, strict=True):
            batch["share"] = share[0]
        return batches, totals

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> torch.Tensor:
        """One forward and backward pass, whose gradient is taken through the bank as it stands; then the batch goes in."""
        loss = super().training_step(model, inputs, *arguments, **options)
        if self.bank is not None:
            columns = [inputs[name].to(self.args.device) for name in ("teacher", "ids")]
            self.bank.push(*(map(gather_rows, columns) if self.objective.gather else columns))
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The distillation loss of one batch, times its share of the step; see `transformers.Trainer.compute_loss`."""
        embeddings, projected, temperature = model(chunks=inputs["chunks"], restore=inputs["restore"])
        batch = EmbeddingBatch(
            projected=projected,
            teacher=inputs["teacher"],
            ids=inputs["ids"],
            temperature=temperature,
            bank=self.bank,
            embeddings=embeddings,
        )
        with self.accelerator.autocast():  # the model's own ends with its forward pass
            loss = embedding_objective_loss(batch, self.objective)
        loss = inputs.get("share", 1.0) * loss
        return (loss, {"embeddings": embeddings}) if return_outputs else loss


class ContrastiveTrainer(EmbeddingTrainer):
    """Stage 2: contrastive learning on labelled rows (DisCo, section 3.3); a batch holds rows of one table.

    Args:
        tables: the labelled rows that the collator draws from.
        contrastive: the losses.
    """

    def __init__(self, *, tables: LabelledTables, contrastive: ContrastiveConfig, **kwargs: Any) -> None:
        self.tables = tables
        self.contrastive: ContrastiveConfig = contrastive
        loss = {"cosent": CoSENTLoss, "angle": AnglELoss}[contrastive.scored_loss]
        # The losses want a model only to embed with it; they are given embeddings.
        self.scored_loss = loss(cast(Any, None), scale=contrastive.scored_scale)
        super().__init__(**kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        block = self.args.per_device_train_batch_size * self.args.world_size
        return TableSampler(self.tables.starts, block, self.args.seed)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The contrastive loss of one batch, the mean over the student's widths."""
        embeddings, widths, temperature = model(chunks=inputs["chunks"], restore=inputs["restore"])
        losses = [self._loss(cut, inputs, temperature) for cut in widths]
        loss = torch.stack(losses).mean()
        if temperature is not None:
            loss = loss + 0.0 * temperature  # scored pairs do not use it, and DDP wants a gradient from every weight
        return (loss, {"embeddings": embeddings}) if return_outputs else loss

    def _loss(self, embeddings: torch.Tensor, inputs: dict[str, Any], temperature: torch.Tensor | None) -> torch.Tensor:
        rows, texts = inputs["rows"], inputs["texts"]
        sides = [gather(embeddings, rows[:, side]) for side in range(rows.shape[1])]
        if self.tables.kinds[inputs["table"]] == "scored":
            return self.scored_loss.compute_loss_from_embeddings(sides, inputs["scores"])
        return info_nce(
            sides[0],
            sides[1],
            torch.stack(sides[2:], dim=1) if len(sides) > 2 else None,
            temperature=self.contrastive.temperature if temperature is None else temperature,
            anchor_ids=texts[:, 0],
            positive_ids=texts[:, 1],
            negative_ids=texts[:, 2:],
            gather=self.contrastive.gather,
        )


class BankState(TrainerCallback):
    """Saves the memory bank with every checkpoint, and reads it again where a run goes on.

    Args:
        shared: whether all processes hold the same (they gather), so that one file serves all.
    """

    first = "memory_bank_0.safetensors"

    def __init__(self, bank: MemoryBank, *, process: int, shared: bool) -> None:
        self.bank = bank
        self.process = process
        self.writes = process == 0 or not shared
        self.name = f"memory_bank_{0 if shared else process}.safetensors"

    def _path(self, args: TrainingArguments, state: TrainerState) -> Path:
        return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / self.name

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes up the bank of the checkpoint that the run goes on from."""
        if state.global_step and self._path(args, state).is_file():
            self.bank.load_state_dict(load_file(self._path(args, state)))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Puts the bank beside the checkpoint that was just written."""
        if self.writes:
            self._path(args, state).parent.mkdir(parents=True, exist_ok=True)
            save_beside(
                {name: tensor.cpu() for name, tensor in self.bank.state_dict().items()}, self._path(args, state)
            )
