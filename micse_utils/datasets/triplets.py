"""Section triplets: which of two sentences comes from the section of a third?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from micse_utils.datasets.wikitext import Article, distinct_sentences, packaged_articles
from micse_utils.provenance import Provenance
from micse_utils.settings import shown, whole
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
    """Draw section triplets (Dor et al., ACL 2018) from the packaged Wikipedia.

    Anchor and positive come from one section. Nobody rated them: that a section keeps to one theme
    is the assumption, so no encoder reaches 100 %. `load_low_shot` uses none of these articles.

    Args:
        task: `section triplets`, the hard form: the negative comes from a different section of the
            same article; or `article triplets`, the easy one: it comes from a different article.
            Anchors and positives of the two are the same.
        count, seed: number of triplets, and seed of the draw.
    """
    if task not in TRIPLETS:
        raise ValueError(f"task must be one of {', '.join(TRIPLETS)}, got {shown(task)}")
    training = distinct_sentences(packaged_articles("training"))
    provenance = replace(package_provenance("wikipedia"), name=f"Wikipedia, {task}")
    return draw_triplets(
        packaged_articles("held out"), provenance, apart=task.split()[0], excluded=training,
        count=whole("count", count, 1), seed=whole("seed", seed),
    )  # fmt: skip


def draw_triplets(
    articles: Sequence[Article],
    provenance: Provenance,
    *,
    apart: str,
    excluded: Sequence[str] = (),
    count: int,
    seed: int,
) -> Triplets:
    """Draw anchors evenly over all sentences that have a positive and a negative.

    The negative is from a different `section` or `article`, as `apart` says. Sentences that are
    `excluded`, or occur in two sections, are left out.
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
    _, section = np.unique([place[1:] for place in found], axis=0, return_inverse=True)
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
    return Triplets(*([texts[row] for row in part] for part in rows), article[anchors], provenance)
