"""Views in evaluation mode and tokenizers of one length: what a call needs without changing what another reads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MethodType

import torch
from tokenizers import normalizers
from torch import nn
from transformers import AutoModel, AutoTokenizer

from distilmatch.concurrency import evaluation_view, frozen_tokenizer, own_view


def test_a_model_in_evaluation_mode_is_its_own_view() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).eval()
    assert evaluation_view(model) is model


def test_a_view_shares_tensors_and_leaves_the_mode_alone() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.Dropout(0.5), nn.BatchNorm1d(3), shared)
    model[2].eval()
    view = evaluation_view(model)
    assert [part.training for part in model.modules()] == [True, True, True, False]
    assert not any(part.training for part in view.modules())
    assert view[0] is view[3], "a module that stands twice stays one"
    own = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    assert own == {name: tensor.data_ptr() for name, tensor in view.state_dict().items()}
    inputs = torch.randn(5, 3)
    torch.testing.assert_close(view(inputs), view(inputs))
    with torch.no_grad():
        shared.weight.add_(1.0)  # a step of training is seen
    torch.testing.assert_close(view[0](inputs), shared(inputs))
    view[1].train()
    assert model[1].training and model[2].training is False


def test_a_wrapped_forward_of_a_view_is_the_views_own() -> None:
    class Shift(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs + (1 if self.training else 0)

    model = Shift()
    model.forward = MethodType(Shift.forward, model)  # type: ignore[method-assign]
    assert evaluation_view(model)(torch.zeros(1)).item() == 0
    assert model(torch.zeros(1)).item() == 1


def test_a_view_of_a_transformer_computes_what_eval_does(tiny_encoder: Path) -> None:
    model = AutoModel.from_pretrained(tiny_encoder).train()
    batch = {"input_ids": torch.tensor([[2, 9, 8, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        found = evaluation_view(model)(**batch).last_hidden_state
        assert model.training
        torch.testing.assert_close(found, model.eval()(**batch).last_hidden_state)


def test_tokenizers_of_two_lengths_do_not_meet(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    text = "red car bus train bike plane boat flat house"
    before = tokenizer.backend_tokenizer.to_str()
    wanted = {length: tokenizer(text, truncation=True, max_length=length)["input_ids"] for length in (4, 8)}
    wanted[None] = tokenizer(text)["input_ids"]

    def call(number: int) -> bool:
        length = (4, 8, None)[number % 3]
        limited = {} if length is None else {"truncation": True, "max_length": length}
        found = frozen_tokenizer(tokenizer, length)([text] * 5, padding=False, return_attention_mask=False, **limited)
        return all(ids == wanted[length] for ids in found["input_ids"])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(600)))
    assert tokenizer.backend_tokenizer.to_str() == before
    assert frozen_tokenizer(tokenizer, 4) is frozen_tokenizer(tokenizer, 4)
    tokenizer.add_tokens(["zyzzyva"])
    assert len(frozen_tokenizer(tokenizer, 4)("zyzzyva", truncation=True, max_length=4)["input_ids"]) == 3


def test_a_view_of_what_torch_compile_returned_is_in_evaluation_mode() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    model = nn.Sequential(nn.Linear(4, 4), torch.compile(inner, backend="eager")).train()
    view, inputs = own_view(model), torch.ones(8, 4)
    assert torch.equal(view(inputs), view(inputs)) and torch.equal(view(inputs), evaluation_view(model)(inputs))
    assert inner.training and model.training


def test_a_frozen_tokenizer_follows_changes_of_its_original(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)

    def ids(text: str) -> list[int]:
        return frozen_tokenizer(tokenizer, 4)([text], truncation=True, max_length=4)["input_ids"][0]

    before = ids("the red car")
    tokenizer.truncation_side = "left"
    assert ids("the red car") == tokenizer("the red car", truncation=True, max_length=4)["input_ids"] != before
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("red", "car")
    assert ids("the red car") == tokenizer("the car car", truncation=True, max_length=4)["input_ids"]
