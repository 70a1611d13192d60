"""The commands of a store, as they are typed: made, added to, matched, changed, shown, compacted, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.helpers import call, read_jsonl, write_jsonl
from tests.jobs.conftest import make_matcher

Told = pytest.CaptureFixture[str]


def run(told: Told, *arguments: object, code: int = 0) -> str:
    told.readouterr()
    assert call(*arguments) == code, told.readouterr()
    streams = told.readouterr()
    return " ".join((streams.out + streams.err).replace("│", " ").split())


def rows(first: int, stop: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"i{number}", "text": f"thing {number % 7}", "price": number, "country": "df"[number % 2], **more}
        for number in range(first, stop)
    ]


def test_a_store_by_commands(tiny_encoder: Path, tmp_path: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_matcher(Path(tiny_encoder)).save_pretrained("student")
    write_jsonl(Path("first.jsonl"), rows(0, 12))
    write_jsonl(Path("second.jsonl"), [*rows(3, 4, price=99), *rows(12, 14)])
    Path("gone.txt").write_text("i0\n\ni1\n")
    write_jsonl(Path("queries.jsonl"), [{"id": f"q{number}", "text": f"thing {number}"} for number in range(5)])
    add = ("--model", "student", "--id-column", "id", "--text-column", "text")
    told = run(
        capsys, "store-create", "products", "--model", "student", "--side", "document",
        "--columns", "price:number,country", "--dtype", "fp16",
    )  # fmt: skip
    assert "price, country" in told
    told = run(capsys, "store-add", "products", "first.jsonl", *add)
    assert (
        "version 2" in told
        and "items 12" in told
        and "texts_encoded 7" in told.replace("texts encoded", "texts_encoded")
    )
    assert "'i3' is in products already" in run(capsys, "store-add", "products", "second.jsonl", *add, code=1)
    told = run(capsys, "store-add", "products", "second.jsonl", *add, "--upsert")
    assert "version 3" in told and "items 14" in told
    assert "items 12" in run(capsys, "store-delete", "products", "--ids", "gone.txt")
    assert "items 9" in run(capsys, "store-delete", "products", "--where", "price between 4 and 6")
    told = run(capsys, "store-show", "products", "--since", "2")
    assert "added 2: i12, i13" in told and "removed 5: i0, i1, i4, i5, i6" in told and "changed 1: i3" in told
    run(capsys, "encode", "student", "queries.jsonl", "--side", "query", "--id-column", "id", "--output", "queries")
    for store, items in (("products", 9), ("products@2", 12)):
        run(
            capsys, "match", "student", "--left", "queries", "--right", store, "--top-k", items, "--output", "best.jsonl",
            "--overwrite",
        )  # fmt: skip
        found = {row["document_id"] for row in read_jsonl("best.jsonl")}
        assert len(found) == items and ("i0" in found) == (items == 12)
    run(
        capsys, "match", "student", "--left", "queries", "--right", "products", "--top-k", "2", "--output", "d.jsonl",
        "--right-filter", "country = 'd' and price > 7",
    )  # fmt: skip
    found = {row["document_id"] for row in read_jsonl("d.jsonl")}
    assert found and found <= {"i8", "i10", "i12"}
    assert "versions 1" in run(capsys, "store-compact", "products", "--expire-before", "5")
    assert len(list(Path("products/segments").iterdir())) == 1
    assert "store" in run(capsys, "verify", "products")
    shard = next(Path("products/segments").rglob("shard-*.safetensors"))
    damaged = bytearray(shard.read_bytes())
    damaged[-3] ^= 1
    shard.write_bytes(damaged)
    assert "damaged" in run(capsys, "verify", "products", code=1)


def test_what_the_commands_refuse(
    tiny_encoder: Path, tmp_path: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_matcher(Path(tiny_encoder)).save_pretrained("student")
    create = ("store-create", "products", "--model", "student", "--side", "document")
    assert "a kind is number or text" in run(capsys, *create, "--columns", "price:float", code=1)
    run(capsys, *create)
    assert "say which items are deleted" in run(capsys, "store-delete", "products", code=1)
    assert "is no store" in run(capsys, "store-show", "student", code=1)
    Path("bad.txt").write_bytes(b"i1\n\xff\n")
    assert "bad.txt, line 2: invalid UTF-8" in run(capsys, "store-delete", "products", "--ids", "bad.txt", code=1)
    assert "cannot expire" in run(capsys, "store-compact", "products", "--expire-before", "2", code=1)
