"""Gathered rows and their gradients against plain indexing."""

from __future__ import annotations

import pytest
import torch

from distilmatch.models import gathering
from distilmatch.models.gathering import gather


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 4), (1, 2, 2, 3)])
@pytest.mark.parametrize("tuples", [0, 1, 9])
@pytest.mark.parametrize("most", [0, 4096])
def test_rows_and_gradients_equal_plain_indexing(
    shape: tuple[int, ...], tuples: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_MOST_ROWS", most)
    torch.manual_seed(0)
    tensor = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    rows = torch.randint(0, shape[0], (tuples,))
    weights = torch.randn(tuples, *shape[1:], dtype=torch.float64)
    found = gather(tensor, rows)
    assert torch.equal(found, tensor[rows])
    (got,) = torch.autograd.grad((found * weights).sum(), tensor)
    (expected,) = torch.autograd.grad((tensor[rows] * weights).sum(), tensor)
    torch.testing.assert_close(got, expected)
    assert not gather(tensor.detach(), rows).requires_grad


def test_a_gradient_in_bf16_is_added_in_full_precision() -> None:
    tensor = torch.zeros(1, 4, dtype=torch.bfloat16, requires_grad=True)
    rows = torch.zeros(1000, dtype=torch.int64)
    gather(tensor, rows).float().mul(0.01).sum().backward()
    assert tensor.grad is not None
    torch.testing.assert_close(tensor.grad.float(), torch.full((1, 4), 10.0), rtol=1e-2, atol=0)
