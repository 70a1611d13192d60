"""Students of the embedding job: built from a teacher's layers, another encoder, a fresh transformer or token embeddings.

Shape legend: n texts; u texts of a batch, each once; v size of the vocabulary; d width of the student; t width of the
teacher.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from distilmatch.config.embeddings import EmbeddingStudentConfig, LayerChoice
from distilmatch.encoders import encoder_width, first_line, load_sentence_encoder, position_limit
from distilmatch.errors import ConfigError, ModelError
from distilmatch.models.encoder_probe import unused_weights
from distilmatch.models.pretrained import keep_layers

logger = logging.getLogger(__name__)

_TOKEN_BATCH = 1024


def build_student(config: EmbeddingStudentConfig, source: SentenceTransformer) -> SentenceTransformer:
    """The untrained student, on the CPU, without projection and without a module that normalises.

    Args:
        source: the teacher's model, or the pre-trained one that `config.encoder` names; it stays as it is.

    Raises:
        ModelError: `source` is not of a kind that such a student can begin with.
        ConfigError: more layers, tokens or heads than there can be.
    """
    if config.start == "static":
        return SentenceTransformer(modules=[_static_embedding(source, config.width)], device="cpu")
    first = source[0]
    if not isinstance(first, Transformer) or not isinstance(first.model, PreTrainedModel):
        raise ModelError(
            f"a student that starts from {config.start} needs a transformer, this model begins with "
            f"{type(first).__name__}: set `student.start: static`, or name another `encoder`"
        )
    fresh = config.start == "fresh"
    model = _fresh(first.model, config) if fresh else _with_layers(first.model, config)
    _rest_unused(model, first.tokenizer)
    transformer = _around(first, model)
    width = int(model.config.hidden_size)
    rest = [module for module in list(source)[1:] if not isinstance(module, Normalize)]
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


def _rest_unused(model: PreTrainedModel, tokenizer: Any) -> None:
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
    own: Any = module.model
    module.model = nn.Identity()  # type: ignore[assignment] # the weights need no copy
    try:
        made = copy.deepcopy(module)
    finally:
        module.model = own
    made.model = model
    return made


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


def _with_layers(model: PreTrainedModel, config: EmbeddingStudentConfig) -> PreTrainedModel:
    prefix, available = _layer_list(model)
    kept = chosen_layers(config.layers, config.layer_choice, available)
    shape = copy.deepcopy(model.config)
    try:
        keep_layers(shape, available, kept)
        _set_dropout(shape, config.dropout)
        own = type(model)(shape)
    except Exception as error:  # each family fails in its own way
        raise ModelError(
            f"a {type(model).__name__} cannot be made of its layers {kept} ({type(error).__name__}: {first_line(error)}): keep "
            "others, or name another `encoder`"
        ) from error
    place = {old: new for new, old in enumerate(kept)}
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            if int(number) not in place:
                continue
            name = f"{prefix}{place[int(number)]}.{rest}"
        weights[name] = tensor.detach().float().cpu()
    sizes = {name: tuple(tensor.shape) for name, tensor in own.state_dict().items()}
    differing = [name for name, weight in weights.items() if name in sizes and sizes[name] != tuple(weight.shape)]
    if differing:
        raise ModelError(
            f"layers {kept} of a {type(model).__name__} do not make a model: {differing[0]} would have to be "
            f"{sizes[differing[0]]}, it is {tuple(weights[differing[0]].shape)}; keep others"
        )
    missing, unexpected = own.load_state_dict(weights, strict=False)
    if missing:
        raise ModelError(
            f"layers {kept} of a {type(model).__name__} do not make a model: {', '.join(missing[:3])} is missing; keep others"
        )
    if unexpected:
        # ModernBERT's first layer has no norm before its attention.
        logger.warning("in their new places layers %s have no use for %s", kept, ", ".join(unexpected))
    return own


def _layer_list(model: PreTrainedModel) -> tuple[str, int]:
    """Where the layers stand in the state dict, and how many there are."""
    available = int(getattr(model.config, "num_hidden_layers", 0))
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == available:
            return f"{name}.", available
    raise ModelError(
        f"a {type(model).__name__} has no list of {available} layers to choose from: set `student.layers: null`"
    )


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
    _set_dropout(shape, config.dropout)
    try:
        return type(model)(shape)
    except Exception as error:  # each family fails in its own way
        raise ModelError(
            f"a {type(model).__name__} cannot have the shape of this student ({type(error).__name__}: {first_line(error)}): "
            "change `student.width`, `heads` or `layers`, or name another `encoder`"
        ) from error


def _set_dropout(shape: Any, dropout: float | None) -> None:
    if dropout is not None:
        for name, value in shape.to_dict().items():
            if "dropout" in name and isinstance(value, float):
                setattr(shape, name, dropout)


# --- token embeddings ----------------------------------------------------------------------------------------------


def _static_embedding(source: SentenceTransformer, width: int | None) -> StaticEmbedding:
    """Token embeddings as model2vec makes them: what the model gives each token of its vocabulary by itself, centred, on
    its first `width` principal components.
    """
    if isinstance(source[0], StaticEmbedding):
        weights = source[0].embedding.weight.detach().float().cpu().numpy()
        backend: Any = source[0].tokenizer
    else:
        tokenizer: Any = source.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError("a static student needs a fast tokenizer, and this model has none: name another `encoder`")
        weights = _token_embeddings(source, tokenizer, backend.get_vocab_size())
    if width is not None and width > weights.shape[1]:
        raise ConfigError(f"a static student of width {width} cannot begin with embeddings {weights.shape[1]} wide")
    weights = weights - weights.mean(axis=0)
    if width is not None and width < weights.shape[1]:
        _, vectors = np.linalg.eigh(weights.T @ weights)
        weights = weights @ vectors[:, ::-1][:, :width]
    own = Tokenizer.from_str(backend.to_str())
    own.no_truncation()
    return StaticEmbedding(own, embedding_weights=torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32)))


@torch.inference_mode()
def _token_embeddings(source: SentenceTransformer, tokenizer: Any, size: int) -> np.ndarray:
    """(v, d) float32, each token between the tokenizer's special ones; zeros for tokens that the model does not know."""
    table = getattr(source[0], "model", None)
    known = size
    if isinstance(table, PreTrainedModel):
        known = min(size, len(cast(Any, table.get_input_embeddings()).weight))
    special = tokenizer("")["input_ids"]
    before, after = special[:1], special[1:]
    modules = [module for module in source if not isinstance(module, Normalize)]
    out = []
    for start in range(0, known, _TOKEN_BATCH):
        ids = torch.tensor([[*before, token, *after] for token in range(start, min(known, start + _TOKEN_BATCH))])
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        features = {name: value.to(source.device) for name, value in features.items()}
        for module in modules:
            features = module(features)
        out.append(features["sentence_embedding"].float().cpu().numpy())
    embeddings = np.concatenate(out)
    return np.concatenate([embeddings, np.zeros((size - known, embeddings.shape[1]), dtype=np.float32)])


# --- training ------------------------------------------------------------------------------------------------------


class ProjectedStudent(nn.Module):
    """A student with what it needs in training: its projection to the teacher's width and a learned temperature.

    Args:
        encoder: as `build_student` gives it.
        teacher_width: t, or None where there is nothing to be projected to (stage 2).
        config: whether it is projected, and the further widths of its embedding.
        temperature: what the learned one begins with; None learns none.

    Raises:
        ConfigError: a width that is not below the student's, or widths that differ without a projection.
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        config: EmbeddingStudentConfig,
        *,
        teacher_width: int | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.shape = config  # not `config`: the trainer would take it for that of a transformer
        self.width = encoder_width(encoder)
        wide = [width for width in config.matryoshka if width >= self.width]
        if wide:
            raise ConfigError(f"`matryoshka` widths must be below the student's {self.width}, not {wide}")
        self.widths = (self.width, *config.matryoshka)
        self.projection: nn.Linear | None = None
        if teacher_width is not None and self._needs_projection(teacher_width):
            self.projection = nn.Linear(self.width, teacher_width)
            nn.init.orthogonal_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)
        self.log_scale = None if temperature is None else nn.Parameter(-torch.tensor(float(temperature)).log())

    def _needs_projection(self, teacher_width: int) -> bool:
        wanted = self.shape.projection
        if wanted == "none" and teacher_width != self.width:
            raise ConfigError(
                f"the student is {self.width} wide and its teacher {teacher_width}: set `student.projection` to drop or keep"
            )
        # A beginning of the embedding needs a map of its own to the teacher's width.
        return wanted in ("drop", "keep") or (
            wanted == "auto" and (teacher_width != self.width or len(self.widths) > 1)
        )

    @torch.no_grad()
    def fit_projection(self, own: np.ndarray, teacher: np.ndarray) -> None:
        """Starts the projection at the rotation that brings (n, d) embeddings of the student nearest to the teacher's
        (n, t), both at length one (Schoenemann 1966); a rotation keeps the student's own cosines.
        """
        if self.projection is None:
            return
        parts = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (own, teacher)]
        left, _, right = np.linalg.svd(parts[0].astype(np.float64).T @ parts[1].astype(np.float64), full_matrices=False)
        self.projection.weight.copy_(torch.from_numpy((left @ right).T))

    def forward(
        self, chunks: Sequence[dict[str, torch.Tensor]], restore: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor | None]:
        """The embeddings of a batch's texts.

        Args:
            chunks: features of texts of like length, which together are the u texts, sorted by length.
            restore: (n,) which of them each row is.

        Returns:
            (n, d) embeddings; for each width of the student's, those projected to (n, t), or the embedding itself cut
            where there is no projection; the learned temperature, a tensor of one, or None.
        """
        # `encoder(features)` adds to what it is given.
        found = torch.cat([self.encoder(dict(chunk))["sentence_embedding"] for chunk in chunks])
        embeddings = found.float().index_select(0, restore)
        projected = []
        for width in self.widths:
            part = embeddings[:, :width]
            if self.projection is not None:
                weight = self.projection.weight[:, :width]
                part = nn.functional.linear(part, weight, self.projection.bias)
            projected.append(part)
        return embeddings, projected, None if self.log_scale is None else (-self.log_scale).exp()

    def assembled(self) -> SentenceTransformer:
        """The student as it is used: the same weights as a plain `SentenceTransformer`, on the same device."""
        modules: list[nn.Module] = list(self.encoder)
        if self.projection is not None and self.shape.projection == "keep":
            dense = Dense(self.width, self.projection.out_features, activation_function=nn.Identity())
            dense.linear = self.projection
            modules.append(dense)
        if self.shape.normalize:
            modules.append(Normalize())
        made = SentenceTransformer(modules=modules, device=str(self.encoder.device))
        return made


def trained_body(folder: str | Path) -> SentenceTransformer:
    """A saved student on the CPU without its module that normalises, to be trained on.

    Raises:
        ModelError: it cannot be loaded.
    """
    modules = [module for module in load_sentence_encoder(folder, device="cpu") if not isinstance(module, Normalize)]
    if isinstance(modules[0], Transformer):
        _rest_unused(cast(Any, modules[0].model), modules[0].tokenizer)
    return SentenceTransformer(modules=modules, device="cpu")
