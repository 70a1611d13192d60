"""Teachers, cross-encoders whose logits a student learns from, and the resumable cache of those logits."""

from distilmatch.teachers.base import Teacher
from distilmatch.teachers.cross_encoder import CrossEncoderTeacher
from distilmatch.teachers.ensemble import TeacherEnsemble, load_teacher
from distilmatch.teachers.label_cache import SoftLabelCache

__all__ = ["CrossEncoderTeacher", "SoftLabelCache", "Teacher", "TeacherEnsemble", "load_teacher"]
