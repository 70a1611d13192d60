"""Objectives on embeddings against slow loops written from their formulas; the bank; gradients; two processes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, kl_div, normalize

from distilmatch.config.objectives import EmbeddingObjectiveConfig
from distilmatch.errors import CacheError, ConfigError
from distilmatch.objectives import (
    MemoryBank,
    comparative_embedding_mse,
    contrastive_distillation,
    embedding_distillation_loss,
    embedding_mse,
    gather_rows,
    info_nce,
    key_distillation,
    key_losses,
    similarity_distillation,
)

seeds = st.integers(0, 10_000)
temperatures = st.sampled_from([0.05, 0.5, 1.0])


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _cosine(a: list[float], b: list[float]) -> float:
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths


def _slow(queries: list, keys: list, targets: list[int], temperature: float, left_out: set[tuple[int, int]]) -> float:
    total = 0.0
    for i, query in enumerate(queries):
        scores = {k: _cosine(query, key) / temperature for k, key in enumerate(keys) if (i, k) not in left_out}
        highest = max(scores.values())
        total -= scores[targets[i]] - highest - math.log(sum(math.exp(score - highest) for score in scores.values()))
    return total / len(queries)


@given(seeds, st.integers(1, 5), st.integers(1, 6))
def test_mse_is_the_mean_over_all_numbers(seed: int, n: int, d: int) -> None:
    student, teacher = _random(seed, n, d), _random(seed + 1, n, d)
    squares = [
        (a - b) ** 2 for x, y in zip(student.tolist(), teacher.tolist(), strict=True) for a, b in zip(x, y, strict=True)
    ]
    assert embedding_mse(student, teacher).item() == pytest.approx(sum(squares) / len(squares), rel=1e-5)


@given(seeds, temperatures, st.integers(1, 5), st.integers(0, 7))
def test_contrastive_distillation_against_a_loop(seed: int, temperature: float, n: int, m: int) -> None:
    student, teacher, bank = _random(seed, n, 4), _random(seed + 1, n, 4), _random(seed + 2, m, 4)
    expected = _slow(student.tolist(), [*teacher.tolist(), *bank.tolist()], list(range(n)), temperature, set())
    loss = contrastive_distillation(student, teacher, bank, temperature=temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    as_tensor = contrastive_distillation(student, teacher, bank, temperature=torch.tensor(temperature))
    torch.testing.assert_close(loss, as_tensor)


@given(seeds, temperatures)
def test_keys_of_the_same_text_are_left_out(seed: int, temperature: float) -> None:
    student, teacher, bank = _random(seed, 4, 3), _random(seed + 1, 4, 3), _random(seed + 2, 5, 3)
    ids, bank_ids = torch.tensor([7, 8, 7, 9]), torch.tensor([9, -1, 1, 7, 9])
    left_out = {(i, k) for i in range(4) for k in range(4) if i != k and ids[i] == ids[k]}
    left_out |= {(i, 4 + k) for i in range(4) for k in range(5) if ids[i] == bank_ids[k]}
    expected = _slow(student.tolist(), [*teacher.tolist(), *bank.tolist()], [0, 1, 2, 3], temperature, left_out)
    loss = contrastive_distillation(student, teacher, bank, temperature=temperature, ids=ids, negative_ids=bank_ids)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    without = contrastive_distillation(student, teacher, bank, temperature=temperature, ids=torch.arange(4))
    torch.testing.assert_close(without, contrastive_distillation(student, teacher, bank, temperature=temperature))


@given(seeds, temperatures, st.integers(1, 5), st.integers(0, 7))
def test_similarity_distillation_against_a_loop(seed: int, temperature: float, n: int, m: int) -> None:
    student, teacher, bank = _random(seed, n, 4), _random(seed + 1, n, 4), _random(seed + 2, m, 4)
    keys = [*teacher.tolist(), *bank.tolist()]
    expected = 0.0
    for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        parts = []
        for text in (theirs, mine):
            powers = [math.exp(_cosine(text, key) / temperature) for key in keys]
            parts.append([power / sum(powers) for power in powers])
        expected += sum(p * math.log(p / q) for p, q in zip(*parts, strict=True) if p > 0)
    loss = similarity_distillation(student, teacher, bank, temperature=temperature)
    assert loss.item() == pytest.approx(expected / n, rel=1e-3, abs=1e-5)
    assert similarity_distillation(3 * teacher, teacher, bank).item() == pytest.approx(0, abs=1e-5)


@given(seeds, st.integers(1, 5), st.integers(0, 9), st.integers(1, 4), st.booleans(), st.booleans())
def test_relations_of_two_temperatures_against_a_loop(
    seed: int, n: int, m: int, block: int, own_key: bool, with_ids: bool
) -> None:
    """Loss and gradients, each text's softmaxes taken over the keys that count, one by one."""
    student = _random(seed, n, 4).requires_grad_()
    teacher, bank = _random(seed + 1, n, 4), _random(seed + 2, m, 4)
    random = torch.Generator().manual_seed(seed)
    ids, bank_ids = (torch.randint(0, 4, (size,), generator=random) for size in (n, m))
    keys, every = torch.cat([teacher, bank]), [*ids.tolist(), *bank_ids.tolist()]
    expected = torch.zeros(())
    for i in range(n):
        counted = [
            k for k in range(n + m) if own_key or not (k == i or (with_ids and every[k] == every[i]))
        ]  # fmt: skip
        if counted:
            cosines = [torch.nn.functional.cosine_similarity(x[i], keys[counted], dim=-1) for x in (student, teacher)]
            mine, theirs = (cosines[0] / 0.1).softmax(0), (cosines[1] / 0.04).softmax(0)
            expected = expected + sum(p * (p.log() - q.log()) for p, q in zip(theirs, mine, strict=True) if p > 0) / n
    with patch.object(key_losses, "_BLOCK", block):
        found = similarity_distillation(
            student, teacher, bank, temperature=0.1, teacher_temperature=0.04, own_key=own_key,
            ids=ids if with_ids else None, negative_ids=bank_ids if with_ids else None,
        )  # fmt: skip
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
        gradient = torch.autograd.grad(found, student)[0]
    if expected.requires_grad:
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0], atol=1e-3, rtol=2e-3)
    else:
        assert not gradient.any()


@given(seeds, st.integers(1, 6), st.integers(1, 5), st.sampled_from([0.0, 0.3, 1.0]))
def test_comparative_mse_against_all_pairs(seed: int, n: int, d: int, anchor: float) -> None:
    student, teacher = _random(seed, n, d).requires_grad_(), _random(seed + 1, n, d)
    errors = student - teacher
    pairs = [(errors[i] - errors[j]).square().mean() for i in range(n) for j in range(n)]
    expected = sum(pairs) / (2 * len(pairs)) + anchor * (sum(errors) / n).square().mean()  # type: ignore[arg-type]
    found = comparative_embedding_mse(student, teacher, anchor=anchor)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(comparative_embedding_mse(student, teacher, anchor=1.0), embedding_mse(student, teacher))


def test_relational_and_comparative_configs_reach_their_losses() -> None:
    own, teacher, ids = _random(0, 3, 4), _random(2, 3, 4), torch.tensor([4, 5, 6])
    bank = MemoryBank(5, 4)
    bank.push(_random(3, 4, 4), torch.tensor([5, 7, 8, 9]))
    unit = [normalize(part, dim=-1) for part in (own, teacher)]
    shared = {"ids": ids, "negative_ids": bank.ids}
    expected = {
        EmbeddingObjectiveConfig(kind="rrd", own_key=False): similarity_distillation(
            own, teacher, bank.embeddings, temperature=0.1, teacher_temperature=0.02, own_key=False, **shared
        ),
        EmbeddingObjectiveConfig(kind="rrd"): similarity_distillation(
            own, teacher, bank.embeddings, temperature=0.1, teacher_temperature=0.02, **shared
        ),
        EmbeddingObjectiveConfig(kind="seed", temperature=0.2): similarity_distillation(
            own, teacher, bank.embeddings, temperature=0.2
        ),
        EmbeddingObjectiveConfig(kind="comparative", anchor=0.2): comparative_embedding_mse(*unit, anchor=0.2),
    }
    for config, loss in expected.items():
        torch.testing.assert_close(embedding_distillation_loss([own], teacher, config, ids=ids, bank=bank), loss)
        assert config.uses_bank == (config.kind != "comparative")
    for kind in ("rrd", "seed"):
        with pytest.raises(ValueError, match="leave `similarity_weight` out"):
            EmbeddingObjectiveConfig(kind=kind, similarity_weight=0.5)
    with pytest.raises(ValueError, match="greater than 0"):
        EmbeddingObjectiveConfig(kind="rrd", teacher_temperature=0)


@given(seeds, temperatures, st.integers(1, 4), st.integers(0, 3))
def test_info_nce_against_a_loop(seed: int, temperature: float, n: int, h: int) -> None:
    anchors, positives, hard = _random(seed, n, 4), _random(seed + 1, n, 4), _random(seed + 2, n, h, 4)
    candidates = [*positives.tolist(), *(row for rows in hard.tolist() for row in rows)]
    expected = _slow(anchors.tolist(), candidates, list(range(n)), temperature, set())
    found = info_nce(anchors, positives, hard if h else None, temperature=temperature).item()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_info_nce_leaves_out_texts_that_are_no_negatives() -> None:
    anchors, positives, hard = _random(0, 3, 4), _random(1, 3, 4), _random(2, 3, 1, 4)
    ids = {"anchor_ids": torch.tensor([0, 1, 0]), "positive_ids": torch.tensor([5, 0, 5])}
    negative_ids = torch.tensor([[1], [5], [8]])
    candidates = [*positives.tolist(), *(row[0] for row in hard.tolist())]
    # Anchor 0 and its positive 5: candidates 1 (text 0), 2 (text 5) and 4 (text 5); anchor 1, positive 0: candidate 3.
    left_out = {(0, 1), (0, 2), (0, 4), (1, 3), (2, 0), (2, 1), (2, 4)}
    expected = _slow(anchors.tolist(), candidates, [0, 1, 2], 0.5, left_out)
    found = info_nce(anchors, positives, hard, temperature=0.5, **ids, negative_ids=negative_ids)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@given(seeds, st.integers(1, 4), st.integers(0, 9), st.integers(1, 6), st.booleans(), st.booleans(), st.booleans())
def test_blocks_of_keys_have_the_gradients_of_the_plain_formulas(
    seed: int, n: int, m: int, block: int, with_ids: bool, contrasts: bool, resembles: bool
) -> None:
    student, scale = _random(seed, n, 4).requires_grad_(), torch.tensor(0.7, requires_grad=True)
    teacher, bank = _random(seed + 1, n, 4), _random(seed + 2, m, 4)
    random = torch.Generator().manual_seed(seed)
    ids, bank_ids = (torch.randint(0, 4, (size,), generator=random) for size in (n, m))
    keys = normalize(torch.cat([teacher, bank]), dim=-1)
    mine, theirs = (normalize(part, dim=-1) @ keys.T for part in (student, teacher))
    logits = mine / scale.exp()
    if with_ids:
        out = (ids[:, None] == torch.cat([ids, bank_ids])[None, :]).scatter(1, torch.arange(n)[:, None], False)
        logits = logits.masked_fill(out, -torch.inf)
    expected = [
        cross_entropy(logits, torch.arange(n)),
        kl_div((mine / 0.3).log_softmax(1), (theirs / 0.3).log_softmax(1), log_target=True, reduction="batchmean"),
    ]
    with patch.object(key_losses, "_BLOCK", block):
        found = key_distillation(
            student,
            teacher,
            bank,
            temperature=scale.exp() if contrasts else None,
            similarity_temperature=0.3 if resembles else None,
            ids=ids if with_ids else None,
            negative_ids=bank_ids,
        )
        wanted = [part for part, there in zip(expected, (contrasts, resembles), strict=True) if there]
        got = [part for part, there in zip(found, (contrasts, resembles), strict=True) if there]
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        if not wanted:
            assert [part.item() for part in found] == [0.0, 0.0]
            return
        # Each with a weight of its own, so that no gradient stands in for the other.
        parameters = [student, scale] if contrasts else [student]
        weighed = [sum(w * part for w, part in zip((1.3, 0.4), some, strict=False)) for some in (got, wanted)]
        gradients = [torch.autograd.grad(total, parameters) for total in weighed]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)


def test_gradients_flow_to_the_student_and_the_temperature_only() -> None:
    student, teacher, bank = (_random(i, 3, 4).requires_grad_() for i in range(3))
    scale = torch.zeros((), requires_grad=True)
    loss = contrastive_distillation(student, teacher, bank, temperature=(-scale).exp()) + embedding_mse(
        student, teacher
    )
    loss = loss + similarity_distillation(student, teacher, bank)
    loss.backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert scale.grad is not None and scale.grad.abs() > 0
    assert teacher.grad is None and bank.grad is None


def test_half_precision_is_computed_in_full() -> None:
    student, teacher = _random(0, 4, 8).bfloat16(), _random(1, 4, 8).half()
    loss = contrastive_distillation(student, teacher, teacher, temperature=0.05)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, contrastive_distillation(student.float(), teacher.float(), teacher.float(), temperature=0.05)
    )


def test_autocast_changes_the_products_alone() -> None:
    student, teacher = _random(0, 40, 64).requires_grad_(), _random(1, 40, 64)
    losses, gradients = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            parts = key_distillation(student, teacher, 5 * teacher, temperature=0.1, similarity_temperature=0.1)
            pair = info_nce(student, teacher)
        assert {part.dtype for part in (*parts, pair)} == {torch.float32}
        losses.append(torch.stack([*parts, pair]).detach())
        gradients.append(torch.autograd.grad(sum(parts), student)[0])
    assert torch.equal(losses[0][2], losses[1][2]) and not torch.equal(losses[0], losses[1])
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-3, atol=2e-3)
    assert (gradients[1] - gradients[0]).norm() < 0.01 * gradients[0].norm()


def test_different_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="widths 4 and 6"):
        contrastive_distillation(_random(0, 2, 4), _random(1, 2, 6))
    with pytest.raises(ConfigError, match="projection"):
        embedding_mse(_random(0, 2, 4), _random(1, 2, 6))


@pytest.mark.parametrize("kind", ["ckd", "mse", "both"])
@pytest.mark.parametrize("normal", [True, False])
def test_the_mixture_that_a_config_asks_for(kind: str, normal: bool) -> None:
    config = EmbeddingObjectiveConfig(
        kind=kind, mse_weight=0.3, normalize=normal, temperature=0.2, similarity_weight=0.0
    )
    widths, teacher, ids = [_random(0, 3, 4), _random(1, 3, 4)], _random(2, 3, 4), torch.tensor([4, 5, 6])
    bank = MemoryBank(5, 4)
    bank.push(_random(3, 4, 4), torch.tensor([5, 7, 8, 9]))
    expected = 0.0
    for own in widths:
        mse = (
            embedding_mse(normalize(own, dim=-1), normalize(teacher, dim=-1)) if normal else embedding_mse(own, teacher)
        )
        ckd = contrastive_distillation(
            own, teacher, bank.embeddings, temperature=0.2, ids=ids, negative_ids=torch.tensor([5, 7, 8, 9])
        )
        expected += {"ckd": ckd, "mse": mse, "both": ckd + 0.3 * 4 * mse}[kind].item() / 2
    found = embedding_distillation_loss(widths, teacher, config, ids=ids, bank=bank)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    more = config.model_copy(update={"similarity_weight": 2.0, "similarity_temperature": 0.3})
    added = sum(similarity_distillation(own, teacher, bank.embeddings, temperature=0.3).item() for own in widths)
    found = embedding_distillation_loss(widths, teacher, more, ids=ids, bank=bank)
    assert found.item() == pytest.approx(expected + added, rel=1e-5)
    learned = embedding_distillation_loss(widths, teacher, config, temperature=torch.tensor(9.0), ids=ids, bank=bank)
    assert (learned.item() == pytest.approx(expected, rel=1e-5)) == (kind == "mse")
    assert len(bank) == 4


# --- the bank ------------------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 9), st.lists(st.integers(0, 12), max_size=8))
def test_the_bank_holds_the_last_ones_in_their_order(seed: int, capacity: int, batches: list[int]) -> None:
    bank, slow, count = MemoryBank(capacity, 3), [], 0
    for number, size in enumerate(batches):
        rows = _random(seed + number, size, 3)
        bank.push(rows, torch.arange(count, count + size))
        slow = [*slow, *([*(row / row.norm())] for row in rows)][-capacity:]
        count += size
        assert len(bank) == len(slow) == len(bank.embeddings)
    torch.testing.assert_close(bank.ordered(), torch.tensor(slow).reshape(-1, 3))
    assert sorted(bank.ids.tolist()) == list(range(count - len(slow), count))
    again = MemoryBank(capacity, 3)
    again.load_state_dict(bank.state_dict())
    for one in (bank, again):
        one.push(_random(1, 2, 3), torch.tensor([1, 2]))
    assert torch.equal(again.embeddings, bank.embeddings) and torch.equal(again.ids, bank.ids)


def test_the_bank_takes_no_gradient_and_keeps_its_dtype() -> None:
    bank = MemoryBank(4, 3, dtype=torch.float16)
    bank.push(_random(0, 2, 3).requires_grad_())
    assert not bank.embeddings.requires_grad and bank.embeddings.dtype == torch.float16
    assert bank.ids.tolist() == [-1, -1]
    torch.testing.assert_close(bank.embeddings.float().norm(dim=-1), torch.ones(2), atol=1e-3, rtol=0)


def test_a_state_of_another_bank_is_refused() -> None:
    bank = MemoryBank(4, 3)
    bank.push(_random(0, 3, 3))
    state = bank.state_dict()
    with pytest.raises(CacheError, match="width 5"):
        MemoryBank(4, 5).load_state_dict(state)
    with pytest.raises(CacheError, match="bank_size"):
        MemoryBank(2, 3).load_state_dict(state)
    with pytest.raises(CacheError, match="lacks ids"):
        bank.load_state_dict({"embeddings": state["embeddings"], "next": state["next"]})
    with pytest.raises(ConfigError, match="width 3"):
        bank.push(_random(0, 2, 4))
    with pytest.raises(ConfigError, match="capacity"):
        MemoryBank(0, 3)


# --- processes -----------------------------------------------------------------------------------------------------

_TWO = """
import sys
import torch, torch.distributed as dist
from safetensors.torch import save_file
from distilmatch.objectives import comparative_embedding_mse, contrastive_distillation, gather_rows, info_nce
from distilmatch.objectives import similarity_distillation

dist.init_process_group("gloo")
rank = dist.get_rank()
random = lambda seed, *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
weight = torch.nn.Parameter(random(0, 4, 4))
scale = torch.nn.Parameter(torch.zeros(()))
texts, teacher, bank = random(1, 5, 4), random(2, 5, 4), random(3, 6, 4)
positives, hard, ids = random(4, 5, 4), random(5, 5, 2, 4), torch.tensor([0, 1, 0, 2, 3])
joint = sys.argv[1] == "joint"
own = slice(None) if joint else slice(0, 3) if rank == 0 else slice(3, 5)
student = texts[own] @ weight
first = contrastive_distillation(
    student, teacher[own], bank, temperature=(-scale).exp(), ids=ids[own], negative_ids=ids.new_tensor([9, 2, 9, 9, 9, 9]),
    gather=not joint,
)
second = info_nce(
    student, positives[own] @ weight, (hard @ weight)[own], temperature=0.1, anchor_ids=ids[own],
    positive_ids=ids[own] + 10, negative_ids=torch.stack([ids, ids + 10], 1)[own] + 1, gather=not joint,
)
third = similarity_distillation(student, teacher[own], bank, temperature=0.3, gather=not joint)
fourth = comparative_embedding_mse(student, teacher[own], anchor=0.3, gather=not joint)
(first + second + third + fourth).backward()
found = {"loss": torch.stack([first, second, third, fourth]).detach(), "weight": weight.grad, "scale": scale.grad.reshape(1)}
if not joint:
    assert torch.equal(gather_rows(teacher[own]), teacher)
    for value in found.values():
        dist.all_reduce(value)
        value /= 2
if rank == 0:
    save_file(found, sys.argv[2])
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_processes_that_gather_equal_one_with_the_joint_batch(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    script = tmp_path / "two.py"
    script.write_text(_TWO)
    for mode, count in (("joint", 1), ("apart", 2)):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        done = subprocess.run(
            [*command, str(script), mode, str(tmp_path / f"{mode}.safetensors")],
            capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
    expected, found = (load_file(tmp_path / f"{mode}.safetensors") for mode in ("joint", "apart"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_alone_gathering_changes_nothing() -> None:
    student, teacher = _random(0, 3, 4), _random(1, 3, 4)
    assert gather_rows(student) is student
    torch.testing.assert_close(
        contrastive_distillation(student, teacher, gather=True), contrastive_distillation(student, teacher)
    )
