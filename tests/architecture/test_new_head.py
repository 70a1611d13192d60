"""A new kind of head costs two new files and a line or two in three others; the rest of the package serves it then."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "distilmatch"

NEW_FILES = {
    "models/sum_head.py": """
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from distilmatch.config.pairs import StudentConfig
from distilmatch.models.fp32 import Fp32Module
from distilmatch.models.gathering import gather
from distilmatch.types import TokenRepresentations


class SumHead(Fp32Module):
    embedded: ClassVar[bool] = True

    def __init__(self, student: StudentConfig) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(nn.Linear(student.vector_width, student.vector_width) for _ in student.side_names)
        self.features = student.vector_width

    def start_classifier(self, classifier: nn.Linear) -> None:
        nn.init.ones_(classifier.weight)

    def forward(self, sides: Sequence[TokenRepresentations], rows: torch.Tensor) -> torch.Tensor:
        parts = [gather(self.inputs[j](side.tokens[:, 0]), rows[:, j]) for j, side in enumerate(sides)]
        return torch.relu(sum(parts))
""",
    "engine/heads/sum.py": """
import torch

from distilmatch.engine.heads.base import FoldedTexts, HeadCost, linear_fp32


class FoldedSum:
    @staticmethod
    def cost(student, labels: int) -> HeadCost:
        return HeadCost(operations=None, products=False, widest=student.vector_width, gathers=False)

    def __init__(self, head, classifier) -> None:
        self.head, self.classifier = head, classifier

    @torch.no_grad()
    def fold(self, texts, side: int) -> FoldedTexts:
        return {"summand": self.head.inputs[side](texts.tokens[:, 0])}

    @torch.no_grad()
    def score(self, sides, rows):
        merged = sum(side["summand"].index_select(0, rows[:, j]) for j, side in enumerate(sides))
        return linear_fp32(torch.relu(merged), self.classifier.weight, self.classifier.bias)

    @torch.no_grad()
    def block(self, left, right):
        merged = left["summand"][:, None] + right["summand"][None]
        return linear_fp32(torch.relu(merged), self.classifier.weight, self.classifier.bias)
""",
}
EDITS = {
    "config/pairs.py": [('"lite", "cosine"]', '"lite", "cosine", "sum"]')],
    "models/heads.py": [
        ('    "cosine": CosineHead,\n', '    "cosine": CosineHead,\n    "sum": SumHead,\n'),
        (
            "from distilmatch.types import",
            "from distilmatch.models.sum_head import SumHead\nfrom distilmatch.types import",
        ),
    ],
    "engine/heads/kinds.py": [
        ("    CosineHead: FoldedCosine,\n", "    CosineHead: FoldedCosine,\n    SumHead: FoldedSum,\n"),
        (
            "FOLDED: dict",
            "from distilmatch.engine.heads.sum import FoldedSum\n"
            "from distilmatch.models.sum_head import SumHead\nFOLDED: dict",
        ),
    ],
}  # fmt: skip

USED = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
folder, encoder, source = sys.argv[1:]
sys.path.insert(0, source)
import numpy as np, torch, distilmatch
assert distilmatch.__file__.startswith(source), distilmatch.__file__
from distilmatch.config import StudentConfig, TaskConfig
from distilmatch.engine.scorer import Scorer
from distilmatch.models import DiPair
from distilmatch.planning.planner import Work, calibrate, plan
from distilmatch.types import TokenRepresentations

torch.manual_seed(0)
shape = StudentConfig(head="sum", width=16, kept_tokens=(3, 4), max_lengths=(12, 16))
model = DiPair.from_encoder(encoder, shape, TaskConfig(kind="binary")).eval()
left, right = ["red car", "blue lamp", "a coat"], ["a red car", "lamp", "coat", "old book"]
pairs = [(a, b) for a in left for b in right]
expected = model.logits(pairs)[:, 0].reshape(3, 4)
assert np.ptp(expected) > 1e-3
sides = [model.encode(texts, side) for side, texts in enumerate((left, right))]
scorer = Scorer(model)
print(scorer.why)
rows = np.stack(np.meshgrid(range(3), range(4), indexing="ij"), -1).reshape(-1, 2)
np.testing.assert_allclose(scorer.score(*sides, rows=rows).reshape(3, 4), expected, atol=2e-4)
best = scorer.best(*sides, 2)
np.testing.assert_allclose(best.scores, -np.sort(-expected, axis=1)[:, :2], atol=2e-4)
model.train()
free = [TokenRepresentations(side.tokens.clone(), side.mask.clone()) for side in sides]
model.score_rows(free, torch.from_numpy(rows)).sum().backward()
assert model.head.inputs[0].weight.grad.abs().sum() > 0
model.eval().save_pretrained(folder)
np.testing.assert_allclose(DiPair.from_pretrained(folder).logits(pairs), model.logits(pairs), atol=1e-6)
work = Work(left=100, right=100, top_k=5, encode=False)
print(plan(model, work, calibrate(model, work, seconds=0.1)).seconds)
print("served")
"""


def test_a_new_head_is_two_new_files_and_lines_in_three(tmp_path: Path, tiny_encoder: Path) -> None:
    package = tmp_path / "source" / "distilmatch"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert len(EDITS) <= 3
    for name, content in NEW_FILES.items():
        (package / name).write_text(content)
    for name, pairs in EDITS.items():
        text = (package / name).read_text()
        for old, new in pairs:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (package / name).write_text(text)
    arguments = [str(tmp_path / "student"), str(tiny_encoder), str(package.parent)]
    done = subprocess.run([sys.executable, "-c", USED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("served\n"), done.stdout + done.stderr[-3000:]
