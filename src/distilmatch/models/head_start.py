"""A head that starts as the encoder's own last layers, instead of from random weights.

The layers that follow the kept ones already read the tokens that the kept ones write. Where the head has the
encoder's shape they are copied; a narrower head gets them cut: its inputs and outputs projected on the principal
components of the tokens it will see, the attention heads and neurons that move most kept. The paper starts its head
from random weights (DiPair, section 3.4); this start is ours, measured in `docs/log.md`.

Shape legend: n tokens; h width of the encoder; d of the head; e of one attention head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from distilmatch.concurrency import evaluation_view
from distilmatch.data.tokenising import pad_batch, token_ids
from distilmatch.models.heads import HeadLayer, TransformerHead
from distilmatch.pretrained.layers import PretrainedLayer
from distilmatch.pretrained.tokenizers import pad_id

_SAMPLED_WORDS = 32
_SAMPLED_LENGTH = 64
_SAMPLED_TEXTS = 256


@torch.no_grad()
def sampled_outputs(encoder: nn.Module, tokenizer: Any, max_length: int, texts: Sequence[str] = ()) -> torch.Tensor:
    """(n, h) output tokens of an encoder, for the statistics of a start.

    Args:
        encoder: the kept layers.
        max_length: tokens that the student reads of a text.
        texts: a few hundred of the kind that will be scored; without any, words of the vocabulary at random.
    """
    transformer: Any = encoder
    if not texts:
        random = torch.Generator().manual_seed(0)
        chosen = torch.randint(len(tokenizer), (_SAMPLED_TEXTS, _SAMPLED_WORDS), generator=random).tolist()
        texts = [tokenizer.decode(row, skip_special_tokens=True) for row in chosen]
    ids = token_ids(tokenizer, texts[:_SAMPLED_TEXTS], min(_SAMPLED_LENGTH, max_length))
    batch = {name: values.to(transformer.device) for name, values in pad_batch(ids, pad_id(tokenizer)).items()}
    states, mask = evaluation_view(transformer)(**batch).last_hidden_state, batch["attention_mask"]
    return states[mask.bool().to(states.device)].float()


@torch.no_grad()
def start_head(
    head: TransformerHead,
    head_input: Any,
    layers: Sequence[PretrainedLayer],
    outputs: torch.Tensor,
    second_segment: torch.Tensor | None,
) -> None:
    """Gives projection, embeddings and head the weights of pre-trained layers.

    Args:
        head: post-norm, with as many layers as `layers`; its attention heads are as wide as theirs.
        head_input: the `HeadInput` before it.
        layers: those that follow the encoder's kept layers.
        outputs: (n, h) tokens that the kept layers write.
        second_segment: (h,) what the encoder's segment embedding of a second text adds to the first's, or None.
    """
    width, encoder_width = head_input.projection.out_features, outputs.shape[1]
    if width == encoder_width:
        basis, mean = torch.eye(width), torch.zeros(width)
        level = outputs.mean(1)
    else:
        basis, mean = _components(outputs, width)
        level = torch.zeros(len(outputs))
    head_input.projection.weight.zero_()  # word embeddings beside the outputs count for nothing yet
    head_input.projection.weight[:, :encoder_width] = basis.T
    head_input.projection.bias.copy_(-(mean @ basis))
    head_input.position.weight.zero_()
    head_input.segment.weight.zero_()
    if second_segment is not None and len(head_input.segment.weight) > 1:
        head_input.segment.weight[1:] += second_segment @ basis
    # The normalisation of the input should give back what it gets: the tokens have about one level and one spread.
    head_input.norm.weight.fill_(float(((outputs - mean) @ basis).std(1).mean()))
    head_input.norm.bias.fill_(float(level.mean()))
    for number, (target, source) in enumerate(zip(head.layers, layers, strict=True)):
        assert isinstance(target, HeadLayer)
        if width == encoder_width:
            _copy(target, source)
        else:
            offset = mean if number == 0 else layers[number - 1].feed_forward_norm.bias
            _cut(target, source, basis, offset)


def _components(outputs: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    # Principal components, turned at random so that every one of the `width` numbers has about the same variance.
    mean = outputs.mean(0)
    # Fewer tokens than the width have fewer components; any directions across them make up the number.
    _, _, directions = torch.linalg.svd(outputs - mean, full_matrices=len(outputs) < width)
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)))[0]
    return directions[:width].T.contiguous() @ turn, mean


def _copy(target: HeadLayer, source: PretrainedLayer) -> None:
    target.query.load_state_dict(source.query.state_dict())
    target.key_value.weight.copy_(torch.cat([source.key.weight, source.value.weight]))
    target.key_value.bias.copy_(torch.cat([source.key.bias, source.value.bias]))
    target.output.load_state_dict(source.output.state_dict())
    target.attention_norm.load_state_dict(source.attention_norm.state_dict())
    target.feed_forward[0].load_state_dict(source.intermediate.state_dict())
    target.feed_forward[2].load_state_dict(source.feed_forward.state_dict())
    target.feed_forward_norm.load_state_dict(source.feed_forward_norm.state_dict())


def _cut(target: HeadLayer, source: PretrainedLayer, basis: torch.Tensor, offset: torch.Tensor) -> None:
    # Weights that read a token take W (offset + B z) = (W B) z + W offset; those that write one give B^T of it.
    e = target.query.out_features // target.heads
    strength = (source.output.weight.norm(dim=0) * (source.value.weight @ basis).norm(dim=1)).view(-1, e).norm(dim=1)
    chosen = strength.topk(target.heads).indices.sort().values
    rows = (chosen[:, None] * e + torch.arange(e)).flatten()
    key_value_weights, key_value_biases = [], []
    for linear in (source.key, source.value):
        key_value_weights.append(linear.weight[rows] @ basis)
        key_value_biases.append(linear.weight[rows] @ offset + linear.bias[rows])
    target.query.weight.copy_(source.query.weight[rows] @ basis)
    target.query.bias.copy_(source.query.weight[rows] @ offset + source.query.bias[rows])
    target.key_value.weight.copy_(torch.cat(key_value_weights))
    target.key_value.bias.copy_(torch.cat(key_value_biases))
    target.output.weight.copy_(basis.T @ source.output.weight[:, rows])
    target.output.bias.copy_(source.output.bias @ basis)
    target.attention_norm.weight.fill_(float(source.attention_norm.weight.mean()))
    target.attention_norm.bias.zero_()
    inner, outer = target.feed_forward[0], target.feed_forward[2]
    assert isinstance(inner, nn.Linear) and isinstance(outer, nn.Linear)
    strength = source.intermediate.weight.norm(dim=1) * source.feed_forward.weight.norm(dim=0)
    kept = strength.topk(min(inner.out_features, len(strength))).indices
    inner.weight[: len(kept)] = source.intermediate.weight[kept] @ basis
    inner.bias[: len(kept)] = (
        source.intermediate.weight[kept] @ source.attention_norm.bias + source.intermediate.bias[kept]
    )
    outer.weight[:, : len(kept)] = basis.T @ source.feed_forward.weight[:, kept]
    outer.bias.copy_(source.feed_forward.bias @ basis)
    target.feed_forward_norm.weight.fill_(float(source.feed_forward_norm.weight.mean()))
    target.feed_forward_norm.bias.zero_()
