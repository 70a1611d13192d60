"""A cross-encoder as teacher: raw logits of pairs, without wasted padding, in bf16 where the hardware has it.

Shape legend: n pairs; b pairs of a batch; t tokens of a batch's longest pair; c labels.
"""

from __future__ import annotations

import copy
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from tqdm.auto import tqdm

from distilmatch.concurrency import frozen_tokenizer
from distilmatch.config.base import WeightDtype
from distilmatch.data.tokenising import length_order
from distilmatch.errors import ConfigError, ModelError
from distilmatch.fingerprint import fingerprint, fingerprint_tensors, fingerprint_tokenizer
from distilmatch.pretrained.positions import UNLIMITED, position_limit
from distilmatch.pretrained.sentence import loaded_model
from distilmatch.pretrained.tokenizers import check_vocabulary, padding_token
from distilmatch.runtime import Precision, autocast, pick_device, use_bf16
from distilmatch.teachers.base import Pairs, check_loaded, pair_list
from distilmatch.teachers.views import ModelViews, score_in_fp32, score_layers

logger = logging.getLogger(__name__)

_WINDOW = 16_384  # pairs tokenised at once; bounds memory, changes no result
# What a configuration says that no logit depends on.
_NOT_A_SETTING = frozenset(
    ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id")
    + ("sentence_transformers", "use_cache", "problem_type", "_attn_implementation", "_commit_hash")
)


class CrossEncoderTeacher:
    """Raw logits of any sentence-transformers `CrossEncoder` or sequence-classification model.

    The logits are multiplied in fp32 in either precision: rounded to bf16, they tie. Threads may share a teacher, and
    teachers of different `max_length` a model.

    Args:
        model: a folder, a hub name, or a loaded `CrossEncoder` (used as it is, on its own device; nothing of it is
            changed, and in training mode too it labels without dropout).
        batch_size: pairs a forward pass.
        max_length: tokens a pair, special tokens included; None for the model's own.
        precision: "fp32", "bf16" (autocast), or "auto": bf16 where the hardware multiplies in it.
        device: of a model given by name; None for the best one here.
        dtype: of the weights of a model given by name: "fp32", "bf16" or "fp16"; "auto" is fp32. A half-precision model computes
            in its own numbers, but for the logits.
        revision: of a model by its hub name: a commit or tag; None for what the hub has now.

    Raises:
        ConfigError: there is no such folder or revision, or a setting out of range.
        ModelError: the model cannot be loaded, has no trained classification head, or a tokenizer that cannot pad.

    Example:
        ```python
        from distilmatch import CrossEncoderTeacher

        teacher = CrossEncoderTeacher("teacher", max_length=64)
        logits = teacher.logits([("red shoe", "a red leather shoe"), ("red shoe", "a blue lamp")])  # (2, c)
        ```
    """

    def __init__(
        self,
        model: str | Path | CrossEncoder,
        *,
        batch_size: int = 64,
        max_length: int | None = None,
        precision: Precision = "auto",
        device: str | None = None,
        dtype: WeightDtype = "auto",
        revision: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"`batch_size` must be 1 or more, not {batch_size}")
        self.name = "a loaded CrossEncoder" if isinstance(model, CrossEncoder) else str(model)
        self._given = isinstance(model, CrossEncoder)
        if isinstance(model, CrossEncoder):
            check_loaded(self.name, dtype=dtype, revision=revision)
        self.model = model if isinstance(model, CrossEncoder) else _load(str(model), device, dtype, revision)
        self.batch_size = batch_size
        self.precision: Precision = _precision(self.model, precision, self.name)
        self.max_length = _token_limit(self.model, max_length, self.name)
        self._views = ModelViews(self.model, self.max_length if self.max_length < UNLIMITED else None)
        _check_padding(self.model, self.name)

    @property
    def num_labels(self) -> int:
        """c, how many logits a pair has."""
        return int(self.model.num_labels)

    @property
    def folder(self) -> Path | None:
        """The local folder that the weights are of; None for a hub name, and for a loaded model, which may have learnt since."""
        place = Path(self.name).expanduser()
        return None if self._given or not place.is_dir() else place

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The c label names of the model's configuration; None where it holds only the default LABEL_0, ..."""
        return configured_names(self.model.config, self.num_labels)

    @property
    def numbers(self) -> str:
        """What its products are computed in: "fp32", "bf16" or "fp16"."""
        loaded_in = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(self.model.dtype)  # type: ignore[arg-type]
        return loaded_in or ("bf16" if self.precision == "bf16" else "fp32")

    def in_precision(self, precision: Precision) -> CrossEncoderTeacher:
        """The same teacher with another precision; both share the model."""
        teacher = copy.copy(self)
        teacher.precision = _precision(self.model, precision, self.name)
        teacher.__dict__.pop("_fingerprint", None)  # that of the other precision
        return teacher

    @property
    def fingerprint(self) -> str:
        """A hash of all that a logit depends on besides the texts: weights, tokenizer and settings.

        `batch_size` and the device are not in it: they change a logit by rounding alone.
        """
        # A model that was handed in may have been trained further since.
        return self._compute_fingerprint() if self._given else self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self._compute_fingerprint()

    def _compute_fingerprint(self) -> str:
        config = self.model.config.to_dict() if self.model.config is not None else {}
        settings = {name: repr(value) for name, value in config.items() if name not in _NOT_A_SETTING}
        prompt = self.model._resolve_prompt(None, None)
        return fingerprint(
            "cross-encoder",
            fingerprint_tensors(self.model.state_dict()),
            fingerprint_tokenizer(self.model.tokenizer),
            [type(module).__name__ for module in self.model.children()],
            settings,
            {"max_length": self.max_length, "precision": self._numbers(), "num_labels": self.num_labels},
            prompt or "",
            repr(getattr(self.model[0], "processing_kwargs", None) or {}),
        )

    def _numbers(self) -> str:
        # Labels whose logits were rounded, by an earlier version, are others than these.
        half = self.precision == "bf16" or self.model.dtype in (torch.bfloat16, torch.float16)
        return f"{self.precision}, logits in fp32" if half else self.precision

    @torch.inference_mode()
    def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
        """The raw logits of `pairs`: no sigmoid, no softmax, whatever activation the model was saved with.

        Args:
            pairs: n pairs of text; sorted by length inside, the order restored. One pair gives one row.
            show_progress_bar: None shows one on long jobs, in a terminal.

        Returns:
            (n, c) float32.

        Raises:
            DataError: an item that is not two texts.
        """
        pairs = pair_list(pairs)
        out = np.empty((len(pairs), self.num_labels), dtype=np.float32)
        order, _ = length_order([len(left) + len(right) for left, right in pairs])
        quiet = not show_progress_bar if show_progress_bar is not None else (None if len(pairs) >= 1000 else True)
        view = self._views.make()
        score_in_fp32(view)
        with tqdm(total=len(pairs), desc="Teacher", unit="pair", disable=quiet) as bar:
            for start in range(0, len(pairs), _WINDOW):
                self._label_window(view, pairs, order[start : start + _WINDOW], out, bar)
        return out

    def _label_window(self, view: CrossEncoder, pairs: Pairs, window: np.ndarray, out: np.ndarray, bar: Any) -> None:
        window_pairs = [tuple(pairs[i]) for i in window]
        tokenizer = pair_tokenizer(self.model)
        encoded = None if tokenizer is None else self._token_ids(tokenizer, window_pairs)
        # Characters ordered the windows; tokens order the batches, so that each pads as little as it can.
        if encoded is not None:
            by_tokens, _ = length_order([len(ids) for ids in encoded["input_ids"]])
        else:
            by_tokens = np.arange(len(window_pairs))
        for start in range(0, len(window_pairs), self.batch_size):
            rows = by_tokens[start : start + self.batch_size]
            features = (
                self._preprocess(view, [window_pairs[i] for i in rows])
                if encoded is None
                else _padded(encoded, rows, tokenizer, self.model.config)
            )
            on_device = {
                name: value.to(view.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            with autocast(self.precision, view.device):
                scores = view(on_device)["scores"]
            out[window[rows]] = scores.float().reshape(len(rows), self.num_labels).cpu().numpy()
            bar.update(len(rows))

    def _token_ids(self, tokenizer: Any, pairs: list[tuple[str, ...]]) -> dict[str, list[list[int]]]:
        limited = self.max_length < UNLIMITED
        limit = self.max_length if limited else None
        encoded = frozen_tokenizer(tokenizer, limit)(
            [pair[0] for pair in pairs],
            [pair[1] for pair in pairs],
            truncation="longest_first" if limited else False,
            max_length=limit,
            padding=False,
            return_attention_mask=False,
        )
        return {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}

    def _preprocess(self, view: CrossEncoder, pairs: list[tuple[str, ...]]) -> dict[str, Any]:
        limit = {"text": {"max_length": self.max_length}} if self.max_length < UNLIMITED else {}
        prompt = view._resolve_prompt(None, None)
        return view.preprocess(pairs, prompt=prompt, processing_kwargs=limit)  # type: ignore[arg-type]


def _padded(
    encoded: dict[str, list[list[int]]], rows: np.ndarray, tokenizer: Any, config: Any
) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and, where the model has them, `token_type_ids`: (b, t) int64."""
    lengths = [len(encoded["input_ids"][row]) for row in rows]
    longest = max(lengths)
    left = tokenizer.padding_side == "left"
    spans = [slice(longest - length, longest) if left else slice(0, length) for length in lengths]
    fills = {"input_ids": padding_token(tokenizer, config), "token_type_ids": tokenizer.pad_token_type_id}
    padded = {name: np.full((len(rows), longest), fills[name], dtype=np.int64) for name in encoded}
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for i, (row, span) in enumerate(zip(rows, spans, strict=True)):
        mask[i, span] = 1
        for name, array in padded.items():
            array[i, span] = encoded[name][row]
    return {name: torch.from_numpy(array) for name, array in (padded | {"attention_mask": mask}).items()}


def configured_names(config: Any, count: int) -> tuple[str, ...] | None:
    """The names of `count` labels in a Hugging Face configuration; None where it holds only the default LABEL_0, ..."""
    names = getattr(config, "id2label", None)
    if not names or set(names) != set(range(count)):
        return None
    ordered = tuple(str(names[label]) for label in range(count))
    return None if all(name == f"LABEL_{label}" for label, name in enumerate(ordered)) else ordered


def load_cross_encoder(name: str | Path, device: str | torch.device | None = None, **settings: Any) -> CrossEncoder:
    """A `CrossEncoder` from a folder or hub name; `settings` go to `loaded_model` (`dtype`, by default fp32, and `revision`)
    and to its initialiser.

    Raises:
        ConfigError: no such folder, device or revision.
        ModelError: the model cannot be loaded.
    """
    target = device if isinstance(device, torch.device) else pick_device(device)
    advice = "Give a folder that save_pretrained wrote, or the name of a model on the Hugging Face hub"
    model: CrossEncoder = loaded_model(CrossEncoder, name, target, "a cross-encoder", advice, **settings)
    if isinstance(model[0], Transformer):
        check_vocabulary(name, model[0].tokenizer, model[0].model.get_input_embeddings())
    return model


def _load(name: str, device: str | None, dtype: WeightDtype, revision: str | None) -> CrossEncoder:
    model = load_cross_encoder(name, device, dtype=dtype, revision=revision)
    first = model[0]
    if len(model) == 1 and isinstance(first, Transformer) and first.transformer_task == "sequence-classification":
        saved_as = getattr(model.config, "architectures", None)
        if saved_as and type(first.model).__name__ not in saved_as:
            raise ModelError(
                f"{name!r} is a {saved_as[0]} without a trained classification head, so its logits would be random; "
                "fine-tune it first: distilmatch finetune-teacher (fine_tune_teacher in Python)"
            )
    return model


def _token_limit(model: CrossEncoder, max_length: int | None, name: str) -> int:
    limit = position_limit(model)
    if max_length is None:
        return int(min(model.max_seq_length or limit, limit))
    if not 4 <= max_length <= limit:
        raise ConfigError(f"`max_length` must be between 4 and {limit} for {name}, not {max_length}")
    return max_length


def _precision(model: CrossEncoder, precision: Precision, name: str) -> Precision:
    if model.dtype not in (torch.float32, None) or not use_bf16(precision, model.device):
        return "fp32"  # a half-precision model computes in its own numbers
    if score_layers(model):
        return "bf16"
    logger.warning(
        "%s labels in fp32: in bf16 its logits would be rounded, as the layer that writes them is not known", name
    )
    return "fp32"


def pair_tokenizer(model: CrossEncoder) -> Any | None:
    """The tokenizer where pairs can go straight to it; None where sentence-transformers must prepare them (prompts,
    chat templates, own processing).
    """
    first = model[0]
    plain = (
        isinstance(first, Transformer)
        and set(first.modality_config) == {"text"}
        and not first.processing_kwargs
        and not model._resolve_prompt(None, None)
        and not model._can_flatten_inputs()
    )
    return model.tokenizer if plain else None


def _check_padding(model: CrossEncoder, name: str) -> None:
    tokenizer = getattr(model[0], "tokenizer", None)
    if tokenizer is None or not hasattr(tokenizer, "pad_token_id"):
        return
    if padding_token(tokenizer, model.config if pair_tokenizer(model) is not None else None) is None:
        raise ModelError(
            f"the tokenizer of {name} has no padding token, so pairs of different lengths cannot be labelled together: set "
            "`tokenizer.pad_token` and `config.pad_token_id` (the end-of-text token will do) and save the model again"
        )
