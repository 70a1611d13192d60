"""Embedding teachers: sentence encoders, embeddings made elsewhere, and several of them as one.

Shape legend: n texts; r rows of the corpus' sources; d width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer

from distilmatch.config.base import WeightDtype
from distilmatch.config.embeddings import Combination, EmbeddingTeacherConfig, Pooling
from distilmatch.config.weights import revision_of
from distilmatch.data.column_names import missing_column
from distilmatch.errors import ConfigError, DataError, ModelError
from distilmatch.fingerprint import fingerprint, fingerprint_file
from distilmatch.pretrained.positions import position_limit
from distilmatch.pretrained.sentence import encoder_fingerprint, encoder_width, load_sentence_encoder
from distilmatch.runtime import Precision, autocast, use_bf16
from distilmatch.teachers.base import check_loaded, given_teachers
from distilmatch.teachers.views import ModelViews, encode_first_under
from distilmatch.text_arguments import text_list

_SHOWN_PROGRESS = 1000


class EmbeddingTeacher(Protocol):
    """Something that gives an embedding for a text."""

    @property
    def name(self) -> str:
        """What messages and model cards call it."""

    @property
    def width(self) -> int:
        """d, how many numbers an embedding has."""

    @property
    def needs_rows(self) -> bool:
        """Whether an embedding is found by the text's row in the corpus' sources instead of the text."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that an embedding depends on besides the text (or its row)."""

    def check_rows(self, rows: int) -> None:
        """Raises DataError where there are not embeddings for exactly r rows; models have them for any."""

    def embed(
        self, texts: Sequence[str], rows: np.ndarray | None = None, show_progress_bar: bool | None = None
    ) -> np.ndarray:
        """(n, d) float32 finite embeddings of `texts`, which stand in `rows`, (n,), of the corpus' sources."""


class SentenceTeacher:
    """The embeddings of a sentence encoder, in evaluation mode always, as its own `encode` gives them.

    Threads may share a teacher, and teachers of different `max_length` a model. In bf16 what follows the encoder, such as
    the mean of its tokens, is computed in fp32.

    Args:
        model: a sentence-transformers folder or hub name, a transformer with a `pooling`, or a loaded
            `SentenceTransformer` (used as it is, on its own device; nothing of it is changed).
        pooling: see `load_sentence_encoder`; of a loaded model "auto" only.
        batch_size: texts a forward pass.
        max_length: tokens a text, special tokens included; None for the model's own.
        prompt: what is put before each text; None for the model's default prompt, where it has one.
        precision: "fp32", "bf16" (autocast), or "auto": bf16 where the hardware multiplies in it.
        device: of a model given by name; None for the best one here.
        dtype: of the weights of a model given by name: "fp32", "bf16" or "fp16"; "auto" is fp32. A half-precision model computes
            in its own numbers.
        revision: of a model by its hub name: a commit or tag; None for what the hub has now.

    Raises:
        ConfigError: no such folder or revision, or a setting out of range.
        ModelError: the model cannot be loaded.

    Example:
        ```python
        from distilmatch import SentenceTeacher

        teacher = SentenceTeacher("all-MiniLM-L6-v2", max_length=64)
        embeddings = teacher.embed(["a red leather shoe", "a blue lamp"])  # (2, 384)
        ```
    """

    needs_rows = False

    def __init__(
        self,
        model: str | Path | SentenceTransformer,
        *,
        pooling: Pooling = "auto",
        batch_size: int = 64,
        max_length: int | None = None,
        prompt: str | None = None,
        precision: Precision = "auto",
        device: str | None = None,
        dtype: WeightDtype = "auto",
        revision: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"`batch_size` must be 1 or more, not {batch_size}")
        self.prompt = prompt
        self._given = isinstance(model, SentenceTransformer)
        if isinstance(model, SentenceTransformer):
            if pooling != "auto":
                raise ConfigError("a loaded SentenceTransformer has a pooling of its own: leave `pooling` at auto")
            self.name, self.model = "a loaded SentenceTransformer", model
            check_loaded(self.name, dtype=dtype, revision=revision)
        else:
            self.name = str(model)
            self.model = load_sentence_encoder(model, pooling=pooling, device=device, dtype=dtype, revision=revision)
        self.batch_size = batch_size
        half = self.model.dtype in (torch.bfloat16, torch.float16)  # computes in its own numbers
        self.precision: Precision = "bf16" if not half and use_bf16(precision, self.model.device) else "fp32"
        limit = position_limit(self.model)
        if max_length is not None and not 4 <= max_length <= limit:
            raise ConfigError(f"`max_length` must be between 4 and {limit} for {self.name}, not {max_length}")
        self.max_length = max_length
        self._width = encoder_width(self.model)
        self._views = ModelViews(self.model, max_length)
        self._check_view()

    @property
    def width(self) -> int:
        """d, how many numbers an embedding has."""
        return self._width

    @property
    def fingerprint(self) -> str:
        """A hash of weights, tokenizer and settings; batch size and device change an embedding by rounding alone."""
        # A model that was handed in may have been trained further since.
        return self._compute_fingerprint() if self._given else self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self._compute_fingerprint()

    def _compute_fingerprint(self) -> str:
        # Embeddings whose last steps were rounded, by an earlier version, are others than these.
        numbers = "bf16, pooled in fp32" if self.precision == "bf16" else self.precision
        prompted = {} if self.prompt is None else {"asked with": self.prompt}
        return encoder_fingerprint(self.model, max_length=self.max_length, precision=numbers, **prompted)

    def _check_view(self) -> None:
        try:
            self._views.make()
        except AttributeError as error:
            raise ConfigError(f"{self.name} does not truncate texts: leave `max_length` out") from error

    def check_rows(self, rows: int) -> None:
        """A model has embeddings for any text."""

    @torch.inference_mode()
    def embed(
        self, texts: Sequence[str], rows: np.ndarray | None = None, show_progress_bar: bool | None = None
    ) -> np.ndarray:
        """The embeddings of `texts`, as `SentenceTransformer.encode` gives them.

        Args:
            texts: n texts, or one; sorted by length inside, the order restored.
            rows: not looked at.
            show_progress_bar: None shows one on long jobs.

        Returns:
            (n, d) float32.

        Raises:
            DataError: an item that is not a string.
            ModelError: an embedding that is not finite; the text is named.
        """
        texts = text_list(texts)
        shown = len(texts) >= _SHOWN_PROGRESS if show_progress_bar is None else show_progress_bar
        if not texts:
            return np.empty((0, self.width), dtype=np.float32)
        view = self._views.make()
        encode_first_under(view, partial(autocast, self.precision, self.model.device))
        encoded = view.encode(
            texts, prompt=self.prompt, batch_size=self.batch_size, show_progress_bar=shown, convert_to_tensor=True
        )
        embeddings = encoded.float().cpu().numpy()
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            raise ModelError(
                f"the embedding that {self.name} gives the text {texts[int(np.argmin(finite))][:200]!r} is not finite "
                f"({int((~finite).sum())} such texts); check its weights, or embed in precision fp32"
            )
        return embeddings


class PrecomputedTeacher:
    """Embeddings made elsewhere: a row for each row of the corpus' sources, in their order.

    Args:
        path: a .npy file of shape (r, d), which stays on disk, or a Parquet file, which is read into memory.
        column: of a Parquet file, the one that holds a list of d numbers a row.

    Raises:
        DataError: no such file or column, one that cannot be read, another shape than (r, d), or rows of different
            widths; file and row are named.
    """

    needs_rows = True

    def __init__(self, path: str | Path, column: str = "embedding") -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise DataError(f"no file of embeddings at {self.path}; check the path")
        readers = {".npy": self._read_array, ".parquet": self._read_column}
        read = readers.get(self.path.suffix.lower())
        if read is None:
            raise DataError(f"{self.path}: embeddings are read from .npy or .parquet files, not {self.path.suffix!r}")
        self._embeddings = read(column)
        if self._embeddings.ndim != 2 or self._embeddings.dtype.kind not in "fi" or not self._embeddings.shape[1]:
            raise DataError(
                f"{self.path} holds {self._embeddings.dtype} of shape {self._embeddings.shape}, not a row of numbers for "
                "each text: (texts, width)"
            )

    def _read_array(self, column: str) -> np.ndarray:
        try:
            return np.load(self.path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{self.path} is not a readable .npy array of numbers: {error}") from error

    def _read_column(self, column: str) -> np.ndarray:
        try:
            names = pq.read_schema(self.path).names
            if column not in names:
                raise DataError(f"{self.path}: {missing_column(column, names)}; name it in `teacher.embedding_column`")
            lists = pq.read_table(self.path, columns=[column]).column(0).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is not a readable Parquet file: {error}") from error
        kind = lists.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            raise DataError(f"{self.path}, column {column!r} holds {kind}, not a list of numbers a row")
        lengths = lists.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
        different = np.flatnonzero(lengths != lengths[0]) if len(lengths) else np.empty(0, dtype=np.int64)
        if len(lengths) and lengths[0] < 0:
            raise DataError(f"{self.path}, row 1: no embedding")
        if len(different):
            row = int(different[0])
            problem = "no embedding" if lengths[row] < 0 else f"an embedding {lengths[row]} wide"
            raise DataError(f"{self.path}, row {row + 1}: {problem}, those before it are {lengths[0]} wide")
        flat = lists.flatten()
        if flat.null_count:
            row = int(np.argmax(flat.is_null().to_numpy(zero_copy_only=False))) // int(lengths[0])
            raise DataError(f"{self.path}, row {row + 1}: an embedding with a number missing")
        try:
            numbers = flat.to_numpy(zero_copy_only=False).astype(np.float32)
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.path}, column {column!r} holds {kind}, not lists of numbers") from error
        return numbers.reshape(len(lists), -1 if len(lists) else 0)  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    @property
    def width(self) -> int:
        """d, how many numbers an embedding has."""
        return int(self._embeddings.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the file."""
        return fingerprint("embeddings", fingerprint_file(self.path))

    def check_rows(self, rows: int) -> None:
        """Checks that there is an embedding for each of r rows.

        Raises:
            DataError: more or fewer.
        """
        if len(self._embeddings) != rows:
            raise DataError(
                f"{self.path} holds {len(self._embeddings):,} embeddings, the corpus' sources have {rows:,} rows: make one "
                "for each row in their order (blank lines, repeated texts and each text column counted)"
            )

    def embed(
        self, texts: Sequence[str], rows: np.ndarray | None = None, show_progress_bar: bool | None = None
    ) -> np.ndarray:
        """(n, d) float32, the embeddings at `rows`, (n,) int64 from 0.

        Raises:
            DataError: no rows given, a row that is not there, or an embedding that is not finite; file and row are named.
        """
        if rows is None:
            raise DataError(f"{self.path} holds embeddings of a corpus; other texts need a model: name one as teacher")
        if len(rows) and not 0 <= int(np.min(rows)) <= int(np.max(rows)) < len(self._embeddings):
            raise DataError(
                f"{self.path} holds {len(self._embeddings):,} embeddings, but row {int(np.max(rows)) + 1:,} was "
                "requested"
            )
        embeddings = np.asarray(self._embeddings[rows], dtype=np.float32)
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            first = int(np.min(np.asarray(rows)[~finite]))
            raise DataError(
                f"{self.path}, row {first + 1}: the embedding is not finite (NaN or infinite); make the file again"
            )
        return embeddings


class TeacherCombination:
    """Several teachers as one: each one's embeddings at length one, then side by side or their mean.

    Args:
        teachers: one or more.

    Raises:
        ConfigError: no teacher, or something else.
        ModelError: an average of different widths.
    """

    def __init__(
        self, teachers: EmbeddingTeacher | Sequence[EmbeddingTeacher], how: Combination = "concatenate"
    ) -> None:
        self.teachers = given_teachers(teachers, "embed", "a combination")
        self.how: Combination = how
        widths = [teacher.width for teacher in self.teachers]
        if how == "average" and len(set(widths)) > 1:
            raise ModelError(f"embeddings of widths {widths} have no average: set `teacher.combine: concatenate`")
        self._width = widths[0] if how == "average" else sum(widths)

    @property
    def name(self) -> str:
        """The teachers' names."""
        return f"{'mean' if self.how == 'average' else 'concatenation'} of {', '.join(t.name for t in self.teachers)}"

    @property
    def width(self) -> int:
        """D of the combination."""
        return self._width

    @property
    def needs_rows(self) -> bool:
        """Whether one of the teachers does."""
        return any(teacher.needs_rows for teacher in self.teachers)

    @property
    def fingerprint(self) -> str:
        """A hash of the teachers' own; of a mean their order does not matter."""
        fingerprints = [teacher.fingerprint for teacher in self.teachers]
        return fingerprint(self.how, sorted(fingerprints) if self.how == "average" else fingerprints)

    def check_rows(self, rows: int) -> None:
        """As each teacher."""
        for teacher in self.teachers:
            teacher.check_rows(rows)

    def embed(
        self, texts: Sequence[str], rows: np.ndarray | None = None, show_progress_bar: bool | None = None
    ) -> np.ndarray:
        """(n, d) float32; see `EmbeddingTeacher.embed`."""
        texts = text_list(texts)
        unit_length = []
        for teacher in self.teachers:
            embeddings = teacher.embed(texts, rows, show_progress_bar)
            unit_length.append(embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12))
        joined = np.mean(unit_length, axis=0) if self.how == "average" else np.concatenate(unit_length, axis=1)
        return np.ascontiguousarray(joined, dtype=np.float32)


def load_embedding_teacher(config: EmbeddingTeacherConfig, device: str | None = None) -> EmbeddingTeacher:
    """The teacher that `config` describes: one model or file, or several as one.

    Raises:
        ConfigError, ModelError, DataError: see the teachers.
    """
    teachers: list[EmbeddingTeacher] = [
        SentenceTeacher(
            name,
            pooling=config.pooling,
            batch_size=config.batch_size,
            max_length=config.max_length,
            prompt=config.prompt,
            precision=config.precision,
            device=config.device or device,
            dtype=config.model_dtype,
            revision=revision_of(config.revision, number),
        )
        for number, name in enumerate(config.models)
    ]
    teachers += [PrecomputedTeacher(path, config.embedding_column) for path in config.embeddings]
    return teachers[0] if len(teachers) == 1 else TeacherCombination(teachers, config.combine)
