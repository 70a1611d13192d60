"""Teachers: cross-encoders with the resumable cache of their logits, embedding models with that of their embeddings."""

from distilmatch.teachers.base import Teacher
from distilmatch.teachers.classes import in_task_order, label_order
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher
from distilmatch.teachers.embedding_cache import cached_embeddings, read_embeddings
from distilmatch.teachers.ensemble import TeacherEnsemble, check_teacher, load_teacher
from distilmatch.teachers.in_memory import (
    FunctionEmbeddingTeacher,
    FunctionTeacher,
    loaded_embedding_teacher,
    loaded_teacher,
)
from distilmatch.teachers.label_cache import SoftLabelCache, verify_label_cache
from distilmatch.teachers.sentence import (
    EmbeddingTeacher,
    PrecomputedTeacher,
    SentenceTeacher,
    TeacherCombination,
    load_embedding_teacher,
)

__all__ = [
    "CrossEncoderTeacher",
    "EmbeddingTeacher",
    "FunctionEmbeddingTeacher",
    "FunctionTeacher",
    "PrecomputedTeacher",
    "SentenceTeacher",
    "SoftLabelCache",
    "Teacher",
    "TeacherCombination",
    "TeacherEnsemble",
    "cached_embeddings",
    "check_teacher",
    "in_task_order",
    "label_order",
    "load_embedding_teacher",
    "load_teacher",
    "loaded_embedding_teacher",
    "loaded_teacher",
    "read_embeddings",
    "verify_label_cache",
]
