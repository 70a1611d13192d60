"""What an encoder must be able to do to serve a student, tried on it before anything is built from it.

Families differ in more ways than their configurations say; a forward pass says it exactly.

Shape legend: t tokens; h width of the encoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from distilmatch.concurrency import evaluation_view
from distilmatch.errors import ModelError
from distilmatch.pretrained.sentence import first_line, input_embeddings
from distilmatch.pretrained.tokenizers import pad_id

_MOST_TOKENS = 1024  # of the text whose end is looked for
_SHORT = 8
_LEAK = 1e-3  # of the outputs' spread: what padding may change them by, far above rounding
_ADVICE = "name an encoder that reads a text in both directions, such as all-MiniLM-L6-v2 or one of the BERT kind"


def check_encoder(name: str, encoder: nn.Module, tokenizer: Any, max_length: int) -> None:
    """Refuses an encoder whose output tokens a student cannot use.

    Args:
        name: what messages call it.
        encoder: with the layers that are kept, on any device.
        max_length: tokens that the student reads of a text.

    Raises:
        ModelError: it gives no output tokens, ones of another width or not finite; its first tokens do not see the end of a
            text; or the padding of a batch changes them.
    """
    view = evaluation_view(encoder)
    tokens = _some_tokens(encoder, tokenizer, max(2, min(max_length, _MOST_TOKENS)))
    with torch.no_grad():
        outputs = _outputs(name, view, tokens)
        other = tokens.clone()
        other[0, -1] = tokens[0, 0]
        if torch.equal(outputs[0, 0], _outputs(name, view, other)[0, 0]):
            raise ModelError(
                f"{name} ({type(encoder).__name__}): the first token of a text does not see its end, as in decoders, which read "
                f"from left to right, or where the attention is narrow: {_ADVICE}"
            )
        short = tokens[:, : max(1, min(_SHORT, max_length // 2))]
        alone = _outputs(name, view, short)
        padded = torch.cat([short, torch.full_like(short, pad_id(tokenizer))], 1)
        beside = _outputs(name, view, padded, real=short.shape[1])[:, : short.shape[1]]
        if float((alone - beside).abs().max()) > _LEAK * max(float(alone.std(correction=0)), _LEAK):
            raise ModelError(
                f"{name} ({type(encoder).__name__}): what it makes of a text depends on the padding of its batch, so that "
                f"a score would depend on the texts beside it: {_ADVICE}"
            )


def unused_weights(encoder: nn.Module, tokenizer: Any) -> list[str]:
    """Names of the weights that no output token teaches anything; data parallel training would wait for their gradients."""
    view: Any = evaluation_view(encoder)
    tokens = _some_tokens(encoder, tokenizer, _SHORT)
    weights = dict(encoder.named_parameters())
    named = [(name, weight) for name, weight in weights.items() if weight.requires_grad]
    with torch.enable_grad():
        outputs = view(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        gradients = torch.autograd.grad(outputs.float().sum(), [weight for _, weight in named], allow_unused=True)
    taught = {name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is not None}
    return [name for name in weights if name not in taught]


def as_buffers(module: nn.Module, names: list[str]) -> None:
    """Turns weights into buffers: they are saved and loaded as before, and no optimiser or DDP sees them.

    Raises:
        ModelError: there is no weight of such a name.
    """
    for name in names:
        place, _, last = name.rpartition(".")
        try:
            owner = module.get_submodule(place)
            weight = owner._parameters.pop(last)
        except (AttributeError, KeyError):
            raise ModelError(f"`unused_weights` of the config names {name!r}, the model has no such weight") from None
        assert weight is not None
        owner.register_buffer(last, weight.detach())


def _some_tokens(encoder: nn.Module, tokenizer: Any, count: int) -> torch.Tensor:
    """(1, count) int64 tokens of the vocabulary that are not special, the first and the last different."""
    table: Any = input_embeddings(encoder)
    size = min(len(tokenizer), getattr(table, "num_embeddings", len(tokenizer)))
    special = {*tokenizer.all_special_ids, pad_id(tokenizer)}
    plain = torch.tensor([token for token in range(size) if token not in special])
    if len(plain) < 2:
        plain = torch.arange(size)
    draw = torch.Generator().manual_seed(0)
    tokens = plain[torch.randint(len(plain), (1, count), generator=draw)]
    tokens[0, 0], tokens[0, -1] = plain[0], plain[-1]
    return tokens.to(next(encoder.parameters()).device)


def _outputs(name: str, encoder: Any, tokens: torch.Tensor, real: int | None = None) -> torch.Tensor:
    """(1, t, h) output tokens, checked."""
    mask = torch.ones_like(tokens)
    if real is not None:
        mask[:, real:] = 0
    try:
        outputs = encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
    except Exception as error:  # each family fails in its own way
        raise ModelError(
            f"{name} ({type(encoder).__name__}): it does not encode a text of {tokens.shape[1]} tokens "
            f"({type(error).__name__}: {first_line(error)}): {_ADVICE}"
        ) from error
    expected = (*tokens.shape, int(encoder.config.hidden_size))
    if not isinstance(outputs, torch.Tensor) or tuple(outputs.shape) != expected:
        shape = tuple(getattr(outputs, "shape", ()))
        raise ModelError(
            f"{name} ({type(encoder).__name__}): its outputs are {shape}, not a vector a token {expected}: {_ADVICE}"
        )
    if not torch.isfinite(outputs).all():
        raise ModelError(
            f"{name}: the encoder gives numbers that are not finite; its weights are damaged: copy it again"
        )
    return outputs.float()
