import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import constants

from micse_utils.datasets.sts import YEARS, load_lee, load_sample, load_sts, load_stsb
from micse_utils.settings import KIT_DATA
from micse_utils.sources.packaged import fetch

LINE = "main-captions\tMSRvid\t2012test\t000{n}\t{score}\tA cat sat {n} .\tThe cat ran {n} .\n"


def senteval(folder, lines):
    file = folder / "STS" / "STSBenchmark" / "sts-dev.csv"
    file.parent.mkdir(parents=True)
    file.write_bytes("".join(lines).encode() if isinstance(lines, list) else lines)
    return folder


def test_the_sample_is_even_over_scores_and_genres_and_repeats_nothing():
    table = pd.read_csv(KIT_DATA / "sts_sample.csv")
    assert len(table) >= 300
    assert set(table.groupby(["genre", "score"]).size()) == {14}
    assert sorted(table["score"].unique()) == [0, 1, 2, 3, 4, 5]
    assert set(table["kind"]) == {"plain", "same words", "other words"}
    sentences = pd.concat([table["sentence1"], table["sentence2"]])
    assert not sentences.str.lower().duplicated().any()
    assert (table.loc[table["kind"] == "same words", "score"] <= 3).all()
    assert (table.loc[table["kind"] == "other words", "score"] >= 4).all()


def test_the_packaged_source_is_the_kits_own_sample_and_says_so(capsys):
    pairs = load_stsb(source="package")
    assert pairs.provenance.source == "kit" and "STSBenchmark" not in pairs.provenance.name
    assert (
        "rated pairs: sts_sample, plain pairs (kit: data/sts_sample.csv" in capsys.readouterr().out
    )
    assert len(pairs) == len(pairs.first) == len(pairs.second) == len(load_sample("plain"))


def test_lees_pairs_are_the_upper_triangle_of_the_ratings():
    pairs = load_lee()
    assert len(pairs) == 50 * 49 // 2
    with (fetch("judgments") / "similarities0-1.txt").open(encoding="utf-8") as stream:
        rows = [[float(value) for value in row] for row in csv.reader(stream, delimiter="\t")]
    position = 0
    for i in range(50):
        for j in range(i + 1, 50):
            assert pairs.gold[position] == rows[i][j]
            position += 1
    assert pairs.first[0] == pairs.first[48] != pairs.first[49]
    assert pairs.second[0] == pairs.first[49]
    assert pairs.provenance.source == "package"


def test_a_senteval_folder_is_read_wherever_its_sts_folder_is(tmp_path, monkeypatch, capsys):
    lines = [LINE.format(n=1, score="5.000"), LINE.format(n=2, score="0.25").strip() + "\textra\n"]
    senteval(tmp_path / "data" / "downstream", lines)
    pairs = load_stsb("dev", source=tmp_path)
    assert pairs.gold.tolist() == [5.0, 0.25]
    assert pairs.first == ["A cat sat 1 .", "A cat sat 2 ."]
    assert pairs.second == ["The cat ran 1 .", "The cat ran 2 ."]
    monkeypatch.setenv("MICSE_SENTEVAL", str(tmp_path))
    assert len(load_stsb()) == 2
    assert "STSBenchmark, dev (folder: sts-dev.csv" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"no STS/STSBenchmark/sts-test.csv in"):
        load_stsb("test", source=tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE.format(n=1, score="7"), r"sts-dev.csv, line 2 is not in the official format: .*7"),
        (LINE.format(n=1, score="5.1"), "line 2 is not in the official format"),
        (LINE.format(n=1, score="nan"), "line 2 is not in the official format"),
        (LINE.format(n=1, score=""), "line 2 is not in the official format"),
        ("a\tb\n", "line 2 is not in the official format"),
        (LINE.format(n=1, score="1").strip() + "\r" + LINE, "line 2 holds NUL or a carriage"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, line, message):
    folder = senteval(tmp_path, [LINE.format(n=0, score="1"), line])
    with pytest.raises(ValueError, match=message):
        load_stsb(source=folder)


def year(folder, name="STS13", **contents):
    """Write a year's task of two pairs a subset; `contents` replaces files by subset."""
    place = folder / "STS" / f"{name}-en-test"
    place.mkdir(parents=True)
    for subset in YEARS[name]:
        files = {"input": f"{subset} a .\tb .\n{subset} c .\td .\n", "gs": "1.5\n4\n"}
        for kind, text in (files | contents.get(subset, {})).items():
            (place / f"STS.{kind}.{subset}.txt").write_bytes(text.encode())
    return folder


def test_a_year_pools_its_subsets_without_unrated_pairs(tmp_path):
    line = "x\ty\thttp://source\tanother\n"  # STS16 names sources
    pairs = load_sts("STS13", source=year(tmp_path, FNWN={"input": line * 2, "gs": "\n 2 \n"}))
    assert pairs.first == ["x", "headlines a .", "headlines c .", "OnWN a .", "OnWN c ."]
    assert pairs.gold.tolist() == [2, 1.5, 4, 1.5, 4]
    assert pairs.subsets == ("FNWN", *["headlines"] * 2, *["OnWN"] * 2)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"gs": "1\n"}, r"input.OnWN.txt has 2 lines but STS.gs.OnWN.txt has 1"),
        ({"gs": "1\nsix\n"}, r'gs.OnWN.txt, line 2 is not in the official format: "six"'),
        ({"gs": "1\n6\n"}, r'gs.OnWN.txt, line 2 is not in the official format: "6"'),
        ({"input": "a\tb\nc\n"}, r"input.OnWN.txt, line 2 is not in the official format"),
    ],
)
def test_a_damaged_year_is_named_with_file_and_line(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        load_sts("STS13", source=year(tmp_path, OnWN=files))


def test_sick_is_read_with_and_without_its_header(tmp_path):
    (tmp_path / "SICK").mkdir()
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    row = "4\tA boy runs\tNobody runs\t3.6\tCONTRADICTION\n"
    for text in (header + row, row):
        (tmp_path / "SICK" / "SICK_test_annotated.txt").write_text(text, encoding="utf-8")
        pairs = load_sts("SICKRelatedness", source=tmp_path)
        assert (pairs.first, pairs.second) == (["A boy runs"], ["Nobody runs"])
        assert pairs.gold.tolist() == [3.6]


def test_no_stand_in_bears_the_name_of_a_task(monkeypatch, tmp_path):
    monkeypatch.delenv("MICSE_SENTEVAL", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("micse_utils.sources.hub.hub_problem", lambda: "switched off for this test")
    with pytest.raises(ConnectionError, match=r"datasets-for-simcse .*switched off"):
        load_sts("STS12")
    with pytest.raises(ValueError, match="no package carries STS12"):
        load_sts("STS12", source="package")
    with pytest.raises(ValueError, match=r'one of STS12.* got "STS17"'):
        load_sts("STS17")
    with pytest.raises(ValueError, match='train, dev, test, got "validation"'):
        load_stsb("validation")


def test_the_official_development_pairs_are_complete():
    folder = os.environ.get("MICSE_SENTEVAL") or Path(__file__).parents[3] / "shared" / "senteval"
    if not (Path(folder) / "STS" / "STSBenchmark" / "sts-dev.csv").is_file():
        pytest.skip("needs SentEval's STS-B; set MICSE_SENTEVAL")
    pairs = load_stsb(source=folder)
    assert len(pairs) == 1500
    assert np.mean(pairs.gold) == pytest.approx(2.36, abs=0.01)
