"""The notebooks on other input: BERT from the hub, moved controls."""

import ast
from collections import Counter

import nbformat
import numpy as np
import pytest
import torch
from hub_server import member, serving, tar
from notebook_runner import SEARCH, TRAINING, run
from transformers import AutoConfig, AutoModel, AutoTokenizer

from micse_utils.sources.packaged import fetch
from tools.run_notebooks import NOTEBOOKS


@pytest.mark.slow
def test_with_the_hub_the_same_cells_train_bert_on_the_papers_splits(tmp_path, tiny_bert):
    """A small BERT under the name of the real one, splits and pairs, served on loopback."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_bert, num_hidden_layers=12, num_attention_heads=8)
    AutoModel.from_config(config).save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path / "bert")
    commit, words = (
        "c" * 40,
        ["cat", "dog", "sat", "ran", "mat", "park", "red", "blue", "big", "small"],
    )
    sentences = [" ".join(row) for row in np.random.default_rng(0).choice(words, (200, 5))]
    split = "\n".join(dict.fromkeys(sentences)).encode()
    pairs = "".join(
        f"genre\tfile\tyear\t{i}\t{i % 6}\t{a}\t{b}\n"
        for i, (a, b) in enumerate(zip(sentences[:60], sentences[60:120], strict=True))
    )
    archive = tar(member("STS/STSBenchmark/sts-dev.csv", pairs.encode()))
    kept = tmp_path / "kit"  # holds Lee's texts already
    kept.mkdir()
    (kept / "judgments").symlink_to(fetch("judgments"))
    with serving() as hub:
        hub.repositories = {
            "models/bert-base-uncased": {
                commit: {f.name: f.read_bytes() for f in (tmp_path / "bert").iterdir()}
            },
            "datasets/sap-ai-research/datasets-for-micse": {
                commit: {"wiki_subset_1M_0.01percent_seed48.txt": split}
            },
            "datasets/princeton-nlp/datasets-for-simcse": {commit: {"senteval.tar": archive}},
        }
        values = {"source": "hub", "size": 100, "seed": 48, "steps": 2, "whole_steps": 1}
        made = run(
            TRAINING, tmp_path / "results", values, HF_ENDPOINT=hub.url, MICSE_CACHE=str(kept),
            HF_HUB_CACHE=str(tmp_path / "cache"), HF_HUB_OFFLINE="0",
        )  # fmt: skip
    assert made["provenance"]["model"]["name"] == "bert-base-uncased"
    assert made["provenance"]["model"]["revision"] == commit
    assert made["provenance"]["data"]["origin"] == "sap-ai-research/datasets-for-micse"
    assert set(made["figures"]["whole"]) == {"SimCSE", "miCSE"}


@pytest.mark.parametrize("name", [TRAINING, SEARCH])
def test_what_a_control_calls_reads_no_variable_that_a_later_cell_sets_again(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    sources = [c.source for c in notebook.cells if c.cell_type == "code" and "%pip" not in c.source]
    page = ast.parse("\n".join(sources)).body
    functions = {node.name: node for node in page if isinstance(node, ast.FunctionDef)}
    others = [node for node in page if not isinstance(node, ast.FunctionDef)]
    times = Counter(n for node in others for n in names(node, ast.Store))
    calls = [n for node in page for n in ast.walk(node) if isinstance(n, ast.Call)]
    controls = [
        call.args[0] for call in calls if getattr(call.func, "id", call.func.__dict__.get("attr"))
        in ("interactive", "observe")
    ]  # fmt: skip
    assert controls
    ahead = [functions.get(getattr(control, "id", None), control) for control in controls]
    checked = set()
    while ahead:
        node = ahead.pop()
        checked.add(node)
        body = node.body if isinstance(node.body, list) else [node.body]
        held = {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]}
        held |= {n for part in body for n in names(part, ast.Store)}
        read = {n for part in body for n in names(part, ast.Load)} - held
        assert not [n for n in read if times[n] > 1]
        ahead += [functions[n] for n in read & functions.keys() if functions[n] not in checked]


def names(node, context):
    """Return the variables that a piece of code sets (`ast.Store`) or reads (`ast.Load`)."""
    found = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    return {n.id for n in found if isinstance(n.ctx, context)}
