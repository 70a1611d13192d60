"""Writes docs/results/sts.md from the results of the benchmarks."""

from __future__ import annotations

from typing import Any

from benchmarks.pages.parts import PAGES, markdown_table, sections, spread

TARGET = PAGES / "sts.md"
HEAD = """# Sentence encoders: students beside their teacher

The teacher is all-MiniLM-L6-v2 (6 layers, 384 wide). This page is written from `benchmarks/results/` by
`python -m benchmarks.pages`.
"""
QUALITY = """## Quality on semantic textual similarity

Spearman's correlation x 100 of the cosines with the gold scores, all subsets of a year together, on test splits that nothing
was tuned on. Stage 1 learns from {texts} unlabelled texts, {epochs} passes; stage 2 from the training pairs of STS-B and SICK
and triplets of SICK's entailments and contradictions. Where a row is of several seeds, tasks are of the first, the average of
all with its sample standard deviation and range.

{table}

STS-B was put together from the yearly tasks: {left_out} of its training pairs {stand} in a test split, and are left out of
stage 2, as are {left_out_dev} pairs of its dev split, which picks checkpoints. {corpus}

![Averages](sts.png)

{repeat}
"""
TRANSDUCTIVE = """
The rows of stage 1 are transductive: its corpus held, without labels, texts that stand in test pairs, 11,246 lines of it.
Nothing was learnt about which of them are alike, but a student that has not seen them may do worse. The benchmark now leaves
them out of every stage; these figures are from before."""
CLEAN = """
By text, {left_out_corpus} lines of the corpus and {left_out_sick_train} of SICK's training pairs are left out too: no text
that is tested was learnt from in either stage."""
ABLATIONS = """## What each choice is worth

One change at a time from the default three-layer student, {epochs} passes over the unlabelled texts, the mean of STS-B's and
SICK's dev splits; teacher {teacher}. {seeds}

{table}

![Ablations](sts-ablations.png)

{repeat}
"""
SPEED = """## Speed

Texts a second of sentence-transformers' `encode`, {texts} texts of the corpus, batches of 64, medians of one run.

{table}

The three-layer student: {fp32} times the teacher in fp32, {bf16} times in bf16. {note}

Training, 128 texts a step, bf16 autocast, texts a second: contrastive distillation with a full memory bank {ckd}, mean squared
error {mse}, sentence-transformers' trainer with `MSELoss` {peer}: {ratio} times as many with the bank, {mse_ratio} times
without.

{repeat}
"""
MODELS = {
    "student3_untrained": "3 of the teacher's layers, untrained",
    "student3_labelled_only|2": "the same, stage 2 alone",
    "sentence_transformers_mse": "the same, sentence-transformers' `MSELoss` example",
    "student3_mse|1": "the same, mean squared error",
    "student3_ckd_seed{}|1": "**the same, stage 1 (default)**",
    "student3_ckd_seed{}|2": "**the same, both stages**",
    "student2_untrained": "2 layers, untrained",
    "student2_ckd|1": "2 layers, stage 1",
    "student2_ckd|2": "2 layers, both stages",
    "static_untrained": "static token embeddings, untrained",
    "static_ckd|1": "static, stage 1",
    "static_ckd|2": "static, both stages",
}
SPREADS = {
    "student3_ckd_seed{}|1": "student3_ckd_average",
    "student3_ckd_seed{}|2": "student3_ckd_finetuned_average",
}
SHAPES = {
    "teacher": "teacher, 6 layers",
    "student3": "3 layers",
    "student2": "2 layers",
    "student6_half": "6 layers, half as wide",
    "static": "static",
}
BACKENDS = {"fp32": "PyTorch fp32", "bf16": "PyTorch bf16", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def render() -> str:
    """The page."""
    return sections(HEAD, {"quality_sts": _quality, "sts_ablations": _ablations, "embedding_throughput": _speed})


def _quality(result: dict[str, Any]) -> str:
    metrics, notes = result["metrics"], result["notes"]
    tasks = notes["tasks"]
    rows = [["teacher", *(f"{metrics[f'teacher_{task}']:.1f}" for task in tasks), _two(metrics["teacher_average"]), ""]]
    for pattern, label in MODELS.items():
        key = pattern.format(result["seeds"][0]).replace("|", "_stage")
        if f"{key}_{tasks[0]}" not in metrics:
            continue
        values = [metrics[f"{key}_{task}"] for task in tasks]
        average = sum(values) / len(values)
        shown = _two(average)
        if pattern in SPREADS:
            average, shown = metrics[SPREADS[pattern]], spread(metrics, SPREADS[pattern], 2)
        share = f"{100 * average / metrics['teacher_average']:.1f} %"
        rows.append([label, *(f"{value:.1f}" for value in values), shown, share])
    labels = [notes["labels"][task] for task in tasks]
    table = markdown_table(["", *labels, "average", "of the teacher's"], rows)
    tables = notes["tables"]
    clean = "left_out_corpus" in tables
    return QUALITY.format(
        texts=f"{notes['texts']:,}",
        epochs=f"{notes['epochs']:g}",
        left_out=f"{tables['left_out_stsb_train']:,}",
        left_out_dev=f"{tables['left_out_stsb_dev']:,}",
        stand="share a text with a pair" if clean else "stand",
        corpus=CLEAN.format(**{name: f"{value:,}" for name, value in tables.items()}) if clean else TRANSDUCTIVE,
        table=table,
        repeat=_repeat(result),
    )


def _ablations(result: dict[str, Any]) -> str:
    metrics, notes = result["metrics"], result["notes"]
    rows = sorted(notes["labels"].items(), key=lambda item: -item[1][0])
    cells = [[label, f"{mean:.2f} ± {std:.2f}" if std else _two(mean)] for label, (mean, std) in rows]
    seeds = f"The default is of the seeds {', '.join(map(str, result['seeds']))}, the others of the first."
    return ABLATIONS.format(
        epochs=f"{notes['epochs']:g}",
        teacher=_two(metrics["teacher_average"]),
        seeds=seeds,
        table=markdown_table(["", "Spearman x 100"], cells),
        repeat=_repeat(result),
    )


def _speed(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    rows = [
        [label, *(_rate(metrics.get(f"{shape}_{backend}_texts_per_s")) for backend in BACKENDS)]
        for shape, label in SHAPES.items()
    ]
    left_out = result["notes"]["left_out"]
    return SPEED.format(
        texts=f"{result['notes']['texts']:,}",
        table=markdown_table(["", *BACKENDS.values()], rows),
        fp32=f"{metrics['student_vs_teacher_fp32']:.2f}",
        bf16=f"{metrics['student_vs_teacher_texts_per_s']:.2f}",
        note=f"Left out: {'; '.join(left_out)}." if left_out else "",
        ckd=_rate(metrics["training_ckd_texts_per_s"]),
        mse=_rate(metrics["training_mse_texts_per_s"]),
        peer=_rate(metrics["training_mse_trainer_texts_per_s"]),
        ratio=f"{metrics['training_ratio_vs_mse_trainer']:.2f}",
        mse_ratio=f"{metrics['training_mse_texts_per_s'] / metrics['training_mse_trainer_texts_per_s']:.2f}",
        repeat=_repeat(result),
    )


def _two(value: float) -> str:
    return f"{value:.2f}"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _repeat(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"Repeat: `{result['command']}` ({machine['processor']}, {machine['cores']} cores)."
