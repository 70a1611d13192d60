"""Every public door that takes texts, as a function of (setup, argument) that gives one result a text, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distilmatch.fingerprint import text_key
from distilmatch.teachers import FunctionEmbeddingTeacher

from .setup import Setup

Door = Callable[[Setup, Any], np.ndarray]


def _ranked(setup: Setup, documents: Any) -> np.ndarray:
    found = setup.student.rank("red boat", documents, return_documents=True, show_progress_bar=False)
    scores = np.zeros(len(found))
    for entry in found:
        # The text that comes back is the one that was scored.
        again = float(setup.student.predict(("red boat", entry["text"]), show_progress_bar=False))
        assert abs(again - entry["score"]) < 1e-5, entry
        scores[entry["corpus_id"]] = entry["score"]
    return scores


# Name of the function and its parameter -> how it is called.
TEXT_DOORS: dict[str, Door] = {
    "models.inference.DiPairInference.encode(texts)": lambda s, texts: s.student.encode(texts, 0).tokens.numpy(),
    "models.inference.DiPairInference.encode_kept(texts)": lambda s, texts: s.student.encode_kept(texts, 1)[0].numpy(),
    "models.inference.DiPairInference.rank(documents)": _ranked,
    "teachers.sentence.SentenceTeacher.embed(texts)": lambda s, texts: s.sentence_teacher.embed(texts),
    "teachers.in_memory.FunctionEmbeddingTeacher.embed(texts)": lambda s, texts: FunctionEmbeddingTeacher(
        s.sentence_teacher.embed, "x"
    ).embed(texts),
    "teachers.sentence.TeacherCombination.embed(texts)": lambda s, texts: s.combination.embed(texts),
    "store.folder.RepresentationFolder.row_of_text(texts)": lambda s, texts: s.representations.row_of_text(texts),
    "store.folder.RepresentationFolder.row_of_id(ids)": lambda s, ids: s.representations.row_of_id(ids),
}

# The same for pairs of texts; one result a pair.
PAIR_DOORS: dict[str, Door] = {
    "models.inference.DiPairInference.predict(pairs)": lambda s, pairs: np.atleast_1d(s.student.predict(pairs)),
    "models.inference.DiPairInference.logits(tuples)": lambda s, pairs: s.student.logits(pairs)[:, 0],
    "teachers.cross_encoder.CrossEncoderTeacher.logits(pairs)": lambda s, pairs: s.teacher.logits(pairs)[:, 0],
    "teachers.ensemble.TeacherEnsemble.logits(pairs)": lambda s, pairs: s.ensemble.logits(pairs)[:, 0],
    "teachers.label_cache.SoftLabelCache.label(pairs)": lambda s, pairs: s.labels.label(s.teacher, pairs)[:, 0],
}

# Doors that take one string and no more.
ONE_TEXT_DOORS: dict[str, Door] = {
    "models.inference.DiPairInference.rank(query)": lambda s, query: np.array(
        [hit["score"] for hit in s.student.rank(query, ["blue car"])]
    ),
}

# Doors of other arguments that are lists: one string counts as a list of one.
NAME_DOORS = {
    "evaluation.sts.measure.evaluate_sts(models)",
    "evaluation.sts.tasks.load_sts_tasks(names)",
    "evaluation.sts.tasks.load_mteb_tasks(names)",
    "data.corpus.read_texts(sources)",
    "store.folder.RepresentationFolder.row_of_key(keys)",
    "models.dipair.DiPair.from_encoder(sample_texts)",
    "teachers.label_cache.SoftLabelCache.count(pairs)",
    "models.dipair.DiPair.count_terms(texts)",
}

# Parameters of these names that take no texts of a user, or are reached through a door above; why.
INSIDE = {
    "config.weights.check_revisions(models)": "names in a recipe",
    "training.checks.check_reporters(names)": "names of services",
    "teachers.in_memory.FunctionTeacher.logits(pairs)": "asked by SoftLabelCache; tests/training/test_in_memory.py",
    "data.corpus.TextRows.__init__(texts)": "behind corpus_source; tests/training/test_embeddings_in_memory.py",
    "data.corpus.write_corpus(sources)": "tables, or what corpus_source gives",
    "data.corpus.corpus_key(sources)": "as write_corpus",
    "training.teacher.rows.needed_length(pairs)": "of a table that was read",
    "data.perturb.perturb(text)": "one text, made by the package",
    "data.text_units.split_units(text)": "behind perturb",
    "data.saved.write_texts(texts)": "of a table that was read",
    "data.token_file.write_token_ids(texts)": "of a corpus that was read",
    "data.tokenising.token_ids(texts)": "behind encode",
    "models.streams.Stream.token_ids(texts)": "behind encode",
    "models.dipair.DiPair.lexical_vectors(texts)": "behind encode",
    "models.lexical.LexicalVectors.vectors(texts)": "behind encode",
    "models.lexical.LexicalVectors.count(texts)": "behind DiPair.count_terms",
    "models.lexical.has_number(text)": "of a table that was read",
    "data.tokenising.pad_batch(ids)": "token ids",
    "jobs.encode.TextEncoder.add(text)": "behind encode_table and add_to_store",
    "jobs.encode.TextEncoder.encoded_by(texts)": "behind encode_table",
    "jobs.running.texts.chunks_of(texts)": "behind encode_table",
    "engine.grid.Sizes.side_bytes(texts)": "a number of texts",
    "store.catalogue.Catalogue.add_segment(keys)": "of a segment that was written",
    "store.questions.CatalogueReader.known_keys(keys)": "behind add_to_store",
    "store.items.ItemColumns.extend(ids)": "of a file or a catalogue",
    "store.catalogue.Catalogue.remove(ids)": "behind Store.delete",
    "store.versions.Store.delete(ids)": "a list of ids; tests/store/test_versions.py",
    "store.writer.RepresentationWriter.append_stored(keys)": "behind Store.compact",
    "jobs.matching.pairs.paired(pairs)": "numbers of items",
    "jobs.matching.pairs.one_to_one(pairs)": "numbers of items",
    "jobs.matching.output.MatchTables.table(pairs)": "numbers of items",
    "planning.planner.calibrate(texts)": "samples of a table that was read",
    "planning.planner.smaller_settings(texts)": "samples of a table that was read",
    "evaluation.pairs.speed.PairTeacher.logits(pairs)": "a protocol",
    "evaluation.pairs.speed.kernel_speed(pairs)": "representations of a table that was read",
    "evaluation.pairs.examples.shown_text(text)": "of a table that was read",
    "evaluation.pairs.svg.Plot.words(text)": "a label of a plot",
    "evaluation.sts.results.short_names(models)": "names of a report",
    "fingerprint.text_key(texts)": "a tuple of texts, by the package",
    "models.head_start.sampled_outputs(texts)": "behind from_encoder",
    "data.corpus.source_names(sources)": "behind read_texts",
    "jobs.folder_texts.check_texts(texts)": "behind match_folders",
    "jobs.match.match_folders(texts)": "a sequence a side, one text a row; tests/jobs has it",
    "jobs.matching.output.MatchedSide.__init__(texts)": "behind match_folders",
    "planning.labels.pairs_per_s(pairs)": "of a table that was read",
    "planning.evaluation.plan_sts(models)": "names of models",
    "planning.evaluation.plan_sts(texts)": "of tables that were read",
    "planning.text_times.text_seconds(texts)": "of a table that was read",
    "teachers.label_cache.known_labels(pairs)": "of a table that was read",
    "data.values.shown(text)": "one text of a message",
    "files.file_checksums(names)": "files of the package's own",
    "pretrained.probe.as_buffers(names)": "names of weights",
    "models.stamps.check_stamp(names)": "names of sides",
    "store.integrity.rows_checksum(ids)": "a column, by the package",
    "store.integrity.rows_checksum(keys)": "a column, by the package",
    "store.items.items_of_texts(ids)": "a column, by the package",
    "store.writer.RepresentationWriter.append(ids)": "a column, by the package",
    "store.writer.RepresentationWriter.append(keys)": "a column, by the package",
    "teachers.base.pair_list(pairs)": "behind the teachers",
    "teachers.classes.InTaskOrder.logits(pairs)": "behind the teacher that it wraps",
    "teachers.classes.fit_classes(names)": "names of classes",
    "teachers.classes.name_order(names)": "names of classes",
    "teachers.classes.tells_nothing(names)": "names of classes",
    "yaml_files.yaml_value(text)": "of an option",
    "store.layout.key_array(keys)": "behind row_of_key",
    "store.layout.KeyIndex.__init__(keys)": "an array",
    "store.layout.KeyIndex.find(keys)": "an array",
    "teachers.base.Teacher.logits(pairs)": "a protocol",
    "teachers.base.check_logits(pairs)": "behind the teachers",
    "teachers.sentence.EmbeddingTeacher.embed(texts)": "a protocol",
    "teachers.sentence.PrecomputedTeacher.embed(texts)": "found by row, not by text",
    "training.pairs.labelling.mean_embeddings(texts)": "of a table that was read",
    "teachers.mixtures.MixtureTeacher.logits(pairs)": "virtual texts, by the package",
    "data.mixtures.text_parts(ids)": "token ids",
    "teachers.online.OnlineTeacher.forward(pairs)": "of a table that was read",
    "training.pairs.online.TeacherBeside.__init__(texts)": "of a table that was read",
    "training.embeddings.batches.StudentTokens.ids(texts)": "of a corpus that was read",
    "training.embeddings.batches.StudentTokens.features(ids)": "token ids",
}


def keys_of(texts: list[str]) -> list[bytes]:
    """Keys as a representation folder has them."""
    return [text_key("", (text,)) for text in texts]
