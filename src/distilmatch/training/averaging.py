"""An exponential average of a stage's weights (Polyak and Juditsky 1992), kept beside the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distilmatch.training.checkpoints import save_beside

_FILE = "averaged_weights.safetensors"


class WeightAverage(TrainerCallback):
    """After step t the average is `d * average + (1 - d) * weights`, with `d = min(decay, (1 + t) / (10 + t))`.

    The lower decay of the first steps forgets where training began. The average is saved with every checkpoint and read
    again with it. Weights that do not learn are left out.
    """

    file = _FILE  # beside a checkpoint

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}

    def _learning(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach() for name, weight in self.model.named_parameters() if weight.requires_grad}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts from the weights, or from the average of the checkpoint that the run goes on from."""
        self.average = {name: weight.clone() for name, weight in self._learning().items()}
        path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / _FILE
        if state.global_step and path.is_file():
            for name, weight in load_file(path).items():
                self.average[name].copy_(weight)

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Takes the step's weights into the average."""
        step = state.global_step
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self._learning().items():
            self.average[name].lerp_(weight, 1 - keep)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Puts the average beside the checkpoint that was just written."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            save_beside({name: weight.contiguous() for name, weight in self.average.items()}, folder / _FILE)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the model's weights with the average; a second call brings them back."""
        for name, weight in self._learning().items():
            kept = weight.clone()
            weight.copy_(self.average[name])
            self.average[name] = kept
