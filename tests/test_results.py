import hashlib
import importlib.metadata
import json
import math

import numpy as np
import pytest

from micse_utils.provenance import Provenance, sha256_of
from micse_utils.results import write_atomically, write_metrics

MODEL = Provenance("all-MiniLM-L6-v2", "package", "gt==0.1", sha256="ab" * 32, pooling="mean")
DATA = Provenance("tweets", "hub", "owner/tweets", revision="0123456789abcdef")


def test_metrics_carry_figures_and_provenance(tmp_path):
    figures = {"accuracy": np.float32(0.5), "matrix": np.eye(2), "count": np.int64(3)}
    write_metrics(tmp_path, figures, headline="a half", model=MODEL, data=DATA, seed=7, dtype="f")
    record = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert record["headline"] == "a half"
    assert record["figures"] == {"accuracy": 0.5, "matrix": [[1, 0], [0, 1]], "count": 3}
    made = record["provenance"]
    assert (made["model"]["sha256"], made["data"]["revision"]) == ("ab" * 32, "0123456789abcdef")
    assert (made["seed"], made["settings"]) == (7, {"dtype": "f"})
    assert made["versions"]["torch"] == importlib.metadata.version("torch")


def test_nan_is_rejected_and_the_last_good_file_stays(tmp_path):
    write_metrics(tmp_path, {"x": 1.0}, headline="", model=MODEL, data=DATA, seed=0)
    good = (tmp_path / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(tmp_path, {"x": math.nan}, headline="", model=MODEL, data=DATA, seed=0)
    assert (tmp_path / "metrics.json").read_bytes() == good


def test_an_interrupted_write_leaves_the_last_good_file_and_nothing_else(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("good", encoding="utf-8")

    def interrupted(path):
        path.write_text("ha", encoding="utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, interrupted)
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    assert target.read_text(encoding="utf-8") == "good"


def test_the_hash_of_several_files_depends_on_each(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    digests = [hashlib.sha256(content).hexdigest() for content in (b"one", b"two")]
    assert sha256_of([first]) == digests[0]
    assert sha256_of([first, second]) == hashlib.sha256("".join(digests).encode()).hexdigest()
