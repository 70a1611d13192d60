"""The CPU's own kernels, compiled: bf16 products in vectors with the head's small steps between them in registers.

Shape legend: n texts of a side; p pairs; d width; c labels; k kept tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from distilmatch.config.pairs import StudentConfig
from distilmatch.engine.finite import LARGEST_WEIGHT, NotFinite, check_folded
from distilmatch.engine.forking import threads_here, watch_forks
from distilmatch.engine.heads.base import FoldedHead, FoldedTexts
from distilmatch.engine.heads.feed_forward import FoldedFeedForward
from distilmatch.engine.heads.kinds import fold_head
from distilmatch.engine.heads.transformer import FoldedTransformer
from distilmatch.engine.kernels.forms import ArrayForm, Form, PackedForm
from distilmatch.engine.kernels.native_module import native_module, runs_native
from distilmatch.engine.kernels.triton import gpu_here
from distilmatch.engine.ranking import Ranking
from distilmatch.models import DiPair
from distilmatch.models.heads import TransformerHead, make_head
from distilmatch.types import TokenRepresentations

MOST_TOKENS = 1024
_VECTOR, _PANEL = 16, 32

Multiplier = Literal["vector", "amx", "int8", "imitated"]
_UNITS: dict[Multiplier, str] = {
    "vector": "bf16 in vectors (AVX512-BF16)",
    "amx": "bf16 in tiles (AMX)",
    "int8": "int8 in vectors (AVX512-VNNI)",
    "imitated": "AMX, imitated",
}
logger = logging.getLogger(__name__)


@cache
def best_multiplier() -> Multiplier:
    """The matrix unit where the CPU has one and it gives what the vectors give, else the vectors."""
    native = native_module()
    if not runs_native() or not native.has_amx():
        return "vector"
    all_logits = []
    student = StudentConfig(width=64, head_heads=2, kept_tokens=(4, 4), head_similarities=0, head_maxsim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        folded = FoldedTransformer(cast(TransformerHead, make_head(student)), nn.Linear(64, 1))
        texts = TokenRepresentations(torch.randn(100, 4, 64), torch.ones(100, 4, dtype=torch.bool))
    for multiplier in ("vector", "amx"):
        head = _transformer(native, folded, multiplier)
        sides = [_packed(head, folded, folded.fold(texts, side), side) for side in (0, 1)]
        logits = np.empty((100, 1), dtype=np.float32)
        head.score(*sides, np.repeat(np.arange(100, dtype=np.int64)[:, None], 2, axis=1), logits, 1)
        all_logits.append(logits)
    if np.allclose(all_logits[0], all_logits[1], atol=0.02):
        return "amx"
    logger.warning("this CPU's matrix unit (AMX) gives other scores than its vectors: the vectors are used")
    return "vector"


def why_not_native_here() -> str | None:
    """Why the native kernels cannot run on this machine, or None where they can."""
    if native_module() is None:
        return "the package was installed without its compiled kernels (no compiler, or not x86-64)"
    return None if runs_native() else "this CPU does not multiply bf16 numbers (AVX512-BF16)"


def kernel_here() -> str:
    """The fastest kernel that this machine has, and why it is no faster one; a line for people."""
    return gpu_here() or cpu_kernel_here()


def cpu_kernel_here() -> str:
    """As `kernel_here`, for models on the CPU."""
    reason = why_not_native_here()
    if reason is not None:
        return f"torch: {reason}"
    return "native: " + _UNITS[best_multiplier()]


def why_not_native(model: DiPair) -> str | None:
    """Why the native kernels cannot score this model here, or None where they can."""
    here = why_not_native_here()
    if here is not None:
        return here
    student = model.student
    if student.sides != 2:
        return f"the model has {student.sides} sides, the native kernels do two"
    for name, tensor in head_weights(model).items():
        if not bool(tensor.abs().max() < LARGEST_WEIGHT):
            return (
                f"the weights {name} hold numbers above {LARGEST_WEIGHT:g}, with which the native kernels may overflow"
            )
    folded = fold_head(model.head, model.classifier)
    if isinstance(folded, FoldedTransformer):
        return _why_not_transformer(folded, student)
    if isinstance(folded, FoldedFeedForward):
        return _why_not_feed_forward(folded, student, model.task.num_labels)
    return f"there is no native kernel for a {student.head} head"


def _why_not_transformer(folded: FoldedTransformer, student: StudentConfig) -> str | None:
    if len(folded.layers) != 1:
        return f"the head has {len(folded.layers)} layers, the native kernels do one"
    width, heads = student.vector_width, student.attention_heads
    hidden = student.head_intermediate or 4 * width
    if width % _PANEL or hidden % _PANEL or (width // heads) % _VECTOR:
        return (
            f"widths of {width}, {width // heads} a head and {hidden} between are no multiples of {_PANEL}, "
            f"{_VECTOR} and {_PANEL}"
        )
    return f"more than {MOST_TOKENS} kept tokens" if max(student.kept_tokens) > MOST_TOKENS else None


def _why_not_feed_forward(folded: FoldedFeedForward, student: StudentConfig, labels: int) -> str | None:
    if student.head_layers != 1:
        return f"the feed-forward head has {student.head_layers} hidden layers, the native kernels do one"
    if folded.products is not None and labels > 1:
        return f"a feed-forward head compares texts for {labels} labels, the native kernels do one"
    if folded.products is not None and student.vector_width % _VECTOR:
        return f"a width of {student.vector_width} is no multiple of {_VECTOR}"
    hidden = student.head_intermediate or student.vector_width
    return f"a hidden width of {hidden} is no multiple of {_VECTOR}" if hidden % _VECTOR else None


def head_weights(model: DiPair) -> dict[str, torch.Tensor]:
    """The tensors that a scorer computes with, by name."""
    modules = (("head", model.head), ("classifier", model.classifier))
    named = {f"{prefix}.{name}": tensor for prefix, module in modules for name, tensor in module.state_dict().items()}
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point() and tensor.numel()}


def why_not_native_int8(model: DiPair) -> str | None:
    """Why the native int8 kernel cannot score this model here, or None where it can."""
    reason = why_not_native(model)
    if reason is None and not native_module().has_bytes():
        reason = "this CPU does not multiply bytes in vectors (AVX512-VNNI)"
    if reason is None and not isinstance(model.head, TransformerHead):
        reason = f"a {model.student.head} head has no matrix product that int8 would make faster"
    return reason


def _array(tensor: torch.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else np.ascontiguousarray(tensor.detach().float().cpu().numpy())


class NativeKernel:
    """One-layer transformer heads and feed-forward heads of two sides, in bf16 and fp32 on the CPU."""

    name: str = "native"
    pairs_a_call: int = 2**20
    most_pairs_a_call: int = 2**20

    def __init__(self, model: DiPair, threads: int | None = None, multiplier: Multiplier | None = None) -> None:
        """Packs the head's weights.

        Args:
            threads: PyTorch's number of threads where it is None.
            multiplier: of a transformer head; None for the fastest in bf16 that this CPU has.
        """
        reason = why_not_native(model)
        assert reason is None, reason
        if multiplier == "int8":
            self.name = "native-int8"
        watch_forks()
        self.native = native_module()
        self._threads = threads or torch.get_num_threads()
        self.labels = model.task.num_labels
        self.multiplier: Multiplier = multiplier or best_multiplier()
        self.folded: FoldedHead = fold_head(model.head, model.classifier)
        if isinstance(self.folded, FoldedTransformer):
            self.head = _transformer(self.native, self.folded, self.multiplier)
            self.form: Form = PackedForm(self.native)
        else:
            head = cast(FoldedFeedForward, self.folded)
            use_gelu = model.student.head_activation == "gelu"
            self.pairs_a_call = self.most_pairs_a_call = 2**25
            if self.labels == 1:  # whose bounds are made anew in each call
                self.most_pairs_a_call = 2**32
            self.form = ArrayForm()
            products = 0 if head.products is None else head.products.weights.shape[2]
            self.head = self.native.FeedForwardHead(use_gelu, _array(head.read), _array(head.classifier.bias), products)

    @property
    def threads(self) -> int:
        """How many compute: one in a process that was forked, whose other threads are gone."""
        return threads_here(self._threads)

    @property
    def unit(self) -> str:
        """What multiplies, for people."""
        if isinstance(self.folded, FoldedFeedForward):
            return "fp32 in vectors (AVX-512)"
        return _UNITS[self.multiplier]

    @property
    def skipped_pairs(self) -> int:
        """As `Kernel.skipped_pairs`; of a feed-forward head with one label."""
        return 0 if isinstance(self.folded, FoldedTransformer) else int(self.head.left_out)

    def prepare(self, texts: TokenRepresentations, side: int) -> Any:
        """As `Kernel.prepare`."""
        folded = self.folded.fold(texts.to("cpu", torch.float32), side)
        check_folded(folded)
        if isinstance(self.folded, FoldedTransformer):
            return _packed(self.head, self.folded, folded, side)
        products = cast(FoldedFeedForward, self.folded).products
        if products is None:
            return _array(folded["summand"])
        # The products' weights go with the left side's numbers.
        similar = folded["similar"].float()
        return _array(torch.cat([folded["summand"], similar * products.weights[0, 0] if side == 0 else similar], 1))

    def pairs(self, sides: Sequence[Any], rows: np.ndarray) -> np.ndarray:
        """As `Kernel.pairs`."""
        logits = np.empty((len(rows), self.labels), dtype=np.float32)
        self.head.score(*sides, np.ascontiguousarray(rows), logits, self.threads)
        return logits

    def best_rows(self, rows: int, k: int, first: int = 0) -> Any:
        """As `Kernel.best_rows`."""
        return self.native.TopK(rows, k, first)

    def top_k(
        self, left: Any, right: Any, ranking: Ranking, of_left: Any, of_right: Any, offsets: tuple[int, int]
    ) -> None:
        """As `Kernel.top_k`."""
        what = (ranking.by, ranking.label, list(ranking.values))
        with _named_pairs():
            self.head.top_k(left, right, *what, of_left, of_right, *offsets, self.threads)

    def above(
        self, left: Any, right: Any, ranking: Ranking, threshold: float, offsets: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Kernel.above`."""
        what = (ranking.by, ranking.label, list(ranking.values))
        with _named_pairs():
            rows, scores = self.head.above(left, right, *what, threshold, *offsets, self.threads)
        return rows, scores


@contextmanager
def _named_pairs() -> Iterator[None]:
    # The module's error holds the numbers of the first pair without a score.
    try:
        yield
    except FloatingPointError as error:
        raise NotFinite(*map(int, error.args)) from None


def _transformer(native: Any, folded: FoldedTransformer, multiplier: Multiplier) -> Any:
    layer = folded.layers[0]
    expand, activation, contract = layer.feed_forward
    inner, outer = layer.attention_norm, layer.feed_forward_norm
    if layer.pre_norm:
        inner, outer = layer.feed_forward_norm, cast(nn.LayerNorm, folded.final_norm)
    weights = (layer.output.weight, expand.weight, expand.bias, contract.weight, contract.bias)
    norms = (inner.weight, inner.bias, outer.weight, outer.bias, folded.read, folded.bias)
    return native.TransformerHead(
        multiplier,
        layer.heads,
        isinstance(activation, nn.GELU),
        layer.pre_norm,
        inner.eps,
        outer.eps,
        *map(_array, (*weights, *norms)),  # type: ignore[arg-type]
    )


def _packed(head: Any, kind: FoldedTransformer, texts: FoldedTexts, side: int) -> Any:
    mask = np.ascontiguousarray(texts["mask"].numpy())
    compared = [_array(texts.get(name)) for name in ("tokens", f"weights_{1 - side}", f"gaps_{1 - side}")]
    if side == 1:
        return head.pack_right(
            mask, _array(texts["key"]), _array(texts["value"]), _array(texts.get("similar")), *compared
        )
    attention = [_array(texts[name]) for name in ("query", "own_top", "own_sum", "own_mixed", "residual")]
    return head.pack_left(mask, *attention, _array(kind.weighted_similar(texts)), *compared)
