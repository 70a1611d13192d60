"""`DiPairConfig`: the student's shape, its task and its encoders' configs, as `transformers` saves them."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig

_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "embedding_dropout")


class DiPairConfig(PreTrainedConfig):
    """Configuration of a `DiPair` model.

    Attributes:
        student: the settings of a `StudentConfig`.
        task: the settings of a `TaskConfig`.
        encoders: the `transformers` config of each encoder, as a dict: one where the encoder is shared, else one a
            side.
        text_templates: the templates that made the texts which the student was trained on, one a side or one for all; None
            where they were columns.
        unused_weights: names of the encoders' weights that no output depends on; they are kept and not trained.

    Example:
        ```python
        from distilmatch import DiPairConfig

        config = DiPairConfig.from_pretrained("run/student")
        print(config.task_config().kind, config.student_config().kept_tokens)
        ```
    """

    model_type = "dipair"

    student: dict[str, Any] | None = None
    task: dict[str, Any] | None = None
    encoders: list[Any] | None = None
    unused_weights: list[Any] | None = None
    text_templates: list[Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        student = (
            self.student if isinstance(self.student, StudentConfig) else StudentConfig.from_dict(self.student or {})
        )
        task = self.task if isinstance(self.task, TaskConfig) else TaskConfig.from_dict(self.task or {"kind": "binary"})
        self.student, self.task = student.to_dict(), task.to_dict()
        self.encoders = [
            encoder.to_dict() if isinstance(encoder, PreTrainedConfig) else dict(encoder)
            for encoder in self.encoders or [{"model_type": "bert"}]
        ]
        names = task.classes or tuple(f"LABEL_{label}" for label in range(task.num_labels))
        kwargs["id2label"] = dict(enumerate(names))
        kwargs["label2id"] = {name: label for label, name in enumerate(names)}
        super().__post_init__(**kwargs)

    def student_config(self) -> StudentConfig:
        """The student's shape as a frozen config."""
        return StudentConfig.from_dict(self.student)

    def task_config(self) -> TaskConfig:
        """The task as a frozen config."""
        return TaskConfig.from_dict(self.task)

    def encoder_configs(self) -> list[PreTrainedConfig]:
        """The encoders' configs, with the student's dropout."""
        configs = []
        for settings in self.encoders or []:
            config = AutoConfig.for_model(**settings)
            config.return_dict, config.chunk_size_feed_forward = True, 0  # how a pass runs, not what it computes
            for name in _DROPOUTS:
                if hasattr(config, name):
                    setattr(config, name, self.student_config().encoder_dropout)
            configs.append(config)
        return configs
