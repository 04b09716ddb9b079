"""A notebook on other input: BERT from the hub."""

import numpy as np
import pytest
import torch
from hub_server import member, serving, tar
from notebook_runner import TRAINING, run
from transformers import AutoConfig, AutoModel, AutoTokenizer

from micse_utils.sources.packaged import fetch


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
        values = {"source": "hub", "size": 100, "seed": 48, "steps": 1, "whole_steps": 1}
        values["sentence"] = "The cat sat on the mat."
        made = run(
            TRAINING, tmp_path / "results", values, HF_ENDPOINT=hub.url, MICSE_CACHE=str(kept),
            HF_HUB_CACHE=str(tmp_path / "cache"), HF_HUB_OFFLINE="0",
        )  # fmt: skip
    assert made["provenance"]["model"]["name"] == "bert-base-uncased"
    assert made["provenance"]["model"]["revision"] == commit
    assert made["provenance"]["data"]["origin"] == "sap-ai-research/datasets-for-micse"
    assert set(made["figures"]["whole"]) == {"SimCSE", "miCSE"}
