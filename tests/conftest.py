"""A tiny random BERT, the packaged encoder, a local hub, JupyterLab as it opens."""

import contextlib
import json
import multiprocessing
import socket

import lab_server
import pytest
import torch
from hub_server import serving
from huggingface_hub import constants
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from micse_utils.models import load_model
from micse_utils.sources.hub import hub_problem

WORDS = [
    "a", "the", "cat", "dog", "sat", "ran", "on", "mat", "park", "red", "blue", "big", "small",
    "and", "##s", "##ed", ".", ",", "!",
]  # fmt: skip
SLOWEST = ["notebooks", "senteval", "commands", "notebook_inputs", "evidence", "cluster"]
SLOWEST += ["experiment", "engine", "trainer"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def pytest_collection_modifyitems(items):
    """Put the slowest files first, so that no worker begins one when the other is done."""
    first = [f"test_{name}.py" for name in SLOWEST]
    items.sort(key=lambda item: [*first, item.path.name].index(item.path.name))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """Folder of a random two-layer BERT with its tokenizer, as `save_pretrained` leaves it.

    Hidden size 32, 64 positions. It knows the words of `WORDS` and single ASCII letters.
    """
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = dict.fromkeys([*SPECIAL, *WORDS, *letters, *("##" + letter for letter in letters)])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder():
    """The packaged all-MiniLM-L6-v2, on the CPU."""
    return load_model(source="package", device="cpu")


@pytest.fixture(scope="session")
def processes():
    """What starts processes that have their libraries: forks of one that imported them, once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["micse_utils.models", "micse_utils.training.trainer"])
    return context


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A healthy, empty hub, which the hub's client takes for the hub; an empty cache."""
    monkeypatch.delenv("MICSE_DATA", raising=False)
    with serving() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub_problem.cache_clear()
        yield running
    hub_problem.cache_clear()


@pytest.fixture(scope="session")
def foreign_kernel(tmp_path_factory):
    """A user's own kernel called python3, of another environment; it does not even start."""
    share = tmp_path_factory.mktemp("jupyter")
    spec = {"argv": ["false", "{connection_file}"], "display_name": "mine", "language": "python"}
    (share / "kernels" / "python3").mkdir(parents=True)
    (share / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return {"JUPYTER_PATH": str(share), "JUPYTER_DATA_DIR": str(share)}


@pytest.fixture(scope="session")
def lab(tmp_path_factory, foreign_kernel):
    """JupyterLab, started by `make lab` while its usual port is busy, beside a foreign kernel."""
    if not lab_server.is_at_hand():
        pytest.skip("`make lab` has an environment of its own in .venv; run this by `make test`")
    with socket.socket() as holder:
        with contextlib.suppress(OSError):  # somebody else holds it
            holder.bind(("127.0.0.1", 8888))
            holder.listen()
        folder = tmp_path_factory.mktemp("lab")
        with lab_server.running(folder, MICSE_SENTEVAL="", **foreign_kernel) as lab:
            yield lab
