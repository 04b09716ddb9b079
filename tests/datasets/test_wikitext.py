# ruff: noqa: E501
import bz2

import pytest

from micse_utils.datasets.wikitext import distinct_sentences, packaged_articles, wikipedia_articles

PAGE = """<page><title>{title}</title><ns>{ns}</ns>{redirect}
<revision><text>{text}</text></revision></page>"""


@pytest.fixture
def dump_of(tmp_path):
    """Dump of pages given as (namespace, redirect, escaped markup)."""

    def write(*pages):
        body = "".join(
            PAGE.format(title=i, ns=ns, redirect="<redirect/>" if redirect else "", text=text)
            for i, (ns, redirect, text) in enumerate(pages)
        )
        dump = tmp_path / "dump.xml.bz2"
        xml = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{body}</mediawiki>'
        dump.write_bytes(bz2.compress(xml.encode()))
        return dump

    return write


@pytest.fixture
def sentences_of(dump_of):
    """Sentences of pages given as (namespace, redirect, escaped markup)."""
    return lambda *pages: distinct_sentences(wikipedia_articles(dump_of(*pages)))


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("The [[dog|old dog]] ran ''very'' far '''today''' again.", ["The old dog ran very far today again."]),
        (
            "The first one ends right here. The second one ends over there!",
            ["The first one ends right here.", "The second one ends over there!"],
        ),
        (
            "Dr. J. R. Smith met Mr. Jones in St. Louis yesterday.",
            ["Dr. J. R. Smith met Mr. Jones in St. Louis yesterday."],
        ),
        (
            "The sea rises twice a day.&lt;ref&gt;A book. With sentences in it, of course.&lt;/ref&gt;",
            ["The sea rises twice a day."],
        ),
        ("The road is {{convert|5|km}} long in all today.", []),  # what it prints is not known
        ("== The heading is not taken as a sentence. ==", []),
        ("[[File:x.png|thumb|The caption is not taken as a sentence.]]", []),
        ("{| class=x\n| The cell is not taken as a sentence.\n|}", []),
        ("The sea rises twice a day. The sea rises twice a day.", ["The sea rises twice a day."]),
        ("Tom &amp;amp; Jerry ran for their lives today.", ["Tom & Jerry ran for their lives today."]),
    ],
)  # fmt: skip
def test_markup_becomes_clean_sentences(sentences_of, markup, expected):
    assert sentences_of((0, False, markup)) == expected


def test_only_articles_are_read(sentences_of):
    text = "The page number {} has only one sentence."
    pages = [(0, False, text.format(1)), (0, True, text.format(2)), (4, False, text.format(3))]
    assert sentences_of(*pages) == [text.format(1)]


def test_a_section_reaches_to_the_next_heading_of_the_second_level(dump_of):
    one, two, three, four = (f"The sentence of part {n} is right here." for n in range(1, 5))
    markup = f"{one}\n== History ==\n{two}\n=== Early ===\n{three}\n== ''Uses'' ==\n{four}"
    dump = dump_of((0, False, markup), (0, False, one))
    assert wikipedia_articles(dump) == [[[one], [two, three], [four]], [[one]]]
    assert distinct_sentences(wikipedia_articles(dump)) == [one, two, three, four]


def test_the_packaged_articles_give_thousands_of_clean_sentences():
    sentences = distinct_sentences(packaged_articles())
    assert 15_000 < len(sentences) < 18_000
    assert len(set(sentences)) == len(sentences)
    assert all(6 <= len(sentence.split()) <= 50 for sentence in sentences)
    assert not [s for s in sentences if any(mark in s for mark in ("[[", "]]", "{{", "<ref", "''"))]
    assert any("aardvark" in sentence for sentence in sentences)
