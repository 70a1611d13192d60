"""What training minimises: for each loss a config with its own parameters, told apart by `kind`.

The functions are in `distilmatch.objectives`, registered by these classes; here is what a recipe says of them. A new loss is a
class here and a function there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, model_validator

from distilmatch.config.kinds import ConfigOfKinds
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ConfigError

Relational = TypeVar("Relational", bound="EmbeddingObjectiveConfig")


class ObjectiveConfig(ConfigOfKinds):
    """What is minimised: `(1 - gold_weight) * soft + gold_weight * gold`, gold only on rows that have a label.

    `kind` names the soft part; each kind has parameters of its own.

    Attributes:
        kind: "auto" is "kl" for classification, "listwise" for ranking, which learns the order of each query's texts and
            not what a score means between queries, else "bce", which takes the teacher's logit for log-odds.
        gold_weight: of the gold labels.

    Example:
        ```python
        from distilmatch import ObjectiveConfig

        objective = ObjectiveConfig(kind="listwise", gold_weight=0.2)
        ```
    """

    kind: str = "auto"
    gold_weight: float = Field(default=0.0, ge=0, le=1)

    if TYPE_CHECKING:  # the settings of the kind that is named

        def __init__(self, **settings: Any) -> None: ...

    def check_task(self, task: TaskConfig) -> None:
        """Refuses a task from which this kind could learn nothing, or not what it is for; by default none.

        Raises:
            ConfigError: it does not go with the task.
        """


class AutoObjective(ObjectiveConfig):
    """The usual one of the task, see `kind` above.

    Attributes:
        temperature: of the soft labels, above 0.
    """

    kind: Literal["auto"] = "auto"
    temperature: float = Field(default=1.0, gt=0)


class KlObjective(ObjectiveConfig):
    """Class probabilities: the divergence from the teacher's (Hinton et al. 2015), for two labels or more.

    Attributes:
        temperature: of both, above 0.
    """

    kind: Literal["kl"] = "kl"
    temperature: float = Field(default=1.0, gt=0)


class DecoupledKlObjective(ObjectiveConfig):
    """The teacher's class against the rest, and the rest among themselves, apart (Zhao et al. 2022).

    Attributes:
        temperature: of both, above 0.
        non_target_weight: weight of the classes that the teacher does not choose.
    """

    kind: Literal["decoupled_kl"] = "decoupled_kl"
    temperature: float = Field(default=1.0, gt=0)
    non_target_weight: float = Field(default=1.0, ge=0)


class SkewedKlObjective(ObjectiveConfig):
    """The divergence from a mixture of teacher and student (DistiLLM, Ko et al. 2024): of the classes, of a ranking of each
    query's texts, of another single label of match and no match.

    Attributes:
        temperature: of both, above 0.
        skew: share in the mixture of the one that is compared with it: the teacher, or reversed the student.
        reverse: false is KL(teacher || mixture), which covers all that the teacher finds likely; true is
            KL(student || mixture), which keeps to what the teacher finds most likely.
    """

    kind: Literal["skewed_kl"] = "skewed_kl"
    temperature: float = Field(default=1.0, gt=0)
    skew: float = Field(default=0.1, ge=0, lt=1)
    reverse: bool = False


class AtkdObjective(ObjectiveConfig):
    """Easy and hard examples apart (ATKD, Zhong et al. 2024), for rankings and for three classes or more.

    Easy is what the teacher is surer of than of half of the batch: there only how the other classes (of a ranking, the texts
    behind the best one) compare is learnt; of the hard half the best against the rest too. Which half a list is in depends on
    the batch that it is in.

    Attributes:
        temperature: of both, above 0.
        easy_weight: of the easy half; the hard half has the rest.
    """

    kind: Literal["atkd"] = "atkd"
    temperature: float = Field(default=1.0, gt=0)
    easy_weight: float = Field(default=0.2, ge=0, le=1)

    def check_task(self, task: TaskConfig) -> None:
        """Refuses a task with two outcomes, of which the one that is not the teacher's is alone."""
        if task.kind != "ranking" and task.num_labels < 3:
            raise ConfigError(
                f"objective atkd compares what the teacher does not choose, and a {task.kind} task of {max(2, task.num_labels)} "
                "outcomes has nothing to compare there: easy rows would teach nothing. It is for rankings and for three classes "
                "or more; use kl, bce or skewed_kl"
            )


class BceObjective(ObjectiveConfig):
    """Log-odds: cross-entropy of two sigmoids, for one label.

    Attributes:
        temperature: of both, above 0.
        match_weight: of a row that the teacher is sure is a match, beside 1 of one that it is sure is none; between the two by
            its probability. The best student is the same, the teacher's logits: rare matches are learnt sooner.
    """

    kind: Literal["bce"] = "bce"
    temperature: float = Field(default=1.0, gt=0)
    match_weight: float = Field(default=1.0, gt=0)


class MseObjective(ObjectiveConfig):
    """The squared difference of the logits (Ba and Caruana 2014)."""

    kind: Literal["mse"] = "mse"


class ComparativeObjective(ObjectiveConfig):
    """The squared difference of differences between all pairs of a block (Comparative KD, Wilf et al. 2024): what pairs lack of
    one another, not what each is worth. n labels compare n(n - 1)/2 pairs of pairs, so it is made for few of them
    (`teacher.budget`).

    Attributes:
        anchor: weight of the squared difference of the logits themselves, without which their level stays open; above 0 where
            a score's level matters.
    """

    kind: Literal["comparative"] = "comparative"
    anchor: float = Field(default=0.1, ge=0)


class MarginMseObjective(ObjectiveConfig):
    """The squared difference of margins between texts of one query (Hofstaetter et al. 2020), for one label."""

    kind: Literal["margin_mse"] = "margin_mse"


class ListwiseObjective(ObjectiveConfig):
    """The order of each query's texts: the divergence of two softmaxes over them (ListNet, Cao et al. 2007), for one label.

    Attributes:
        temperature: of both, above 0.
    """

    kind: Literal["listwise"] = "listwise"
    temperature: float = Field(default=1.0, gt=0)


class EmbeddingObjectiveConfig(ConfigOfKinds):
    """What stage 1 minimises (DisCo, section 3.2). Each kind has parameters of its own.

    Attributes:
        kind: "ckd", contrastive distillation; "mse"; "both", `ckd + mse_weight * mse`; "rrd" or "seed", all that the teacher
            finds near a text; or "comparative", how texts differ from one another.
        bank_size: how many earlier embeddings of the teacher are negatives; 0 none.
        gather: whether the texts of all processes are negatives.
        similarity_weight: of a further part, which asks for the teacher's whole distribution of similarities to the batch
            and the bank (SEED, Fang et al. 2021), not in the paper; 0 leaves it out.
        similarity_temperature: of that distribution.

    Example:
        ```python
        from distilmatch import EmbeddingObjectiveConfig

        objective = EmbeddingObjectiveConfig(kind="both", mse_weight=0.5, bank_size=4096)
        ```
    """

    kind: str = "ckd"
    bank_size: int = Field(default=65_536, ge=0)
    gather: bool = True
    similarity_weight: float = Field(default=0.0, ge=0)
    similarity_temperature: float = Field(default=0.1, gt=0)

    contrasts: ClassVar[bool] = False
    """Whether the loss itself looks at other texts' embeddings."""

    if TYPE_CHECKING:  # the settings of the kind that is named

        def __init__(self, **settings: Any) -> None: ...

    @property
    def uses_bank(self) -> bool:
        """Whether earlier embeddings of the teacher are looked at."""
        return self.bank_size > 0 and (self.contrasts or self.similarity_weight > 0)

    @property
    def learned_temperature(self) -> float | None:
        """What a learned temperature begins with; None where none is learned."""
        return None


class CkdObjective(EmbeddingObjectiveConfig):
    """Contrastive distillation: each text's embedding is told from the teacher's of all other texts.

    Attributes:
        temperature: of the cosines, or what it is learned from; the paper's e^s begins at s = 1.
        learn_temperature: whether it is learned.
    """

    kind: Literal["ckd"] = "ckd"
    temperature: float = Field(default=math.exp(-1), gt=0)
    learn_temperature: bool = True

    contrasts: ClassVar[bool] = True

    @property
    def learned_temperature(self) -> float | None:
        """What a learned temperature begins with; None where none is learned."""
        return self.temperature if self.learn_temperature else None


class EmbeddingMseObjective(EmbeddingObjectiveConfig):
    """The squared difference of the embeddings.

    Attributes:
        normalize: whether it is of embeddings at length one.
    """

    kind: Literal["mse"] = "mse"
    normalize: bool = True


class CkdMseObjective(EmbeddingObjectiveConfig):
    """Both: contrastive distillation and the squared difference.

    Attributes:
        temperature, learn_temperature: as of "ckd".
        normalize: as of "mse".
        mse_weight: of the squared difference, which is summed over the width here.
    """

    kind: Literal["both"] = "both"
    temperature: float = Field(default=math.exp(-1), gt=0)
    learn_temperature: bool = True
    normalize: bool = True
    mse_weight: float = Field(default=1.0, ge=0)

    contrasts: ClassVar[bool] = True

    @property
    def learned_temperature(self) -> float | None:
        """What a learned temperature begins with; None where none is learned."""
        return self.temperature if self.learn_temperature else None


class RelationalObjective(EmbeddingObjectiveConfig):
    """How near each text is to those of the batch and the bank, as the teacher has it (RRD, Giakoumoglou and Stathaki 2024).

    Attributes:
        student_temperature, teacher_temperature: of the two distributions; the lower the teacher's, the fewer texts count.
        own_key: whether the text itself is one of those; at the teacher's low temperature it takes nearly all of the weight.
    """

    kind: Literal["rrd"] = "rrd"
    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: float = Field(default=0.02, gt=0)
    own_key: bool = True

    contrasts: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        return _without_similarities(self)


class SeedObjective(EmbeddingObjectiveConfig):
    """The same with one temperature for both (SEED, Fang et al. 2021).

    Attributes:
        temperature: of both distributions.
    """

    kind: Literal["seed"] = "seed"
    temperature: float = Field(default=0.1, gt=0)

    contrasts: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        return _without_similarities(self)


class ComparativeEmbeddingObjective(EmbeddingObjectiveConfig):
    """The squared difference of the embeddings once the batch's mean error is taken out (Comparative KD, Wilf et al. 2024): how
    texts differ from one another is learnt, not where they all lie.

    Attributes:
        normalize: whether it is of embeddings at length one.
        anchor: weight of the mean error; 1 is "mse".
    """

    kind: Literal["comparative"] = "comparative"
    normalize: bool = True
    anchor: float = Field(default=0.1, ge=0)


def _without_similarities(objective: Relational) -> Relational:
    if objective.similarity_weight:
        raise ValueError(
            f"kind {objective.kind} is a distillation of similarities itself: leave `similarity_weight` out, or add it to "
            "ckd, mse or both"
        )
    return objective
