import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from micse_utils.plotting.maps import cluster_map, interactive_map
from micse_utils.plotting.similarity import similarity_heatmap
from micse_utils.plotting.style import text_table


def test_a_table_of_texts_is_left_aligned_escaped_and_always_the_same():
    table = pd.DataFrame({"<b>text": ["<script>alert(1)</script> & more"], "cosine": [0.5]})
    html = text_table(table, cosine="{:.2f}").to_html()
    assert re.search(r"#T_\w+ th \{\s*text-align: left;", html)
    assert ">0.50<" in html and "row_heading" not in html
    assert "<script>" not in html and "<b>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert text_table(table, cosine="{:.2f}").to_html() == html


def test_the_heat_map_prints_each_cosine_once_and_names_every_sentence():
    similarity = np.array([[1, 0.5, -0.004], [0.5, 1, 0.25], [-0.004, 0.25, 1]])
    sentences = ["one cat", "two dogs", "three seas"]
    figure = similarity_heatmap(similarity, sentences, ["a", "a", "b"], title="All")
    axes = figure.axes[0]
    printed = [text.get_text() for text in axes.texts]
    assert printed == ["100", "50", "100", "0", "25", "100"]
    assert np.ma.count(axes.images[0].get_array()) == 6
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "one cat  1",
        "two dogs  2",
        "three seas  3",
    ]
    assert axes.get_title() == "All"
    assert figure.axes[1]._colorbar.extend == "min"  # for the cosine below 0


@pytest.mark.slow
def test_the_cluster_map_names_its_clusters_without_asking_the_internet(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the figure asked the network")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    random = np.random.default_rng(0)
    centres = [(0, 0), (5, 0), (0, 5), (5, 5)]
    points = np.concatenate([random.normal(centre, 0.3, (60, 2)) for centre in centres])
    labels = np.repeat(["rain, snow", "cats, dogs", "tea, milk", "none"], 60)
    figure = cluster_map(points, labels, noise="none", title="Map")
    written = {text.get_text().replace("\n", " ") for text in figure.findobj(plt.Text)}
    assert {"rain, snow", "cats, dogs", "tea, milk"} <= written
    assert "none" not in written


def test_the_interactive_map_holds_every_text_escaped_and_loads_nothing():
    texts = ["<script>alert(1)</script>", "plain & simple"]
    colours = {"neg": "#56B4E9", "pos": "#E69F00"}
    page = interactive_map(np.zeros((2, 2)), texts, ["neg", "pos"], colours=colours, title="Map")
    assert all(colour in page for colour in colours.values())
    assert "<script>alert(1)" not in page
    assert "plain &amp; simple" in page or "plain & simple" in page
    assert not re.findall(r"""<(?:script|link)[^>]+(?:src|href)=["']http""", page)


def test_any_characters_are_drawn_as_they_are():
    """Dollar signs would start a formula, and half an emoji cannot be encoded."""
    with warnings.catch_warnings(action="error"):
        figure = similarity_heatmap(np.eye(2), ["$1 or $2", "ü \ud83d"], "ab", title="$x^2$")
        figure.draw_without_rendering()
    assert figure.axes[0].get_title() == r"\$x^2\$"
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == [r"\$1 or \$2  1", "ü \ufffd  2"]


@pytest.mark.parametrize("names", [[], ["tea"], ["tea", "rain"]])
def test_few_clusters_or_none_are_a_map_too(names):
    points, labels = np.random.default_rng(0).normal(size=(60, 2)), np.resize([*names, "none"], 60)
    with warnings.catch_warnings(action="error"):
        figure = cluster_map(points, labels, noise="none", title="$")
        figure.draw_without_rendering()
    written = {text.get_text() for text in figure.findobj(plt.Text)}
    assert written >= set(names) and "none" not in written
