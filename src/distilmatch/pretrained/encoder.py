"""Pre-trained encoders: loaded whole, cut to the layers that a student keeps, and what its head starts from."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from distilmatch.config.pairs import StudentConfig
from distilmatch.errors import ModelError
from distilmatch.pretrained.layers import PretrainedLayer, fits, keep_layers, pretrained_layers
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.positions import position_limit
from distilmatch.pretrained.probe import check_encoder
from distilmatch.pretrained.prompts import saved_prompts
from distilmatch.pretrained.sentence import check_model_folder, first_line, input_embeddings
from distilmatch.pretrained.tokenizers import check_vocabulary, padded_on_the_right
from distilmatch.pretrained.weights import check_finite_weights

logger = logging.getLogger(__name__)


def without_pooler(encoder: nn.Module) -> nn.Module:
    """The encoder without the layer over its first token: only token outputs are read here, and dead weights stop data
    parallel training.
    """
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = nn.Identity()  # not None: some families call it without asking
    return encoder


@dataclass(frozen=True)
class PretrainedEncoder:
    """A pre-trained encoder with all its layers."""

    path: str
    model: PreTrainedModel
    tokenizer: Any

    @classmethod
    def load(cls, name: str | Path) -> PretrainedEncoder:
        """Loads a folder or hub name, in fp32, with its tokenizer; no code of its own is run.

        Raises:
            ConfigError: there is no such folder or hub name.
            ModelError: it cannot be loaded, lacks weights, has another model's tokenizer, or is of a kind that encodes no
                text by itself.
        """
        path = resolve_model(name)
        if Path(path).is_dir():
            check_model_folder(path)
        try:
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            _check_family(path, config)
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model, loading = AutoModel.from_pretrained(
                path,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except ModelError:
            raise
        except Exception as error:  # whatever a stranger's folder makes of it
            raise ModelError(f"cannot load an encoder from {path!r}: {first_line(error)}") from error
        # `pooler` is not read; without it other weights that are missing would be random ones.
        missing = sorted(name for name in loading["missing_keys"] if "pooler" not in name.split("."))
        if missing:
            raise ModelError(
                f"{path!r} lacks {len(missing)} weights of a {type(model).__name__}, such as {missing[0]}: copy it again, or "
                "name another encoder"
            )
        check_finite_weights(path, model.state_dict())
        check_vocabulary(path, tokenizer, input_embeddings(model))
        return cls(path, model, padded_on_the_right(tokenizer))

    def truncated(self, student: StudentConfig) -> PreTrainedModel:
        """The encoder with the layers that the student keeps, without pooler.

        Raises:
            ModelError: it has not so many layers or positions, or does not work with the layers that are left.
        """
        config = copy.deepcopy(self.model.config)
        if student.encoder_layers is not None:
            layers = self._layers()
            if student.encoder_layers > layers:
                raise ModelError(f"{self.path} has {layers} layers, encoder_layers asks for {student.encoder_layers}")
        positions = position_limit(self.model)
        if max(student.max_lengths) > positions:
            raise ModelError(f"{self.path} takes {positions} tokens, max_lengths asks for {max(student.max_lengths)}")
        try:
            if student.encoder_layers is not None:
                keep_layers(config, self._layers(), range(student.encoder_layers))
            encoder = without_pooler(AutoModel.from_config(config, trust_remote_code=False))
            weights = self.model.state_dict()
            encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
        except Exception as error:  # each family fails in its own way
            wanted = "built anew" if student.encoder_layers is None else f"cut to {student.encoder_layers} layer(s)"
            raise ModelError(
                f"{self.path}: a {type(self.model).__name__} cannot be {wanted} ({type(error).__name__}: {first_line(error)}): "
                "leave `encoder_layers` out, or name another encoder"
            ) from error
        check_encoder(self.path, encoder, self.tokenizer, max(student.max_lengths))
        return encoder  # type: ignore[return-value]

    def _layers(self) -> int:
        layers = getattr(self.model.config, "num_hidden_layers", None)
        if not isinstance(layers, int):
            raise ModelError(
                f"{self.path}: a {type(self.model).__name__} does not say how many layers it has: leave `encoder_layers` out"
            )
        return layers


def _check_family(path: str, config: Any) -> None:
    # An encoder that was saved by itself does not say so, and `AutoModel` would put a random decoder beside it.
    if (
        getattr(config, "is_encoder_decoder", False)
        or config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    ):
        raise ModelError(
            f"{path} is a {config.model_type!r} model, an encoder with a decoder; a student reads the tokens of an encoder "
            "alone: name one of the BERT kind, such as all-MiniLM-L6-v2"
        )
    if config.model_type == "dipair":
        raise ModelError(
            f"{path} is a DiPair student already: load it with from_pretrained, or give the folder that its save_encoder writes"
        )


def check_word_vectors(source: PretrainedEncoder, encoder: PreTrainedModel) -> None:
    """Refuses an encoder whose words have no embeddings of the width of its outputs.

    Raises:
        ModelError: it has none, or of another width.
    """
    table = input_embeddings(encoder)
    if table is None or table.embedding_dim != encoder.config.hidden_size:
        width = "none" if table is None else str(table.embedding_dim)
        raise ModelError(
            f"`word_vectors` needs word embeddings as wide as the outputs ({encoder.config.hidden_size}), {source.path} has "
            f"{width}: leave it out, or name another encoder"
        )


def with_prompts(student: StudentConfig, folder: str) -> StudentConfig:
    """The student's shape with the prompts of the encoder's folder, where it leaves them open; said where there are some."""
    if student.prompts is not None:
        return student
    prompts = saved_prompts(folder)
    if prompts is None:
        return student.replaced(prompts=())
    query, document = prompts
    chosen = (query, *[document] * (student.sides - 1))
    sides = ", ".join(f"{name} {prompt!r}" for name, prompt in zip(student.side_names, chosen, strict=True))
    logger.info("prompts of the encoder %s: %s; set `student.prompts` for others, [] for none", folder, sides)
    return student.replaced(prompts=chosen)


def fitted(source: PretrainedEncoder, student: StudentConfig) -> tuple[StudentConfig, list[PretrainedLayer]]:
    """The student's shape with the encoder's numbers filled in, and the layers that its head starts from, if any."""
    config = source.model.config
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(width, int) or not isinstance(heads, int) or not isinstance(layers, int):
        raise ModelError(
            f"{source.path}: a {type(source.model).__name__} does not say its width, its layers and its attention heads: name an "
            "encoder of the BERT kind"
        )
    student = with_prompts(student.for_encoder(width, heads), source.path)
    if student.head_start == "random" or student.head != "transformer":
        return student.replaced(head_start="random"), []
    first = min(student.encoder_layers or layers, layers - student.head_layers)
    start_layers = pretrained_layers(source.model)[first : first + student.head_layers] if first > 0 else []
    if not start_layers or not fits(student, start_layers):
        if student.head_start == "encoder":
            raise ModelError(
                f"a head of {student.head_layers} layer(s), width {student.vector_width}, {student.attention_heads} heads "
                f"cannot start from {source.path} ({layers} layers, width {width}): choose head_start random"
            )
        return student.replaced(head_start="random"), []
    return student.replaced(head_start="encoder"), start_layers
