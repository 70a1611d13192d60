"""An encoder that cannot serve a student is refused when it is named, with what to do; what is accepted works throughout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.data.tokenising import pad_batch, token_ids
from distilmatch.errors import ModelError
from distilmatch.models import DiPair
from distilmatch.pretrained.probe import unused_weights
from distilmatch.pretrained.tokenizers import pad_id
from distilmatch.training.pairs.batches import TextCollator
from distilmatch.types import TupleTable

WORDS = "red blue green large small wooden steel chair table lamp cup shirt one two three four five six".split()
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZE = len(SPECIAL) + len(WORDS)
_SHAPE = {
    "vocab_size": SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_DECODER = {**_SHAPE, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}

# Name -> configuration class and settings; all of them work, whole and cut to two layers.
ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", _SHAPE),
    "roberta": ("RobertaConfig", {**_SHAPE, **_IDS}),
    "electra": ("ElectraConfig", {**_SHAPE, "embedding_size": 16}),
    "mpnet": ("MPNetConfig", {**_SHAPE, **_IDS}),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": SIZE, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    ),
    "deberta-v2": (
        "DebertaV2Config",
        {**_SHAPE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    ),
    "albert": ("AlbertConfig", {**_SHAPE, "embedding_size": 16}),
    "modernbert": (
        "ModernBertConfig",
        {**_SHAPE, **_IDS, "cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 3, "local_attention": 4},
    ),
    "luke, whose entities nothing reads": (
        "LukeConfig",
        {**_SHAPE, **_IDS, "entity_vocab_size": 5, "entity_emb_size": 16},
    ),
    "roformer, whose positions are frozen": ("RoFormerConfig", _SHAPE),
    "squeezebert, which calls its pooler unasked": ("SqueezeBertConfig", {**_SHAPE, "embedding_size": 32}),
    "xlnet, which has no limit of positions": (
        "XLNetConfig",
        {"vocab_size": SIZE, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64},
    ),
    "megatron, which normalises before": ("MegatronBertConfig", _SHAPE),
    "a decoder that looks both ways": ("Gemma3TextConfig", {**_DECODER, "use_bidirectional_attention": True}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2": ("GPT2Config", {"vocab_size": SIZE, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}, "its end"),
    "qwen3": ("Qwen3Config", _DECODER, "its end"),
    "llama": ("LlamaConfig", {**_SHAPE, "pad_token_id": 0}, "its end"),
    "bert as a decoder": ("BertConfig", {**_SHAPE, "is_decoder": True}, "its end"),
    "a narrow window": (
        "LongformerConfig",
        {**_SHAPE, **_IDS, "attention_window": [4, 4, 4], "sep_token_id": 3},
        "its end",
    ),
    "t5": (
        "T5Config",
        {"vocab_size": SIZE, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        "decoder",
    ),
    "bart": (
        "BartConfig",
        {
            **{f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in
               (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))},
            "vocab_size": SIZE, "d_model": 32, "max_position_embeddings": 64, **_IDS,
        },
        "decoder",
    ),
    "convbert, whose convolutions read padding": (
        "ConvBertConfig",
        {**_SHAPE, "embedding_size": 32, "conv_kernel_size": 5},
        "padding",
    ),
    "fnet, which has no mask": (
        "FNetConfig",
        {"vocab_size": SIZE, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
        "attention heads",
    ),
    "a model of images": (
        "ViTConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 8, "patch_size": 4},
        "does not encode",
    ),
}  # fmt: skip
PAIRS = [("red chair", "blue table"), ("one two three four five six one two", "lamp")]


def _tokenizer(special: bool = True, pad: bool = True) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *WORDS))}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "[UNK]"}
    if special:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    if pad:
        names["pad_token"] = "[PAD]"
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def _folder(path: Path, kind: str, settings: dict[str, Any], tokenizer: Any = None) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(getattr(transformers, kind)(**settings)).save_pretrained(path)
    (tokenizer or _tokenizer()).save_pretrained(path)
    return path


def _student(**changes: Any) -> StudentConfig:
    return StudentConfig(**{"max_lengths": (32, 32), "kept_tokens": (4, 4), **changes})


def _check_works(model: DiPair, folder: Path) -> None:
    model.eval()
    scores = model.predict(PAIRS)
    assert np.isfinite(scores).all()
    near = model.encode(
        ["red blue green large small wooden steel chair one", "red blue green large small wooden steel chair two"]
    )
    assert not torch.allclose(near.tokens[0], near.tokens[1], atol=1e-6), "blind to the end"
    alone, beside = model.encode(["red chair"]).tokens[0], model.encode(["red chair", "red " * 20]).tokens[0]
    torch.testing.assert_close(alone, beside, atol=1e-4, rtol=1e-3)
    model.save_pretrained(folder)
    loaded = DiPair.from_pretrained(folder)
    np.testing.assert_allclose(loaded.predict(PAIRS), scores, atol=1e-5)
    for own in (model, loaded):
        for encoder in own.encoders:  # as a training stage sets them
            encoder.requires_grad_(False)
            encoder.requires_grad_(True)
        own.train()
        ids = torch.tensor([[2, 6, 7, 3], [2, 8, 9, 3]])
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        own(rows=torch.tensor([[0, 1], [1, 0]]), streams=[[batch]] * len(own.streams)).logits.sum().backward()
        assert [name for name, weight in own.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("layers", [None, 2])
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_accepted_works(name: str, layers: int | None, tmp_path: Path) -> None:
    source = _folder(tmp_path / "encoder", *ACCEPTED[name])
    model = DiPair.from_encoder(source, _student(encoder_layers=layers), TaskConfig(kind="binary"))
    _check_works(model, tmp_path / "student")
    model.save_encoder(tmp_path / "alone")
    again = DiPair.from_encoder(tmp_path / "alone", _student(), TaskConfig(kind="binary"))
    before, after = model.encoders[0].state_dict(), again.encoders[0].state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_when_it_is_named(name: str, tmp_path: Path) -> None:
    kind, settings, reason = REFUSED[name]
    source = _folder(tmp_path / "encoder", kind, settings)
    for layers in (None, 1):
        with pytest.raises(ModelError, match=reason if layers is None else "") as refused:
            DiPair.from_encoder(source, _student(encoder_layers=layers))
        assert str(source) in str(refused.value)


def test_an_encoder_saved_without_its_decoder_is_refused_as_one(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=SIZE, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="an encoder with a decoder"):
        DiPair.from_encoder(tmp_path, _student())


def test_a_cut_encoder_gives_what_the_layers_of_the_whole_one_give(tmp_path: Path) -> None:
    source = _folder(tmp_path, *ACCEPTED["bert"])
    model = DiPair.from_encoder(source, _student(encoder_layers=2))
    whole = AutoModel.from_pretrained(source).eval()
    tokens = torch.tensor([[2, 6, 7, 8, 3]])
    with torch.no_grad():
        states = whole(input_ids=tokens, output_hidden_states=True).hidden_states[2]
        cut = model.encoders[0].eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    torch.testing.assert_close(cut, states, atol=1e-6, rtol=1e-5)


def test_a_family_that_cannot_be_cut_says_so(tmp_path: Path) -> None:
    settings = {**_SHAPE, "pad_token_id": 0, "mask_token_id": 4, "position_embedding_type": "rotary"}
    source = _folder(tmp_path, "EsmConfig", settings)  # its contact head has a weight for each layer
    DiPair.from_encoder(source, _student())
    with pytest.raises(ModelError, match="cannot be cut to 2 layer"):
        DiPair.from_encoder(source, _student(encoder_layers=2))
    with pytest.raises(ModelError, match="has 3 layers, encoder_layers asks for 4"):
        DiPair.from_encoder(source, _student(encoder_layers=4))


def test_weights_that_nothing_reads_are_kept_and_not_trained(tmp_path: Path) -> None:
    source = _folder(tmp_path / "encoder", *ACCEPTED["luke, whose entities nothing reads"])
    model = DiPair.from_encoder(source, _student())
    kept = "encoders.0.entity_embeddings.entity_embeddings.weight"
    assert kept in model.config.unused_weights and kept in model.state_dict()
    assert kept not in dict(model.named_parameters())
    whole = AutoModel.from_pretrained(source)
    whole.pooler = None
    assert {f"encoders.0.{name}" for name in unused_weights(whole, _tokenizer())} == set(model.config.unused_weights)
    model.config.unused_weights = ["encoders.0.no.such"]
    with pytest.raises(ModelError, match="names 'encoders.0.no.such'"):
        DiPair(model.config)


# --- tokenizers ----------------------------------------------------------------------------------------------------


def _table() -> TupleTable:
    rows = np.array([[0, 1], [2, 3]])
    texts = [text for pair in PAIRS for text in pair]
    return TupleTable(texts=texts, rows=rows, teacher=np.zeros((2, 1), dtype=np.float32), blocks=np.array([0, 0]))


def test_a_tokenizer_without_a_token_that_fills_up(tmp_path: Path) -> None:
    with_pad = DiPair.from_encoder(_folder(tmp_path / "a", *ACCEPTED["bert"]), _student(head_start="random"))
    model = DiPair.from_encoder(
        _folder(tmp_path / "b", *ACCEPTED["bert"], _tokenizer(pad=False)), _student(head_start="random")
    )
    model.load_state_dict(with_pad.state_dict())
    assert pad_id(model.tokenizers[0]) == 0 and pad_id(with_pad.tokenizers[0]) == 0
    np.testing.assert_allclose(model.predict(PAIRS), with_pad.predict(PAIRS), atol=1e-6)
    batch = TextCollator(_table(), model)([np.array([0, 1])])
    model.eval()
    with torch.no_grad():
        logits = model(rows=batch["rows"], streams=batch["streams"]).logits
    np.testing.assert_allclose(logits, model.logits(PAIRS), atol=1e-5)
    started = DiPair.from_encoder(tmp_path / "b", _student(width=16, head_heads=2))  # samples texts for its head
    assert np.isfinite(started.predict(PAIRS)).all()


@pytest.mark.parametrize("filler", [0, 1, 5, SIZE - 1])
def test_the_mask_hides_whatever_fills_up(filler: int, tmp_path: Path) -> None:
    model = DiPair.from_encoder(_folder(tmp_path, *ACCEPTED["roberta"]), _student()).eval()
    ids = token_ids(model.tokenizers[0], [text for pair in PAIRS for text in pair], 32)
    with torch.no_grad():
        found = model.kept_side(pad_batch(ids, filler), 0)[0]
        expected = model.kept_side(pad_batch(ids, pad_id(model.tokenizers[0])), 0)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    tokenizer = _tokenizer()
    tokenizer.add_tokens(["brand", "another"])
    source = _folder(tmp_path, *ACCEPTED["bert"], tokenizer)
    with pytest.raises(
        ModelError, match=rf"go up to {SIZE + 1}, the model has embeddings for {SIZE}.*resize_token_embeddings"
    ):
        DiPair.from_encoder(source, _student())


def test_a_filling_token_that_the_model_was_not_given_is_refused(tmp_path: Path) -> None:
    tokenizer = _tokenizer(pad=False)
    tokenizer.add_special_tokens({"pad_token": "<filler>"})
    with pytest.raises(ModelError, match=f"go up to {SIZE}, "):
        DiPair.from_encoder(_folder(tmp_path, *ACCEPTED["bert"], tokenizer), _student())


def test_a_text_without_any_token_is_named(tmp_path: Path) -> None:
    model = DiPair.from_encoder(_folder(tmp_path, *ACCEPTED["bert"], _tokenizer(special=False)), _student()).eval()
    assert np.isfinite(model.predict([("red chair", "blue"), ("cup", "red")])).all()
    for pairs in ([("red chair", "  "), ("blue", "red")], [("red chair", " ")], [("", "")]):
        with pytest.raises(ModelError, match="has no token: ' *'"):
            model.predict(pairs)
    with pytest.raises(ModelError, match="text 1 has no token: ''"):
        model.encode(["red", "", "blue"])
    table = _table()
    with pytest.raises(ModelError, match="text 3 has no token"):
        TextCollator(TupleTable(texts=[*table.texts[:3], " "], rows=table.rows), model)


# --- weights -------------------------------------------------------------------------------------------------------


def test_an_encoder_without_all_of_its_weights_is_not_filled_up_with_random_ones(tmp_path: Path) -> None:
    source = _folder(tmp_path, *ACCEPTED["bert"])
    weights = load_file(source / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weights .* encoder.layer.1.output.dense.weight"):
        DiPair.from_encoder(source, _student())


def test_an_encoder_whose_weights_are_no_numbers_is_refused(tmp_path: Path) -> None:
    source = _folder(tmp_path, *ACCEPTED["bert"])
    weights = load_file(source / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3] = float("nan")
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="weights encoder.layer.1.output.dense.bias hold NaN or Inf"):
        DiPair.from_encoder(source, _student())


def test_a_student_is_no_encoder(tmp_path: Path) -> None:
    model = DiPair.from_encoder(_folder(tmp_path / "encoder", *ACCEPTED["bert"]), _student())
    model.save_pretrained(tmp_path / "student")
    with pytest.raises(ModelError, match="is a DiPair student already"):
        DiPair.from_encoder(tmp_path / "student", _student())


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    source = _folder(tmp_path, *ACCEPTED["bert"])
    config = json.loads((source / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (source / "config.json").write_text(json.dumps(config))
    (source / "code.py").write_text("raise SystemExit('this ran')\n")
    with pytest.raises(ModelError, match="code from its own folder, which is never run"):
        DiPair.from_encoder(source, _student())
