"""Section triplets: which of two sentences comes from the section of a third?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from micse_utils.datasets.wikitext import Article, distinct_sentences, packaged_articles
from micse_utils.provenance import Provenance
from micse_utils.settings import check_choice, whole
from micse_utils.sources.packaged import package_provenance

TRIPLETS = ("section triplets", "article triplets")


@dataclass(frozen=True)
class Triplets:
    """n sentences, each with one of its own section and one from elsewhere."""

    anchor: list[str]
    positive: list[str]
    negative: list[str]
    articles: np.ndarray  # number of the anchor's article, int64, [n]
    provenance: Provenance

    def __len__(self) -> int:
        """Return the number of triplets."""
        return len(self.anchor)


def load_triplets(task: str, *, count: int = 4_000, seed: int = 0) -> Triplets:
    """Draw section triplets (Dor et al., ACL 2018) from articles that `load_low_shot` leaves out.

    Anchor and positive come from one section. The negative comes from a different section of the
    same article (`section triplets`), or from a different article (`article triplets`). Nobody
    rated them: that a section keeps to one theme is an assumption, so no encoder reaches 100 %.
    """
    check_choice("task", task, TRIPLETS)
    provenance = replace(package_provenance("wikipedia"), name=f"Wikipedia, {task}")
    training = distinct_sentences(packaged_articles("training"))
    articles, count = packaged_articles("held out"), whole("count", count, 1)
    drawn = draw_triplets(articles, training, apart=task.split()[0], count=count, seed=seed)
    return Triplets(*drawn, provenance)


def draw_triplets(
    articles: Sequence[Article], excluded: Sequence[str] = (), *, apart: str, count: int, seed: int
) -> tuple[list[str], list[str], list[str], np.ndarray]:
    """Draw anchors, positives, negatives, and the numbers of the anchors' articles.

    Evenly from all sentences, but for the excluded and those of two sections. The negative is of a
    different `section` or `article`, as `apart` says.
    """
    often = Counter(s for article in articles for section in article for s in set(section))
    often.update(dict.fromkeys(excluded, 2))
    found = [
        (sentence, section, article)
        for article, sections in enumerate(articles)
        for section, sentences in enumerate(sections)
        for sentence in dict.fromkeys(sentences)
        if often[sentence] == 1
    ]
    texts = [sentence for sentence, _, _ in found]
    article = np.array([article for _, _, article in found])
    places = [(section, article) for _, section, article in found]
    _, section = np.unique(places, axis=0, return_inverse=True)
    company = np.bincount(section)[section]
    # Both forms take the same anchors: those with a negative of the hard form.
    eligible = np.flatnonzero((company > 1) & (np.bincount(article)[article] > company))
    random = np.random.default_rng(seed)
    anchors = random.choice(eligible, count)
    positives, negatives = [], {"section": [], "article": []}
    for anchor in anchors:
        together, own = section == section[anchor], article == article[anchor]
        together[anchor] = False
        positives.append(random.choice(np.flatnonzero(together)))
        together[anchor] = True
        negatives["section"].append(random.choice(np.flatnonzero(own & ~together)))
        negatives["article"].append(random.choice(np.flatnonzero(~own)))
    rows = (anchors, positives, negatives[apart])
    return *([texts[row] for row in part] for part in rows), article[anchors]
