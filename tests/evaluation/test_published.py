import numpy as np
import pandas as pd
import pytest

from micse_utils.datasets.sts import STS_TASKS
from micse_utils.evaluation.published import (
    PUBLISHED,
    compare_published,
    other_data,
    published_for,
    score_row,
)
from micse_utils.provenance import Provenance


def test_the_published_averages_agree_with_the_papers():
    for name, average in (("miCSE", 78.13), ("unsup-simcse-bert-base-uncased", 76.25)):
        row = score_row(PUBLISHED[name].scores)
        assert list(row) == [*STS_TASKS, "Avg."]
        assert float(row["Avg."]) == pytest.approx(average, abs=0.006)


def test_an_average_needs_the_official_data():
    pairs = dict(zip(STS_TASKS, (3108, 1500, 3750, 3000, 1186, 1379, 4927), strict=True))
    scores = dict.fromkeys(STS_TASKS, 70.0)
    assert score_row(scores, other_data(pairs))["Avg."] == "70.00"
    other = other_data(pairs | {"SICKRelatedness": 9927})
    assert other == {"SICKRelatedness": "9,927 pairs, officially 4,927"}
    assert "Avg." not in score_row(scores, other)
    assert other_data({"Lee": 1225, "kit sample": 200}) == {}


def test_published_scores_need_the_pooling_they_were_made_with():
    mean = Provenance("all-MiniLM-L6-v2", "package", "p", sha256="0", pooling="mean")
    cls = Provenance("all-MiniLM-L6-v2", "package", "p", sha256="0", pooling="cls")
    assert published_for(mean) is PUBLISHED["all-MiniLM-L6-v2"]
    assert published_for(cls) is None
    assert published_for(Provenance("mine", "folder", "p", sha256="0", pooling="cls")) is None


def test_a_difference_beyond_rounding_is_not_reproduced():
    table = pd.DataFrame({
        "task": ["STS12", "STS12", "STS16", "Lee"],
        "subset": ["all", "MSRpar", "all", "all"],
        "spearman": [72.32, 10.0, 79.05, 50.0],
    })  # fmt: skip
    compared = compare_published(table, PUBLISHED["all-MiniLM-L6-v2"]).set_index("task")
    assert list(compared.index) == ["STS12", "STS16"]
    np.testing.assert_allclose(compared["difference"], [-0.05, 0.06], atol=1e-9)
    assert compared["reproduced"].tolist() == [True, False]


def test_a_task_of_a_different_size_is_not_reproduced():
    """SICK as a whole has 9,927 pairs, and is a different task from SentEval's 4,927."""
    table = pd.DataFrame({
        "task": ["STS12", "SICKRelatedness"],
        "subset": "all",
        "pairs": [3108, 9927],
        "spearman": [71.71, 73.62],
    })  # fmt: skip
    compared = compare_published(table, PUBLISHED["miCSE"]).set_index("task")
    assert compared["reproduced"].to_dict() == {"STS12": True, "SICKRelatedness": False}
    assert compared.loc["SICKRelatedness", "note"] == "9,927 pairs, officially 4,927"
    assert compared.loc["STS12", "note"] == ""
    table.loc[1, "pairs"] = 4927
    assert compare_published(table, PUBLISHED["miCSE"])["reproduced"].all()
