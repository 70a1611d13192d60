"""Wild calls into the compiled module, in processes of their own: of odd types, shapes, numbers and orders of calls.

    python -m tests.engine.wild_calls --calls 2000 --seed 0

prints JSON: how many calls were made, refused, answered, and how many ended their process. A call is printed before it is made,
so that the last line of a process that died names it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_BATCH = 250
_ODD_NUMBERS = (
    -1,
    0,
    1,
    2,
    7,
    16,
    32,
    1024,
    1025,
    4000,
    2**31 - 1,
    2**31,
    2**32,
    -(2**31),
    2**53,
    2**62,
    2**63 - 1,
    -(2**63),
    2**64,
)
_ODD_VALUES: tuple[Any, ...] = (
    None,
    "",
    "logit",
    1.5,
    float("nan"),
    float("inf"),
    -1e308,
    [],
    [1.0],
    b"x",
    True,
    {},
    object,
)
_WIDTH, _HEADS, _HIDDEN, _LABELS, _TEXTS, _KEPT = 32, 2, 64, 2, 5, 3


def _array(draw: random.Random, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    made = np.random.default_rng(draw.randrange(2**32)).normal(size=shape)
    return (made > -0.5) if dtype is bool else made.astype(dtype)


def _spoiled(draw: random.Random, array: np.ndarray) -> Any:
    """An array that is not quite, or not at all, what it was."""
    kind = draw.randrange(16)
    if kind == 0:
        return array.astype(draw.choice([np.float64, np.int8, np.int64, np.complex64, bool, object]))
    if kind == 1:
        return array[..., ::-1]
    if kind == 2:
        return np.asfortranarray(array)
    if kind == 3:
        return array[: max(0, len(array) - 1)]
    if kind == 4:
        return np.concatenate([array, array])
    if kind == 5:
        return array.ravel()
    if kind == 6:
        return array[None]
    if kind == 7:
        return np.empty((draw.choice([0, 2**20]), 0, *array.shape[1:]), array.dtype)
    if kind == 8:
        return np.empty(draw.choice([(), (0,), (0, 2), (2**40, 0), (1, 2, 3, 4)]), array.dtype)
    if kind == 9:
        whole = array.copy()
        whole.flat[: max(1, whole.size // 2)] = draw.choice([np.nan, np.inf, 3e38, 0]) if array.dtype.kind == "f" else 0
        return whole
    if kind == 10:
        whole = array.copy()
        whole.setflags(write=False)
        return whole
    if kind == 11:
        return array.tolist()
    if kind == 12:
        return np.broadcast_to(array[:1], array.shape)
    if kind == 13:
        return array.astype(">f4")
    if kind == 14:
        return np.full(array.shape, draw.choice([-1, 10**6, -(2**63), 2**62])).astype(array.dtype)
    return draw.choice(_ODD_VALUES)


class Wild:
    """Draws calls; what calls gave before is given to later ones, whatever it is of."""

    def __init__(self, native: Any, seed: int) -> None:
        self.native, self.draw = native, random.Random(seed)
        self.parts = self.draw.random() < 0.6, self.draw.random() < 0.6
        self.made: dict[str, list[Any]] = {name: [] for name in ("heads", "feeds", "lefts", "rights", "tops")}
        self.calls: list[Callable[[], tuple[str, Any, dict[str, Any]]]] = [
            self._head, self._feed, self._left, self._left, self._right, self._right, self._top, self._add, self._best,
            self._score, self._score, self._top_k, self._top_k, self._above, self._feed_score, self._feed_score,
            self._feed_top_k, self._feed_above, self._rate, self._bare, self._part, self._opened, self._opened, self._room,
            self._put, self._restore,
        ]  # fmt: skip

    def _number(self, usual: int) -> Any:
        if self.draw.random() < 0.92:
            return usual
        return self.draw.choice(_ODD_NUMBERS if self.draw.random() < 0.8 else _ODD_VALUES)

    def _mostly(self, usual: int, *odd: int) -> int:
        return usual if self.draw.random() < 0.85 else self.draw.choice(odd)

    def _some(self, kind: str) -> Any:
        known = self.made[kind]
        if not known or self.draw.random() < 0.03:
            every = [one for several in self.made.values() for one in several]
            return self.draw.choice([*_ODD_VALUES, *every])
        return self.draw.choice(known)

    def _maybe(self, array: np.ndarray, share: float = 0.04) -> Any:
        return _spoiled(self.draw, array) if self.draw.random() < share else array

    def _head(self) -> tuple[str, Any, dict[str, Any]]:
        d = self._mostly(_WIDTH, 64, 96, 16, 0, 48)
        f, c = self._mostly(_HIDDEN, 32, 33, 0), self._mostly(_LABELS, 1, 3, 0)
        shapes = {
            "output": (d, d), "expand": (f, d), "expand_bias": (f,), "contract": (d, f), "contract_bias": (d,),
            "inner_norm": (d,), "inner_norm_bias": (d,), "outer_norm": (d,), "outer_norm_bias": (d,), "read": (c, d),
            "read_bias": (c,),
        }  # fmt: skip
        arrays = {name: self._maybe(_array(self.draw, shape), 0.03) for name, shape in shapes.items()}
        multiplier = self.draw.choice(["vector", "vector", "imitated", "int8", "amx", "none"])
        settings = dict(use_gelu=self.draw.random() < 0.5, pre_norm=self.draw.random() < 0.5)
        settings |= dict(inner_epsilon=self._number(1), outer_epsilon=1e-5)
        return (
            "heads",
            self.native.TransformerHead,
            dict(multiplier=multiplier, heads=self._number(_HEADS), **settings, **arrays),
        )

    def _feed(self) -> tuple[str, Any, dict[str, Any]]:
        hidden, c = self._mostly(_HIDDEN, 16, 0, 17), self._mostly(_LABELS, 1, 0)
        read, bias = self._maybe(_array(self.draw, (c, hidden))), self._maybe(_array(self.draw, (c,)))
        return "feeds", self.native.FeedForwardHead, dict(use_gelu=self.draw.random() < 0.5, read=read, read_bias=bias)

    def _shape(self) -> tuple[int, int]:
        return self._mostly(_TEXTS, 0, 1, 40), self._mostly(_KEPT, 1, 8, 17, 1024, 1025, 0)

    def _parts(self, n: int, k: int, own: tuple[int, ...]) -> dict[str, Any]:
        mask = _array(self.draw, (n, k), bool)
        if self.draw.random() < 0.9 and k:
            mask[:, 0] = True
        with_tokens, with_similar = self.parts if self.draw.random() < 0.95 else (True, False)
        return dict(
            mask=self._maybe(mask, 0.05),
            similar=self._maybe(_array(self.draw, own)) if with_similar else None,
            tokens=self._maybe(_array(self.draw, (n, k, _WIDTH))) if with_tokens else None,
            token_weights=self._maybe(_array(self.draw, (n, k, _LABELS))) if with_tokens else None,
            token_gaps=self._maybe(_array(self.draw, (n, k, _LABELS))) if with_tokens else None,
        )

    def _left(self) -> tuple[str, Any, dict[str, Any]]:
        n, k = self._shape()
        rest = {
            "query": (n, _WIDTH), "own_top": (n, _HEADS), "own_sum": (n, _HEADS), "own_mixed": (n, _WIDTH),
            "residual": (n, _WIDTH),
        }  # fmt: skip
        arrays = {name: self._maybe(_array(self.draw, shape), 0.05) for name, shape in rest.items()}
        return "lefts", _method(self._some("heads"), "pack_left"), self._parts(n, k, (n, _LABELS, _WIDTH)) | arrays

    def _right(self) -> tuple[str, Any, dict[str, Any]]:
        n, k = self._shape()
        arrays = {name: self._maybe(_array(self.draw, (n, k, _WIDTH)), 0.05) for name in ("key", "value")}
        return "rights", _method(self._some("heads"), "pack_right"), self._parts(n, k, (n, _WIDTH)) | arrays

    def _top(self) -> tuple[str, Any, dict[str, Any]]:
        rows, k = self._mostly(40, _TEXTS, 0, 1), self.draw.choice([1, 3, 7])
        return "tops", self.native.TopK, dict(rows=self._number(rows), k=self._number(k))

    def _add(self) -> tuple[str, Any, dict[str, Any]]:
        scores = self._maybe(_array(self.draw, (self.draw.choice([1, 3, 5]), self.draw.choice([1, 20, 0]))), 0.3)
        return "", _method(self._some("tops"), "add"), dict(
            first_row=self._number(0), scores=scores, first_column=self._number(0), threads=self._number(1)
        )  # fmt: skip

    def _best(self) -> tuple[str, Any, dict[str, Any]]:
        return "", _method(self._some("tops"), "best"), {}

    def _restore(self) -> tuple[str, Any, dict[str, Any]]:
        shape = self.draw.choice([40, 5, 1]), self.draw.choice([1, 3, 7])
        ids = self._maybe(_array(self.draw, shape, np.int64), 0.2)
        return (
            "",
            _method(self._some("tops"), "restore"),
            dict(scores=self._maybe(_array(self.draw, shape), 0.1), ids=ids),
        )

    def _side(self) -> str:
        return self.draw.choice(["lefts", "rights"])

    def _part(self) -> tuple[str, Any, dict[str, Any]]:
        side = self._side()
        return side, _method(self._some(side), "part"), dict(start=self._number(0), stop=self._number(1))

    def _facts(self, texts: Any) -> Any:
        facts = [int(fact) for fact in getattr(texts, "facts", (_WIDTH, _HEADS, _LABELS, _WIDTH, 1, 0, _KEPT))]
        if self.draw.random() < 0.2:
            facts[self.draw.randrange(7)] = self._mostly(1, *(int(number) for number in _ODD_NUMBERS[:-1]))
        return facts if self.draw.random() < 0.97 else self.draw.choice(_ODD_VALUES)

    def _kind(self, side: str) -> Any:
        return self.native.LeftTexts if side == "lefts" else self.native.RightTexts

    def _opened(self) -> tuple[str, Any, dict[str, Any]]:
        side = self._side()
        texts = self._some(side)
        packed = texts.packed_bytes() if hasattr(texts, "packed_bytes") else _array(self.draw, (640,), np.uint8)
        if self.draw.random() < 0.2 and len(packed):
            packed = packed.copy()
            packed[self.draw.randrange(len(packed)) :] = self.draw.choice([0, 1, 255])
        count = len(texts) if hasattr(texts, "packed_bytes") else 1
        return (
            side,
            self._kind(self._side() if self.draw.random() < 0.05 else side).opened,
            dict(bytes=self._maybe(packed, 0.1), count=self._number(count), facts=self._facts(texts)),
        )

    def _room(self) -> tuple[str, Any, dict[str, Any]]:
        side = self._side()
        count = self._mostly(_TEXTS, 0, 1, 40)
        return side, self._kind(side).room, dict(count=self._number(count), facts=self._facts(self._some(side)))

    def _put(self) -> tuple[str, Any, dict[str, Any]]:
        side = self._side()
        start = self._mostly(0, 1, 3)
        return "", _method(self._some(side), "put"), dict(start=self._number(start), others=self._some(side))

    def _pairs(self) -> dict[str, Any]:
        p = self.draw.choice([4, 0, 1, 70])
        rows = np.random.default_rng(self.draw.randrange(2**32)).integers(
            0, 1 if self.draw.random() < 0.6 else 40, (p, 2)
        )
        return dict(
            rows=self._maybe(rows, 0.1),
            logits=self._maybe(np.zeros((p, self._mostly(_LABELS, 1)), np.float32), 0.1),
            threads=self._number(2),
        )

    def _ranked(self) -> dict[str, Any]:
        by = self.draw.choice(["logit", "probability", "expectation", "logit", "other"])
        values = self.draw.choice([[0.0, 1.0], [0.0, 1.0], [], [float("nan")] * 2])
        offsets = dict(left_offset=self._number(0), right_offset=self._number(0))
        return dict(by=by, label=self._number(0), values=values, threads=self._number(2), **offsets)

    def _kept(self) -> dict[str, Any]:
        one = self._some("tops") if self.draw.random() < 0.8 else None
        other = self._some("tops") if self.draw.random() < 0.2 else one if self.draw.random() < 0.05 else None
        return dict(of_left=one, of_right=other)

    def _score(self) -> tuple[str, Any, dict[str, Any]]:
        sides = dict(left=self._some("lefts"), right=self._some("rights"))
        return "", _method(self._some("heads"), "score"), sides | self._pairs()

    def _top_k(self) -> tuple[str, Any, dict[str, Any]]:
        sides = dict(left=self._some("lefts"), right=self._some("rights"))
        return "", _method(self._some("heads"), "top_k"), sides | self._ranked() | self._kept()

    def _above(self) -> tuple[str, Any, dict[str, Any]]:
        sides = dict(left=self._some("lefts"), right=self._some("rights"))
        return "", _method(self._some("heads"), "above"), sides | self._ranked() | dict(threshold=self._number(0))

    def _summands(self) -> dict[str, Any]:
        hidden = self._mostly(_HIDDEN, 16)
        counts = [self._mostly(_TEXTS, 40, 0, 1) for _ in range(2)]
        left, right = (self._maybe(_array(self.draw, (count, hidden))) for count in counts)
        return dict(left=left, right=right)

    def _feed_score(self) -> tuple[str, Any, dict[str, Any]]:
        return "", _method(self._some("feeds"), "score"), self._summands() | self._pairs()

    def _feed_top_k(self) -> tuple[str, Any, dict[str, Any]]:
        return "", _method(self._some("feeds"), "top_k"), self._summands() | self._ranked() | self._kept()

    def _feed_above(self) -> tuple[str, Any, dict[str, Any]]:
        return (
            "",
            _method(self._some("feeds"), "above"),
            self._summands() | self._ranked() | dict(threshold=self._number(0)),
        )

    def _rate(self) -> tuple[str, Any, dict[str, Any]]:
        seconds = self.draw.choice([1e-4, 0.0, -1.0, float("nan"), float("inf"), 1e9, "x"])
        return "", self.native.hidden_numbers_per_s, dict(use_gelu=True, threads=self._number(1), seconds=seconds)

    def _bare(self) -> tuple[str, Any, dict[str, Any]]:
        kind = self.draw.choice(
            [self.native.TransformerHead, self.native.FeedForwardHead, self.native.TopK, self.native.LeftTexts]
        )
        name = self.draw.choice(["__init__", "score", "best", "__len__", "nbytes", "top_k", "__new__", "__repr__"])
        return "", lambda: getattr(kind.__new__(kind), name)(), {}

    def call(self) -> tuple[str, Callable[[], Any]]:
        """What is called, in words, and the call."""
        kept_as, function, arguments = self.draw.choice(self.calls)()
        if self.draw.random() < 0.03 and arguments:
            arguments.pop(self.draw.choice(list(arguments)))

        def make() -> Any:
            made = function(**arguments)
            if kept_as:
                self.made[kept_as] = [*self.made[kept_as][-5:], made]
            return made

        shown = {name: _told(value) for name, value in arguments.items()}
        return f"{getattr(function, '__qualname__', function)} {shown}", make


def _method(owner: Any, name: str) -> Any:
    found = getattr(owner, name, None)
    return found if callable(found) else (lambda **arguments: (_ for _ in ()).throw(TypeError(f"no {name}")))


def _told(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{'' if value.flags.c_contiguous else ' strided'}"
    return repr(value)[:40]


def make_calls(seed: int, count: int) -> None:
    """Makes so many calls in this process, each printed before it is made; then one right call, whose result is checked."""
    from distilmatch.engine.kernels.native_module import native_module

    native = native_module()
    wild = Wild(native, seed)
    for number in range(count):
        told, call = wild.call()
        print(f"{number} {told}", flush=True)
        try:
            call()
        except Exception as error:
            print(f"  refused: {type(error).__name__}", flush=True)
        else:
            print("  answered", flush=True)
    top = native.TopK(2, 2)
    top.add(0, np.array([[1, 3, 2], [5, 4, 6]], np.float32), 0, 1)
    scores, rows = top.best()
    assert scores.tolist() == [[3, 2], [6, 5]] and rows.tolist() == [[1, 2], [2, 0]], "wrong after wild calls"
    print("right", flush=True)


def count_outcomes(calls: int, seed: int = 0) -> dict[str, Any]:
    """Makes the calls in batches, a process each; how many there were of each outcome, and the calls that ended a process."""
    found: dict[str, Any] = {"calls": 0, "crashed": 0, "refused": 0, "answered": 0, "last": []}
    batch = 0
    while found["calls"] < calls:
        count = min(_BATCH, calls - found["calls"])
        done = subprocess.run(
            [sys.executable, "-m", "tests.engine.wild_calls", "--make", str(count), "--seed", str(1000 * seed + batch)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=600,
        )
        lines = done.stdout.splitlines()
        made = sum(not line.startswith("  ") and line != "right" for line in lines)
        found["calls"] += max(1, made)
        found["refused"] += sum(line.startswith("  refused") for line in lines)
        found["answered"] += sum(line == "  answered" for line in lines)
        if done.returncode or not lines or lines[-1] != "right":
            found["crashed"] += 1
            told = next((line for line in reversed(lines) if not line.startswith("  ")), "") + f" -> {done.returncode}"
            found["last"].append(f"seed {1000 * seed + batch}: {told} {done.stderr[-300:]}")
        batch += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--make", type=int, help="make so many in this process")
    arguments = parser.parse_args()
    if arguments.make is not None:
        make_calls(arguments.seed, arguments.make)
        return
    found = count_outcomes(arguments.calls, arguments.seed)
    for told in found.pop("last"):
        print(told, file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
