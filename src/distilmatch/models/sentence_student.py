"""Students of the embedding job: built from a teacher's layers, another encoder, a fresh transformer or token embeddings.

Shape legend: n texts; u texts of a batch, each once; v size of the vocabulary; d width of the student; t width of the
teacher.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import PreTrainedModel

from distilmatch.config.embeddings import EmbeddingStudentConfig
from distilmatch.errors import ConfigError, ModelError
from distilmatch.models.static_student import static_embedding
from distilmatch.pretrained.layers import chosen_layers, keep_layers, layer_list, set_dropout
from distilmatch.pretrained.positions import position_limit
from distilmatch.pretrained.probe import unused_weights
from distilmatch.pretrained.sentence import first_line

logger = logging.getLogger(__name__)


def build_student(config: EmbeddingStudentConfig, source: SentenceTransformer) -> SentenceTransformer:
    """The untrained student, on the CPU, without projection and without a module that normalises.

    Args:
        source: the teacher's model, or the pre-trained one that `config.encoder` names; it stays as it is.

    Raises:
        ModelError: `source` is not of a kind that such a student can begin with.
        ConfigError: more layers, tokens or heads than there can be.
    """
    if config.start == "static":
        return SentenceTransformer(modules=[static_embedding(source, config.width)], device="cpu")
    first = source[0]
    if not isinstance(first, Transformer) or not isinstance(first.model, PreTrainedModel):
        raise ModelError(
            f"a student that starts from {config.start} needs a transformer, this model begins with "
            f"{type(first).__name__}: set `student.start: static`, or name another `encoder`"
        )
    fresh = config.start == "fresh"
    model = _fresh(first.model, config) if fresh else _with_layers(first.model, config)
    rest_unused(model, first.tokenizer)
    transformer = _around(first, model)
    width = int(model.config.hidden_size)
    rest = [module for module in list(source)[1:] if not isinstance(module, Normalize)]
    # What follows the source's transformer was built for its width; at another width the pooling is made anew.
    if config.pooling != "auto":
        rest = [Pooling(width, pooling_mode=config.pooling)]
    elif fresh and width != first.get_embedding_dimension():
        modes = [module.pooling_mode for module in rest if isinstance(module, Pooling)]
        rest = [Pooling(width, pooling_mode=modes[0] if modes else "mean")]
    student = SentenceTransformer(
        modules=[transformer, *(copy.deepcopy(module).cpu() for module in rest)], device="cpu"
    )
    limit = position_limit(model)
    if config.max_length > limit:
        raise ConfigError(f"this student takes {limit} tokens, `student.max_length` asks for {config.max_length}")
    student.max_seq_length = config.max_length
    return student


def rest_unused(model: PreTrainedModel, tokenizer: Any) -> None:
    """Takes weights that no output token depends on, such as those of the layer over the first token, out of sight of
    optimiser and DDP; they stay, so that the folder is whole.

    Raises:
        ModelError: the model does not encode a text.
    """
    try:
        unused = unused_weights(model, tokenizer)
    except Exception as error:  # each family fails in its own way
        raise ModelError(
            f"a {type(model).__name__} with these layers does not encode a text ({type(error).__name__}: {first_line(error)}): "
            "keep other `layers`, or name another `encoder`"
        ) from error
    for name in unused:
        model.get_parameter(name).requires_grad_(False)


def _around(module: Transformer, model: PreTrainedModel) -> Transformer:
    """A copy of a sentence-transformers module with another transformer in it."""
    original: Any = module.model
    module.model = nn.Identity()  # type: ignore[assignment] # the weights need no copy
    try:
        made = copy.deepcopy(module)
    finally:
        module.model = original
    made.model = model
    return made


def _with_layers(model: PreTrainedModel, config: EmbeddingStudentConfig) -> PreTrainedModel:
    prefix, available = layer_list(model)
    kept = chosen_layers(config.layers, config.layer_choice, available)
    shape = copy.deepcopy(model.config)
    try:
        keep_layers(shape, available, kept)
        set_dropout(shape, config.dropout)
        student = type(model)(shape)
    except Exception as error:  # each family fails in its own way
        raise ModelError(
            f"a {type(model).__name__} cannot be made of its layers {kept} ({type(error).__name__}: {first_line(error)}): keep "
            "others, or name another `encoder`"
        ) from error
    # A model numbers its layers from 0 without gaps, so the kept ones' weights get other names.
    place = {old: new for new, old in enumerate(kept)}
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            if int(number) not in place:
                continue
            name = f"{prefix}{place[int(number)]}.{rest}"
        weights[name] = tensor.detach().float().cpu()
    sizes = {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}
    differing = [name for name, weight in weights.items() if name in sizes and sizes[name] != tuple(weight.shape)]
    if differing:
        raise ModelError(
            f"layers {kept} of a {type(model).__name__} do not make a model: {differing[0]} would have to be "
            f"{sizes[differing[0]]}, it is {tuple(weights[differing[0]].shape)}; keep others"
        )
    missing, unexpected = student.load_state_dict(weights, strict=False)
    if missing:
        raise ModelError(
            f"layers {kept} of a {type(model).__name__} do not make a model: {', '.join(missing[:3])} is missing; keep others"
        )
    if unexpected:
        # ModernBERT's first layer has no norm before its attention.
        logger.warning("in their new places layers %s have no use for %s", kept, ", ".join(unexpected))
    return student


def _fresh(model: PreTrainedModel, config: EmbeddingStudentConfig) -> PreTrainedModel:
    shape = copy.deepcopy(model.config)
    width = config.width or int(shape.hidden_size)
    heads = config.heads
    if heads is None:
        size = int(shape.hidden_size) // int(shape.num_attention_heads)
        heads = width // size if width % size == 0 else 1
    if width % heads:
        raise ConfigError(f"`student.width` {width} is not a multiple of `student.heads` {heads}")
    available = int(shape.num_hidden_layers)
    layers = config.layers if isinstance(config.layers, int) else len(config.layers or range(available))
    settings = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": config.intermediate or 4 * width,
        "num_hidden_layers": layers,
    }
    for name, value in settings.items():
        if not hasattr(shape, name):
            raise ModelError(f"a {type(model).__name__} has no `{name}`: name another `student.encoder` to begin with")
        setattr(shape, name, value)
    if getattr(shape, "layer_types", None):
        shape.layer_types = [shape.layer_types[i % len(shape.layer_types)] for i in range(layers)]
    set_dropout(shape, config.dropout)
    try:
        return type(model)(shape)
    except Exception as error:  # each family fails in its own way
        raise ModelError(
            f"a {type(model).__name__} cannot have the shape of this student ({type(error).__name__}: {first_line(error)}): "
            "change `student.width`, `heads` or `layers`, or name another `encoder`"
        ) from error


# --- token embeddings ----------------------------------------------------------------------------------------------


# --- training ------------------------------------------------------------------------------------------------------
