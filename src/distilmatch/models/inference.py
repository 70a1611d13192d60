"""Encode, score, predict and rank: the inference side of `DiPair`, in the shapes of sentence-transformers' CrossEncoder.

Shape legend: n texts or tuples; s sides; k kept tokens; d width; c labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from distilmatch.data.tokenising import length_order, pad_batch, token_ids
from distilmatch.errors import ModelError
from distilmatch.runtime import Precision, autocast
from distilmatch.types import TokenRepresentations

_WINDOW = 131_072  # tuples whose texts are encoded together; bounds memory, changes no result

Pairs = Sequence[Sequence[str]]


class DiPairInference:
    """What a user calls on a trained student; mixed into `DiPair`, which owns the modules."""

    if TYPE_CHECKING:  # what the mixin needs of the model
        from distilmatch.config import StudentConfig, TaskConfig

        student: StudentConfig
        task: TaskConfig
        streams: tuple[tuple[int, int], ...]
        side_streams: tuple[int, ...]
        training: bool
        device: torch.device

        def side_index(self, side: int | str) -> int: ...
        def kept_side(self, batch: dict[str, torch.Tensor], side: int) -> tuple[torch.Tensor, torch.Tensor]: ...
        def represent(self, states: torch.Tensor, mask: torch.Tensor, side: int) -> TokenRepresentations: ...
        def score_rows(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor: ...
        def eval(self) -> Any: ...
        def train(self, mode: bool = True) -> Any: ...
        def _tokenizer(self, encoder: int) -> Any: ...

    @torch.inference_mode()
    def encode_kept(
        self,
        texts: Sequence[str],
        side: int | str = 0,
        *,
        batch_size: int = 64,
        precision: Precision = "fp32",
        show_progress_bar: bool | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The kept encoder outputs of each text, before projection: (n, k, h) fp32 and (n, k) bool, on the CPU."""
        index = self.side_index(side)
        encoder, max_length = self.streams[self.side_streams[index]]
        tokenizer = self._tokenizer(encoder)
        ids = token_ids(tokenizer, texts, max_length)
        order, restore = length_order(ids.lengths)
        states, masks = [], []
        starts = range(0, len(ids), batch_size)
        was_training = self.training
        self.eval()
        for start in tqdm(starts, desc="Encode", unit="batch", disable=_quiet(show_progress_bar, len(starts))):
            batch = pad_batch([ids[i] for i in order[start : start + batch_size]], tokenizer.pad_token_id)
            with autocast(precision, self.device):
                kept, mask = self.kept_side({name: value.to(self.device) for name, value in batch.items()}, index)
            states.append(kept.float().cpu())
            masks.append(mask.cpu())
        self.train(was_training)
        if not states:
            raise ModelError("there is no text to encode: the list is empty")
        restored = torch.from_numpy(restore)
        return torch.cat(states)[restored], torch.cat(masks)[restored]

    @torch.inference_mode()
    def encode(
        self,
        texts: Sequence[str],
        side: int | str = 0,
        *,
        batch_size: int = 64,
        precision: Precision = "fp32",
        show_progress_bar: bool | None = None,
    ) -> TokenRepresentations:
        """What is cached of each text on `side`.

        Args:
            texts: n texts; sorted by length inside, the order restored.
            side: number or name of the side.
            batch_size: texts a forward pass; changes a value by rounding alone (about 1e-6).
            precision: of the encoder; the representation is computed in fp32.
            show_progress_bar: None shows one on long jobs.

        Returns:
            (n, k, d) fp32 and (n, k) bool, on the CPU.

        Raises:
            ModelError: no such side, no tokenizer, or no text.
        """
        index = self.side_index(side)
        states, mask = self.encode_kept(
            texts, index, batch_size=batch_size, precision=precision, show_progress_bar=show_progress_bar
        )
        parts = [
            self.represent(part.to(self.device), part_mask.to(self.device), index).to("cpu")
            for part, part_mask in zip(states.split(4096), mask.split(4096), strict=True)
        ]
        return TokenRepresentations(torch.cat([part.tokens for part in parts]), mask)

    @torch.inference_mode()
    def score(
        self,
        *sides: TokenRepresentations,
        rows: np.ndarray | torch.Tensor | None = None,
        batch_size: int = 1024,
        precision: Precision = "fp32",
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        """Logits of tuples of cached representations.

        Args:
            sides: s representations, (n_j, k_j, d) each.
            rows: (n, s) int64, `rows[:, j]` indexes side j; None pairs row i of every side.
            batch_size: tuples a forward pass.

        Returns:
            (n, c) float32 raw logits (no sigmoid, no softmax).

        Raises:
            ModelError: the number of sides, their shapes or a row number does not fit.
        """
        self._check_sides(sides)
        if rows is None:
            if len({len(side) for side in sides}) > 1:
                raise ModelError(f"sides of {[len(side) for side in sides]} texts need `rows` that say what meets what")
            rows = np.repeat(np.arange(len(sides[0]))[:, None], len(sides), axis=1)
        index = torch.as_tensor(rows, dtype=torch.int64)
        if index.ndim != 2 or index.shape[1] != len(sides):
            raise ModelError(f"`rows` must be (n, {len(sides)}), it is {tuple(index.shape)}")
        for j, side in enumerate(sides):
            if len(index) and not 0 <= int(index[:, j].min()) <= int(index[:, j].max()) < len(side):
                raise ModelError(f"`rows` of side {j} leave 0 to {len(side) - 1}")
        was_training = self.training
        self.eval()
        logits = np.empty((len(index), self.task.num_labels), dtype=np.float32)
        starts = range(0, len(index), batch_size)
        for start in tqdm(starts, desc="Score", unit="batch", disable=_quiet(show_progress_bar, len(starts), 1000)):
            part = index[start : start + batch_size]
            # A text that stands in many tuples of the batch does its own share of the head's work once.
            distinct = [torch.unique(part[:, j], return_inverse=True) for j in range(len(sides))]
            gathered = [side[texts].to(self.device) for side, (texts, _) in zip(sides, distinct, strict=True)]
            local = torch.stack([inverse for _, inverse in distinct], 1).to(self.device)
            with autocast(precision, self.device):
                scored = self.score_rows(gathered, local)
            logits[start : start + len(part)] = scored.float().cpu().numpy()
        self.train(was_training)
        return logits

    def logits(
        self,
        tuples: Pairs,
        *,
        batch_size: int = 64,
        precision: Precision = "fp32",
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        """(n, c) float32 raw logits of tuples of text; each distinct text of a side is encoded once a window.

        Raises:
            ModelError: a tuple has another number of texts than the model has sides, or a text is not a string.
        """
        self._check_tuples(tuples)
        parts = []
        for start in range(0, len(tuples), _WINDOW):
            window = tuples[start : start + _WINDOW]
            sides, rows = [], np.empty((len(window), self.student.sides), dtype=np.int64)
            for j in range(self.student.sides):
                distinct: dict[str, int] = {}
                rows[:, j] = [distinct.setdefault(texts[j], len(distinct)) for texts in window]
                sides.append(
                    self.encode(
                        list(distinct),
                        j,
                        batch_size=batch_size,
                        precision=precision,
                        show_progress_bar=show_progress_bar,
                    )
                )
            parts.append(self.score(*sides, rows=rows, precision=precision, show_progress_bar=show_progress_bar))
        if not parts:
            return np.empty((0, self.task.num_labels), dtype=np.float32)
        return np.concatenate(parts)

    def predict(
        self,
        pairs: Pairs | Sequence[str],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> np.ndarray | torch.Tensor | list[torch.Tensor]:
        """Scores of pairs (or tuples) of text, as sentence-transformers' `CrossEncoder.predict` gives them.

        One label: the sigmoid of the logit, shape (n,). Several: raw logits, (n, c), or probabilities with
        `apply_softmax`. `activation_fn` takes the place of the sigmoid (`torch.nn.Identity()` for raw logits). A
        single pair gives a single score. The activation runs in fp32.
        """
        single = len(pairs) > 0 and isinstance(pairs[0], str)
        tuples: Pairs = [pairs] if single else pairs  # type: ignore[list-item,assignment]
        logits = torch.from_numpy(self.logits(tuples, batch_size=batch_size, show_progress_bar=show_progress_bar))
        one_label = self.task.num_labels == 1
        activation = activation_fn or (torch.nn.Sigmoid() if one_label else torch.nn.Identity())
        scores = activation(logits)
        if apply_softmax and not one_label:
            scores = torch.softmax(scores, dim=-1)
        if one_label:
            scores = scores[:, 0]
        scores = scores[0] if single else scores
        if convert_to_tensor:
            return scores
        return scores.numpy() if convert_to_numpy else list(scores)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> list[dict[str, Any]]:
        """Documents by falling score, as `CrossEncoder.rank` gives them: `corpus_id`, `score` and, if asked, `text`.

        Raises:
            ModelError: the model has not one label and two sides, so that there is nothing to rank by.
        """
        if self.task.num_labels != 1 or self.student.sides != 2:
            raise ModelError("rank needs a model of two sides and one label; use predict and rank the logit you mean")
        pairs = [(query, document) for document in documents]
        scores = np.asarray(self.predict(pairs, batch_size, show_progress_bar, activation_fn))
        best = np.argsort(-scores, kind="stable")[:top_k]
        ranking: list[dict[str, Any]] = [{"corpus_id": int(i), "score": float(scores[i])} for i in best]
        if return_documents:
            for entry in ranking:
                entry["text"] = documents[entry["corpus_id"]]
        return ranking

    def _check_sides(self, sides: Sequence[TokenRepresentations]) -> None:
        if len(sides) != self.student.sides:
            raise ModelError(f"{len(sides)} sides given, the model has {self.student.sides}")
        for j, side in enumerate(sides):
            expected = (self.student.kept_tokens[j], self.student.vector_width)
            if tuple(side.tokens.shape[1:]) != expected:
                raise ModelError(
                    f"side {j} holds {tuple(side.tokens.shape[1:])} (tokens, width) a text, this model needs {expected}: "
                    "encode it with this model and this side"
                )

    def _check_tuples(self, tuples: Pairs) -> None:
        for row, texts in enumerate(tuples):
            if isinstance(texts, str) or len(texts) != self.student.sides:
                raise ModelError(f"tuple {row} must hold {self.student.sides} texts: {texts!r}")
            if not all(isinstance(text, str) for text in texts):
                raise ModelError(f"tuple {row} holds something that is not a text: {texts!r}")


def _quiet(show_progress_bar: bool | None, steps: int, long: int = 50) -> bool | None:
    # tqdm: None hides the bar outside a terminal.
    if show_progress_bar is None:
        return None if steps >= long else True
    return not show_progress_bar
