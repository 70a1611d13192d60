"""Sentence encoders by name: sentence-transformers folders and hub names, and transformers with a pooling put on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from distilmatch.errors import ModelError
from distilmatch.fingerprint import fingerprint, fingerprint_tensors, fingerprint_tokenizer
from distilmatch.runtime import pick_device, resolve_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

UNLIMITED = 1_000_000  # tokens: so many or more are no limit; tokenizers without one name absurdly large numbers

# What a configuration says that no embedding depends on.
_NOT_A_SETTING = frozenset(
    ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id")
    + ("sentence_transformers", "use_cache", "problem_type", "_attn_implementation", "_commit_hash")
)


def load_sentence_encoder(
    name: str | Path, *, pooling: str = "auto", device: str | torch.device | None = None
) -> SentenceTransformer:
    """A `SentenceTransformer` in fp32 and evaluation mode.

    Args:
        name: a sentence-transformers folder or hub name; or a transformer, on which a pooling is put.
        pooling: "auto" is the model's own, the mean where it has none; "mean", "cls", "max" or "lasttoken" take the
            model's transformer alone and pool it so.

    Raises:
        ConfigError: no such folder or device.
        ModelError: the model cannot be loaded, has another model's tokenizer, or no transformer to pool.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    path = resolve_model(name)
    target = device if isinstance(device, torch.device) else pick_device(device)
    try:
        model = SentenceTransformer(path, device=str(target), model_kwargs={"dtype": torch.float32})
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"cannot load {str(name)!r} as a sentence encoder: {first_line} Give a sentence-transformers folder, that of "
            "a transformer, or the name of one on the Hugging Face hub"
        ) from error
    _check_vocabulary(name, model)
    if pooling != "auto":
        first = model[0]
        if not isinstance(first, Transformer):
            raise ModelError(
                f"{str(name)!r} is a {type(first).__name__} model, which has no tokens to pool by {pooling}"
            )
        width = first.get_embedding_dimension()
        model = SentenceTransformer(modules=[first, Pooling(width, pooling_mode=pooling)], device=str(target))
    return model.eval()


def _check_vocabulary(name: str | Path, model: SentenceTransformer) -> None:
    table = getattr(getattr(model[0], "model", None), "get_input_embeddings", lambda: None)()
    tokenizer: Any = getattr(model[0], "tokenizer", None)
    if not isinstance(table, torch.nn.Embedding) or not hasattr(tokenizer, "get_vocab"):
        return
    # Some tokenizers add special tokens that their model has no embeddings for and no text leads to.
    added = tokenizer.get_added_vocab()
    highest = max((number for token, number in tokenizer.get_vocab().items() if token not in added), default=0)
    if highest >= table.num_embeddings:
        raise ModelError(
            f"the tokenizer of {str(name)!r} is another model's: its tokens go up to {highest}, the model has embeddings for "
            f"{table.num_embeddings}. Save the model again with the tokenizer that it was trained with"
        )


def position_limit(model: nn.Module) -> int:
    """How many tokens the model has positions for; `UNLIMITED` where it has no table of them.

    Args:
        model: a transformer, or a module with one in it; its `config` is asked where it has no such table.
    """
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            # RoBERTa's kin number positions from the padding index on.
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return int(getattr(getattr(model, "config", None), "max_position_embeddings", None) or UNLIMITED)


def encoder_width(model: SentenceTransformer) -> int:
    """How many numbers an embedding has.

    Raises:
        ModelError: the model does not say.
    """
    width = model.get_embedding_dimension()
    if width is None:
        raise ModelError("the model does not say how wide its embeddings are: end it with a Pooling or Dense module")
    return int(width)


def encoder_fingerprint(model: SentenceTransformer, **settings: Any) -> str:
    """A hash of all that an embedding depends on besides the text: weights, tokenizer, modules and `settings`."""
    config = getattr(model[0], "config", None)
    shape = config.to_dict() if config is not None else {}
    tokenizer = model.tokenizer
    # A static encoder has a bare `tokenizers.Tokenizer`.
    known = tokenizer.to_str() if hasattr(tokenizer, "to_str") else fingerprint_tokenizer(tokenizer)
    return fingerprint(
        "sentence encoder",
        fingerprint_tensors(model.state_dict()),
        known,
        [[type(module).__name__, repr(getattr(module, "get_config_dict", dict)())] for module in model.children()],
        {name: repr(value) for name, value in shape.items() if name not in _NOT_A_SETTING},
        {
            "prompts": repr(model.prompts),
            "prompt": repr(model.default_prompt_name),
            "truncated": repr(model.truncate_dim),
        },
        repr(model.max_seq_length),
        settings,
    )
