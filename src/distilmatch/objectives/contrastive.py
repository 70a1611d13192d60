"""Objectives on embeddings: distillation from a teacher's (DisCo, arXiv 2112.05638, section 3) and contrastive learning.

Pure functions of tensors, computed in fp32 (inside an autocast, the products with the keys of distillation in its dtype); the
teacher's side never takes a gradient. Where `gather` is asked for, the mean over the processes of what they return is the
loss of their joint batch, and so are the gradients that `DistributedDataParallel` averages; without a process group it
changes nothing.

Shape legend: n texts of a process's batch; g texts of all processes' batches; m further negatives; h hard negatives of
an anchor; d width.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, mse_loss, normalize

from distilmatch.errors import ConfigError
from distilmatch.objectives.key_losses import KeyLosses
from distilmatch.objectives.processes import gathered


def embedding_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the (n, d) embeddings over all their numbers (DisCo, section 3.2, the MSE variant)."""
    _check_same_width(student, teacher)
    return mse_loss(student.float(), teacher.detach().float())


def comparative_embedding_mse(
    student: torch.Tensor, teacher: torch.Tensor, *, anchor: float = 0.0, gather: bool = False
) -> torch.Tensor:
    """Comparative distillation (Wilf et al. 2024) of embeddings: with errors `e = student - teacher`, half the mean over all
    pairs of texts i, j of `(e_i - e_j)^2`, and `anchor` times the square of the mean error; means over the width.

    Half the mean over the pairs is the mean of `(e_i - mean e)^2`, so that no pair is formed. An `anchor` of 1 gives
    `embedding_mse`, one of 0 leaves open where the embeddings lie as a whole.

    Args:
        student, teacher: (n, d).
        gather: whether the texts of all processes are compared.

    Returns:
        A scalar.

    Raises:
        ConfigError: embeddings of different widths.
    """
    _check_same_width(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        own = student.float() - teacher.detach().float()
        errors, _, counts = gathered(own, gather)
        centre = errors.mean(0)
        # Processes may hold batches of different sizes, so that each weighs its sum.
        spread = (own - centre).square().mean(1).sum() * (len(counts) / sum(counts))
        return spread + anchor * centre.square().mean()


def contrastive_distillation(
    student: torch.Tensor,
    teacher: torch.Tensor,
    negatives: torch.Tensor | None = None,
    *,
    temperature: float | torch.Tensor = 1.0,
    ids: torch.Tensor | None = None,
    negative_ids: torch.Tensor | None = None,
    gather: bool = False,
) -> torch.Tensor:
    """Contrastive knowledge distillation (DisCo, section 3.2): with cosines `s(i, k) = cos(student_i, key_k) / T`,
    the mean over i of `-log(exp s(i, i) / sum over k of exp s(i, k))`.

    The keys are the teacher's embeddings: of the same text (the positive), of the batch's other texts, and `negatives`.

    Args:
        student: (n, d) projected embeddings.
        teacher: (n, d) the teacher's embeddings of the same texts.
        negatives: (m, d) earlier embeddings of the teacher (`MemoryBank.embeddings`), or None.
        temperature: T > 0, a number or a tensor of one, through which it is learned.
        ids: (n,) int64, which text each row is; a key of the same text as the positive is left out of the sum.
        negative_ids: (m,) int64, the same of `negatives`.
        gather: whether the texts of all processes are keys.

    Returns:
        A scalar.

    Raises:
        ConfigError: embeddings of different widths.
    """
    return key_distillation(
        student, teacher, negatives, temperature=temperature, ids=ids, negative_ids=negative_ids, gather=gather
    )[0]


def similarity_distillation(
    student: torch.Tensor,
    teacher: torch.Tensor,
    negatives: torch.Tensor | None = None,
    *,
    temperature: float = 0.1,
    teacher_temperature: float | None = None,
    own_key: bool = True,
    ids: torch.Tensor | None = None,
    negative_ids: torch.Tensor | None = None,
    gather: bool = False,
) -> torch.Tensor:
    """The distribution of a text's similarities (SEED, Fang et al. 2021, eq. 4 and 5; with two temperatures RRD, Giakoumoglou and
    Stathaki 2024): with `p(x, T)_k = softmax over k of cos(x, key_k) / T`, the mean over i of
    `KL(p(teacher_i, T_t) || p(student_i, T))`, whose gradients are those of RRD's cross-entropy.

    The keys are the teacher's embeddings of the batch and `negatives`, as in `contrastive_distillation`, whose target is
    the text's own alone; here it is all that the teacher finds near. At a low `teacher_temperature` the own key takes nearly
    all of the teacher's mass; without it the distribution is of the other texts.

    Args:
        student: (n, d) projected embeddings.
        teacher: (n, d) the teacher's embeddings of the same texts.
        negatives: (m, d) earlier embeddings of the teacher, or None.
        temperature: T > 0, of the student.
        teacher_temperature: T_t > 0; None is `temperature`.
        own_key: whether the keys of the text itself count.
        ids: (n,) int64, which text each row is: without `own_key` every key of that text is left out.
        negative_ids: (m,) int64, the same of `negatives`.
        gather: whether the texts of all processes are keys.

    Returns:
        A scalar.

    Raises:
        ConfigError: embeddings of different widths.
    """
    return key_distillation(
        student,
        teacher,
        negatives,
        similarity_temperature=temperature,
        teacher_temperature=teacher_temperature,
        own_key=own_key,
        ids=ids,
        negative_ids=negative_ids,
        gather=gather,
    )[1]


def key_distillation(
    student: torch.Tensor,
    teacher: torch.Tensor,
    negatives: torch.Tensor | None = None,
    *,
    temperature: float | torch.Tensor | None = None,
    similarity_temperature: float | None = None,
    teacher_temperature: float | None = None,
    own_key: bool = True,
    ids: torch.Tensor | None = None,
    negative_ids: torch.Tensor | None = None,
    gather: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`contrastive_distillation` and `similarity_distillation` of the same keys, whose cosines are computed once.

    Args:
        temperature: of the first; None leaves it out.
        similarity_temperature: of the second; None leaves it out.
        teacher_temperature: the teacher's in it; None is the same.
        own_key: whether the keys of the text itself count in it.

    Returns:
        Two scalars, 0 for what is left out.

    Raises:
        ConfigError: embeddings of different widths.
    """
    _check_same_width(student, teacher)
    batch, first, counts = gathered(teacher.detach(), gather)
    keys = [batch]
    same = None if ids is None else (ids, gathered(ids, gather)[0])
    if negatives is not None and len(negatives):
        _check_same_width(student, negatives)
        keys.append(negatives.detach())
        if same is not None:
            further = torch.full_like(negatives[:, 0], -1, dtype=torch.int64) if negative_ids is None else negative_ids
            same = (same[0], torch.cat([same[1], further]))
    targets = torch.arange(first, first + len(student), device=student.device)
    device = student.device.type
    products = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    with torch.autocast(device, enabled=False):
        student_unit, teacher_unit = (normalize(vectors.float(), dim=-1) for vectors in (student, teacher.detach()))
        if temperature is not None:
            temperature = torch.as_tensor(temperature, dtype=torch.float32, device=student.device)
        both = None
        if similarity_temperature is not None:
            both = (similarity_temperature, teacher_temperature or similarity_temperature)
        sums = KeyLosses.apply(student_unit, temperature, teacher_unit, keys, targets, same, both, own_key, products)
        contrast, similarity = (total * (len(counts) / sum(counts)) for total in sums)
    return contrast, similarity


def info_nce(
    anchors: torch.Tensor,
    positives: torch.Tensor,
    hard_negatives: torch.Tensor | None = None,
    *,
    temperature: float | torch.Tensor = 0.05,
    anchor_ids: torch.Tensor | None = None,
    positive_ids: torch.Tensor | None = None,
    negative_ids: torch.Tensor | None = None,
    gather: bool = False,
) -> torch.Tensor:
    """InfoNCE with in-batch and hard negatives (DisCo, section 3.3; SimCSE, Gao et al. 2021, eq. 5), the mean over i of
    `-log(exp s(i, i+) / sum over j of (exp s(i, j+) + exp s(i, j-)))`, `s` a cosine divided by T.

    Args:
        anchors, positives: (n, d).
        hard_negatives: (n, h, d), or None for pairs; every anchor sees those of all.
        temperature: T > 0, a number or a tensor of one.
        anchor_ids, positive_ids, negative_ids: (n,), (n,), (n, h) int64, which text each row is; of the others' texts,
            those that are the anchor itself or its positive are left out of the sum. All or none of them.
        gather: whether the texts of all processes are candidates.

    Returns:
        A scalar.

    Raises:
        ConfigError: embeddings of different widths.
    """
    _check_same_width(anchors, positives)
    all_positives, first, counts = gathered(positives, gather)
    candidates = [all_positives]
    if hard_negatives is not None:
        _check_same_width(anchors, hard_negatives)
        candidates.append(gathered(hard_negatives, gather)[0].flatten(0, 1))
    same = None
    if anchor_ids is not None and positive_ids is not None:
        ids = gathered(positive_ids, gather)[0]
        if hard_negatives is not None:
            theirs = torch.full(hard_negatives.shape[:2], -1).to(ids) if negative_ids is None else negative_ids
            ids = torch.cat([ids, gathered(theirs, gather)[0].flatten()])
        same = (positive_ids[:, None] == ids[None, :]) | (anchor_ids[:, None] == ids[None, :])
    targets = torch.arange(first, first + len(anchors), device=anchors.device)
    with torch.autocast(anchors.device.type, enabled=False):
        unit = [normalize(vectors.float(), dim=-1) for vectors in (anchors, torch.cat(candidates))]
        logits = unit[0] @ unit[1].T / temperature
        if same is not None:
            logits = logits.masked_fill(same.scatter(1, targets[:, None], False), -torch.inf)
        # Processes may hold batches of different sizes, so that each weighs its sum.
        return cross_entropy(logits, targets, reduction="sum") * (len(counts) / sum(counts))


def _check_same_width(student: torch.Tensor, other: torch.Tensor) -> None:
    if student.shape[-1] != other.shape[-1]:
        raise ConfigError(
            f"embeddings of widths {student.shape[-1]} and {other.shape[-1]} cannot be compared: project the student to "
            "the teacher's width (`student.projection`)"
        )


# --- processes -----------------------------------------------------------------------------------------------------
