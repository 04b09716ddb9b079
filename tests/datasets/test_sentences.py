import numpy as np
import pandas as pd
import pytest

from micse_utils.datasets.sentences import load_low_shot, load_sentences, read_sentences


def test_sentences_come_from_the_users_file_without_blank_lines(tmp_path):
    (tmp_path / "sentences.txt").write_bytes("\ufeffOne.\r\n\r\n  Two.  \nThree.".encode())
    assert load_sentences(tmp_path).texts == ["One.", "Two.", "Three."]


def test_sentence_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither sentences.txt nor wiki1m"):
        load_sentences(tmp_path)
    (tmp_path / "sentences.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match="there are no sentences"):
        load_sentences(tmp_path)


def test_packaged_sentences_can_be_sampled():
    sentences = load_sentences("package", limit=64, seed=48)
    assert len(sentences) == 64
    assert sentences.labels is None


def test_handfuls_are_seeded_samples_of_the_users_sentences(tmp_path, capsys):
    texts = [f"Sentence number {n}." for n in range(50)]
    (tmp_path / "sentences.txt").write_text("\n".join(texts), encoding="utf-8")
    handfuls = load_low_shot([5, 20], seeds=[48, 49], source=tmp_path)
    assert set(handfuls) == {(5, 48), (5, 49), (20, 48), (20, 49)}
    for (size, seed), corpus in handfuls.items():
        rows = np.sort(np.random.default_rng(seed).choice(50, size, replace=False))
        assert corpus.texts == [texts[row] for row in rows]
    assert capsys.readouterr().out.count("sentences: ") == 1  # said once for all


@pytest.mark.parametrize(
    ("sizes", "seeds", "message"),
    [
        ([51], [48], r"has only 50 sentences, not 51"),
        ([0], [48], r"sizes\[0\]=0 is not a whole number from 1"),
        ([], [48], r"sizes=\[\] is no list"),
        ([5], [], r"seeds=\[\] is no list"),
    ],
)
def test_handfuls_that_cannot_be_had_are_refused(tmp_path, sizes, seeds, message):
    (tmp_path / "sentences.txt").write_text(
        "\n".join(f"Number {n}." for n in range(50)), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=message):
        load_low_shot(sizes, seeds=seeds, source=tmp_path)


def test_a_table_with_one_column_needs_no_name(tmp_path):
    (tmp_path / "one.csv").write_text("anything\nfirst\n\nsecond\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="line 1, 'anything'"):
        assert read_sentences(tmp_path / "one.csv").texts == ["first", "second"]
    (tmp_path / "one.csv").write_text("The cat sat\nThe dog ran\n", encoding="utf-8")
    with pytest.raises(ValueError, match="The cat sat"):
        read_sentences(tmp_path / "one.csv")
    assert read_sentences(tmp_path / "one.csv", column="The cat sat").texts == ["The dog ran"]


def test_a_named_column_is_read_from_each_kind_of_table(tmp_path):
    table = pd.DataFrame({"n": [1, 2, 3], "text": ["first", None, "second"]})
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    table.to_parquet(tmp_path / "a.parquet")
    for suffix in ("csv", "tsv", "parquet"):
        corpus = read_sentences(tmp_path / f"a.{suffix}", column="text")
        assert corpus.texts == ["first", "second"]
        assert corpus.provenance.origin == f"a.{suffix}"
