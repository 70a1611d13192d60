"""Compiles every Triton program as its kernel starts it, for a GPU that need not be there: `python triton_compile.py 90`.

The interpreter lets pass what the compiler does not. A process of its own, because one process either interprets or
compiles. Prints a line a program.
"""

from __future__ import annotations

import sys
import types
from typing import Any
from unittest import mock

import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from distilmatch.config.pairs import StudentConfig
from distilmatch.engine.kernels import triton as triton_kernel
from distilmatch.models.heads import make_head
from distilmatch.types import TokenRepresentations

SHAPES: list[tuple[int, dict[str, Any]]] = [
    (1, {"head_similarities": 8, "head_maxsim": 2, "head_gaps": 1}),
    (3, {"head_maxsim": 2}),
    (3, {"head_similarities": 8, "head_maxsim": 2, "lexical": True}),
    (3, {"width": 96, "head_norm": "pre", "head_activation": "relu"}),
    (1, {"head": "feed_forward"}),
    (3, {"head": "feed_forward", "head_activation": "relu"}),
]


def compile_all(capability: int) -> None:
    """Everything that the kernels of `SHAPES` start."""
    compiled = []

    def only_compile(self: Any, grid: Any) -> Any:
        def start(**arguments: Any) -> None:
            kernel = self.run(grid=grid, warmup=True, **arguments)
            compiled.append(f"{self.__name__}: {len(kernel.asm['cubin'])} bytes for sm_{capability}")

        return start

    device = mock.Mock()
    device.get_current_target.return_value = GPUTarget("cuda", capability, 32)
    device.get_current_device.return_value = 0
    triton.runtime.driver.set_active(device)
    with (
        mock.patch.object(JITFunction, "__getitem__", only_compile),
        mock.patch.object(triton_kernel, "_why_not_on", lambda _: None),
    ):
        for labels, shape in SHAPES:
            settings = {"width": 64, "head_heads": 2, "kept_tokens": (3, 5), "head_similarities": 0, "head_maxsim": 0}
            student = StudentConfig(**{**settings, **shape})
            head = make_head(student)
            model: Any = types.SimpleNamespace(
                head=head,
                classifier=nn.Linear(head.features, labels),
                student=student,
                device=torch.device("cpu"),
                task=types.SimpleNamespace(num_labels=labels),
            )
            kernel = triton_kernel.TritonKernel(model)
            sides = []
            for side, kept in enumerate(student.kept_vectors):
                mask = torch.ones(40, kept, dtype=torch.bool)
                texts = TokenRepresentations(torch.randn(40, kept, student.vector_width), mask)
                sides.append(kernel.prepare(texts, side))
            kernel.score_rows(sides, torch.zeros((7, 2), dtype=torch.int64))
            for _ in kernel._blocks(*sides):
                pass
    print("\n".join(compiled))


if __name__ == "__main__":
    compile_all(int(sys.argv[1]))
