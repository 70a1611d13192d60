"""Fixtures for all tests: tiny random models, made once, and the places of real weights and data."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/dxg")):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # without a GPU; Triton reads it when it is imported

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from distilmatch.errors import MissingExtraError
from distilmatch.pretrained.names import resolve_model

# No test is timed. The default tier draws the same examples every time, `make slow` new ones (CONTRIBUTING).
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("new", deadline=None)
settings.load_profile("same")

_WORDS = """
a an the is are was not no and or of in on with without for to by at from it this that red blue green black
white grey pink brown small big large tiny tall short long new old good bad fast slow hot cold dry wet car bus
train bike plane boat house flat room door chair table lamp bed book pen cup glass plate knife fork shoe boot
shirt coat hat dog cat bird fish horse cow man woman boy girl child people person group one two three four
five six runs walks sits stands eats drinks plays sings sleeps reads writes opens closes buys sells finds
loses makes takes gives holds music guitar piano ball game park street city river sea sun rain snow wind tree
flower grass food bread milk water coffee tea apple cheap steel wood cotton leather plastic case charger cable
phone camera screen watch ring bag
""".split()
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = special + sorted({*_WORDS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)})
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _config(**settings: object) -> BertConfig:
    return BertConfig(
        vocab_size=len(_tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        **settings,
    )


def _cross_encoder(folder: Path, labels: int) -> Path:
    torch.manual_seed(labels)
    model = BertForSequenceClassification(_config(num_labels=labels))
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 2 layers, 32 wide, 64 positions."""
    folder = tmp_path_factory.mktemp("tiny_encoder")
    torch.manual_seed(0)
    BertModel(_config()).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random cross-encoder of one label."""
    return _cross_encoder(tmp_path_factory.mktemp("tiny_cross_encoder"), 1)


@pytest.fixture(scope="session")
def tiny_cross_encoder_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random cross-encoder of three labels."""
    return _cross_encoder(tmp_path_factory.mktemp("tiny_cross_encoder_3"), 3)


@pytest.fixture(scope="session")
def tiny_sentence_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder: a random BERT of 4 layers, 32 wide, the mean of its tokens, at length one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer, folder = (tmp_path_factory.mktemp(name) for name in ("tiny_transformer", "tiny_sentence_encoder"))
    torch.manual_seed(3)
    config = _config()
    config.num_hidden_layers, config.initializer_range = 4, 0.2  # of the usual range all texts look alike
    BertModel(config).save_pretrained(transformer)
    _tokenizer().save_pretrained(transformer)
    modules = [Transformer(str(transformer)), Pooling(32, pooling_mode="mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2's real weights."""
    try:
        return resolve_model("all-MiniLM-L6-v2")
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, where there is one."""
    folder = Path(os.environ.get("DISTILMATCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of real data; name one in DISTILMATCH_TEST_DATA")
    return folder
