"""The public doors of the package by kind, and what is tried at every one of them.

A fault is mended for its kind: each list below names every door of a kind, `tests/architecture/test_doors.py` keeps the lists
complete, and the tests beside this file knock at all of them.
"""

# Kind of fault -> the test files that hold it down.
KINDS: dict[str, list[str]] = {
    "texts that are no list of strings": ["tests/doors/test_text_doors.py"],
    "rows lost or changed by readers": ["tests/doors/test_reader_doors.py"],
    "outputs over inputs": ["tests/doors/test_output_doors.py"],
    "models that cannot be loaded": ["tests/doors/test_loader_doors.py"],
    "the teacher's classes by name": ["tests/doors/test_teacher_doors.py"],
}
