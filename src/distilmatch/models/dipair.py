"""`DiPair`: a dual encoder with truncated output sequences and a small head (arXiv 2010.03099).

Shape legend: n texts; t input tokens; p tuples; s sides; k kept tokens; h width of the encoder; d of the head; c
labels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from torch import nn
from torch.nn.functional import pad
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.errors import ModelError
from distilmatch.files import writing
from distilmatch.fingerprint import fingerprint, fingerprint_tensors, fingerprint_tokenizer
from distilmatch.metrics.decisions import Decision, read_decision
from distilmatch.models.card import write_model_card
from distilmatch.models.configuration import DiPairConfig
from distilmatch.models.deciding import KeptDecision, decision_folder
from distilmatch.models.fp32 import FP32_PARTS, Logits
from distilmatch.models.head_input import HeadInput
from distilmatch.models.head_start import sampled_outputs, start_head
from distilmatch.models.heads import ComparingHead, TransformerHead, make_head
from distilmatch.models.inference import DiPairInference
from distilmatch.models.integrity import write_checksums
from distilmatch.models.lexical import LexicalVectors
from distilmatch.models.loading import check_loaded, check_student_folder, explained
from distilmatch.models.stamps import KnownFingerprints
from distilmatch.models.streams import streams_of
from distilmatch.models.truncation import keep_tokens
from distilmatch.pretrained.encoder import PretrainedEncoder, check_word_vectors, fitted, without_pooler
from distilmatch.pretrained.mixed_words import mixed_words
from distilmatch.pretrained.names import resolve_model
from distilmatch.pretrained.probe import as_buffers, unused_weights
from distilmatch.pretrained.prompts import save_as_sentence_encoder
from distilmatch.pretrained.sentence import input_embeddings
from distilmatch.text_arguments import text_list
from distilmatch.types import TokenRepresentations

TextBatch = Mapping[str, torch.Tensor]

_QUERY_SIDE_NAMES = {"query": 0, "document": 1, "left": 0, "right": 1}


@dataclass
class PairOutput(SequenceClassifierOutput):
    """`SequenceClassifierOutput` with `sides`: for each side the kept tokens that the logits were computed from."""

    sides: tuple[TokenRepresentations, ...] | None = None


class DiPair(DiPairInference, PreTrainedModel):
    """The student: encoders, truncation and projection, head, and one linear layer to the labels.

    Sides with the same encoder, input length and prompt form one stream: a text that stands on two sides of a stream goes
    through the encoder once.

    Example:
        ```python
        from distilmatch import DiPair

        student = DiPair.from_pretrained("run/student")
        scores = student.predict([("red shoe", "a red leather shoe"), ("red shoe", "a blue lamp")])
        best = student.rank("red shoe", ["a blue lamp", "a red leather shoe"], return_documents=True)
        ```
    """

    config_class = DiPairConfig
    base_model_prefix = "dipair"
    main_input_name = "rows"
    _keep_in_fp32_modules_strict = FP32_PARTS  # when weights are loaded in half precision; `Fp32Module` does the rest
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: DiPairConfig) -> None:
        super().__init__(config)
        self.student = config.student_config()
        self.task = config.task_config()
        encoder_configs = config.encoder_configs()
        expected = 1 if self.student.shared_encoder else self.student.sides
        if len(encoder_configs) != expected:
            raise ModelError(f"the config holds {len(encoder_configs)} encoder(s), its student needs {expected}")
        dtype = torch.get_default_dtype()  # which from_pretrained sets; a config names that of where it came from
        self.encoders = nn.ModuleList(
            without_pooler(AutoModel.from_config(encoder, dtype=dtype, trust_remote_code=False))
            for encoder in encoder_configs
        )
        as_buffers(self, config.unused_weights or [])
        self.head_inputs = nn.ModuleList(HeadInput(encoder.hidden_size, self.student) for encoder in encoder_configs)
        self.head = make_head(self.student)
        self.classifier = Logits(self.head.features, self.task.num_labels)
        self.tokenizers: list[Any] = []
        self.training_summary: dict[str, Any] = {}
        self.known_fingerprints = KnownFingerprints()
        self._kept_decision = KeptDecision()
        self.streams, self.side_streams = streams_of(self.student)
        self.post_init()
        if self.classifier.weight.device.type != "meta":
            self.head.start_classifier(self.classifier)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # BERT's initialisation.
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    @classmethod
    @torch.inference_mode(False)  # or no gradient could ever be asked of its weights
    def from_encoder(
        cls,
        encoder: str | Path | Sequence[str | Path],
        student: StudentConfig | None = None,
        task: TaskConfig | None = None,
        sample_texts: Sequence[str] = (),
    ) -> DiPair:
        """A student whose encoders, and by `student.head_start` its head, start from pre-trained weights.

        Args:
            encoder: folder or hub name of a model of the BERT kind, which reads a text in both directions; one for all
                sides, or one a side. It is tried on a few tokens before anything is built from it.
            student: the student's shape; what it leaves open is the (first) encoder's own.
            task: what its logits mean; a binary score by default.
            sample_texts: a few hundred texts of the kind to be scored; a head narrower than the encoder starts better
                from them.

        Raises:
            ConfigError: there is no encoder of that name.
            ModelError: the encoder cannot be loaded, has fewer layers or positions than asked for, cannot serve a student
                (a decoder, an encoder with a decoder, a tokenizer of another model), or cannot start a head that is to
                start from it.
        """
        student = student or StudentConfig()
        task = task or TaskConfig(kind="binary")
        sample_texts = text_list(sample_texts, "sample_texts", ModelError)
        names = _encoder_names(encoder, 1 if student.shared_encoder else student.sides)
        known = {name: PretrainedEncoder.load(name) for name in dict.fromkeys(names)}
        loaded = [known[name] for name in names]
        student, start_layers = fitted(loaded[0], student)
        sample_texts = [student.prompt(0) + text for text in sample_texts]
        truncated = [source.truncated(student) for source in loaded]
        if student.word_vectors:
            for source, cut in zip(loaded, truncated, strict=True):
                check_word_vectors(source, cut)
        unused = [
            f"encoders.{index}.{weight}"
            for index, (source, cut) in enumerate(zip(loaded, truncated, strict=True))
            for weight in unused_weights(cut, source.tokenizer)
        ]
        config = DiPairConfig(
            student=student.to_dict(),
            task=task.to_dict(),
            encoders=[cut.config.to_dict() for cut in truncated],
            unused_weights=unused,
        )
        model = cls(config)
        for target, cut in zip(model.encoders, truncated, strict=True):
            target.load_state_dict(cut.state_dict())
        model.tokenizers = [source.tokenizer for source in loaded]
        if start_layers:
            assert isinstance(model.head, TransformerHead)
            # Encoders read every text as a first one; what theirs adds to a second one goes to the head's segments.
            segments = getattr(getattr(model.encoders[0], "embeddings", None), "token_type_embeddings", None)
            second = None
            if segments is not None and len(segments.weight) > 1:
                second = segments.weight[1] - segments.weight[0]
            for name, kept_layers, head_input in zip(names, model.encoders, model.head_inputs, strict=True):
                if name == names[0]:  # another encoder's tokens mean something else: its projection is learnt
                    outputs = sampled_outputs(kept_layers, model.tokenizers[0], max(student.max_lengths), sample_texts)
                    start_head(model.head, head_input, start_layers, outputs, second_segment=second)
        return model

    @classmethod
    @torch.inference_mode(False)  # as from_encoder
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> DiPair:
        """Loads a saved student, tokenizers included; arguments as in `transformers`.

        With `dtype`, as with `half()` and its like, the encoders take that dtype; the head stays in fp32.

        Raises:
            ConfigError: there is no such folder or hub name.
            ModelError: the folder holds no DiPair model, its files are not those that were saved (checksums.json), do not
                fit each other, or hold weights that are no numbers.
        """
        place = resolve_model(pretrained_model_name_or_path, kwargs.get("cache_dir"), kwargs.get("token"))
        wants_loading = kwargs.pop("output_loading_info", False)
        kwargs |= {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
        hub: dict[str, Any] = {
            key: kwargs[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in kwargs
        }
        with explained(place):
            if Path(place).is_dir():
                check_student_folder(cls, Path(place))
            config = kwargs.get("config") or AutoConfig.from_pretrained(place, trust_remote_code=False, **hub)
            if not isinstance(config, DiPairConfig):
                raise ModelError(
                    f"{place} holds a {config.model_type!r} model, not a DiPair: start from it with from_encoder"
                )
            loaded: Any = super().from_pretrained(place, *args, **kwargs)
            model, loading = loaded
            for index in range(len(model.encoders)):
                subfolder = "" if index == 0 else f"tokenizer_{index}"
                tokenizer = AutoTokenizer.from_pretrained(place, subfolder=subfolder, trust_remote_code=False, **hub)
                model.tokenizers.append(tokenizer)
            model._apply(lambda tensor: tensor)  # the head is in fp32, whatever dtype was asked for
            check_loaded(place, model, loading)
            model._kept_decision = KeptDecision(decision_folder(place, hub))
        return (model, loading) if wants_loading else model  # type: ignore[return-value]

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, *args: Any, **kwargs: Any
    ) -> None:
        """Writes safetensors weights, config, tokenizers, the decision, a model card and, last, checksums; arguments as in
        `transformers`. A decision that was loaded with other weights is left out, which a warning says.

        Raises:
            CacheError: the folder cannot be written; the reason is named.
        """
        folder = Path(save_directory)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            super().save_pretrained(str(folder), *args, **kwargs)
            self._kept_decision.save(folder)
            written: list[str] = []
            for index, tokenizer in enumerate(self.tokenizers):
                tokenizer_folder = folder if index == 0 else folder / f"tokenizer_{index}"
                written += tokenizer.save_pretrained(str(tokenizer_folder)) or ()
            templates = self.config.text_templates or ()
            decision = read_decision(folder)
            write_model_card(folder, self.student, self.task, self.training_summary, templates, decision)
            write_checksums(folder, written)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload a DiPair student",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Uploads what `save_pretrained` writes, the model card included, and returns the commit's address.

        `transformers`' own method would put a card of its own in the place of this one.
        """
        hub = HfApi(token=token)
        repo_id = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        return str(commit.commit_url)

    @property
    def decision(self) -> Decision:
        """Thresholds and calibration, fitted on dev: those of the folder that it was loaded from, or what was set here.

        Like all that a folder says, it holds for the weights as they were loaded: set another after changing them.

        Raises:
            ConfigError: it has none.
            ModelError: decision.json is damaged, or belongs to other weights than those beside it.
        """
        return self._kept_decision.get()

    @decision.setter
    def decision(self, decision: Decision | None) -> None:
        self._kept_decision.give(decision)

    def save_encoder(self, folder: str | Path, side: int | str = 0) -> None:
        """Writes a side's encoder and tokenizer as a stock `transformers` folder, which `AutoModel` and
        `SentenceTransformer` load without this package.

        Where sides have prompts, it is a sentence-transformers folder too: the mean of the tokens, this side's prompt as the
        default, every side's by the side's name, and those of two sides as `query` and `document`. `AutoModel` puts none
        before a text: a transformers folder has no place for them.
        """
        stream = self.side_streams[self.side_index(side)]
        index = self.streams[stream].encoder
        encoder = self.encoders[index]
        assert isinstance(encoder, PreTrainedModel)
        encoder.save_pretrained(str(folder))
        self._tokenizer(index).save_pretrained(str(folder))
        if any(self.student.prompts or ()):
            save_as_sentence_encoder(folder, int(encoder.config.hidden_size), *self._named_prompts(side))

    def _named_prompts(self, side: int | str) -> tuple[dict[str, str], str]:
        """The sides' prompts by their names, and the name of this side's."""
        names, number = self.student.side_names, self.side_index(side)
        prompts = {name: self.student.prompt(place) for place, name in enumerate(names)}
        usual = dict(zip(("query", "document"), prompts.values(), strict=True)) if len(names) == 2 else {}
        return usual | prompts, names[number]

    def forward(
        self,
        rows: torch.Tensor,
        streams: Sequence[Sequence[TextBatch]] | None = None,
        kept: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
        labels: torch.Tensor | None = None,
    ) -> PairOutput:
        """Logits of tuples over a batch's distinct texts.

        Args:
            rows: (p, s) int64; `rows[:, j]` counts the texts of side j's stream (or the rows of `kept[j]`).
            streams: for each stream its texts as tokenised batches, `input_ids` and `attention_mask` (n_i, t_i), of a lexical
                student also `lexical` (n_i, d), the texts' `lexical_vectors`.
            kept: instead of `streams`, for each side (n, k, h) kept encoder outputs and their (n, k) bool mask.
            labels: ignored here; losses are functions of the logits (`distilmatch.objectives`).

        Returns:
            `logits`, (p, c), and `sides`, for each side the (n, k, d) kept tokens that they were computed from.
        """
        if kept is None:
            if streams is None:
                raise ModelError("forward needs `streams` (tokenised texts) or `kept` (cached encoder outputs)")
            kept = self.kept_outputs(streams)
        sides = [self.represent(states, mask, side) for side, (states, mask) in enumerate(kept)]
        logits = self.score_rows(sides, rows)
        if isinstance(self.head, ComparingHead):
            sides = [self.head.parted(side)[0] for side in sides]
        return PairOutput(logits=logits, sides=tuple(sides))

    def kept_outputs(self, streams: Sequence[Sequence[TextBatch]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each side the kept encoder outputs of its stream's texts: (n, k, h) and (n, k) bool."""
        outputs = []
        for stream, batches in enumerate(streams):
            encoder = self.encoders[self.streams[stream].encoder]
            outputs.append([(self._states(encoder, batch), batch) for batch in batches])
        kept = []
        for side, stream in enumerate(self.side_streams):
            kept_batches = [self._keep(states, batch, side) for states, batch in outputs[stream]]
            kept.append(
                (torch.cat([states for states, _ in kept_batches]), torch.cat([mask for _, mask in kept_batches]))
            )
        return kept

    def kept_side(self, batch: TextBatch, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The kept encoder outputs of one tokenised batch (n, t) on one side: (n, k, h) and (n, k) bool."""
        encoder = self.encoders[self.streams[self.side_streams[side]].encoder]
        return self._keep(self._states(encoder, batch), batch, side)

    def _states(self, encoder: nn.Module, batch: TextBatch) -> torch.Tensor:
        """(n, t, h) output tokens of an encoder, or with `word_vectors` (n, t, 2 h), each beside its word's embedding."""
        if "mixed_ids" in batch:
            words = mixed_words(encoder, batch)
            read = {"inputs_embeds": words, "attention_mask": batch["attention_mask"]}
            states: torch.Tensor = encoder(**read).last_hidden_state
            return torch.cat([states, words.to(states.dtype)], -1) if self.student.word_vectors else states
        tokens = {name: values for name, values in batch.items() if name != "lexical"}
        states = encoder(**tokens).last_hidden_state
        if not self.student.word_vectors:
            return states
        table = input_embeddings(encoder)
        assert table is not None, "from_encoder refuses it"
        return torch.cat([states, table(batch["input_ids"]).to(states.dtype)], -1)

    def _keep(self, states: torch.Tensor, batch: TextBatch, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        mask = batch["attention_mask"]
        kept, kept_mask = keep_tokens(states, mask, self.student.kept_tokens[side], self.student.kept_strategy)
        if not self.student.lexical:
            return kept, kept_mask
        if "lexical" not in batch:
            raise ModelError("a batch of a lexical student needs `lexical`: the `lexical_vectors` of its texts")
        lexical = batch["lexical"].to(kept.dtype)
        row = pad(lexical, (0, kept.shape[-1] - lexical.shape[-1]))[:, None]
        return torch.cat([kept, row], 1), pad(kept_mask, (0, 1), value=True)

    def lexical_vectors(self, texts: Sequence[str], stream: int) -> torch.Tensor | None:
        """(n, d) float32 lexical vectors of texts as they are, on the CPU; None of a student that is not lexical.

        Args:
            stream: a number of `streams`; the rest of a text's tokenised batch depends on it too.
        """
        return self._lexical_part(stream).vectors(texts) if self.student.lexical else None

    def count_terms(self, texts: Sequence[str]) -> None:
        """Counts in texts how rare the terms of lexical vectors are; vectors of before are then another model's.

        Raises:
            ModelError: something that is no text.
        """
        texts = text_list(texts, "texts", ModelError)
        if self.student.lexical:
            for stream in {stream.encoder: number for number, stream in enumerate(self.streams)}.values():
                self._lexical_part(stream).count(texts)

    def _lexical_part(self, stream: int) -> LexicalVectors:
        part = self.head_inputs[self.streams[stream].encoder].lexical
        assert isinstance(part, LexicalVectors)
        return part

    def represent(self, states: torch.Tensor, mask: torch.Tensor, side: int) -> TokenRepresentations:
        """What is cached of a text on `side`: (n, k, d) from its kept encoder outputs (n, k, h)."""
        return self.head_inputs[self.streams[self.side_streams[side]].encoder](states, mask, side)

    def score_rows(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor:
        """(p, c) logits of tuples of representations; `rows` is (p, s)."""
        return self.classifier(self.head(sides, rows))

    def encoder_width(self, side: int) -> int:
        """h, the width of what is kept of a side's texts before the projection: its encoder's, twice with `word_vectors`."""
        width = int(self.config.encoder_configs()[self.streams[self.side_streams[side]].encoder].hidden_size)
        return 2 * width if self.student.word_vectors else width

    def side_index(self, side: int | str) -> int:
        """The number of a side given by number or name.

        Raises:
            ModelError: there is no such side.
        """
        names = self.student.side_names
        if isinstance(side, str):
            if side in names:
                return names.index(side)
            if len(names) == 2 and side in _QUERY_SIDE_NAMES:
                return _QUERY_SIDE_NAMES[side]
        elif isinstance(side, int | np.integer) and not isinstance(side, bool) and 0 <= side < len(names):
            return int(side)
        raise ModelError(f"no side {side!r}: this model's sides are {', '.join(names)} (0 to {len(names) - 1})")

    def representation_fingerprint(self, side: int | str) -> str:
        """A fingerprint of all that a side's representations depend on: weights, tokenizer, prompt, truncation, side."""
        index = self.side_index(side)
        stream = self.streams[self.side_streams[index]]
        encoder = stream.encoder
        return fingerprint(
            fingerprint_tensors(self.encoders[encoder].state_dict()),
            fingerprint_tensors(self.head_inputs[encoder].state_dict()),
            fingerprint_tokenizer(self._tokenizer(encoder)),
            *stream.reading(),
            self.student.kept_tokens[index],
            self.student.kept_strategy,
            index,
        )

    def _tokenizer(self, encoder: int) -> Any:
        if len(self.tokenizers) <= encoder:
            raise ModelError("this model has no tokenizer: load it with from_pretrained or build it with from_encoder")
        return self.tokenizers[encoder]


def _encoder_names(encoder: Any, wanted: int) -> list[str]:
    """The encoder's name for each of `wanted`."""
    if isinstance(encoder, Path):
        encoder = str(encoder)
    elif not isinstance(encoder, str) and isinstance(encoder, Sequence):
        encoder = [str(name) if isinstance(name, Path) else name for name in encoder]
    names = text_list(encoder, "encoder", ModelError)
    if len(names) not in (1, wanted):
        raise ModelError(f"{len(names)} encoders given for {wanted}: name one, or one a side")
    return names * wanted if len(names) == 1 else names


AutoConfig.register("dipair", DiPairConfig)
AutoModel.register(DiPairConfig, DiPair)
AutoModelForSequenceClassification.register(DiPairConfig, DiPair)
