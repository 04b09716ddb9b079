"""Turn Wikipedia's markup into clean English sentences."""

import bz2
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import mwparserfromhell
import numpy as np
from mwparserfromhell import nodes, wikicode
from tqdm.auto import tqdm

from micse_utils.sources.packaged import fetch

# A template prints something unknown, such as a number with its unit, and a formula is not text: a
# sentence with one is left out. Notes and citations print nothing in the sentence.
GAP = "\ufffc"
SECTION = "\x1d"  # marks a heading; no valid XML holds it
NOTE = re.compile(
    r"cit|sfn|harv|ref|efn|fact|cn\b|rp\b|note|clarify|when|who|which|by whom|page|verif|dubious"
    r"|dead|main|see|further|use |pp|redirect|about|distinguish|infobox",
    re.IGNORECASE,
)
# Half of the markup is footnotes; cut them before parsing, which takes twice as long with them.
FOOTNOTE = re.compile(r"<!--.*?-->|<ref\b[^>]*/>|<ref\b.*?</ref>", re.DOTALL | re.IGNORECASE)
GAP_TAGS = ("math", "code", "pre", "source", "syntaxhighlight")
HIDDEN_TAGS = ("references", "table", "gallery", "timeline")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]”]*\s+(?=[\"'(“]?[A-Z])")
ABBREVIATION = re.compile(
    r"\b([A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|Col|Lt|Capt|Rev|Gov|Sen|vs|etc|ca?|cf|al|No|Vol|pp?"
    r"|eds?|Inc|Ltd|Co|approx|Fig|e\.g|i\.e)\.$"
)
MARKUP = re.compile(rf"[{{}}\[\]|<>=\\*#_{GAP}]|https?:|''|\( ?\)|\(,|,,|\s[,;]")

Article = list[list[str]]  # sentences of each section; the first section precedes the headings


def packaged_articles(part: str = "all") -> list[Article]:
    """Read articles of the packaged Wikipedia: `all`, two thirds for `training`, or `held out`."""
    [dump] = fetch("wikipedia").glob("*.bz2")
    articles = wikipedia_articles(dump)
    order = np.random.default_rng(0).permutation(len(articles))
    held_out = len(articles) // 3
    rows = {"all": order, "training": order[held_out:], "held out": order[:held_out]}[part]
    return [articles[row] for row in sorted(rows)]


def distinct_sentences(articles: Iterable[Article]) -> list[str]:
    """Return the sentences of some articles, each once, in reading order."""
    return list(dict.fromkeys(s for article in articles for section in article for s in section))


@cache  # read once for all parts
def wikipedia_articles(dump: Path) -> list[Article]:
    """Read the articles in a bzip2-packed dump; headings of level 2, "== So ==", split sections."""
    parsed = (mwparserfromhell.parse(FOOTNOTE.sub("", markup)) for markup in _articles(dump))
    texts = map(_text, tqdm(parsed, desc="read Wikipedia", unit="article", delay=1))
    return [[_sentences(section) for section in text.split(SECTION)] for text in texts]


def _sentences(text: str) -> list[str]:
    """Return the whole sentences of 6 to 50 words in running text; lists are left out."""
    return [
        sentence
        for line in text.splitlines()
        if line.lstrip()[:1] not in ("*", "#", ":", ";", "")
        for sentence in _split(" ".join(line.split()))
        if 6 <= len(sentence.split()) <= 50
        and sentence[0].isupper()
        and sentence[-1] in ".!?"
        and not MARKUP.search(sentence)
    ]


def _articles(dump: Path) -> Iterator[str]:
    """Yield the markup of each article, without redirects and pages about Wikipedia itself."""
    with bz2.open(dump) as stream:
        for _, page in ElementTree.iterparse(stream):
            space, _, tag = page.tag.rpartition("}")
            if tag == "page" and page.find(f"{space}}}redirect") is None:
                if page.findtext(f"{space}}}ns") == "0":
                    yield page.findtext(f"{space}}}revision/{space}}}text") or ""
                page.clear()


def _text(code: wikicode.Wikicode | None) -> str:
    """Return what a reader sees of the markup."""
    parts = []
    for node in code.nodes if code else []:
        match node:
            case nodes.Text():
                parts.append(node.value)
            case nodes.HTMLEntity():
                parts.append(node.normalize())
            case nodes.Wikilink() if ":" not in str(node.title):
                parts.append(_text(node.text or node.title))
            case nodes.ExternalLink():
                parts.append(_text(node.title))
            case nodes.Heading() if node.level == 2:
                parts.append(SECTION)
            case nodes.Tag() if str(node.tag).lower() in ("li", "dd", "dt"):
                parts.append(node.wiki_markup or "*")
            case nodes.Tag() if str(node.tag).lower() in GAP_TAGS:
                parts.append(GAP)
            case nodes.Tag() if str(node.tag).lower() not in HIDDEN_TAGS:
                parts.append(_text(node.contents))
            case nodes.Template() if not NOTE.match(str(node.name).strip()):
                parts.append(GAP)
    return "".join(parts)


def _split(paragraph: str) -> Iterator[str]:
    """Yield the sentences of a paragraph; an abbreviation or initial does not end one."""
    start = 0
    for end in SENTENCE_END.finditer(paragraph):
        if not ABBREVIATION.search(paragraph[start : end.start()]):
            yield paragraph[start : end.end()].strip()
            start = end.end()
    if start < len(paragraph):
        yield paragraph[start:].strip()
