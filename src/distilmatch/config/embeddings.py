"""Frozen configs of the embedding job (DisCo, arXiv 2112.05638) and the recipe that holds them all.

A recipe in YAML maps one to one onto `EmbeddingRecipe`; a key that no config has is an error, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from distilmatch.arguments import number_format
from distilmatch.config.base import FrozenConfig, Place, Precision, Reporter, WeightDtype, check_stage_names
from distilmatch.config.objectives import EmbeddingObjectiveConfig
from distilmatch.config.tables import FileFormat, OnBadRows, TableConfig, TaskConfig
from distilmatch.config.templates import MOST_TEXTS, Templates, check_templates
from distilmatch.config.weights import check_revisions, with_weights

Pooling = Literal["auto", "mean", "cls", "max", "lasttoken"]
LayerChoice = Literal["first", "last", "spaced"]
StudentStart = Literal["teacher", "encoder", "fresh", "static"]
Combination = Literal["concatenate", "average"]
LabelledKind = Literal["pairs", "triplets", "scored"]
StoredPrecision = Annotated[Literal["fp16", "fp32"], BeforeValidator(number_format)]


class CorpusConfig(FrozenConfig):
    """Unlabelled texts, each kept once.

    Attributes:
        sources: files of a text a line (.txt, .txt.gz, UTF-8), tables (JSONL, CSV, TSV, Parquet) or hub datasets.
        text_columns: of the tables, each of whose texts counts; None is the column `text`, or the only one of texts.
        text_templates: texts made of several columns, in place of `text_columns`: each template gives a text of every row.
        file_format: by default from the file's ending.
        delimiter, quoting: of CSV and TSV, as of a pair table.
        split: which split of a Hugging Face dataset.
        most_texts: how many distinct texts are kept at most, the first ones; None all.
        prompts: put before the texts, one before each, chosen by a hash of the text: such as "query: " and "passage: " of a
            teacher that has them. Teacher and student read them alike, so that the student learns with them.
        on_bad_rows: "stop" before any work at lines that cannot be read, or "quarantine" them to a side file.
        quarantine_file: where to; by default beside each source as NAME.bad_rows.jsonl.

    Example:
        ```python
        from distilmatch import CorpusConfig

        corpus = CorpusConfig(sources=("sentences.txt.gz", "reviews.jsonl"), text_columns=("title", "body"))
        ```
    """

    sources: tuple[Place, ...] = Field(min_length=1)
    text_columns: tuple[str, ...] | None = None
    text_templates: Templates | None = None
    file_format: FileFormat | Literal["text"] | None = None
    delimiter: str | None = None
    quoting: Literal["auto", "rfc4180", "none"] = "auto"
    split: str = "train"
    most_texts: int | None = Field(default=None, ge=1)
    prompts: tuple[str, ...] = ()
    on_bad_rows: OnBadRows = "stop"
    quarantine_file: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.text_templates is not None:
            check_templates(self.text_templates, self.text_columns, 1, MOST_TEXTS)
        return self


class EmbeddingTeacherConfig(FrozenConfig):
    """What the student's embeddings are to be like.

    Attributes:
        models: sentence-transformers folders or hub names, or transformers with a `pooling`.
        embeddings: files of embeddings made elsewhere, .npy or Parquet, each a teacher: a row for each row of the corpus'
            sources in their order (blank lines and repeated texts counted).
        embedding_column: of Parquet files, a column of lists.
        combine: how several teachers become one, each normalised before.
        pooling: of a model that is a transformer only; "auto" is the model's own, else the mean.
        batch_size: texts a forward pass.
        max_length: tokens a text; None for the model's own.
        prompt: what the models see before each text; None for a model's default prompt, where it has one.
        precision: "auto" is bf16 where the hardware multiplies in it.
        model_dtype: of the models' weights in memory; "auto" is fp32, which `precision` multiplies in.
        device: of the models alone; None is the recipe's.
        revision: a commit or tag on the hub, one for each of `models`, null for a folder; empty for what the hub has now.
        dtype: in which embeddings are kept on disk.
        cache_folder: where; None is beside the output. They are keyed by weights, tokenizer, settings and texts.

    Example:
        ```python
        from distilmatch import EmbeddingTeacherConfig

        teacher = EmbeddingTeacherConfig(models=("all-MiniLM-L6-v2",), max_length=64)
        ```
    """

    models: tuple[Place, ...] = ()
    embeddings: tuple[Place, ...] = ()
    embedding_column: str = "embedding"
    combine: Combination = "concatenate"
    pooling: Pooling = "auto"
    batch_size: int = Field(default=64, ge=1)
    max_length: int | None = Field(default=None, ge=4)
    prompt: str | None = None
    precision: Precision = "auto"
    model_dtype: WeightDtype = "auto"
    device: Place | None = None
    revision: tuple[Place | None, ...] = ()
    dtype: StoredPrecision = "fp16"
    cache_folder: Place | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.models and not self.embeddings:
            raise ValueError("name a teacher in `models`, or files of its `embeddings`")
        check_revisions(self.models, self.revision)
        return self

    def embedding_settings(self) -> dict[str, Any]:
        """The settings that embeddings may depend on, those of an earlier version named as it did."""
        return with_weights(self.to_dict(), "model_dtype")


class EmbeddingStudentConfig(FrozenConfig):
    """The student: a plain sentence-transformers folder at the end.

    Attributes:
        start: "teacher", some of the teacher's own layers; "encoder", another pre-trained model; "fresh", a transformer of
            this shape with random weights; "static", a table of token embeddings, averaged (the fastest).
        encoder: the pre-trained model of "encoder"; of "fresh" and "static" the one whose tokenizer (and configuration,
            or token embeddings) they begin with, None for the first teacher.
        layers: how many transformer layers, or the numbers of those that are kept, from 0; None all.
        layer_choice: which, where `layers` is a number: evenly spaced ones include the first and the last.
        width, heads, intermediate: the shape of "fresh"; `width` also of "static"; None as the model it begins with.
        pooling: "auto" is that of the model it begins with.
        normalize: whether embeddings come out at length one.
        max_length: tokens a text; the paper's is 64.
        dropout: in training; None keeps the model's own.
        projection: to the teacher's width: "drop" learns one and leaves it out at the end, as in the paper; "keep" makes
            it part of the student; "none" needs equal widths; "auto" is none where the widths are equal, else drop.
        matryoshka: further widths at which the beginning of an embedding shall be one by itself.

    Example:
        ```python
        from distilmatch import EmbeddingStudentConfig

        half = EmbeddingStudentConfig(layers=3)  # evenly spaced layers of the teacher
        static = EmbeddingStudentConfig(start="static", width=256)  # the fastest; blind to the order of words
        ```
    """

    start: StudentStart = "teacher"
    encoder: Place | None = None
    layers: int | tuple[int, ...] | None = 3
    layer_choice: LayerChoice = "spaced"
    width: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    intermediate: int | None = Field(default=None, ge=1)
    pooling: Pooling = "auto"
    normalize: bool = True
    max_length: int = Field(default=128, ge=4)
    dropout: float | None = Field(default=0.0, ge=0, lt=1)
    projection: Literal["auto", "none", "drop", "keep"] = "auto"
    matryoshka: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.start == "encoder" and self.encoder is None:
            raise ValueError("`start: encoder` needs an `encoder`: the folder or hub name of a pre-trained model")
        if self.start == "teacher" and self.encoder is not None:
            raise ValueError("`start: teacher` takes the teacher's layers and no `encoder`: set `start: encoder`")
        layers = (self.layers,) if isinstance(self.layers, int) else self.layers or ()
        if isinstance(self.layers, int) and self.layers < 1:
            raise ValueError("`layers` must be 1 or more, or a list of layer numbers")
        if isinstance(self.layers, tuple) and (not layers or min(layers) < 0 or list(layers) != sorted(set(layers))):
            raise ValueError("a list of `layers` names each once, from 0, in rising order")
        if self.start in ("teacher", "encoder") and (self.width or self.heads or self.intermediate):
            raise ValueError(
                "`width`, `heads` and `intermediate` shape a fresh (or static) student: set `start: fresh`"
            )
        if self.start == "static" and (self.heads or self.intermediate):
            raise ValueError("a static student has no `heads` and no `intermediate`")
        if self.matryoshka and self.projection in ("none", "keep"):
            raise ValueError("`matryoshka` widths are of the student's own embedding: set `projection: drop`")
        if any(width < 1 for width in self.matryoshka):
            raise ValueError("`matryoshka` widths must be 1 or more")
        return self


class ContrastiveConfig(FrozenConfig):
    """What stage 2 minimises (DisCo, section 3.3): InfoNCE on pairs and triplets, another loss on scored pairs.

    Attributes:
        temperature: of InfoNCE, or what it is learned from.
        scored_loss: "cosent" or "angle", of sentence-transformers.
        scored_scale: by which their similarities are multiplied.
        gather: whether the texts of all processes are candidates of InfoNCE.
        start_share: share of the weights that stage 2 began with in the finished student (WiSE-FT, Wortsman et al. 2022):
            more of it keeps more of what the labels do not ask for.

    Example:
        ```python
        from distilmatch import ContrastiveConfig

        contrastive = ContrastiveConfig(start_share=0.75)  # goes a quarter of the way that the labels ask for
        ```
    """

    temperature: float = Field(default=0.05, gt=0)
    learn_temperature: bool = True
    scored_loss: Literal["cosent", "angle"] = "cosent"
    scored_scale: float = Field(default=20.0, gt=0)
    gather: bool = True
    start_share: float = Field(default=0.0, ge=0, le=1)


class EmbeddingStageConfig(FrozenConfig):
    """One of the two training stages, AdamW in both.

    Attributes:
        epochs: passes over the texts or rows; 0 skips the stage.
        batch_size: texts (stage 1) or rows (stage 2) a step and a process.
        learning_rate: the peak; the paper has 2e-4 for batches of 4,096.
        warmup_epochs: part of the first epoch in which the learning rate rises.
        beta2: of Adam; 0.98 in the paper's stage 1.
        evaluations: how many times dev is scored during the stage, spread evenly.
        patience: evaluations without a better dev metric before the stage ends; None never.

    Example:
        ```python
        from distilmatch import EmbeddingStageConfig

        stage = EmbeddingStageConfig(epochs=2, batch_size=256, patience=3)
        longer = stage.replaced(epochs=4)
        ```
    """

    epochs: float = Field(default=3.0, ge=0)
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup_epochs: float = Field(default=0.1, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    beta2: float = Field(default=0.98, gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    evaluations: int = Field(default=20, ge=1)
    patience: int | None = Field(default=None, ge=1)
    precision: Precision = "auto"


class NamedEmbeddingStageConfig(EmbeddingStageConfig):
    """A stage of a list: `EmbeddingStageConfig` with a name and what it learns from.

    Attributes:
        name: of its folder and in the log; letters, digits, - and _.
        kind: "distillation" of the teacher on the corpus, or "contrastive" learning from the labelled tables.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=60)
    kind: Literal["distillation", "contrastive"]


class LabelledConfig(FrozenConfig):
    """A table of texts that belong together: for stage 2, or (scored) as dev set.

    Attributes:
        source: a table (JSONL, CSV, TSV, Parquet) or hub dataset.
        kind: "pairs" of like texts; "triplets" of an anchor, a text like it and one or more that are not; "scored" pairs.
        text_columns: two, or for triplets three or more; None takes those that names say, or the first ones of texts.
        text_templates: texts made of several columns, in place of `text_columns`: one a text, or of two texts one for both.
        score_column: of scored pairs.
        score_range: the lowest and the highest score.
        prompts: put before the texts of each column, one a column, such as "query: " and "passage: ".
        file_format, delimiter, quoting, split, on_bad_rows, quarantine_file: as of a table.

    Example:
        ```python
        from distilmatch import LabelledConfig

        dev = LabelledConfig(source="sts-dev.jsonl", score_column="score", score_range=(0, 5))
        pairs = LabelledConfig(source="questions.jsonl", kind="pairs", text_columns=("question", "duplicate"))
        ```
    """

    source: Place
    kind: LabelledKind = "scored"
    text_columns: tuple[str, ...] | None = None
    text_templates: Templates | None = None
    score_column: str | None = None
    score_range: tuple[float, float] = (0.0, 1.0)
    prompts: tuple[str, ...] = ()
    file_format: FileFormat | None = None
    delimiter: str | None = None
    quoting: Literal["auto", "rfc4180", "none"] = "auto"
    split: str = "train"
    on_bad_rows: OnBadRows = "stop"
    quarantine_file: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "scored" and self.score_column is None:
            raise ValueError("scored pairs need a `score_column`")
        if self.kind != "scored" and self.score_column is not None:
            raise ValueError(f"`score_column` belongs to scored pairs, not to {self.kind}")
        count = None if self.text_columns is None else len(self.text_columns)
        if count is not None and (count < 3 if self.kind == "triplets" else count != 2):
            needed = "three or more" if self.kind == "triplets" else "two"
            raise ValueError(f"{self.kind} need {needed} `text_columns`, not {count}")
        if self.text_templates is not None:
            fewest, most = (3, MOST_TEXTS) if self.kind == "triplets" else (2, 2)
            check_templates(self.text_templates, self.text_columns, fewest, most)
        if self.prompts and len(self.prompts) != self.table.sides:
            raise ValueError(
                f"`prompts` needs one text for each of the {self.table.sides} columns, it has {len(self.prompts)}"
            )
        self.task  # noqa: B018 - checks the range
        return self

    @property
    def table(self) -> TableConfig:
        """How the table is read: a triplet row as a tuple of three texts or more."""
        sides = 2 if self.kind != "triplets" else len(self.text_columns or self.text_templates or ()) or 3
        return TableConfig(
            sides=sides,
            text_columns=self.text_columns,
            text_templates=self.text_templates,
            label_column=self.score_column,
            file_format=self.file_format,
            delimiter=self.delimiter,
            quoting=self.quoting,
            split=self.split,
            on_bad_rows=self.on_bad_rows,
            quarantine_file=self.quarantine_file,
        )

    @property
    def task(self) -> TaskConfig:
        """What its scores mean."""
        return TaskConfig(kind="regression", label_range=self.score_range)


class EmbeddingRecipe(FrozenConfig):
    """Everything that `distil_embeddings` does: texts, teacher, student, objectives and both stages.

    Either stage can be left out: without a `corpus` there is no stage 1, without `labelled` no stage 2. `stages` is a list of
    one or more in place of both.

    Attributes:
        corpus: the unlabelled texts of stage 1.
        teacher: needed for stage 1, and where the student starts from its layers.
        labelled: the tables of stage 2.
        dev: a table of scored pairs, or several, that pick the best checkpoint: by Spearman's correlation with the cosine,
            each table counting once; None keeps the last.
        output: folder for the student, its checkpoints, the resolved recipe, the teacher's embeddings and logs.
        report_to: services that `transformers` logs to, such as wandb or mlflow, beside TensorBoard's files in the output; their
            packages are to be installed, and their own settings (WANDB_PROJECT, MLFLOW_TRACKING_URI, ...) hold.

    Example:
        ```python
        from distilmatch import CorpusConfig, EmbeddingRecipe, EmbeddingTeacherConfig

        corpus = CorpusConfig(sources=("sentences.txt",))
        teacher = EmbeddingTeacherConfig(models=("all-MiniLM-L6-v2",))
        recipe = EmbeddingRecipe(corpus=corpus, teacher=teacher, output="encoder-run")
        recipe.to_yaml("embedding.yaml")  # for: distilmatch embed-train embedding.yaml
        ```
    """

    corpus: CorpusConfig | None = None
    teacher: EmbeddingTeacherConfig | None = None
    student: EmbeddingStudentConfig = EmbeddingStudentConfig()
    objective: SerializeAsAny[EmbeddingObjectiveConfig] = EmbeddingObjectiveConfig()
    stage1: EmbeddingStageConfig = EmbeddingStageConfig()
    labelled: tuple[LabelledConfig, ...] = ()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    stage2: EmbeddingStageConfig = EmbeddingStageConfig(batch_size=64, learning_rate=5e-5, beta2=0.999)
    stages: tuple[NamedEmbeddingStageConfig, ...] = ()
    dev: tuple[LabelledConfig, ...] = ()
    output: Place
    report_to: tuple[Reporter, ...] = ()
    device: str | None = None
    seed: int = 0

    @field_validator("dev", mode="before")
    @classmethod
    def _one_or_several(cls, tables: Any) -> Any:
        return () if tables is None else (tables,) if isinstance(tables, dict | LabelledConfig) else tables

    @model_validator(mode="after")
    def _check(self) -> Self:
        usual = type(self).model_fields
        check_stage_names(self.stages, (self.stage1, self.stage2), (usual["stage1"].default, usual["stage2"].default))
        if not self.all_stages:
            raise ValueError("nothing to train: give a `corpus` (stage 1), `labelled` tables (stage 2) or both")
        for name, is_there in (("distillation", self.corpus is not None), ("contrastive", bool(self.labelled))):
            if not is_there and self.has_kind(name):
                needed = "a `corpus`" if name == "distillation" else "`labelled` tables"
                raise ValueError(f"a stage of {name} needs {needed}: give them, or leave the stage out")
        if self.distils and self.teacher is None:
            raise ValueError("stage 1 distils a `teacher`: name one, or leave out the `corpus`")
        if self.student.encoder is None and (self.teacher is None or not self.teacher.models):
            raise ValueError(
                f"`student.start: {self.student.start}` begins with a teacher's model and there is none: name one in "
                "`teacher.models`, or another model with `student.start: encoder`"
            )
        for table in self.dev:
            if table.kind != "scored":
                raise ValueError(f"`dev` must be scored pairs, not {table.kind}")
        return self

    @property
    def all_stages(self) -> tuple[NamedEmbeddingStageConfig, ...]:
        """The stages that train, one after another: of `stages`, or `stage1` and `stage2` where there is data for them."""
        if self.stages:
            return tuple(stage for stage in self.stages if stage.epochs > 0)
        made = []
        if self.corpus is not None and self.stage1.epochs > 0:
            made.append(NamedEmbeddingStageConfig(name="stage1", kind="distillation", **self.stage1.to_dict()))
        if self.labelled and self.stage2.epochs > 0:
            made.append(NamedEmbeddingStageConfig(name="stage2", kind="contrastive", **self.stage2.to_dict()))
        return tuple(made)

    def has_kind(self, kind: str) -> bool:
        """Whether a stage is of this kind."""
        return any(stage.kind == kind for stage in self.all_stages)

    @property
    def distils(self) -> bool:
        """Whether a stage distils the teacher on unlabelled text."""
        return self.has_kind("distillation")

    @property
    def fine_tunes(self) -> bool:
        """Whether a stage learns from labelled tables."""
        return self.has_kind("contrastive")
