"""The versioned store beside a dictionary of items: random changes, and all that can be asked of every version."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.jobs.conftest import make_matcher, make_student

from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError, DataError, ModelError
from distilmatch.fingerprint import text_key
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.store import add_to_store, check_columns, create_store
from distilmatch.models.dipair import DiPair
from distilmatch.store.catalogue import Catalogue
from distilmatch.store.opened import opened_folder
from distilmatch.store.reading import StoreVersion
from distilmatch.store.versions import Store, verify_store
from distilmatch.store.writer import RepresentationWriter

Item = dict[str, Any]
COLUMNS: dict[str, str | None] = {"price": "number", "kind": None}


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    return make_matcher(Path(tiny_encoder))


def item(id: str, random: np.random.Generator) -> Item:
    price = None if random.random() < 0.2 else int(random.integers(0, 50))
    return {
        "id": id,
        "text": f"thing {random.integers(0, 12)}",
        "price": price,
        "kind": "ab"[int(random.integers(0, 2))],
    }


def add(student: DiPair, store: Store, rows: list[Item], **settings: Any) -> Any:
    return add_to_store(student, store, rows, id_column="id", text_column="text", show_progress_bar=False, **settings)


def seen(store: Store, number: int | None = None) -> dict[str, tuple[Any, ...]]:
    """What a version holds, by id: the columns, and the representation of the text."""
    version = store.version(number)
    items = version.item_table
    tokens = version.read(items.texts) if len(items) else None
    ids = items.ids.to_pylist()
    prices, kinds = (store.column(name, version.version.number) for name in ("price", "kind"))
    return {
        id: (prices[place], kinds[place], None if tokens is None else tokens.tokens[place].numpy().tobytes())
        for place, id in enumerate(ids)
    }


def wanted(student: DiPair, items: dict[str, Item]) -> dict[str, tuple[Any, ...]]:
    """The oracle: each text encoded as the store's texts were, in fp16."""
    return {id: (row["price"], row["kind"], row["text"]) for id, row in items.items()}


def same(found: dict[str, tuple[Any, ...]], expected: dict[str, tuple[Any, ...]]) -> None:
    assert {id: row[:2] for id, row in found.items()} == {id: row[:2] for id, row in expected.items()}
    # Equal texts have one representation, different ones have others.
    by_text: dict[str, set[bytes]] = {}
    for id, (_, _, text) in expected.items():
        by_text.setdefault(text, set()).add(found[id][2])
    assert all(len(representations) == 1 for representations in by_text.values())
    assert len({next(iter(one)) for one in by_text.values()}) == len(by_text)


@pytest.mark.parametrize("seed", range(6))
def test_versions_are_what_a_dictionary_was(student: DiPair, tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    store = create_store(student, tmp_path / "store", side="document", columns=COLUMNS, dtype="fp16", shard_rows=5)
    items: dict[str, Item] = {}
    history: dict[int, dict[str, Item]] = {1: {}}
    number = iter(range(1000))
    for _ in range(9):
        change = random.choice(["append", "upsert", "delete", "condition", "compact", "expire"])
        before = dict(items)
        if change == "append" or (change == "upsert" and not items):
            rows = [item(f"i{next(number)}", random) for _ in range(int(random.integers(1, 9)))]
            report = add(student, store, rows)
            known = {row["text"] for version in history.values() for row in version.values()}
            texts = {row["text"] for row in rows}
            assert report.encoded <= len(texts - known)  # what was stored in an expired version may be there still
            items |= {row["id"]: row for row in rows}
        elif change == "upsert":
            ids = [*random.choice(list(items), min(3, len(items)), replace=False).tolist(), f"i{next(number)}"]
            rows = [item(id, random) for id in ids]
            if random.random() < 0.5:
                rows[0] = dict(items[ids[0]])  # stays what it is
            add(student, store, rows, change="upsert")
            items |= {row["id"]: row for row in rows}
        elif change == "delete" and items:
            gone = random.choice(list(items), min(2, len(items)), replace=False).tolist()
            store.delete(gone)
            items = {id: row for id, row in items.items() if id not in gone}
        elif change == "condition":
            store.delete(condition="price < 10 and kind = 'a'")
            items = {
                id: row
                for id, row in items.items()
                if not (row["price"] is not None and row["price"] < 10 and row["kind"] == "a")
            }
        elif change == "compact":
            store.compact()
        elif change == "expire":
            keep = store.versions()[-1].number - int(random.integers(0, 2))
            keep = max(keep, store.versions()[0].number)
            store.expire(keep)
            history = {version: rows for version, rows in history.items() if version >= keep}
        last = store.versions()[-1]
        if last.number not in history:
            history[last.number] = dict(items)
        else:
            assert items == before or change in ("delete", "condition")
        assert last.items == len(items)
        assert [version.number for version in store.versions()] == sorted(history)
        for version, rows in history.items():
            same(seen(store, version), wanted(student, rows))
        some = store.where("price >= 20")
        prices = store.column("price")
        assert some.tolist() == [price is not None and price >= 20 for price in prices]
        first = store.versions()[0].number
        difference = store.difference(first)
        old, new = history[first], items
        assert difference.added == sorted(new.keys() - old.keys())
        assert difference.removed == sorted(old.keys() - new.keys())
        assert difference.changed == sorted(id for id in old.keys() & new.keys() if old[id] != new[id])


def test_a_version_is_matched_as_a_folder_is(student: DiPair, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    rows = [item(f"i{number}", random) for number in range(30)]
    store = create_store(student, tmp_path / "store", side="document", columns=COLUMNS, shard_rows=4)
    add(student, store, rows[:20])
    add(student, store, [dict(rows[3], text="another text"), *rows[20:]], change="upsert")
    store.delete(["i7", "i21"])
    left = [
        rows[3] | {"text": "another text"} if row["id"] == "i3" else row
        for row in rows
        if row["id"] not in ("i7", "i21")
    ]
    left = [row for row in left if row["id"] != "i3"]
    left.insert(19 - 1, {"id": "i3", "text": "another text", "price": rows[3]["price"], "kind": rows[3]["kind"]})
    asked = [{"id": f"q{number}", "text": f"thing {number}"} for number in range(9)]
    queries = encode_table(student, asked, tmp_path / "queries", side="query", text_column="text", id_column="id")
    folder = encode_table(student, left, tmp_path / "folder", side="document", text_column="text", id_column="id")
    scorer = Scorer(student, kernel="torch")
    for place, side in (("folder", folder), ("store", tmp_path / "store"), ("third", f"{tmp_path}/store@3")):
        match_folders(scorer, queries, side, tmp_path / f"{place}.jsonl", top_k=4)
    found = [
        [line.split('"logit"')[0] for line in (tmp_path / f"{place}.jsonl").read_text().splitlines()]
        for place in ("folder", "store", "third")
    ]
    assert len(found[0]) == len(found[1]) == len(found[2]) == 36
    names = [[line.split('"document_id": ')[1].split(",")[0] for line in lines] for lines in found]
    assert names[0] == names[1] and names[2] != names[1]  # two items were there yet
    latest = opened_folder(tmp_path / "store")
    assert isinstance(latest, StoreVersion) and latest.row_of_id(["i3", "nobody"]).tolist()[1] == -1
    assert latest.row_of_text(["another text"]).tolist() == [int(latest.row_of_id("i3")[0])]
    texts = {row["text"] for row in rows} | {"another text"}
    assert set(latest.keys) <= {text_key("", (text,)) for text in texts} and len(set(latest.keys)) == len(latest)
    with pytest.raises(ConfigError, match="version 9 is not there; there are 1 to 4"):
        opened_folder(f"{tmp_path}/store@9")


def test_a_reader_keeps_its_version(student: DiPair, tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    store = create_store(student, tmp_path / "store", side="document", columns=COLUMNS)
    add(student, store, [item(f"i{number}", random) for number in range(12)])
    reader = store.version()
    before = reader.read(np.arange(len(reader)))
    store.delete(["i3"])
    add(student, store, [{"id": "i4", "text": "new", "price": 1, "kind": "a"}], change="upsert")
    store.compact()
    assert torch.equal(reader.read(np.arange(len(reader))).tokens, before.tokens)
    assert len(reader.item_table) == 12
    late = store.version(2)  # opened after the compaction: the same content
    assert torch.equal(late.read(np.arange(len(late))).tokens, before.tokens)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
def test_compaction_changes_no_bit(student: DiPair, tmp_path: Path, dtype: str) -> None:
    random = np.random.default_rng(5)
    store = create_store(student, tmp_path / "store", side="document", columns=COLUMNS, dtype=dtype, shard_rows=3)
    add(student, store, [item(f"i{number}", random) for number in range(10)])
    add(student, store, [item(f"j{number}", random) for number in range(10)])
    store.delete([f"i{number}" for number in range(0, 10, 2)])
    before = {number: seen(store, number) for number in (2, 3, 4)}
    store.compact()
    assert {number: seen(store, number) for number in (2, 3, 4)} == before
    assert store.expire(4) > 0 and seen(store) == before[4]
    assert len(list((tmp_path / "store" / "segments").iterdir())) == 1
    with pytest.raises(ConfigError, match="version 3 has expired"):
        store.version(3)
    with pytest.raises(ConfigError, match="cannot expire"):
        store.expire(5)


def _stopped(patch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    method, calls = getattr(owner, name), [0]

    def counted(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return method(*arguments, **named)

    patch.setattr(owner, name, counted)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (RepresentationWriter, "_write_shard", 2), (RepresentationWriter, "_finish", 1), (Catalogue, "add_segment", 1),
        (Catalogue, "stage_rows", 1), (Catalogue, "commit_staged", 1), (Catalogue, "_commit", 1), (Catalogue, "known_keys", 1),
    ],
)  # fmt: skip
def test_a_stopped_change_is_whole_or_not_there(
    student: DiPair, tmp_path: Path, owner: type, name: str, call: int
) -> None:
    random = np.random.default_rng(6)
    first, rows = ([item(f"{letter}{number}", random) for number in range(15)] for letter in "ij")
    rows = [row | {"text": f"{row['text']} {row['id']}"} for row in rows]
    stores = []
    for place in ("plain", "stopped"):
        stores.append(create_store(student, tmp_path / place, side="document", columns=COLUMNS, shard_rows=4))
        add(student, stores[-1], first)
    add(student, stores[0], rows)
    before = seen(stores[1])
    with pytest.MonkeyPatch.context() as patch:
        _stopped(patch, owner, name, call)
        with pytest.raises(KeyboardInterrupt):
            add(student, stores[1], rows)
    assert len(stores[1].versions()) == 2 and seen(stores[1]) == before
    report = add(student, stores[1], rows)
    assert report.version.number == 3 and seen(stores[1]) == seen(stores[0])
    assert sorted(path.name for path in (tmp_path / "stopped" / "segments").iterdir()) == ["000001", "000002"]


@pytest.mark.parametrize(
    ("owner", "name"), [(RepresentationWriter, "_finish"), (Catalogue, "move_texts"), (shutil, "rmtree")]
)
def test_a_stopped_compaction(student: DiPair, tmp_path: Path, owner: Any, name: str) -> None:
    random = np.random.default_rng(7)
    store = create_store(student, tmp_path / "store", side="document", columns=COLUMNS, shard_rows=4)
    for letter in "ij":
        add(student, store, [item(f"{letter}{number}", random) for number in range(8)])
    store.delete(["i1", "j1"])
    before = {number: seen(store, number) for number in (2, 3, 4)}
    with pytest.MonkeyPatch.context() as patch:
        _stopped(patch, owner, name, 2 if owner is shutil else 1)
        with pytest.raises(KeyboardInterrupt):
            store.compact()
            store.expire(1)
            store.expire(4)
    last = store.versions()[0].number
    assert {number: seen(store, number) for number in before if number >= last} == {
        number: rows for number, rows in before.items() if number >= last
    }
    store.compact()
    store.expire(4)
    assert seen(store) == before[4] and len(list((tmp_path / "store" / "segments").iterdir())) == 1


def test_another_change_after_a_stopped_one(student: DiPair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(8)
    store = create_store(student, tmp_path / "store", side="document", columns=COLUMNS, shard_rows=2)
    with pytest.MonkeyPatch.context() as patch:
        _stopped(patch, RepresentationWriter, "_finish", 1)
        with pytest.raises(KeyboardInterrupt):
            add(student, store, [item(f"i{number}", random) for number in range(9)])
    other = [item(f"j{number}", random) for number in range(5)]
    add(student, store, other)
    assert "left by another change" in caplog.text
    same(seen(store), wanted(student, {row["id"]: row for row in other}))


Bad = Callable[[DiPair, Store], Any]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m, s: add(m, s, [{"id": "i1", "text": "a", "price": 1, "kind": "a"}]), DataError, "'i1' is in .* already"),
        (
            lambda m, s: add(m, s, [{"id": id, "text": "a", "price": 1, "kind": "a"} for id in "xyx"]),
            DataError, "'x' stands on more than one row",
        ),
        (lambda m, s: add(m, s, [{"id": None, "text": "a", "price": 1, "kind": "a"}]), DataError, "row 1: it has no 'id'"),
        (lambda m, s: add(m, s, [{"id": "x", "text": "", "price": 1, "kind": "a"}]), Exception, "row 1"),
        (lambda m, s: add(m, s, [{"id": "x", "text": "a", "price": "cheap", "kind": "a"}]), DataError, "'price' is 'cheap'"),
        (lambda m, s: s.delete(["i1", "nobody"]), DataError, "no item 'nobody'; nothing was deleted"),
        (lambda m, s: s.delete(condition="cost > 1"), ConfigError, "no such column: cost.*columns are id, price, kind"),
        (lambda m, s: s.delete(condition="1); drop table items; --"), ConfigError, "cannot be used"),
        (lambda m, s: s.delete(condition="item in (delete from items)"), ConfigError, "cannot be used"),
        (lambda m, s: s.delete(), ConfigError, "say which items are deleted"),
        (lambda m, s: s.column("cost"), ConfigError, "no column 'cost'; it has id, price, kind"),
        (lambda m, s: s.difference(7), ConfigError, "version 7 is not there"),
        (lambda m, s: add(m, s, [{"id": "x", "text": "a"}], change="replace"), ConfigError, "change"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(
    student: DiPair, tmp_path: Path, change: Bad, error: type[Exception], message: str
) -> None:
    store = create_store(student, tmp_path / "store", side="document", columns=COLUMNS)
    add(student, store, [item(f"i{number}", np.random.default_rng(9)) for number in range(4)])
    before = seen(store)
    with pytest.raises(error, match=message):
        change(student, store)
    assert len(store.versions()) == 2 and seen(store) == before


def test_models_folders_and_writers_that_do_not_fit(student: DiPair, tiny_encoder: Path, tmp_path: Path) -> None:
    store = create_store(student, tmp_path / "store", side="document", columns=COLUMNS)
    rows = [{"id": "x", "text": "a", "price": 1, "kind": "a"}]
    with pytest.raises(ModelError, match="is of another model"):
        add(make_student(Path(tiny_encoder), seed=5), store, rows)
    with pytest.raises(CacheError, match="not empty"):
        create_store(student, tmp_path / "store", side="document")
    with pytest.raises(CacheError, match="no store"):
        Store.open(tmp_path)
    with store.changing(), pytest.raises(CacheError, match="being written by another process"):
        add(student, store, rows)
    with pytest.raises(ConfigError, match="cannot be kept"):
        create_store(student, tmp_path / "other", side="document", columns={"id": None})
    assert not (tmp_path / "other" / "catalogue.sqlite").exists()
    catalogue = tmp_path / "store" / "catalogue.sqlite"
    catalogue.write_bytes(b"no database at all" * 100)
    with pytest.raises(CacheError, match="catalogue.sqlite"):
        Store.open(tmp_path / "store")


def test_kinds_are_seen_and_kept(student: DiPair, tmp_path: Path) -> None:
    store = create_store(student, tmp_path / "store", side="document", columns=check_columns("price, zip, note"))
    table = tmp_path / "table.csv"
    table.write_text("id,text,price,zip,note\na,one,10,01234,\nb,two,2.5,99,\nc,three,,1,\n")
    add_to_store(student, store, table, id_column="id", text_column="text", show_progress_bar=False)
    assert store.kinds == {"price": "number", "zip": "text", "note": None}
    assert store.column("price") == [10, 2.5, None] and store.column("zip") == ["01234", "99", "1"]
    assert store.where("price < 9 and zip = '99'").tolist() == [False, True, False]
    assert Store.open(tmp_path / "store").kinds == store.kinds
    with pytest.raises(ConfigError, match="a kind is number or text"):
        check_columns("price:float")


def test_the_last_of_an_id_wins_where_asked(student: DiPair, tmp_path: Path) -> None:
    store = create_store(student, tmp_path / "store", side="document", columns=COLUMNS)
    rows = [{"id": "x", "text": text, "price": place, "kind": "a"} for place, text in enumerate(("a", "b", "c"))]
    add(student, store, rows, duplicates="last")
    assert store.column("price") == [2]
    report = add(student, store, [rows[2]], change="upsert")
    assert report.version.number == 2 and report.encoded == 0  # nothing differs: no version


def test_representations_that_are_at_hand(student: DiPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distilmatch.store.versions._MOST_A_SEGMENT", 6)
    random = np.random.default_rng(10)
    rows = [item(f"i{number}", random) | {"text": f"thing {number % 17}"} for number in range(40)]
    stores = [
        create_store(student, tmp_path / name, side="document", columns=COLUMNS, dtype="fp16", shard_rows=4)
        for name in ("texts", "ready")
    ]
    add(student, stores[0], rows)
    of_id = {row["id"]: (row["price"], row["kind"]) for row in rows}

    def batches(some: list[Item]) -> Any:
        for start in range(0, len(some), 7):
            texts = [row["text"] for row in some[start : start + 7]]
            keys = [text_key("", (text,)) for text in texts]
            yield (
                [row["id"] for row in some[start : start + 7]],
                keys,
                student.encode(texts, "document", show_progress_bar=False),
            )

    version = stores[1].put(batches(rows), values=lambda ids: [of_id[id] for id in ids])
    assert (version.number, version.items) == (2, 40)
    assert len(list((tmp_path / "ready" / "segments").iterdir())) == 3
    found, expected = seen(stores[1]), seen(stores[0])
    assert {id: row[:2] for id, row in found.items()} == {id: row[:2] for id, row in expected.items()}
    for id, row in found.items():
        one, other = (np.frombuffer(tokens, dtype=np.float32) for tokens in (row[2], expected[id][2]))
        assert np.allclose(one, other, atol=2e-3)  # batches move an encoding in its last bits
    before = seen(stores[1])
    doubled = [rows[0] | {"id": "x"}] * 2
    for wrong, message in (
        (rows[3:5], "'i3' is in .* already"),
        (doubled, "'x' stands on more than one row"),
    ):
        with pytest.raises(DataError, match=message):
            stores[1].put(batches(wrong))
        assert seen(stores[1]) == before
    changed = [rows[5] | {"text": "new"}]
    assert stores[1].put(batches(changed), change="upsert").removed == 1
    assert stores[1].difference(2).changed == ["i5"]
    assert verify_store(tmp_path / "ready") == []
    shutil.rmtree(tmp_path / "ready" / "segments" / "000002")
    assert any("000002" in problem for problem in verify_store(tmp_path / "ready"))


def _add_in_a_process(model: str, place: str, rows: list[Item], started: Any) -> None:
    student = DiPair.from_pretrained(model)
    started.set()
    add(student, Store.open(place), rows)


def test_a_change_that_is_killed(student: DiPair, tmp_path: Path) -> None:
    """SIGKILL at some moments of a change, which is started again each time, and at last let be."""
    random = np.random.default_rng(11)
    student.save_pretrained(tmp_path / "student")
    rows = [item(f"i{number}", random) | {"text": f"thing {number % 700}"} for number in range(900)]
    stores = [
        create_store(student, tmp_path / name, side="document", columns=COLUMNS, shard_rows=50)
        for name in ("plain", "killed")
    ]
    add(student, stores[0], rows)
    spawned = multiprocessing.get_context("spawn")
    for delay in (0.05, 0.5, 1.0):
        started = spawned.Event()
        process = spawned.Process(
            target=_add_in_a_process, args=(str(tmp_path / "student"), str(tmp_path / "killed"), rows, started)
        )
        process.start()
        assert started.wait(120)
        time.sleep(delay)
        process.kill()
        process.join()
        assert len(stores[1].versions()) in (1, 2)
        assert verify_store(tmp_path / "killed") == []
        if len(stores[1].versions()) == 2:
            break
    if len(stores[1].versions()) == 1:
        add(student, stores[1], rows)
    same(seen(stores[1]), wanted(student, {row["id"]: row for row in rows}))
    found, expected = seen(stores[1]), seen(stores[0])
    assert found.keys() == expected.keys()
    for id, row in found.items():
        one, other = (np.frombuffer(tokens, dtype=np.float32) for tokens in (row[2], expected[id][2]))
        assert np.allclose(one, other, atol=1e-4)
