import json

import numpy as np
import pytest

from micse_utils.cli import main
from micse_utils.datasets.triplets import Triplets
from micse_utils.evaluation.reported import evaluate_triplets
from micse_utils.provenance import Provenance

HERE = Provenance("made up", "memory", "this test")


class Angles:
    """An encoder of numbers: each is the direction of its vector, in degrees."""

    def encode(self, sentences):
        radians = np.deg2rad([float(sentence) for sentence in sentences])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1) * 3


def of(triples, articles):
    return Triplets(*(list(part) for part in zip(*triples, strict=True)), np.array(articles), HERE)


def test_a_triplet_is_right_if_the_positive_is_nearer():
    triplets = of([("0", "10", "20"), ("0", "-30", "20"), ("0", "5", "180")], [1, 1, 2])
    [row] = evaluate_triplets(Angles(), {"mine": triplets}).to_dict("records")
    assert row["accuracy"] == pytest.approx(200 / 3)
    assert (row["task"], row["triplets"], row["articles"]) == ("mine", 3, 2)


def test_the_interval_is_over_articles():
    # 40 articles of 25 triplets, all right or all wrong: as much is known as from 40 coins.
    right, wrong = ("0", "10", "20"), ("0", "20", "10")
    triples = [triple for n in range(40) for triple in [right if n % 2 else wrong] * 25]
    articles = np.repeat(np.arange(40), 25)
    [row] = evaluate_triplets(Angles(), {"mine": of(triples, articles)}).to_dict("records")
    half_width = 1.96 * 100 * np.sqrt(0.25 / 40)
    assert row["low"] == pytest.approx(50 - half_width, abs=2)
    assert row["high"] == pytest.approx(50 + half_width, abs=2)


def test_the_command_scores_both_forms(tiny_bert, tmp_path, capsys):
    call = ["score", str(tiny_bert), "--tasks", "triplets", "--output", str(tmp_path)]
    assert main(call) == 0
    scores = json.loads((tmp_path / "triplets.json").read_text(encoding="utf-8"))["scores"]
    assert [row["triplets"] for row in scores] == [4_000, 4_000]
    for row in scores:  # a random BERT still sees shared words
        assert 50 < row["low"] < row["accuracy"] < row["high"] < 90
    printed = " | ".join(f"{row['accuracy']:.2f}" for row in scores)
    assert f"| tiny-bert, cls | {printed} |" in capsys.readouterr().out
