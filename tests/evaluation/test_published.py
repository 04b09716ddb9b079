from types import SimpleNamespace

import pandas as pd
import pytest

from micse_utils.datasets.sts import STS_TASKS
from micse_utils.evaluation.published import PUBLISHED, other_data, report_scores, score_row
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


def test_published_scores_are_shown_only_with_their_pooling(tmp_path):
    table = pd.DataFrame({
        "task": ["STS12", "STS12", "STS16", "SICKRelatedness", "Lee"],
        "subset": ["all", "MSRpar", "all", "all", "all"],
        "pairs": [3108, 750, 1186, 9927, 1225],
        "spearman": [72.32, 10.0, 79.05, 77.58, 50.0],
    })  # fmt: skip

    def said(name, pooling):
        model = SimpleNamespace(
            provenance=Provenance(name, "package", "p", sha256="0", pooling=pooling)
        )
        return report_scores([(model, table)], tmp_path, "sts", {})

    mean = said("all-MiniLM-L6-v2", "mean")
    assert "| published (MTEB leaderboard) | 72.37 | 78.99 |" in mean
    assert "without an average: SICKRelatedness (9,927 pairs, officially 4,927)" in mean
    for name, pooling in (("all-MiniLM-L6-v2", "cls"), ("mine", "mean")):
        assert "published (" not in said(name, pooling)
