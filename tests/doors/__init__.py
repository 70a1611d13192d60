"""The public doors of the package by kind, and what is tried at every one of them.

A fault is mended for its kind: each list below names every door of a kind, `tests/architecture/test_doors.py` keeps the lists
complete, and the tests beside this file knock at all of them.
"""

# Kind of fault -> the test files that hold it down.
KINDS: dict[str, list[str]] = {
    "the teacher's classes by position": ["tests/doors/test_teacher_doors.py", "tests/teachers/test_class_order.py"],
    "state shared between threads": [
        "tests/test_concurrency.py",
        "tests/models/test_threads.py",
        "tests/teachers/test_teacher_threads.py",
        "tests/engine/test_asked.py",
    ],
    "texts that are no list of strings": ["tests/doors/test_text_doors.py", "tests/models/test_texts.py"],
    "order lost in an activation or in bf16": [
        "tests/teachers/test_fp32_logits.py",
        "tests/models/test_dipair.py",
        "tests/engine/test_order.py",
    ],
    "rows lost or changed by readers": [
        "tests/doors/test_reader_doors.py",
        "tests/data/test_dialects.py",
        "tests/data/test_values.py",
    ],
    "ids lost": ["tests/jobs/test_match_items.py", "tests/store/test_items.py"],
    "the wrong columns": ["tests/data/test_columns.py"],
    "given labels dropped, scales and steps confused": [
        "tests/data/test_blocks.py",
        "tests/data/test_teacher_scale.py",
        "tests/training/test_accumulation.py",
    ],
    "sides and models mixed up": ["tests/models/test_sides.py"],
    "half precision": ["tests/models/test_half_precision.py"],
    "encoders that cannot work": ["tests/models/test_encoders_refused.py"],
    "models that cannot be loaded": ["tests/doors/test_loader_doors.py", "tests/teachers/test_check_teacher.py"],
    "late stops": ["tests/training/test_early_stops.py"],
    "recipes as people write them": ["tests/test_recipes_as_written.py"],
    "error floods": ["tests/data/test_bad_rows.py"],
    "damage that is scored": [
        "tests/store/test_damage.py",
        "tests/teachers/test_label_cache_damage.py",
        "tests/models/test_integrity.py",
        "tests/test_manifest.py",
    ],
    "wild calls into the compiled module": ["tests/engine/test_wild_calls.py"],
    "numbers that are not finite": ["tests/engine/test_scorer.py", "tests/engine/test_not_finite.py"],
    "forks": ["tests/engine/test_fork.py"],
    "outputs over inputs, full disks": [
        "tests/doors/test_output_doors.py",
        "tests/jobs/test_outputs.py",
        "tests/test_files.py",
    ],
    "ends by a signal": ["tests/cli/test_signals.py"],
    "a resumed run's bytes": ["tests/jobs/test_resume_bytes.py"],
    "code that comes with a model, doors that no list knows": ["tests/architecture/test_doors.py"],
}
