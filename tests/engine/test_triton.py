"""The GPU's programs against PyTorch's kernel: interpreted on the CPU where there is no GPU, compiled all the same."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.engine.kernels.torch import TorchKernel
from distilmatch.engine.kernels.triton import TritonKernel, gpu_here, why_not_triton
from distilmatch.engine.kernels.triton_heads import Tile, tiles_for
from distilmatch.engine.matches import BestMatches, Matches
from distilmatch.engine.ranking import Ranking
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import ConfigError, ModelError
from distilmatch.models import DiPair
from distilmatch.types import TokenRepresentations

_HAS_GPU = torch.cuda.is_available()
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # conftest.py sets it where there is no GPU
_FOUND = importlib.util.find_spec("triton") is not None
runs = pytest.mark.skipif(not (_FOUND and (_HAS_GPU or _INTERPRETED)), reason="no Triton here, or no GPU for it")
DEVICE = torch.device("cuda" if _HAS_GPU else "cpu")
ONE, THREE = TaskConfig(kind="binary"), TaskConfig(kind="classification", classes=("no", "maybe", "yes"))
HEADS: dict[str, dict[str, Any]] = {
    "transformer": {},
    "compared": {"head_similarities": 8, "head_maxsim": 3, "head_gaps": 2},
    "lexical": {"head_similarities": 8, "head_maxsim": 3, "lexical": True},
    "lexical_alone": {"head_similarities": 0, "head_maxsim": 0, "lexical": True},
    "no_gaps": {"head_similarities": 0, "head_maxsim": 2, "head_gaps": 0},
    "similarities_pre_norm": {"head_norm": "pre", "head_activation": "relu", "head_similarities": 4},
    "two_blocks": {"width": 96, "head_similarities": 8, "head_maxsim": 2, "kept_tokens": (5, 3)},
    "odd_sizes": {"width": 40, "head_heads": 5, "head_intermediate": 72, "kept_tokens": (1, 2)},
    "wide_heads": {"width": 64, "head_heads": 1, "head_norm": "pre"},
    "feed_forward": {"head": "feed_forward"},
    "feed_forward_relu": {"head": "feed_forward", "head_activation": "relu", "head_intermediate": 24},
}
LEFT, RIGHT = 9, 21
SMALL = (Tile(pairs=32, columns=32, hidden=16, warps=4, stages=1),)  # several tiles of few pairs


def _model(encoder: Path, name: str, task: TaskConfig, **shape: Any) -> DiPair:
    torch.manual_seed(1)
    plain = {"width": 32, "head_heads": 2, "kept_tokens": (3, 19), "head_similarities": 0, "head_maxsim": 0}
    settings = {**plain, "max_lengths": (24, 24), "head_start": "random", **HEADS[name], **shape}
    model = DiPair.from_encoder(encoder, StudentConfig(**settings), task).eval()
    for parameter in [*model.head.parameters(), *model.classifier.parameters()]:
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3 * (32 / model.student.vector_width) ** 0.5)
        else:  # norms and biases that do something
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.to(DEVICE)


def _sides(model: DiPair, left: int = LEFT, right: int = RIGHT) -> list[TokenRepresentations]:
    sides = []
    for count, kept in zip((left, right), model.student.kept_vectors, strict=True):
        mask = torch.rand(count, kept) < 0.6  # with holes
        mask[:, 0] = True
        tokens = torch.randn(count, kept, model.student.vector_width) * mask[:, :, None]
        sides.append(TokenRepresentations(tokens, mask))
    return sides


def _oracle(model: DiPair, sides: list[TokenRepresentations]) -> np.ndarray:
    """(n, m, c) logits."""
    kernel = TorchKernel(model)
    rows = np.array(list(itertools.product(*(range(len(side)) for side in sides))))
    logits = kernel.pairs([kernel.prepare(side, j) for j, side in enumerate(sides)], rows)
    return logits.reshape(len(sides[0]), len(sides[1]), -1)


@runs
@pytest.mark.parametrize(
    ("task", "operands"), [(ONE, torch.float32), (THREE, torch.bfloat16)], ids=["one-fp32", "three-bf16"]
)
@pytest.mark.parametrize("head", HEADS)
def test_the_programs_give_the_oracle_s_logits(
    tiny_encoder: Path, head: str, task: TaskConfig, operands: torch.dtype
) -> None:
    model = _model(tiny_encoder, head, task)
    sides = _sides(model)
    expected = _oracle(model, sides)
    largest = float(np.abs(expected).max())
    # With fp32 operands what is left is the polynomial of GELU; a GPU multiplies them as tf32.
    bound = (0.02 if operands == torch.bfloat16 or not _INTERPRETED else 5e-4) * largest
    if operands == torch.float32 and model.student.head_activation == "relu" and _INTERPRETED:
        bound = 1e-5 * largest
    kernel = TritonKernel(model, tiles=SMALL, operands=operands)
    prepared = [kernel.prepare(side, j) for j, side in enumerate(sides)]
    rows = np.random.default_rng(0).integers(0, [LEFT, RIGHT], (40, 2))
    np.testing.assert_allclose(kernel.pairs(prepared, rows), expected[rows[:, 0], rows[:, 1]], rtol=0, atol=bound)
    found = np.full(expected.shape, np.nan, dtype=np.float32)
    for row, column, logits in kernel._blocks(*prepared):
        n, m, _ = logits.shape
        found[row : row + n, column : column + m] = logits.cpu().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@runs
@pytest.mark.parametrize(
    ("head", "task", "memory"), [("compared", THREE, 40_000), ("transformer", ONE, None), ("feed_forward", ONE, 40_000)]
)
def test_what_the_scorer_finds_is_the_oracle_s(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, head: str, task: TaskConfig, memory: int | None
) -> None:
    monkeypatch.setattr("distilmatch.engine.kernels.triton._LOGITS_A_BLOCK", 300)
    monkeypatch.setattr("distilmatch.engine.kernels.triton._PAIRS_A_CALL", 32)
    monkeypatch.setattr("distilmatch.engine.kernels.triton._TEXTS_FOLDED", 5)
    model = _model(tiny_encoder, head, task)
    sides = _sides(model)
    scorer = Scorer(model, kernel="triton", memory_bytes=memory)
    assert scorer.kernel.name == "triton" and scorer.why.startswith("triton: bf16 on ")
    expected = _oracle(model, sides)
    rank: dict[str, Any] = {"by": "probability", "label": "yes"} if task is THREE else {}
    ranking = Ranking.of(task, **rank)
    scores = ranking.shown(ranking(torch.from_numpy(expected)).numpy())
    bound = 0.02 * float(np.abs(scores).max())
    rows = np.random.default_rng(0).integers(0, [LEFT, RIGHT], (40, 2))
    logits = scorer.score(*sides, rows=rows)
    most = 0.02 * float(np.abs(expected).max())
    np.testing.assert_allclose(logits, expected[rows[:, 0], rows[:, 1]], rtol=0, atol=most)
    best, other = scorer.best_of_both(*sides, top_k=5, reverse_top_k=5, **rank)  # type: ignore[misc]
    for found, values in ((best, scores), (other, scores.T)):
        assert isinstance(found, BestMatches)
        np.testing.assert_allclose(found.scores, -np.sort(-values, axis=1)[:, :5], rtol=0, atol=bound)
        np.testing.assert_allclose(found.scores, np.take_along_axis(values, found.rows, 1), rtol=0, atol=bound)
    ranked = scorer.rank(sides[0][:1], sides[1], top_k=RIGHT, **rank)
    assert sorted(ranked.rows[0]) == list(range(RIGHT))
    np.testing.assert_allclose(ranked.scores[0], scores[0][ranked.rows[0]], rtol=0, atol=bound)
    ordered = np.sort(scores.ravel())
    gap = int(np.argmax(np.diff(ordered)))
    threshold = float(ordered[gap : gap + 2].mean())
    matches = scorer.above(*sides, threshold=threshold, **rank).collect()
    assert isinstance(matches, Matches)
    np.testing.assert_array_equal(matches.rows, np.argwhere(scores > threshold))
    assert scorer.score(*sides, rows=np.empty((0, 2), dtype=np.int64)).shape == (0, task.num_labels)


@runs
def test_a_tile_without_room_is_left_for_the_next(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    from distilmatch.engine.kernels import triton_programs

    model = _model(tiny_encoder, "transformer", ONE)
    sides = _sides(model)
    program, tried = triton_programs.transformer_program, []

    class Full:
        def __getitem__(self, grid: Any) -> Any:
            def start(**arguments: Any) -> None:
                tried.append(arguments["PAIRS"])
                if arguments["PAIRS"] > 32:
                    raise OutOfResources(300_000, 200_000, "shared memory")
                program[grid](**arguments)

            return start

    monkeypatch.setattr(triton_programs, "transformer_program", Full())
    kernel = TritonKernel(model)
    prepared = [kernel.prepare(side, j) for j, side in enumerate(sides)]
    rows = np.zeros((4, 2), dtype=np.int64)
    expected = _oracle(model, sides)[0, 0]
    for _ in range(2):
        np.testing.assert_allclose(kernel.pairs(prepared, rows)[0], expected, rtol=0.05, atol=0.02)
    assert tried == [128, 64, 32, 32]
    monkeypatch.setattr(kernel.programs, "tiles", list(tiles_for(32))[:1])
    with pytest.raises(OutOfResources):
        kernel.pairs(prepared, rows)


@runs
def test_saturated_probabilities_keep_their_order(tiny_encoder: Path) -> None:
    model = _model(tiny_encoder, "compared", THREE)
    with torch.no_grad():
        model.classifier.bias[2] += 60
    sides = _sides(model)
    scorer = Scorer(model, kernel="triton")
    rows = np.array(list(itertools.product(range(LEFT), range(RIGHT))))
    logits = scorer.score(*sides, rows=rows).astype(np.float64).reshape(LEFT, RIGHT, 3)
    odds = logits[..., 2] - np.logaddexp(logits[..., 0], logits[..., 1])
    best = scorer.best(*sides, top_k=RIGHT, by="probability", label="yes")
    assert isinstance(best, BestMatches) and (best.scores == 1).mean() > 0.9
    picked = np.take_along_axis(odds, best.rows, 1)
    np.testing.assert_allclose(picked, -np.sort(-odds, axis=1), rtol=0, atol=2e-5 * np.abs(odds).max())


@runs
@pytest.mark.parametrize("head", ["transformer", "feed_forward"])
def test_numbers_that_are_not_finite_are_refused_as_by_pytorch(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr("distilmatch.engine.kernels.triton._TEXTS_FOLDED", 5)
    model = _model(tiny_encoder, head, ONE)
    left, right = _sides(model)
    rows = np.array([[0, 0], [1, 16]])
    large = TokenRepresentations(right.tokens.clone(), right.mask)
    large.tokens[16, 0] *= 1e14
    right.tokens[16, 0, 0] = torch.nan
    for kernel in ("torch", "triton"):
        scorer = Scorer(model, kernel=kernel)  # type: ignore[arg-type]
        for work in (
            lambda side, of=scorer: of.score(left, side, rows=rows),
            lambda side, of=scorer: of.best(left, side, top_k=2),
        ):
            with pytest.raises(ModelError, match="row 16 holds numbers that are not finite"):
                work(right)
    with torch.no_grad():  # a text's numbers are finite, what the head makes of them is not
        (model.head.layers[0].key_value if head == "transformer" else model.head.side_inputs[1]).weight.fill_(1e12)
    for kernel in ("torch", "triton"):
        with pytest.raises(ModelError, match="row 16: scores are no finite numbers"):
            Scorer(model, kernel=kernel).best(left, large, top_k=2)  # type: ignore[arg-type]


@runs
@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_the_programs_compile_without_a_gpu(tmp_path: Path, capability: int) -> None:
    pytest.importorskip("triton.backends.nvidia.compiler")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    script = Path(__file__).with_name("triton_compile.py")
    done = subprocess.run([sys.executable, script, str(capability)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for program in ("transformer", "largest", "sums_block", "sums_pairs"):
        assert f"{program}_program: " in done.stdout


def test_why_a_model_has_no_program(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distilmatch.engine.kernels.triton._why_not_on", lambda _: None)
    monkeypatch.setattr("distilmatch.engine.kernels.triton.MOST_COMPARED_TOKENS", 18)
    many = TaskConfig(kind="classification", classes=tuple("abcdefghijklmnopq"))
    for task, shape, reason in [
        (ONE, {"head_layers": 2}, "2 layers"),
        (ONE, {"head": "lite"}, "no Triton program for a lite head"),
        (ONE, {"head": "cosine"}, "no Triton program for a cosine head"),
        (ONE, {"head": "feed_forward", "head_layers": 2}, "2 hidden layers"),
        (many, {"head": "feed_forward"}, "more than 16 labels"),
        (ONE, {"width": 2048}, "a width of 2048"),
        (ONE, {"width": 512, "head_heads": 1}, "no room"),
        (ONE, {"head_maxsim": 1}, "more than 18 kept tokens"),
        (
            ONE,
            {"side_names": ("a", "b", "c"), "kept_tokens": (1, 1, 1), "max_lengths": (9, 9, 9)},
            "the model has 3 sides",
        ),
    ]:
        why = why_not_triton(_model(tiny_encoder, "transformer", task, **shape))
        assert why is not None and reason in why, (why, reason)
    assert why_not_triton(_model(tiny_encoder, "transformer", ONE)) is None


def test_where_triton_cannot_run_the_reason_is_named(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(tiny_encoder, "transformer", ONE).to("cpu")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find_spec(name))
    with pytest.raises(ConfigError, match="triton kernel cannot be used: Triton is not installed"):
        Scorer(model, kernel="triton")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="the model is on cpu, the Triton programs need a GPU"):
        Scorer(model, kernel="triton")
    assert Scorer(model).kernel.name != "triton"
    assert (gpu_here() is None) == (not _HAS_GPU)


@pytest.mark.gpu
@pytest.mark.skipif(not _HAS_GPU, reason="no GPU")
@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ("transformer", {"width": 256, "head_heads": 8, "kept_tokens": (8, 8)}),
        (
            "compared",
            {"width": 384, "head_heads": 12, "kept_tokens": (16, 16), "head_similarities": 48, "head_maxsim": 12},
        ),
        ("transformer", {"width": 768, "head_heads": 12, "kept_tokens": (8, 8)}),
        ("feed_forward", {"width": 256, "head_intermediate": 256, "kept_tokens": (8, 8)}),
    ],
    ids=["256", "384", "768", "feed_forward"],
)
def test_real_sizes_on_the_gpu(tiny_encoder: Path, head: str, shape: dict[str, Any]) -> None:
    model = _model(tiny_encoder, head, ONE, **shape)
    sides = _sides(model, 1000, 5000)
    exact, fast = Scorer(model, kernel="torch"), Scorer(model)
    assert fast.kernel.name == "triton"
    rows = np.random.default_rng(0).integers(0, [1000, 5000], (100_000, 2))
    expected, logits = exact.score(*sides, rows=rows), fast.score(*sides, rows=rows)
    bound = 0.02 * float(np.abs(expected).max())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=bound)
    best, found = exact.best(*sides, top_k=10), fast.best(*sides, top_k=10)
    assert isinstance(best, BestMatches) and isinstance(found, BestMatches)
    np.testing.assert_allclose(found.scores, best.scores, rtol=0, atol=bound)
