"""Name clusters of texts by their words, whatever script they are written in."""

import re
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

# Left out: links, user names, contractions (don't), and a swear word.
NOISE = re.compile(r"https?:\S+|@\w+|\w+['’]\w+|\w*fuck\w*")
# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no spaces between words: pairs of characters.
# Else three letters or more, in Korean two; to `re` the vowel signs of India are not letters.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff"
TERM = re.compile(
    rf"(?=([{UNSPACED}]{{2}}))|(?<!\w)([\uac00-\ud7a3]{{2,}}"
    rf"|(?:[^\W\d_{UNSPACED}]|[\u0900-\u0dff]){{3,}})(?!\w)"
)


def terms(text: str) -> list[str]:
    """Return the words of a text in lower case, or its pairs of characters, without stop words."""
    found = (pair or word for pair, word in TERM.findall(NOISE.sub("", text.lower())))
    return [term for term in found if term not in ENGLISH_STOP_WORDS]


def cluster_names(
    texts: Sequence[str], clusters: Sequence[int], *, fewest: int = 1
) -> dict[int, str]:
    """Name each cluster by its three most distinctive words (class-based TF-IDF).

    The weight of word w in cluster c is tf(w, c) · log(1 + A / f(w)), with A the mean number of
    words in a cluster and f(w) the frequency of w over all of them (Grootendorst 2022,
    arXiv:2203.05794). A word counts once per text.

    Args:
        texts, clusters: n texts and their cluster numbers; -1 means no cluster.
        fewest: texts of the cluster that a word of its name must occur in.

    Returns:
        Names by cluster number, all different: a cluster without words is "cluster 3", and equal
        names are followed by the number.
    """
    clusters = np.asarray(clusters)
    numbers = np.unique(clusters[clusters >= 0])
    chosen = [set(terms(text)) for text, c in zip(texts, clusters, strict=True) if c >= 0]
    if not any(chosen):
        return {int(number): f"cluster {number}" for number in numbers}
    counter = CountVectorizer(analyzer=list)
    members = (numbers[:, None] == clusters[clusters >= 0]).astype(int)
    counts = members @ counter.fit_transform(chosen)
    frequency = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weight = frequency * np.log(1 + counts.sum() / len(counts) / counts.sum(axis=0))
    weight[counts < fewest] = 0
    best = weight.argsort(axis=1)[:, :-4:-1]
    words = counter.get_feature_names_out()
    names = [
        ", ".join(words[w] for w in row if own[w] >= fewest) or f"cluster {number}"
        for number, row, own in zip(numbers, best, counts, strict=True)
    ]
    return {
        int(number): f"{name} ({number})" if names.count(name) > 1 else name
        for number, name in zip(numbers, names, strict=True)
    }
