"""How a run shows where it is: a bar with the loss in a terminal, and a line an evaluation everywhere."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

logger = logging.getLogger(__name__)


class ShortProgress(ProgressCallback):
    """`transformers`' bar, with the loss in it; of the log only the dev metrics are printed, one line each time.

    Args:
        shown: the dev metrics to print, without their `eval_`, the one that picks the checkpoint first.
        with_bar: whether there is a terminal to draw a bar in.
    """

    def __init__(self, shown: tuple[str, ...], with_bar: bool) -> None:
        super().__init__()
        self.shown = shown
        self.with_bar = with_bar

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens the bar."""
        if self.with_bar:
            super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description_str("Train")
            self.training_bar.unit = "step"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the bar."""
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Closes the bar."""
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Puts the loss beside the bar and prints dev metrics."""
        if not state.is_world_process_zero or not logs:
            return
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.4f}")
        measured = [f"{name} {float(logs[f'eval_{name}']):.4f}" for name in self.shown if f"eval_{name}" in logs]
        if measured:
            line = f"step {state.global_step}/{state.max_steps}: {', '.join(measured)}"
            if self.training_bar is not None:
                self.training_bar.write(line)
            else:
                logger.info(line)


class StepTimes(TrainerCallback):
    """Keeps how long each step took, from the beginning of one to the beginning of the next; evaluations apart."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began: float | None = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notes the time."""
        now = time.perf_counter()
        if self._began is not None:
            self.seconds.append(now - self._began)
        self._began = now

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leaves out the step in which the dev set was scored."""
        self._began = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leaves out the step in which a checkpoint was written."""
        self._began = None

    @property
    def median(self) -> float | None:
        """Seconds of the median step, the first two apart; None before there are enough."""
        return statistics.median(self.seconds[2:]) if len(self.seconds) > 2 else None


def show_shortly(trainer: Trainer, shown: tuple[str, ...]) -> None:
    """Puts `ShortProgress` in the place of the trainer's own printing."""
    with_bar = not trainer.args.disable_tqdm
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ShortProgress(shown, with_bar))


def flat_history(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The trainer's log with numbers only, for a JSON file."""
    return [{key: value for key, value in entry.items() if isinstance(value, int | float)} for entry in history]
