"""Encode, score, predict and rank: the inference side of `DiPair`, in the shapes of sentence-transformers' CrossEncoder.

Shape legend: n texts or tuples; s sides; k kept tokens; d width; c labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from distilmatch.concurrency import evaluation_view
from distilmatch.data.tokenising import length_order, pad_batch
from distilmatch.errors import ConfigError, ModelError
from distilmatch.metrics.decisions import Decision
from distilmatch.metrics.reading import Reading
from distilmatch.models.stamps import KnownFingerprints, check_numbers, check_shape, check_stamp
from distilmatch.models.streams import Stream
from distilmatch.pretrained.sentence import input_embeddings
from distilmatch.pretrained.tokenizers import pad_id
from distilmatch.runtime import Precision, autocast
from distilmatch.text_arguments import is_one_tuple, one_text, text_list, text_tuples
from distilmatch.types import TokenRepresentations

_WINDOW = 131_072  # tuples whose texts are encoded together; bounds memory, changes no result

Pairs = Sequence[Sequence[str]]
Activation = Callable[[torch.Tensor], torch.Tensor]


class DiPairInference:
    """What a user calls on a trained student; mixed into `DiPair`, which owns the modules.

    No call changes the model: several threads may use one.
    """

    if TYPE_CHECKING:  # what the mixin needs of the model
        from distilmatch.config.pairs import StudentConfig
        from distilmatch.config.tables import TaskConfig

        student: StudentConfig
        task: TaskConfig
        streams: tuple[Stream, ...]
        side_streams: tuple[int, ...]
        encoders: torch.nn.ModuleList
        head_inputs: torch.nn.ModuleList
        known_fingerprints: KnownFingerprints
        device: torch.device

        @property
        def decision(self) -> Decision: ...
        def side_index(self, side: int | str) -> int: ...
        def kept_side(self, batch: dict[str, torch.Tensor], side: int) -> tuple[torch.Tensor, torch.Tensor]: ...
        def represent(self, states: torch.Tensor, mask: torch.Tensor, side: int) -> TokenRepresentations: ...
        def lexical_vectors(self, texts: Sequence[str], stream: int) -> torch.Tensor | None: ...
        def score_rows(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor: ...
        def representation_fingerprint(self, side: int | str) -> str: ...
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
        """The kept encoder outputs of each text, before projection: (n, k, h) fp32 and (n, k) bool, on the CPU.

        Raises:
            ModelError: as `encode`.
        """
        index = self.side_index(side)
        texts = text_list(texts, "texts", ModelError)
        if not texts:
            raise ModelError("there is no text to encode: the list is empty")
        _check_batch_size(batch_size)
        stream = self.streams[self.side_streams[index]]
        encoder = stream.encoder
        tokenizer = self._tokenizer(encoder)
        ids = stream.token_ids(tokenizer, texts)
        self._check_known(ids.flat, ids.bounds, encoder, texts)
        # Texts of like lengths stand in one batch, which saves padding.
        order, restore = length_order(ids.lengths)
        states, masks = [], []
        starts = range(0, len(ids), batch_size)
        view = evaluation_view(self)  # type: ignore[type-var]
        if next(self.encoders[encoder].parameters()).dtype != torch.float32:
            precision = "fp32"  # no autocast: it is for weights in fp32, and mixes badly with others
        for start in tqdm(starts, desc="Encode", unit="batch", disable=_quiet(show_progress_bar, len(starts))):
            chosen = order[start : start + batch_size]
            batch = pad_batch([ids[i] for i in chosen], pad_id(tokenizer))
            lexical = view.lexical_vectors([texts[i] for i in chosen], self.side_streams[index])
            if lexical is not None:
                batch["lexical"] = lexical
            with autocast(precision, self.device):
                kept, mask = view.kept_side({name: value.to(self.device) for name, value in batch.items()}, index)
            finite = torch.isfinite(kept).flatten(1).all(1)
            if not finite.all():
                bad = int(chosen[int((~finite).nonzero()[0, 0])])
                raise ModelError(
                    f"text {bad} is encoded to numbers that are not finite: {texts[bad][:80]!r}; the weights are damaged, or "
                    "too large for half precision: load the student in fp32"
                )
            states.append(kept.float().cpu())
            masks.append(mask.cpu())
        restored = torch.from_numpy(restore)
        return torch.cat(states)[restored], torch.cat(masks)[restored]

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
            texts: n texts, read by position (a list, an array, a Series, ...), or one; sorted by length inside, the order
                restored.
            side: number or name of the side.
            batch_size: texts a forward pass; changes a value by rounding alone (about 1e-6).
            precision: of the encoder; the representation is computed in fp32.
            show_progress_bar: None shows one on long jobs.

        Returns:
            (n, k, d) fp32 and (n, k) bool, on the CPU; they carry the side and this model's fingerprint, which `score`
            compares.

        Raises:
            ModelError: no such side, no tokenizer, no text, or something that is no text; its position is named.
        """
        index = self.side_index(side)
        representations = self._represented(texts, index, batch_size, precision, show_progress_bar)
        return replace(representations, side=index, model=self.known_fingerprint(index))

    @torch.inference_mode()
    def _represented(
        self, texts: Sequence[str], side: int, batch_size: int, precision: Precision, show_progress_bar: bool | None
    ) -> TokenRepresentations:
        states, mask = self.encode_kept(
            texts, side, batch_size=batch_size, precision=precision, show_progress_bar=show_progress_bar
        )
        view = evaluation_view(self)  # type: ignore[type-var]
        chunks = [
            view.represent(kept.to(self.device), kept_mask.to(self.device), side).to("cpu")
            for kept, kept_mask in zip(states.split(4096), mask.split(4096), strict=True)
        ]
        return TokenRepresentations(torch.cat([chunk.tokens for chunk in chunks]), mask)

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
            sides: s representations, (n_j, k_j, d) each, in the order of the model's sides.
            rows: (n, s) int64, `rows[:, j]` indexes side j; None pairs row i of every side.
            batch_size: tuples a forward pass.
            precision: of the head; its last layer computes in fp32 always.

        Returns:
            (n, c) float32 raw logits (no sigmoid, no softmax).

        Raises:
            ModelError: representations of another model or side; the number of sides, their shapes or a row number does
                not fit; a text without a real token, or numbers that are not finite.
        """
        self._check_sides(sides)
        _check_batch_size(batch_size)
        index = _row_numbers(rows, sides)
        view = evaluation_view(self)  # type: ignore[type-var]
        logits = np.empty((len(index), self.task.num_labels), dtype=np.float32)
        starts = range(0, len(index), batch_size)
        for start in tqdm(starts, desc="Score", unit="batch", disable=_quiet(show_progress_bar, len(starts), 1000)):
            batch_rows = index[start : start + batch_size]
            # A text that stands in many tuples of the batch does its own share of the head's work once.
            distinct = [torch.unique(batch_rows[:, j], return_inverse=True) for j in range(len(sides))]
            gathered = [
                side[texts].to(self.device, torch.float32) for side, (texts, _) in zip(sides, distinct, strict=True)
            ]
            for j, (texts, _) in enumerate(distinct):
                check_numbers(gathered[j], j, texts)
            local = torch.stack([inverse for _, inverse in distinct], 1).to(self.device)
            with autocast(precision, self.device):
                scored = view.score_rows(gathered, local).float()
            logits[start : start + len(batch_rows)] = scored.cpu().numpy()
        _check_finite(logits)
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
        tuples = text_tuples(tuples, self.student.sides, "pairs", ModelError)
        window_logits = []
        for start in range(0, len(tuples), _WINDOW):
            window = tuples[start : start + _WINDOW]
            sides, rows = [], np.empty((len(window), self.student.sides), dtype=np.int64)
            for j in range(self.student.sides):
                distinct: dict[str, int] = {}
                rows[:, j] = [distinct.setdefault(texts[j], len(distinct)) for texts in window]
                sides.append(self._represented(list(distinct), j, batch_size, precision, show_progress_bar))
            window_logits.append(
                self.score(*sides, rows=rows, precision=precision, show_progress_bar=show_progress_bar)
            )
        if not window_logits:
            return np.empty((0, self.task.num_labels), dtype=np.float32)
        return np.concatenate(window_logits)

    def predict(
        self,
        pairs: Pairs | Sequence[str],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        *,
        threshold: float | str | None = None,
        calibrated: bool = False,
    ) -> np.ndarray | torch.Tensor | list[torch.Tensor]:
        """Scores of pairs (or tuples) of text, as sentence-transformers' `CrossEncoder.predict` gives them.

        One label: the sigmoid of the logit, shape (n,). Several: raw logits, (n, c), or probabilities with
        `apply_softmax`. `activation_fn` takes the place of the sigmoid (`torch.nn.Identity()` for raw logits). A
        single pair gives a single score. The activation runs in fp32.

        Args:
            threshold: say match or no match, for a binary task or two classes: "best_f1", "precision=0.95", "recall=0.9" (of dev,
                from `decision`), or a number that the score must be above. Of a binary task (n,) bool come back, of two classes
                (n,) int64 numbers of the classes.
            calibrated: probabilities by the `decision`'s calibration: of a binary task (n,), of two classes (n, 2). A
                `threshold` that is a number is then such a probability.

        Raises:
            ModelError: as `logits`.
            ConfigError: a threshold or calibration of another task, without a decision, or beside an activation.
        """
        single = is_one_tuple(pairs)
        reading = None
        if threshold is not None or calibrated:
            if activation_fn is not None or apply_softmax:
                raise ConfigError("`threshold` and `calibrated` read the logits themselves: leave the activation out")
            reading = Reading.of(self.task, threshold, calibrated, lambda: self.decision)
        logits = torch.from_numpy(self.logits(pairs, batch_size=batch_size, show_progress_bar=show_progress_bar))
        if reading is not None:
            scores = _read(logits, reading)
        else:
            scores = self._activated(logits, activation_fn)
            if self.task.num_labels == 1:
                scores = scores[:, 0]
            elif apply_softmax:
                scores = torch.softmax(scores, dim=-1)
        converted: Any = scores if convert_to_tensor else scores.numpy() if convert_to_numpy else list(scores)
        return converted[0] if single else converted

    def _activated(self, logits: torch.Tensor, activation: Activation | None) -> torch.Tensor:
        if activation is not None:
            return activation(logits)
        return torch.sigmoid(logits) if self.task.num_labels == 1 else logits

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
    ) -> list[dict[str, Any]]:
        """Documents by falling score, as `CrossEncoder.rank` gives them: `corpus_id`, `score` and, if asked, `text`.

        The order is that of the logits, which still differ where their sigmoids are all 1; with an `activation_fn` that of
        its values, and of the logits where these tie. What ties still stays in the order given.

        Args:
            query: one text.
            documents: n texts, read by position; `corpus_id` counts them from 0.
            top_k: how many come back; None for all.

        Raises:
            ModelError: as `logits`; `query` is not one string; or the model has not one label and two sides, so that there
                is nothing to rank by.
        """
        if self.task.num_labels != 1 or self.student.sides != 2:
            raise ModelError("rank needs a model of two sides and one label; use predict and rank the logit you mean")
        if top_k is not None and top_k < 0:
            raise ModelError(f"`top_k` {top_k}: give 0 or more, or None for all")
        query = one_text(query, "query", ModelError)
        texts = text_list(documents, "documents", ModelError)
        logits = self.logits(
            [(query, text) for text in texts], batch_size=batch_size, show_progress_bar=show_progress_bar
        )
        scores = np.asarray(self._activated(torch.from_numpy(logits), activation_fn))[:, 0]
        # `lexsort` takes its last key first: the logits decide where activated scores tie.
        falling = [-logits[:, 0]] if activation_fn is None else [-logits[:, 0], -scores]
        best = np.lexsort(falling)[:top_k]
        ranking: list[dict[str, Any]] = [{"corpus_id": int(i), "score": float(scores[i])} for i in best]
        if return_documents:
            for entry in ranking:
                entry["text"] = texts[entry["corpus_id"]]
        return ranking

    def known_fingerprint(self, side: int) -> str:
        """`representation_fingerprint`, remembered for as long as the weights stay as they are; for stamps in memory."""
        encoder = self.streams[self.side_streams[side]].encoder
        tensors = [
            tensor
            for module in (self.encoders[encoder], self.head_inputs[encoder])
            for tensor in (*module.parameters(), *module.buffers())
        ]
        tokenizer = self._tokenizer(encoder)
        return self.known_fingerprints.get(
            side, tensors, lambda: self.representation_fingerprint(side), id(tokenizer), len(tokenizer)
        )

    def check_representations(
        self, texts: TokenRepresentations, side: int, rows: np.ndarray | torch.Tensor | None = None
    ) -> None:
        """Refuses representations that this model cannot score as its side `side`.

        Args:
            texts: (n, k, d); what carries no side and no model is taken for what it is said to be.
            rows: (n,) what messages call the rows; None for 0 to n - 1.

        Raises:
            ModelError: another side or model, another shape or dtype, a text without a real token, numbers that are not
                finite or above 1e15; the row is named.
        """
        self._check_side(texts, side)
        check_numbers(texts, side, rows)

    def _check_side(self, texts: TokenRepresentations, side: int) -> None:
        check_stamp(texts, side, self.student.side_names, lambda: self.known_fingerprint(side))
        check_shape(texts, side, self.student.kept_vectors[side], self.student.vector_width)

    def _check_sides(self, sides: Sequence[TokenRepresentations]) -> None:
        if len(sides) != self.student.sides:
            raise ModelError(f"{len(sides)} sides given, the model has {self.student.sides}")
        for j, side in enumerate(sides):
            if not isinstance(side, TokenRepresentations):
                raise ModelError(f"side {j} is a {type(side).__name__}: give what encode(texts, side) returns")
            self._check_side(side, j)

    def _check_known(self, flat: np.ndarray, bounds: np.ndarray, encoder: int, texts: Sequence[str]) -> None:
        # A token that was added to the tokenizer alone would be read from beyond the table of embeddings.
        table = input_embeddings(self.encoders[encoder])
        if table is None or int(flat.max()) < table.num_embeddings:
            return
        size = table.num_embeddings
        place = int(np.argmax(flat >= size))
        bad = int(np.searchsorted(bounds, place, side="right")) - 1
        raise ModelError(
            f"text {bad} has token {int(flat[place])}, the model has embeddings for {size}: {texts[bad][:80]!r}; the tokenizer "
            "was given tokens that the model was not: build the student from a model whose embeddings were resized"
        )


def _read(logits: torch.Tensor, reading: Reading) -> torch.Tensor:
    """Matches where there is a threshold, else probabilities, of (n, c) logits."""
    binary = reading.task.num_labels == 1
    if reading.limit is not None:
        matches = torch.from_numpy(reading.matches(logits.numpy()))
        return matches if binary else matches.long()
    probabilities = torch.from_numpy(reading.probabilities(logits.numpy()))
    return probabilities if binary else torch.stack([1 - probabilities, probabilities], dim=1)


def _row_numbers(rows: Any, sides: Sequence[TokenRepresentations]) -> torch.Tensor:
    """(n, s) int64 on the CPU, checked."""
    if rows is None:
        if len({len(side) for side in sides}) > 1:
            raise ModelError(f"sides of {[len(side) for side in sides]} texts need `rows` that say what meets what")
        return torch.arange(len(sides[0]))[:, None].repeat(1, len(sides))
    numbers = np.asarray(rows.cpu() if isinstance(rows, torch.Tensor) else rows)
    if numbers.size and numbers.dtype.kind not in "iu":
        raise ModelError(f"`rows` must be whole numbers, they are {numbers.dtype}")
    if numbers.ndim != 2 or numbers.shape[1] != len(sides):
        raise ModelError(f"`rows` must be (n, {len(sides)}), it is {tuple(numbers.shape)}")
    for j, side in enumerate(sides):
        if len(numbers) and not 0 <= int(numbers[:, j].min()) <= int(numbers[:, j].max()) < len(side):
            raise ModelError(f"`rows` of side {j}: row numbers out of range, the side has 0 to {len(side) - 1}")
    return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64))


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ModelError(f"`batch_size` {batch_size}: give 1 or more")


def _check_finite(logits: np.ndarray) -> None:
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise ModelError(
            f"the score of row {int(np.argmin(finite))} is not a finite number: the weights of the head are damaged, or its "
            "training diverged; load the student again, or train it with a lower learning rate"
        )


def _quiet(show_progress_bar: bool | None, steps: int, long: int = 50) -> bool | None:
    # tqdm: None hides the bar outside a terminal.
    if show_progress_bar is None:
        return None if steps >= long else True
    return not show_progress_bar
