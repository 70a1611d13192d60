"""The layers of an encoder family: where they stand, which are kept, their dropout, and what a head can start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from distilmatch.config.embeddings import LayerChoice
from distilmatch.config.pairs import StudentConfig
from distilmatch.errors import ConfigError, ModelError

_ARCHITECTURE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
)


def different_architecture(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What keeps the layers of one configuration from standing in the other's place: the settings that differ."""
    return [key for key in _ARCHITECTURE if first.get(key) != second.get(key)]


@dataclass(frozen=True, kw_only=True)
class PretrainedLayer:
    """The parts of a post-norm transformer layer, whatever its architecture calls them."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    attention_norm: nn.LayerNorm
    intermediate: nn.Linear
    feed_forward: nn.Linear
    feed_forward_norm: nn.LayerNorm


def pretrained_layers(encoder: nn.Module) -> list[PretrainedLayer]:
    """The layers of an encoder of the BERT, RoBERTa, ELECTRA, MPNet or DistilBERT kind, in order; empty for others."""
    try:
        return _post_norm_layers(encoder)
    except AttributeError:  # of families that are alike in part, such as those that normalise before
        return []


def _post_norm_layers(encoder: Any) -> list[PretrainedLayer]:
    if hasattr(encoder, "transformer") and hasattr(encoder.transformer, "layer"):
        return [_distilbert_layer(layer) for layer in encoder.transformer.layer]
    if not hasattr(encoder, "encoder") or not hasattr(encoder.encoder, "layer"):
        return []
    layers = list(encoder.encoder.layer)
    if not all(hasattr(layer, "attention") and hasattr(layer, "intermediate") for layer in layers):
        return []
    if all(hasattr(layer.attention, "attn") for layer in layers):
        return [_mpnet_layer(layer) for layer in layers]
    known = all(hasattr(getattr(layer.attention, "self", None), "query") for layer in layers)
    return [_bert_layer(layer) for layer in layers] if known else []


def _bert_layer(layer: Any) -> PretrainedLayer:
    attention, output = layer.attention.self, layer.attention.output
    return _with_bert_feed_forward(
        layer, attention.query, attention.key, attention.value, output.dense, output.LayerNorm
    )


def _mpnet_layer(layer: Any) -> PretrainedLayer:
    attention = layer.attention.attn
    return _with_bert_feed_forward(layer, attention.q, attention.k, attention.v, attention.o, layer.attention.LayerNorm)


def _with_bert_feed_forward(
    layer: Any, query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear, norm: nn.LayerNorm
) -> PretrainedLayer:
    return PretrainedLayer(
        query=query,
        key=key,
        value=value,
        output=output,
        attention_norm=norm,
        intermediate=layer.intermediate.dense,
        feed_forward=layer.output.dense,
        feed_forward_norm=layer.output.LayerNorm,
    )


def _distilbert_layer(layer: Any) -> PretrainedLayer:
    attention = layer.attention
    return PretrainedLayer(
        query=attention.q_lin,
        key=attention.k_lin,
        value=attention.v_lin,
        output=attention.out_lin,
        attention_norm=layer.sa_layer_norm,
        intermediate=layer.ffn.lin1,
        feed_forward=layer.ffn.lin2,
        feed_forward_norm=layer.output_layer_norm,
    )


def fits(student: StudentConfig, layers: Sequence[PretrainedLayer]) -> bool:
    """Whether `start_head` can start the head of `student` from these layers."""
    source = layers[0]
    encoder_width, width = source.query.in_features, student.vector_width
    if student.head_norm != "post" or student.head_activation != "gelu" or len(layers) != student.head_layers:
        return False
    if width % student.attention_heads or width > encoder_width:
        return False
    if width == encoder_width and (student.head_intermediate or 4 * width) != source.intermediate.out_features:
        return False
    return encoder_width % (width // student.attention_heads) == 0


def keep_layers(config: Any, layers: int, kept: Sequence[int]) -> None:
    """Makes a transformer's config one of `kept` of its `layers`, numbered from 0, with what it lists layer by layer."""
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == layers and ("layer" in name or name == "attention_window"):
            setattr(config, name, [value[number] for number in kept])
    config.num_hidden_layers = len(kept)


def chosen_layers(layers: int | Sequence[int] | None, choice: LayerChoice, available: int) -> list[int]:
    """The numbers of the layers that are kept, from 0, rising.

    Raises:
        ConfigError: there are not that many.
    """
    if layers is None:
        return list(range(available))
    if not isinstance(layers, int):
        if max(layers) >= available:
            raise ConfigError(f"`layers` names layer {max(layers)}, the model has {available}, numbered from 0")
        return list(layers)
    if layers > available:
        raise ConfigError(f"`layers` asks for {layers}, the model has {available}")
    if choice == "first":
        return list(range(layers))
    if choice == "last":
        return list(range(available - layers, available))
    return [available - 1] if layers == 1 else [round(k * (available - 1) / (layers - 1)) for k in range(layers)]


def layer_list(model: PreTrainedModel) -> tuple[str, int]:
    """Where the layers stand in the state dict, and how many there are."""
    available = int(getattr(model.config, "num_hidden_layers", 0))
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == available:
            return f"{name}.", available
    raise ModelError(
        f"a {type(model).__name__} has no list of {available} layers to choose from: set `student.layers: null`"
    )


def cut_layers(model: PreTrainedModel, count: int) -> None:
    """Keeps the first `count` layers of a loaded transformer, and says so in its config.

    Raises:
        ConfigError: it has fewer. ModelError: no list of layers is found.
    """
    place, available = layer_list(model)
    if count > available:
        raise ConfigError(f"`encoder_layers` asks for {count}, the model has {available}")
    *path, name = place.rstrip(".").split(".")
    parent = model.get_submodule(".".join(path))
    setattr(parent, name, nn.ModuleList(list(getattr(parent, name))[:count]))
    keep_layers(model.config, available, range(count))


def set_dropout(shape: Any, dropout: float | None) -> None:
    """Sets every dropout of an encoder's config; None leaves them."""
    if dropout is not None:
        for name, value in shape.to_dict().items():
            if "dropout" in name and isinstance(value, float):
                setattr(shape, name, dropout)
