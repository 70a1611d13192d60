"""What a teacher computes with: a view of its model that belongs to one call, in evaluation mode, with a tokenizer of its own.

The model itself may be the user's or shared with other threads: nothing of it is changed, and what another does to its mode
or its tokenizer in the meantime does not reach the call.
"""

from __future__ import annotations

import copy
import threading
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from torch import nn
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from distilmatch.concurrency import own_view

Model = TypeVar("Model", bound=nn.Module)


class ModelViews(Generic[Model]):
    """Makes views of a sentence-transformers model for calls that truncate texts at one length.

    Args:
        model: stays as it is; weights that change later are those of later views too.
        max_length: tokens a text; None for the model's own.
    """

    def __init__(self, model: Model, max_length: int | None) -> None:
        self._model, self._max_length = model, max_length
        self._processors: dict[Any, tuple[Any, Any]] = {}
        self._making = threading.Lock()

    def make(self) -> Model:
        """A view whose attributes may be set: neither the model nor another view sees it."""
        view: Any = own_view(self._model)
        for module in view.modules():
            if isinstance(module, Transformer):
                module.processor = self._own(module.processor)
                module._prompt_length_mapping = {}  # of prompts as this length cuts them
        if self._max_length is not None and view.max_seq_length != self._max_length:
            view.max_seq_length = self._max_length
        return view  # type: ignore[no-any-return]

    def _own(self, processor: Any) -> Any:
        tokenizer = _tokenizer(processor)
        if tokenizer is None:
            return processor
        state = (len(tokenizer), tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side)
        key = (id(processor), *state)
        with self._making:
            if key not in self._processors:
                processor_copy = copy.deepcopy(processor)
                ours: Any = _tokenizer(processor_copy)
                if self._max_length is not None:
                    ours.model_max_length = self._max_length
                if ours.pad_token is None:  # padding is masked, so that any token will do
                    ours.pad_token = ours.eos_token or ours.unk_token or ours.convert_ids_to_tokens(0)
                # A fast tokenizer keeps truncation and padding of its last call; this call leaves it as all that follow do.
                ours(["a"], padding=True, truncation="longest_first", return_tensors="pt")
                # The original is kept too, so that its `id` is not used again.
                self._processors = {key: (processor_copy, processor)}
            return self._processors[key][0]


def _tokenizer(processor: Any) -> Any | None:
    tokenizer = processor if isinstance(processor, PreTrainedTokenizerBase) else getattr(processor, "tokenizer", None)
    return tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None


def score_layers(model: CrossEncoder) -> list[nn.Linear]:
    """The linear layers that write the logits of a cross-encoder: those outside its encoder as wide as its labels, and the
    output embeddings of a language model; empty where none is found.
    """
    whole = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    encoder = set() if whole is None else set(whole.base_model.modules())
    vocabulary = None if whole is None else whole.get_output_embeddings()
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and "forward" not in module.__dict__
        and (module is vocabulary or (module not in encoder and module.out_features == model.num_labels))
    ]


def score_in_fp32(view: CrossEncoder) -> None:
    """Has the layers that write the logits of a view multiply in fp32, whatever the precision of what is below them.

    In bf16 a logit has 8 bits: 400 pairs got 15 distinct logits.
    """
    for layer in score_layers(view):
        layer.forward = partial(_fp32_linear, layer)  # type: ignore[method-assign]


def _fp32_linear(layer: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    with torch.autocast(inputs.device.type, enabled=False):
        bias = None if layer.bias is None else layer.bias.float()
        return nn.functional.linear(inputs.float(), layer.weight.float(), bias)


def encode_first_under(view: nn.Module, precision: Any) -> None:
    """Has only the first module of a view run inside `precision`, a context; those after it get its outputs in fp32."""
    first: Any = view[0]  # type: ignore[index]
    encode = first.forward

    def forward(features: dict[str, Any], **more: Any) -> dict[str, Any]:
        with precision():
            outputs = encode(features, **more)
        return {name: _fp32(value) for name, value in outputs.items()}

    first.forward = forward


def _fp32(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value
