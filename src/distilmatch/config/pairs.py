"""Configs of the pair job: the teacher, the transfer set, the student, its training, and the recipe that holds them all.

A recipe in YAML maps one to one onto `PairRecipe`; a key that no config has is an error, never ignored.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from distilmatch.config.base import FrozenConfig, Place, Precision, Reporter, WeightDtype, check_stage_names
from distilmatch.config.objectives import ObjectiveConfig
from distilmatch.config.online import OnlineTeacherConfig
from distilmatch.config.stages import NamedStageConfig, StageConfig
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.config.transfer import TransferConfig
from distilmatch.config.weights import check_revisions, with_weights
from distilmatch.errors import ConfigError

HeadKind = Literal["transformer", "feed_forward", "lite", "cosine"]
KeptStrategy = Literal["first", "first_pooled", "spaced", "averaged"]

USUAL_KEPT = 16
"""Cached vectors a side of a student that is built before its texts are known."""

_NO_TRAIN = "train: is missing: it has no default"
COMPARING = ("transformer", "feed_forward")  # heads that can read out what two texts have in common
NARROWEST_LEXICAL = 16  # a width with room for words, numbers, codes and flags
_ROWS_A_BLOCK = 16  # of given rows, which share few texts: four such blocks are a usual batch


class TeacherConfig(FrozenConfig):
    """The cross-encoder(s) to learn from, and how they label.

    Attributes:
        models: folders or hub names; several are averaged (mean of their logits).
        batch_size: pairs a forward pass.
        max_length: tokens a pair; None for the model's own.
        precision: "auto" is bf16 where the hardware multiplies in it.
        dtype: of the weights in memory; "auto" is fp32, which `precision` multiplies in. A model in bf16 or fp16 takes half the
            space and computes in that alone, but for its logits.
        device: of the teacher alone; None is the recipe's.
        revision: a commit or tag on the hub, one for each of `models`, null for a folder; empty for what the hub has now.
        cache_folder: soft labels are kept here, keyed by weights, tokenizer, settings and text; None keeps them
            beside the output.
        budget: how many pairs the teacher is asked for at most, all in all: where each label costs. Which ones is chosen, two
            of each block or more: those of which cheap scores disagree, and others at random. Pairs that are not asked for are
            left out, and a dev table needs gold labels of its own. None asks for the whole transfer set.
        online: has the teacher learn beside the student; None leaves it as it is.

    Example:
        ```python
        from distilmatch import TeacherConfig

        teacher = TeacherConfig(models=("teacher",), max_length=128, cache_folder="labels")
        ```
    """

    models: tuple[Place, ...] = Field(min_length=1)
    batch_size: int = Field(default=64, ge=1)
    max_length: int | None = Field(default=None, ge=4)
    precision: Precision = "auto"
    dtype: WeightDtype = "auto"
    device: Place | None = None
    revision: tuple[Place | None, ...] = ()
    cache_folder: Place | None = None
    budget: int | None = Field(default=None, ge=2)
    online: OnlineTeacherConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_revisions(self.models, self.revision)
        return self

    def label_settings(self) -> dict[str, Any]:
        """The settings that labels may depend on, those of an earlier version named as it did."""
        settings = with_weights(self.to_dict(), "dtype")
        del settings["online"]  # labels that are kept are of the teacher as it is
        return {name: value for name, value in settings.items() if name != "budget" or value is not None}


class StudentConfig(FrozenConfig):
    """The shape of a DiPair student (DiPair, section 3); the paper leaves depth, heads and activation open.

    Attributes:
        encoder_layers: the first K layers of the pre-trained encoder; None keeps all (of a teacher all but those that
            start the head, see `PairRecipe.start`).
        shared_encoder: one encoder for all sides, or one a side.
        encoder_dropout: dropout inside the encoders in training; 0 because soft labels on many pairs regularise enough.
        max_lengths: tokens of input text a side.
        prompts: a text that is put before each text of a side, one a side, such as "query: " and "passage: "; [] for none. None
            takes those of the encoder's folder, where it names them: that of a query for the first side, else a document's.
        kept_tokens: cached vectors a side. Empty: where a transformer head is trained on texts as many as nine in ten texts of
            the side have tokens, from 8 to 48; else 16.
        kept_strategy: "first" keeps the first k output tokens; "first_pooled" the mean over the text, then the first
            k - 1; "spaced" k tokens evenly spaced over the text; "averaged" the first token and, of a text with more
            than k, the means of k - 1 runs of the others, so that nothing of a text is left out.
        word_vectors: whether a kept token's vector is projected from its word embedding too, beside its output: the same word,
            or the same piece of a number, then looks alike in any text.
        width: d, the width of the cached vectors and of the head; None is the encoder's own.
        head: "transformer", "feed_forward" (over all kept tokens), "lite" (over the kept tokens' similarities), or
            "cosine". DE-Cos is "cosine" and DE-FFNN is "feed_forward", with one kept token a side.
        head_layers, head_heads, head_intermediate, head_activation, head_norm, head_dropout: the head's shape;
            head_heads None makes them as wide as the encoder's; head_intermediate None is four times the width for a
            transformer, the width for another head.
        head_similarities: slices of the texts' mean kept tokens whose dot products a transformer head reads out beside
            its first position; None is four for each attention head where the width allows; 0 none, as in the paper. A
            feed-forward head reads them out beside its hidden numbers, where a number is given.
        head_maxsim: weightings of the largest similarity that each kept token finds among the other text's, read out
            there too; None is one for each attention head; 0 none, as in the paper.
        head_gaps: weightings of the square of what a kept token's largest similarity lacks to one, read out there too: a single
            token without a partner, such as another model number, then counts. 0 none, as in the paper, and as without
            `head_maxsim`.
        lexical: whether a text is kept with one vector more, of its words, numbers and codes to the letter, whose similarities a
            transformer head reads out too: two model numbers that differ in a digit then share nothing. None: yes where a
            student is trained on rows of which a fifth have numbers in all their texts; else no, as in the paper. A feed-forward
            head reads them where it is true.
        head_start: "encoder" starts a transformer head from the pre-trained layers that follow the kept ones, or from
            the last where none follow, cut to its width; "random" as in the paper; "auto" from the encoder where that fits.

    Example:
        ```python
        from distilmatch import StudentConfig

        student = StudentConfig(side_names=("query", "product"), kept_tokens=(4, 16), max_lengths=(32, 128))
        ```
    """

    encoder_layers: int | None = Field(default=None, ge=1)
    shared_encoder: bool = True
    encoder_dropout: float = Field(default=0.0, ge=0, lt=1)
    max_lengths: tuple[int, ...] = (128, 128)
    prompts: tuple[str, ...] | None = None
    kept_tokens: tuple[int, ...] = ()
    kept_strategy: KeptStrategy = "first"
    word_vectors: bool = False
    side_names: tuple[str, ...] = ("left", "right")
    width: int | None = Field(default=None, ge=1)
    head: HeadKind = "transformer"
    head_layers: int = Field(default=1, ge=1)
    head_heads: int | None = Field(default=None, ge=1)
    head_intermediate: int | None = Field(default=None, ge=1)
    head_activation: Literal["gelu", "relu"] = "gelu"
    head_norm: Literal["post", "pre"] = "post"
    head_dropout: float = Field(default=0.0, ge=0, lt=1)
    head_similarities: int | None = Field(default=None, ge=0)
    head_maxsim: int | None = Field(default=None, ge=0)
    head_gaps: int = Field(default=0, ge=0)
    lexical: bool | None = None
    head_start: Literal["auto", "encoder", "random"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> Self:
        sides = len(self.side_names)
        if sides < 2 or len(set(self.side_names)) != sides:
            raise ValueError("`side_names` needs two or more distinct names")
        for name in ("kept_tokens", "max_lengths"):
            values = getattr(self, name)
            if name == "kept_tokens" and not values:
                continue
            if len(values) != sides:
                raise ValueError(f"`{name}` needs one number for each of the {sides} sides, it has {len(values)}")
            if min(values) < 1:
                raise ValueError(f"`{name}` must be 1 or more")
        if self.prompts and len(self.prompts) != sides:
            raise ValueError(f"`prompts` needs one text for each of the {sides} sides, it has {len(self.prompts)}")
        if any(kept > length for kept, length in zip(self.kept_tokens, self.max_lengths, strict=False)):
            raise ValueError("`kept_tokens` of a side must not be more than its `max_lengths`")
        if self.head == "lite" and sides != 2:
            raise ValueError(f"the lite head compares two sides, not {sides}: use another head")
        if self.head in ("transformer", "lite") and self.width and self.head_heads and self.width % self.head_heads:
            raise ValueError(f"`width` {self.width} is not a multiple of `head_heads` {self.head_heads}")
        if self.head_similarities and self.width and self.width % self.head_similarities:
            raise ValueError(f"`width` {self.width} is not a multiple of `head_similarities` {self.head_similarities}")
        if self.head_start == "encoder" and (self.head != "transformer" or self.head_norm != "post"):
            raise ValueError("`head_start` encoder needs a transformer head with `head_norm` post, as encoders have")
        return self

    @model_validator(mode="after")
    def _check_lexical(self) -> Self:
        if self.lexical and self.head not in COMPARING:
            raise ValueError(
                f"`lexical` needs a transformer or a feed_forward head, which read it; this one is {self.head}"
            )
        if self.lexical and (self.width or NARROWEST_LEXICAL) < NARROWEST_LEXICAL:
            raise ValueError(f"`lexical` needs a `width` of {NARROWEST_LEXICAL} or more, it is {self.width}")
        return self

    @property
    def vector_width(self) -> int:
        """`width`, of a student whose encoder is known (see `for_encoder`)."""
        if self.width is None:
            raise ConfigError("`width` is not known before the encoder is: build the student with DiPair.from_encoder")
        return self.width

    @property
    def attention_heads(self) -> int:
        """`head_heads`, of a student whose encoder is known (see `for_encoder`)."""
        if self.head_heads is None:
            raise ConfigError("`head_heads` is not known before the encoder is: build it with DiPair.from_encoder")
        return self.head_heads

    def for_encoder(self, width: int, attention_heads: int) -> Self:
        """The same shape with what is None filled in from the width and the attention heads of an encoder."""
        student_width, heads = self.width or width, self.head_heads
        if heads is None:
            size = width // attention_heads if width % attention_heads == 0 else student_width
            heads = student_width // size if student_width % size == 0 else 1
        slices = self.head_similarities
        if slices is None:
            slices = next(count for count in (4 * heads, heads, 1) if student_width % count == 0)
        weightings = heads if self.head_maxsim is None else self.head_maxsim
        if self.head != "transformer":  # a feed-forward head compares only where that is asked for
            slices, weightings = (self.head_similarities or 0) * (self.head in COMPARING), 0
        gaps = self.head_gaps if weightings else 0
        kept = self.kept_tokens or tuple(min(USUAL_KEPT, length) for length in self.max_lengths)
        compared = {"head_similarities": slices, "head_maxsim": weightings, "head_gaps": gaps}
        compared["lexical"] = bool(self.lexical)
        return self.replaced(width=student_width, head_heads=heads, kept_tokens=kept, **compared)

    @property
    def kept_vectors(self) -> tuple[int, ...]:
        """Vectors that a text of each side is kept as: its tokens, and the lexical one where there is one."""
        return tuple(kept + bool(self.lexical) for kept in self.kept_tokens)

    def prompt(self, side: int) -> str:
        """What is put before each text of a side."""
        return self.prompts[side] if self.prompts else ""

    @property
    def sides(self) -> int:
        """How many texts a scored tuple has."""
        return len(self.side_names)


class PairRecipe(FrozenConfig):
    """Everything that `distil_pairs` does, in one place: data, teacher, transfer set, student, objective, stages.

    Attributes:
        train, dev, test: table paths (or hub dataset names); dev and test are optional. dev picks the best checkpoint;
            test is never read in training, its fingerprint is recorded.
        unlabelled: files of texts of the same kind, without labels (a text a line in .txt or .txt.gz, or tables); the
            transfer set pairs them with the train table's texts (`transfer.unlabelled`).
        table: how all of them are read.
        teacher: may be left out. Then the student learns from the table's teacher labels (`table.teacher_columns`), or where
            there are none from its gold labels alone (`table.label_column`), and from the given rows alone: new pairs need a
            teacher that labels them.
        encoder: the pre-trained encoder(s) of the student: one, or one a side. Neighbours are found with the first.
        start: the student's first weights: "encoder", those; "teacher", the teacher's lower layers for the encoder and
            its last for the head, where the architecture is the same; "auto" runs stage 1 from both where that can be,
            and goes on from the encoder where it is clearly ahead on dev, else from the teacher (without a dev table or
            stage 1: "encoder").
        stages: one stage or more in place of `stage1` and `stage2`, one after another.
        further: epochs of further stages behind them, `more1`, `more2` and so on, each like the last one at half its rates. A
            run that is done goes on with them: `distilmatch train RECIPE --more-epochs 5` adds one.
        stop_at_teacher: leaves out the stages that follow once the student is as good on dev as its teacher, by
            `metric_for_best`, on 500 rows of gold labels or more; `further` ones are always trained.
        output: folder for the student, its checkpoints, the resolved recipe, labels and logs.
        metric_for_best: the dev metric that picks the best checkpoint, stage and start: one of the task's, `teacher_` and a
            measure of agreement with the teacher, or one that a program gives (`distil_pairs(..., metrics=...)`), of which more
            is better. None is accuracy, auc (average_precision where less than a quarter of the dev rows are matches), spearman
            or ndcg@10, without gold labels agreement.
        report_to: services that `transformers` logs to, such as wandb or mlflow, beside TensorBoard's files in the output; their
            packages are to be installed, and their own settings (WANDB_PROJECT, MLFLOW_TRACKING_URI, ...) hold.

    Example:
        ```python
        from distilmatch import PairRecipe, TaskConfig, TeacherConfig

        task, teacher = TaskConfig(kind="binary"), TeacherConfig(models=("teacher",))
        recipe = PairRecipe(train="train.csv", dev="dev.csv", task=task, teacher=teacher, output="run")
        recipe.to_yaml("recipe.yaml")  # for: distilmatch train recipe.yaml
        ```
    """

    NO_TABLE: ClassVar[str] = "in memory"
    """What stands for a train table that a program has yet to give (`distil_pairs(recipe, train=...)`)."""

    train: Place = NO_TABLE
    dev: Place | None = None
    test: Place | None = None
    unlabelled: tuple[Place, ...] = ()
    output: Place
    task: TaskConfig
    table: TableConfig = TableConfig()
    teacher: TeacherConfig | None = None
    encoder: tuple[Place, ...] = ("all-MiniLM-L6-v2",)
    start: Literal["auto", "encoder", "teacher"] = "auto"
    transfer: TransferConfig = TransferConfig()
    student: StudentConfig = StudentConfig()
    objective: SerializeAsAny[ObjectiveConfig] = ObjectiveConfig()
    stage1: StageConfig = StageConfig(epochs=1.0, evaluations=2)
    stage2: StageConfig = StageConfig(epochs=5.0)
    stages: tuple[NamedStageConfig, ...] = ()
    further: tuple[float, ...] = ()
    stop_at_teacher: bool = True
    metric_for_best: Place | None = None
    report_to: tuple[Reporter, ...] = ()
    device: str | None = None
    seed: int = 0

    @classmethod
    def from_dict(cls, settings: Any, source: str | None = None) -> Self:
        """The recipe that `settings` describe; unlike one that is made in a program it must name its `train` table.

        Raises:
            ConfigError: see `FrozenConfig.from_dict`.
        """
        missing = isinstance(settings, dict) and "train" not in settings
        try:
            recipe = super().from_dict(settings, source)
        except ConfigError as error:
            where = source or cls.__name__
            raise ConfigError(f"{where}: {_NO_TRAIN}\n{error}" if missing else str(error)) from error
        if missing:
            raise ConfigError(f"{source or cls.__name__}: {_NO_TRAIN}")
        return recipe

    @model_validator(mode="after")
    def _check(self) -> Self:
        table_sides = 2 if self.table.layout == "triplets" else self.table.sides
        if table_sides != self.student.sides:
            raise ValueError(
                f"the table has {table_sides} sides, the student {self.student.sides}: "
                "set `table.sides` and `student.side_names`"
            )
        waits = self.train == self.NO_TABLE  # for what a program gives
        if self.teacher is None and not waits:
            self._check_without_teacher()
        if self.teacher is not None and self.student.sides != 2 and not self.table.teacher_columns:
            raise ValueError("a cross-encoder labels pairs; for more sides give `table.teacher_columns`")
        self._check_further_questions()
        self._check_online()
        if self.objective.gold_weight > 0 and self.table.label_column is None and self.table.layout != "triplets":
            raise ValueError("`objective.gold_weight` needs gold labels: name their column in `table.label_column`")
        if len(self.encoder) not in (1, self.student.sides):
            raise ValueError(f"`encoder` needs one name, or one for each of the {self.student.sides} sides")
        if len(self.encoder) > 1 and self.student.shared_encoder:
            raise ValueError("several encoders need `student.shared_encoder: false`")
        if any(not epochs > 0 for epochs in self.further):
            raise ValueError("`further` needs epochs above 0, one number for each further stage")
        usual = type(self).model_fields
        self._check_predictions()
        check_stage_names(self.stages, (self.stage1, self.stage2), (usual["stage1"].default, usual["stage2"].default))
        return self

    def _check_online(self) -> None:
        if self.teacher is None or self.teacher.online is None:
            return
        if self.table.label_column is None and self.table.layout != "triplets":
            raise ValueError(
                "`teacher.online` learns from gold labels: name their column in `table.label_column`, or leave it out"
            )
        if self.teacher.budget is not None or len(self.teacher.models) != 1:
            raise ValueError(
                "`teacher.online` is of one model, which is asked for every pair of every step: leave `teacher.budget` out, and "
                "name one of the `teacher.models`"
            )

    def _check_further_questions(self) -> None:
        """Of pairs and mixtures that the teacher labels beside the transfer set."""
        budget = None if self.teacher is None else self.teacher.budget
        for name in ("mined", "mixtures"):
            if budget is not None and getattr(self.transfer, name):
                raise ValueError(
                    f"`transfer.{name}: {getattr(self.transfer, name)}` asks the teacher for more, beyond `teacher.budget: "
                    f"{budget}`: leave one of the two out"
                )
        if self.transfer.mixtures and (self.teacher is None or self.task.kind == "ranking" or self.student.sides != 2):
            raise ValueError(
                "`transfer.mixtures` needs a `teacher` that labels them, two sides, and a task in which a pair counts by itself: "
                "a ranking compares lists. Leave it out; `transfer.perturbed` makes texts for every task"
            )

    def _check_predictions(self) -> None:
        learnt = [stage.learns for stage in self.stages]
        if "teacher_predictions" not in learnt:
            return
        if learnt != sorted(learnt, reverse=True) or learnt[-1] != "labels":
            raise ValueError(
                "a stage that learns teacher_predictions prepares the student for the labels: put it before all others, and "
                "at least one that learns labels behind it"
            )
        if self.task.kind not in ("binary", "classification"):
            raise ValueError(
                f"`learns: teacher_predictions` asks whether the teacher is right, and a {self.task.kind} task has no right "
                "class: leave the stage out"
            )
        if self.learns_gold_alone or (self.table.label_column is None and self.table.layout != "triplets"):
            raise ValueError(
                "`learns: teacher_predictions` compares the teacher with gold labels: it needs both, a teacher and the "
                "`table.label_column`"
            )

    def _check_without_teacher(self) -> None:
        has_gold = self.table.label_column is not None or self.table.layout == "triplets"
        if not self.table.teacher_columns and not has_gold:
            raise ValueError(
                "there is nothing to learn from: name a `teacher`, the `table.teacher_columns` that hold its labels, or the "
                "`table.label_column` of gold labels, which are learned alone then"
            )
        if self.transfer.rounds:
            raise ValueError(
                f"`transfer.rounds: {self.transfer.rounds}` makes new pairs, which need a `teacher` to label them: name one, or "
                "leave `transfer.rounds` out"
            )
        if self.learns_gold_alone and self.objective.kind != "auto":
            raise ValueError(
                f"`objective.kind: {self.objective.kind}` compares the student with a teacher, and there is none: leave it out "
                "(gold labels alone have a loss of their own), or name a `teacher` or `table.teacher_columns`"
            )

    @property
    def learns_gold_alone(self) -> bool:
        """Whether there are no teacher labels: neither a teacher nor columns with its labels."""
        return self.teacher is None and not self.table.teacher_columns

    @property
    def labels_dev(self) -> bool:
        """Whether the teacher is asked for the labels of the dev table: not where a budget is to be kept."""
        return self.teacher is not None and self.teacher.budget is None

    @property
    def used_transfer(self) -> TransferConfig:
        """`transfer`, where there is no teacher with the given rows alone."""
        if self.teacher is not None or self.transfer.rounds is not None:
            return self.transfer
        rows = min(self.transfer.cells_per_block, _ROWS_A_BLOCK)
        return self.transfer.replaced(rounds=0, cells_per_block=rows)

    @property
    def mines(self) -> bool:
        """Whether pairs are mined between the first stage and the next."""
        stages = sum(stage.epochs > 0 and stage.learns == "labels" for stage in self.all_stages)
        makes_pairs = self.teacher is not None and self.transfer.rounds != 0 and self.student.sides == 2
        return self.transfer.mined > 0 and makes_pairs and stages > 1

    @property
    def all_stages(self) -> tuple[NamedStageConfig, ...]:
        """The stages, one after another: `stages`, or `stage1` with frozen encoders and `stage2`; behind them `further`."""
        stages = self.stages or (
            NamedStageConfig(name="stage1", frozen_encoders=True, **self.stage1.to_dict()),
            NamedStageConfig(name="stage2", **self.stage2.to_dict()),
        )
        last = stages[-1].halved()
        more = (last.replaced(name=f"more{i}", epochs=epochs) for i, epochs in enumerate(self.further, start=1))
        return *stages, *more

    @property
    def first_of_labels(self) -> int:
        """The number of the first stage that learns labels: others before it prepare the student."""
        return next(number for number, stage in enumerate(self.all_stages) if stage.learns == "labels")

    @property
    def transfer_seed(self) -> int:
        """The seed of the transfer set."""
        return self.seed if self.transfer.seed is None else self.transfer.seed
