"""STS: tasks from files, correlations against plain computation, the report and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from tests.helpers import COLOURED_THINGS, read_jsonl, write_jsonl

from distilmatch.errors import BadRowsError, ConfigError, DataError, MissingExtraError
from distilmatch.evaluation.sts.measure import evaluate_sts
from distilmatch.evaluation.sts.results import short_names
from distilmatch.evaluation.sts.retrieval import load_retrieval, measure_retrieval
from distilmatch.evaluation.sts.tasks import load_mteb_tasks, load_sts_tasks


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, column, low in (("sts14", "score", 0), ("stsb", "score", 0), ("sick", "relatedness", 1)):
        (tmp_path / name).mkdir()
        rows = [
            {
                "sentence1": f"the {rng.choice(COLOURED_THINGS)}",
                "sentence2": f"a {rng.choice(COLOURED_THINGS)} is here",
                column: float(rng.uniform(low, 5)),
                "subset": f"part {i % 2}",
            }
            for i in range(25)
        ]
        write_jsonl(tmp_path / name / "test.jsonl", rows)
    return tmp_path


def test_correlations_are_over_all_rows_of_a_task(data: Path, tiny_sentence_encoder: Path, tiny_encoder: Path) -> None:
    tasks = load_sts_tasks(data)
    assert [task.label for task in tasks] == ["STS14", "STS-B", "SICK-R"]
    report = evaluate_sts([tiny_sentence_encoder, tiny_encoder], tasks, device="cpu", measure_speed=False)
    model = SentenceTransformer(str(tiny_sentence_encoder), device="cpu")
    for name, column in (("sts14", "score"), ("stsb", "score"), ("sick", "relatedness")):
        rows = read_jsonl(data / name / "test.jsonl")
        left, right = (model.encode([row[side] for row in rows]) for side in ("sentence1", "sentence2"))
        expected = stats.spearmanr((left * right).sum(1), [row[column] for row in rows]).statistic
        assert report.results[0].spearman[name] == pytest.approx(expected, abs=1e-6)
    first, second = report.results
    assert first.average == pytest.approx(np.mean(list(first.spearman.values())))
    assert first.width == 32 and first.texts_per_s is None and first.parameters > second.parameters
    assert report.pairs == {"sts14": 25, "stsb": 25, "sick": 25}
    assert first.alignment is not None and first.uniformity < 0


def test_the_report_and_its_files(data: Path, tmp_path: Path, tiny_sentence_encoder: Path) -> None:
    model = SentenceTransformer(str(tiny_sentence_encoder), device="cpu")
    report = evaluate_sts([model, tiny_sentence_encoder], load_sts_tasks(data, ["stsb"]), device="cpu")
    assert report.results[0].spearman == report.results[1].spearman
    assert all(one.texts_per_s and one.texts_per_s > 0 for one in report.results)
    report.save(tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["sts.json", "sts.md", "sts.png"]
    told = (tmp_path / "report" / "sts.md").read_text()
    assert "| Model | STS-B | Average |" in told and "Texts/s" in told and "STS-B 25" in told
    saved = json.loads((tmp_path / "report" / "sts.json").read_text())
    assert saved["results"][1]["average"] == report.results[1].average
    quiet = evaluate_sts([model], load_sts_tasks(data), device="cpu", measure_speed=False)
    quiet.save(tmp_path / "quiet")
    assert "Texts/s" not in quiet.header()


def test_simple_baselines_stand_below_the_models(data: Path, tmp_path: Path, tiny_sentence_encoder: Path) -> None:
    tasks = load_sts_tasks(data)
    report = evaluate_sts(tiny_sentence_encoder, tasks, device="cpu", simple_baselines=True)
    assert [result.model for result in report.results[1:]] == ["TF-IDF words", "TF-IDF letters"]
    words = report.results[1]
    for task in tasks:
        assert task.table.gold is not None
        cosines = [_shared_words(*pair, task.table.texts) for pair in task.table.tuples()]
        expected = stats.spearmanr(cosines, task.table.gold).statistic
        assert words.spearman[task.name] == pytest.approx(expected, abs=1e-6)
    assert words.average == pytest.approx(np.mean(list(words.spearman.values())))
    row = dict(zip(report.header(), report.rows()[1], strict=True))
    assert row["Param."] == row["Width"] == row["Unif."] == row["Texts/s"] == "" and row["Model"] == "TF-IDF words"
    report.save(tmp_path / "report")
    assert "| TF-IDF letters |" in (tmp_path / "report" / "sts.md").read_text()


def _shared_words(left: str, right: str, texts: list[str]) -> float:
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]").fit(texts)
    vectors = vectorizer.transform([left, right])
    return float(np.round((vectors[[0]] @ vectors[[1]].T).toarray()[0, 0], 6))


def test_tasks_that_cannot_be_read(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no STS task is called sts11"):
        load_sts_tasks(data, ["sts11"])
    with pytest.raises(DataError, match=r"sts12.test\.jsonl"):
        load_sts_tasks(data, ["sts12"])
    with pytest.raises(DataError, match="no STS task in"):
        load_sts_tasks(data / "stsb")
    with pytest.raises(DataError, match="NAME/dev.jsonl"):
        load_sts_tasks(data, split="dev")
    (data / "stsb" / "test.jsonl").write_text('{"sentence1": "a", "sentence2": "b", "score": 7}\n')
    with pytest.raises(BadRowsError, match="row 1"):
        load_sts_tasks(data)
    with pytest.raises(ConfigError, match="one model or more"):
        evaluate_sts([], [])


def _retrieval(folder: Path, documents: list, queries: list, qrels: list) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("documents", documents), ("queries", queries), ("qrels", qrels)):
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


DOCUMENTS = [
    {"id": 1, "text": "up"},
    {"id": "2", "text": ""},
    {"id": "3", "title": "right"},
    {"id": "4", "text": "left"},
]
QUERIES = [{"id": "a", "text": "up?"}, {"id": "b", "text": "left?"}, {"id": "c", "text": "nothing"}]
QRELS = [("a", 1, 2), ("a", "3", 1), ("b", "3", 1), ("b", "2", 4)]


def test_retrieval_ranks_all_documents(tmp_path: Path, data: Path, tiny_sentence_encoder: Path) -> None:
    qrels = [{"query_id": q, "document_id": d, "relevance": grade} for q, d, grade in QRELS]
    task = load_retrieval(_retrieval(tmp_path / "found", DOCUMENTS, QUERIES, qrels))
    assert task.documents == ["up", "right", "left"] and task.queries == ["up?", "left?"]
    assert task.relevance.tolist() == [[2, 1, 0], [0, 1, 0]]
    places = {"up": (0, 1), "right": (1, 0.2), "left": (-1, 0), "up?": (0, 2), "left?": (-3, 0)}
    found = measure_retrieval(lambda texts: np.array([places[text] for text in texts], dtype=float), task)
    # up?: up, right (2 then 1, as is best); left?: left, up, right (the one that matters comes third).
    assert found["ndcg@10"] == pytest.approx((1 + 1 / np.log2(4)) / 2)
    assert found["map"] == pytest.approx((1 + 1 / 3) / 2) and found["mrr@10"] == pytest.approx((1 + 1 / 3) / 2)
    report = evaluate_sts(
        [tiny_sentence_encoder], load_sts_tasks(data), device="cpu", measure_speed=False, retrieval=task
    )
    assert "nDCG@10" in report.header() and "documents of found" in report.markdown()
    assert report.results[0].retrieval is not None and 0 < report.results[0].retrieval["map"] <= 1


@pytest.mark.parametrize(
    ("documents", "queries", "qrels", "message"),
    [
        (DOCUMENTS, QUERIES, [{"query_id": "z", "document_id": "1", "relevance": 1}], "row 1: no query 'z'"),
        (DOCUMENTS, QUERIES, [{"query_id": "a", "document_id": "1", "relevance": -1}], "0 or more, not -1"),
        (DOCUMENTS, QUERIES, [{"query_id": "a", "document_id": "1"}], "row 1: no relevance"),
        (DOCUMENTS, QUERIES, [{"query_id": "a", "document_id": "9", "relevance": 1}], "nothing to find"),
        (DOCUMENTS * 2, QUERIES, [], "row 5: the id '1' stands there twice"),
        ([{"id": 1}], QUERIES, [], "holds no texts"),
    ],
)
def test_retrieval_sets_that_cannot_be_used(
    tmp_path: Path, documents: list, queries: list, qrels: list, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_retrieval(_retrieval(tmp_path / "found", documents, queries, qrels))


def test_tasks_of_mteb_are_those_that_it_scores(
    data: Path, tmp_path: Path, tiny_sentence_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pairs come from files here, as there is no hub; its own score of them is what ours must be."""
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS

    def load(task: Any, *arguments: Any, **options: Any) -> None:
        folder = {"STS14": "sts14", "STSBenchmark": "stsb"}.get(task.metadata.name)
        if folder is None:
            raise ConnectionError("the hub is not there")
        rows = read_jsonl(data / folder / "test.jsonl")
        task.dataset = DatasetDict({"test": Dataset.from_list(rows)})
        task.data_loaded = True

    monkeypatch.setattr(AbsTaskSTS, "load_data", load)
    names = ["sts14", "stsb"]
    tasks = load_mteb_tasks(names)
    assert [(task.label, len(task.table)) for task in tasks] == [("STS14", 25), ("STS-B", 25)]
    model = SentenceTransformer(str(tiny_sentence_encoder), device="cpu")
    ours = evaluate_sts([model], tasks, measure_speed=False).results[0].spearman
    theirs = mteb.evaluate(model, mteb.get_tasks(tasks=["STS14", "STSBenchmark"]), cache=None, co2_tracker=False)
    for name, result in zip(names, theirs.task_results, strict=True):
        assert ours[name] == pytest.approx(result.get_score(), abs=1e-4)
    with pytest.raises(DataError, match="STS12: the hub is not there Without a network, give the tasks as local files"):
        load_mteb_tasks()
    with pytest.raises(DataError, match="no split dev, only test"):
        load_mteb_tasks(["stsb"], split="dev")
    with pytest.raises(ConfigError, match="no STS task is called sts11"):
        load_mteb_tasks(["sts11"])


def test_models_are_told_apart_by_their_folders() -> None:
    assert short_names(["all-MiniLM-L6-v2", "a/run/student"]) == ["all-MiniLM-L6-v2", "student"]
    assert short_names(["org/model", "a/run/student", "b/run/student"]) == [
        "org/model",
        "a/run/student",
        "b/run/student",
    ]
    assert short_names(["m", "m"]) == ["m", "m"]


def test_without_mteb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"distilmatch\[mteb\]"):
        load_mteb_tasks()


def test_one_name_one_task_and_one_model_are_lists_of_one(data: Path, tiny_sentence_encoder: Path) -> None:
    (task,) = load_sts_tasks(data, "stsb")
    assert task.name == "stsb"
    model = SentenceTransformer(str(tiny_sentence_encoder), device="cpu")
    reports = [
        evaluate_sts(given, tasks, device="cpu", measure_speed=False)
        for given in (str(tiny_sentence_encoder), tiny_sentence_encoder, [tiny_sentence_encoder], model, (model,))
        for tasks in (task, [task])
    ]
    assert all(report.results[0].spearman == reports[0].results[0].spearman for report in reports)
    with pytest.raises(ConfigError, match="did you mean 'stsb'"):
        load_sts_tasks(data, "sts-b")
    with pytest.raises(ConfigError, match="names"):
        load_sts_tasks(data, {"stsb"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="item 1 is a int"):
        evaluate_sts([model, 3], task)  # type: ignore[list-item]


def test_a_model_that_is_not_there_is_told_before_another_is_measured(
    data: Path, tiny_sentence_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilmatch.evaluation.sts.measure._measure", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(ConfigError, match="no model folder"):
        evaluate_sts([tiny_sentence_encoder, tmp_path / "none"], load_sts_tasks(data))
