"""The notebooks, run by papermill on real weights and text, and held against figures computed here.

The expected values come from transformers, sentence-transformers, scikit-learn and NumPy, never
from the kit's own `encode`.
"""

import json
import re
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from notebook_runner import NAMES, SCORING, SEARCH, TRAINING, TWEETS, metrics, options, run, start
from scipy.sparse.csgraph import connected_components
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline

from micse_utils.datasets.sts import load_lee, load_sample
from micse_utils.datasets.texts import load_sentences
from micse_utils.datasets.triplets import load_triplets
from micse_utils.models import load_model
from micse_utils.sources.packaged import fetch
from tools.run_notebooks import NOTEBOOKS, _inputs, main

LIMIT = 1_500
LABELLED = 400  # texts of each transfer task
TRIPLETS = 300  # of each kind
SAME_FROM = 0.7  # a cosine that some pairs of so few sentences have
MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture(scope="session")
def both_results(tmp_path_factory, foreign_kernel):
    """Every notebook run once from the package, and the one with most chance in it run twice.

    All at the same time, so with one thread each, and under a foreign kernel of the same name.
    """
    once, again = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("again")
    limit = {"limit": LIMIT}
    search = limit | {"same_from": SAME_FROM, "triplet_count": TRIPLETS}
    training = {"steps": 4, "whole_steps": 3, "transfer_limit": LABELLED}
    calls = [
        (once, ["01_similarity", "03_sentence_transformers", SEARCH], search),
        (once, [TWEETS], limit),
        (again, [TWEETS], limit),
        (once, [TRAINING, SCORING], training),
    ]
    environment = {**foreign_kernel, "OMP_NUM_THREADS": "1", "MICSE_SENTEVAL": ""}
    processes = [
        start(*names, *options(source="package", **values), results=folder, **environment)
        for folder, names, values in calls
    ]
    for process, (folder, names, _) in zip(processes, calls, strict=True):
        said, complaints = process.communicate()
        assert process.returncode == 0, said + complaints
        for name in names:
            began, *_, line = [line for line in said.splitlines() if line.startswith(f"{name}: ")]
            assert re.search(r": running \(no finished run yet\), .*(minute|second)", began)
            assert line.endswith(metrics(folder, name)["headline"])
    return once, again


@pytest.fixture(scope="session")
def results(both_results):
    return both_results[0]


def unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def guesses(classifier, inputs, labels):
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return cross_val_predict(classifier, inputs, labels, cv=folds)


def packaged_tweets():
    """Texts and classes of the packaged tweets, read anew from the file."""
    table = pd.read_csv(
        fetch("tweets") / "tweets_GroundTruth.txt", sep="\t", header=None, quoting=3
    )
    return table[2].str.replace("&amp;", "&"), np.select(
        [table[1] < -0.5, table[1] < 0.5], [0, 1], 2
    )


def accuracy(embeddings, labels):
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return cross_val_score(LogisticRegression(max_iter=1000), embeddings, labels, cv=folds).mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_result_says_what_made_it(results, name):
    made = metrics(results, name)["provenance"]
    assert (made["model"]["name"], made["model"]["sha256"]) == ("all-MiniLM-L6-v2", MINILM)
    assert "miCSE" not in json.dumps(made["model"])  # a stand-in goes by its own name
    assert re.fullmatch("[0-9a-f]{64}", made["data"]["sha256"])
    assert made["versions"]["torch"].startswith("2.")


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_executed_notebook_is_clean(results, name):
    notebook = nbformat.read(results / name / f"{name}.ipynb", as_version=4)
    check_page(notebook)
    check_exercises(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_is_executed_and_clean(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    check_page(notebook)
    check_exercises(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "widgets" not in notebook.metadata
    assert len(json.dumps(notebook)) < 2_000_000


def check_page(notebook):
    """No errors, no warnings, no path of a machine; short cells, led by prose."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert max(len(cell.source.splitlines()) for cell in code) <= 25
    assert np.median([len(cell.source.splitlines()) for cell in code]) <= 12
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        text = json.dumps(output.get("text", "")) + json.dumps(output.get("data", {}))
        assert not re.search(r"""/(home|root|Users|tmp|work)/[\w.]""", text)
        assert "jupyter.widget" not in text


def check_exercises(notebook):
    """One to three exercises, each with its solution below in their order: folded, and run."""
    solutions = [cell for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])]
    *_, closing = notebook.cells[: -len(solutions) - 1]
    assert notebook.cells[-len(solutions) - 1 : -1] == solutions
    assert ".ipynb)" in notebook.cells[-1].source
    exercises = re.findall(r"(?m)^(\d)\. ", closing.source.split("## Your turn")[1])
    assert re.search(r"folded in below; (it runs|they run) with the notebook", closing.source)
    assert exercises == list("123"[: len(solutions)])
    for number, solution in zip(exercises, solutions, strict=True):
        assert solution.source.startswith(f"# Solution to {number}: ")
        assert solution.metadata["jupyter"] == {"outputs_hidden": True, "source_hidden": True}
        assert solution.execution_count
        assert "error" not in [output.output_type for output in solution.outputs]
        assert any(map(shown, solution.outputs)), solution.source


def shown(output):
    """Whether an output has something to read or to look at."""
    return any((output.get("text", "").strip(), *output.get("data", {}).values()))


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_explained_and_links_lead_somewhere(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    [parameters] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert all("  # " in line for line in parameters.source.splitlines())
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for part in ("You will learn", "**Time**", "**Needs**", "What to remember", "Your turn"):
        assert part in prose
    for target in re.findall(r"\]\((?!http)([^)]+)\)", prose):
        assert (NOTEBOOKS / target).is_file()


@pytest.mark.slow
def test_similarity_agrees_with_bare_transformers(results, encoder):
    table = pd.read_csv(NOTEBOOKS.parent / "data" / "sentences.csv")

    def tokens_of(sentence):
        tokens = encoder.tokenizer(sentence, return_tensors="pt")
        with torch.inference_mode():
            return encoder.transformers_model(**tokens).last_hidden_state[0].numpy()

    hidden = [tokens_of(sentence) for sentence in table["sentence"]]
    similarity = unit([h.mean(axis=0) for h in hidden])
    similarity = similarity @ similarity.T

    figures = metrics(results, "01_similarity")["figures"]
    np.testing.assert_allclose(figures["similarity"], similarity, atol=1e-5)
    originals = np.flatnonzero(table["relation"] == "original")
    assert figures["mean_cosine"]["negation"] == pytest.approx(
        similarity[originals, originals + 2].mean(), abs=1e-5
    )
    other = table["theme"].to_numpy()[originals, None] != table["theme"].to_numpy()
    unrelated = similarity[originals][other].mean()
    assert figures["mean_cosine"]["other scene"] == pytest.approx(unrelated, abs=1e-5)

    sample = load_sample("other words")
    first, second = (
        unit([h[0] for h in map(tokens_of, side)]) for side in (sample.first, sample.second)
    )
    cosines = first @ second.T
    own, apart = np.diag(cosines), cosines[~np.eye(len(cosines), dtype=bool)]
    wrong = figures["ranking"]["cls"]
    assert wrong["AUC"] == pytest.approx((own[:, None] > apart).mean(), abs=1e-4)
    assert wrong["ranked first"] == (own >= cosines.max(axis=1)).sum()


@pytest.fixture(scope="session")
def tweet_embeddings(encoder):
    """The library's own embeddings of the sample that the notebook draws, and its classes."""
    texts, labels = packaged_tweets()
    rows = np.sort(np.random.default_rng(0).choice(4200, LIMIT, replace=False))
    return unit(encoder.encode(texts[rows].tolist())), labels[rows]


@pytest.mark.slow
def test_sentiment_figures_agree_with_scikit_learn_on_the_librarys_embeddings(
    results, tweet_embeddings
):
    embeddings, labels = tweet_embeddings

    figures = metrics(results, TWEETS)["figures"]
    assert (figures["tweets"], figures["available"]) == (LIMIT, 4200)
    assert figures["largest_class"] == pytest.approx(np.bincount(labels).max() / LIMIT, abs=2e-3)
    expected = accuracy(embeddings, labels)
    assert figures["accuracy"]["logistic regression"] == pytest.approx(expected, abs=0.01)
    assert expected > figures["largest_class"] + 0.1

    distance = 1 - embeddings @ embeddings.T
    classes = np.eye(3)[labels]
    total, count = distance @ classes, classes.sum(axis=0)
    own = (total * classes).sum(axis=1) / (count[labels] - 1)
    nearest = np.where(classes == 1, np.inf, total / count).min(axis=1)
    silhouette = ((nearest - own) / np.maximum(nearest, own)).mean()
    assert figures["silhouette"]["moods, embeddings"] == pytest.approx(silhouette, abs=2e-3)


@pytest.mark.slow
def test_the_lead_over_words_agrees_with_a_bootstrap(results, tweet_embeddings):
    embeddings, labels = tweet_embeddings
    texts, _ = packaged_tweets()
    rows = np.sort(np.random.default_rng(0).choice(4200, LIMIT, replace=False))
    words = make_pipeline(
        TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=3, max_iter=1000)
    )
    by_words = guesses(words, texts[rows].to_numpy(), labels)
    by_encoder = guesses(LogisticRegression(max_iter=1000), embeddings, labels)
    figures = metrics(results, TWEETS)["figures"]
    for name, found in (("words (TF-IDF)", by_words), ("logistic regression", by_encoder)):
        per_mood = [(found[labels == mood] == mood).mean() for mood in range(3)]
        recall = figures["recall"][name]
        assert recall["macro recall"] == pytest.approx(np.mean(per_mood), abs=0.02)
        assert recall["neutral"] == pytest.approx(per_mood[1], abs=0.04)
    lead = (by_encoder == labels).astype(int) - (by_words == labels)
    draws = np.random.default_rng(1).integers(LIMIT, size=(2_000, LIMIT))
    low, high = np.quantile(lead[draws].mean(axis=1), [0.025, 0.975])
    expected = {"mean": lead.mean(), "low": low, "high": high}
    assert figures["gain_over_words"] == pytest.approx(expected, abs=0.015)


@pytest.mark.slow
def test_clusters_belong_to_the_map(results):
    figures = metrics(results, TWEETS)["figures"]
    assert figures["silhouette"]["clusters, on the map"] > 0.3
    assert abs(figures["silhouette"]["clusters, embeddings"]) < 0.1
    assert figures["clusters_of_embeddings"] < figures["clusters"]
    assert len(figures["agreement"]) == 3
    assert all(pair["all"] < pair["in both"] for pair in figures["agreement"])


@pytest.mark.slow
def test_the_topics_account_for_every_tweet_and_the_map_shows_each(results):
    folder = results / TWEETS
    topics = pd.read_csv(folder / "topics.csv")
    figures = metrics(results, TWEETS)["figures"]
    assert topics["tweets"].sum() == LIMIT
    named = topics[topics["topic"] != "no cluster"]
    assert len(named) == figures["clusters"] >= 3
    assert named["tweets"].sum() / LIMIT == pytest.approx(1 - figures["in_no_cluster"])
    assert (folder / "map.html").read_text(encoding="utf-8").count("anonymous") > 100


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures(both_results):
    once, again = (folder / TWEETS for folder in both_results)
    for file in ("metrics.json", "topics.csv", "topics.png", "moods.png"):
        assert (once / file).read_bytes() == (again / file).read_bytes()


@pytest.fixture(scope="session")
def wikipedia(encoder):
    """The sentences of notebooks 3 and 6, and the library's own embeddings of them."""
    sentences = load_sentences("package", limit=LIMIT, seed=0).texts
    return sentences, unit(encoder.encode(sentences))


@pytest.mark.slow
def test_search_and_mining_agree_with_brute_force(results, wikipedia, encoder):
    sentences, embeddings = wikipedia
    figures = metrics(results, "03_sentence_transformers")["figures"]
    assert len(figures["best_hit"]) == 4
    for query, hit in figures["best_hit"].items():
        scores = embeddings @ unit(encoder.encode([query]))[0]
        assert hit["score"] == pytest.approx(scores.max(), abs=0.01)
        assert scores[hit["corpus_id"]] == pytest.approx(scores.max(), abs=0.01)

    similarity = np.triu(embeddings @ embeddings.T, k=1)
    score, first, second = figures["best_paraphrase"]
    assert score == pytest.approx(similarity.max(), abs=0.01)
    assert similarity[min(first, second), max(first, second)] == pytest.approx(score, abs=0.01)
    assert figures["saved_and_loaded"] < 1e-6

    cls_model = load_model(source="package", pooling="cls", device="cpu")
    drawn = load_triplets("article triplets", count=TRIPLETS, seed=0)
    anchor, *others = (
        unit(cls_model.encode(t)) for t in (drawn.anchor, drawn.positive, drawn.negative)
    )
    positive, negative = ((anchor * other).sum(axis=1) for other in others)
    accuracy = 100 * (positive > negative).mean()
    assert figures["triplets"]["cls"]["article triplets"] == pytest.approx(accuracy, abs=0.4)

    rows = np.random.default_rng(1).choice(LIMIT, 600, replace=False)
    cls = unit(cls_model.encode([sentences[row] for row in rows]))
    for pooling, vectors in (("mean", embeddings[rows]), ("cls", cls)):
        pairs = (vectors @ vectors.T)[np.triu_indices(600, k=1)]
        assert figures["random_pairs"][pooling] == pytest.approx(pairs.mean(), abs=0.02)


@pytest.fixture(scope="session")
def found(results):
    """What each index of the notebook found with each effort, by row of the corpus."""
    table = pd.read_csv(results / SEARCH / "found.csv").set_index(["format", "effort", "query"])
    return {key: rows.droplevel([0, 1]) for key, rows in table.groupby(level=[0, 1])}


@pytest.fixture(scope="session")
def searched(found, wikipedia):
    """Embeddings of all sentences, and the cosines of each query with those in the index."""
    asked = found["float32", 64].index.to_numpy()
    _, embeddings = wikipedia
    cosines = embeddings[asked] @ embeddings.T
    cosines[:, asked] = -1
    return asked, cosines, embeddings


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float32", "float16", "int8"])
def test_recall_of_the_index_is_that_against_brute_force(results, found, searched, name):
    """Embeddings in float32 differ a little from the notebook's, so its recall lies in a range.

    At least: what was found and is among the ten nearest. At most: what is nearly as near.
    """
    asked, cosines, _ = searched
    figures = metrics(results, SEARCH)["figures"]
    assert (figures["sentences"], figures["queries"]) == (LIMIT - LIMIT // 5, LIMIT // 5)
    tenth = np.sort(cosines, axis=1)[:, -10, None]
    for effort, recall in figures["recall"][name].items():
        rows = found[name, int(effort)]
        assert rows.index.tolist() == asked.tolist() and not np.isin(rows, asked).any()
        of_found = np.take_along_axis(cosines, rows.to_numpy(), axis=1)
        lower, upper = (of_found >= tenth).mean(), (of_found >= tenth - 0.01).mean()
        assert lower - 0.005 <= recall <= upper + 0.005, effort
    few, *_, many = figures["recall"][name].values()
    assert 0.8 < few < many and many > 0.98


@pytest.mark.slow
def test_half_and_quarter_the_numbers_take_half_and_a_quarter_of_the_memory(results, searched):
    _, _, embeddings = searched
    figures = metrics(results, SEARCH)["figures"]
    size = figures["bytes"]
    full = 4 * figures["sentences"] * embeddings.shape[1]
    assert full < size["float32"] < 1.25 * full  # the links take the rest
    assert size["float32"] - size["float16"] == pytest.approx(full / 2, rel=0.01)
    assert size["float32"] - size["int8"] == pytest.approx(full * 3 / 4, rel=0.01)


@pytest.mark.slow
def test_near_duplicates_and_the_search_box_find_what_brute_force_finds(results, searched, encoder):
    asked, _, embeddings = searched
    figures = metrics(results, SEARCH)["figures"]
    kept = np.setdiff1d(np.arange(LIMIT), asked)
    cosines = np.triu(embeddings[kept] @ embeddings[kept].T, k=1)
    pairs = figures["pairs"]
    assert (cosines > SAME_FROM + 0.01).sum() <= pairs["exact"]
    assert 5 < pairs["exact"] <= (cosines > SAME_FROM - 0.01).sum()
    assert 0.9 * pairs["exact"] <= pairs["found"] <= pairs["exact"]
    _, group = connected_components(cosines >= SAME_FROM, directed=False)
    assert pairs["groups"] == pytest.approx((np.bincount(group) > 1).sum(), abs=2)

    box = pd.read_csv(results / SEARCH / "search_box.csv")
    question = unit(encoder.encode(["How do frogs breathe?"]))[0]
    best = np.sort(embeddings[kept] @ question)[::-1][:5]
    np.testing.assert_allclose(box["cosine"], best, atol=0.015)
    assert figures["search_box"] == pytest.approx(box["cosine"].tolist())


def spearman(model, pairs):
    """Spearman x 100 by sentence-transformers' own evaluator."""
    evaluator = EmbeddingSimilarityEvaluator(
        pairs.first, pairs.second, pairs.gold, main_similarity="cosine", write_csv=False
    )
    return 100 * evaluator(model)["spearman_cosine"]


@pytest.mark.slow
def test_training_helped_and_its_figures_are_those_of_the_library(results):
    """[CLS] learns from every start; the loop written by hand learns, too."""
    figures = metrics(results, TRAINING)["figures"]
    pairs = load_sample()
    before = spearman(load_model(source="package", pooling="cls", device="cpu"), pairs)
    assert figures["by_hand"]["before"] == pytest.approx(figures["lee"]["before"])
    assert figures["by_hand"]["after"] > figures["by_hand"]["before"] + 0.5
    runs = figures["centred"]
    assert len({run["first"] for run in runs.values()}) == 1
    for name in ("SimCSE at miCSE's rate", "miCSE"):
        assert runs[name]["max"] > runs[name]["first"] + 1

    for method, name in (("simcse", "SimCSE"), ("micse", "miCSE")):  # what was saved was scored
        assert figures["whole"][name] > 1
        folder = results / TRAINING / "trained" / method
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        assert record["history"][0]["spearman"] == pytest.approx(before, abs=0.01)
        shown = {row["step"]: row["spearman"] for row in record["history"]}[record["best_step"]]
        model = SentenceTransformer(str(folder / "model"), device="cpu")
        assert spearman(model, pairs) == pytest.approx(shown, abs=0.01)


@pytest.mark.slow
def test_the_page_explains_mutual_information_by_a_figure_that_is_right(results):
    view = metrics(results, TRAINING)["figures"]["view"]
    assert 0.5 < view["rho"] < 1
    assert view["information"] == pytest.approx(-0.5 * np.log(1 - view["rho"] ** 2))


@pytest.mark.slow
def test_the_scores_are_those_of_the_library_and_of_scikit_learn(results, encoder):
    figures = metrics(results, SCORING)["figures"]
    lee = load_lee()
    texts = [*dict.fromkeys([*lee.first, *lee.second])]
    row = {text: index for index, text in enumerate(texts)}
    first, second = ([row[text] for text in side] for side in (lee.first, lee.second))

    def score(vectors):
        vectors = unit(vectors)
        return 100 * spearmanr((vectors[first] * vectors[second]).sum(axis=1), lee.gold)[0]

    measured = {name: scores["Lee"] for name, scores in figures["sts"].items()}
    assert measured["all-MiniLM-L6-v2, mean"] == pytest.approx(
        score(encoder.encode(texts)), abs=0.1
    )
    for name, method in (("SimCSE", "simcse"), ("miCSE", "micse")):
        folder = results / TRAINING / "trained" / method / "model"
        vectors = SentenceTransformer(str(folder), device="cpu").encode(texts)
        label = f"{name}, 64 sentences, 3 steps"
        assert measured[label] == pytest.approx(score(vectors), abs=0.2)
    assert abs(measured["random vectors"]) < 20 < measured["TF-IDF"]
    assert figures["difference_from_published"] == {}  # nothing official was scored

    texts, labels = packaged_tweets()
    rows = np.sort(np.random.default_rng(0).choice(4200, LABELLED, replace=False))
    share = 100 * np.bincount(labels[rows]).max() / LABELLED
    for name, accuracies in figures["transfer"].items():
        assert accuracies["tweets"] > share - 3, name
    assert figures["transfer"]["all-MiniLM-L6-v2, mean"]["tweets"] > share + 5


@pytest.mark.slow
def test_the_figures_on_the_committed_pages_are_those_of_the_package(results, tweet_embeddings):
    """The pages are run with default parameters, so with more texts than the tests take."""
    headlines = {}
    for name in NAMES:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        [cell] = [c for c in notebook.cells if c.source.rstrip().endswith("print(headline)")]
        headlines[name] = [float(n) for n in re.findall(r"-?\d+\.\d+", cell.outputs[-1].text)]

    start, *trained = headlines[TRAINING]
    assert start == pytest.approx(metrics(results, TRAINING)["figures"]["lee"]["before"], abs=0.06)
    assert max(trained) > start + 5
    sts = metrics(results, SCORING)["figures"]["sts"]
    untrained = [sts[f"all-MiniLM-L6-v2, {pooling}"]["Lee"] for pooling in ("mean", "cls")]
    assert headlines[SCORING][:2] == pytest.approx(untrained, abs=0.1)

    shown, majority = headlines[TWEETS]
    _, labels = packaged_tweets()
    assert majority == pytest.approx(100 * np.bincount(labels).max() / len(labels), abs=0.06)
    assert shown == pytest.approx(100 * accuracy(*tweet_embeddings), abs=4)

    relations = metrics(results, "01_similarity")["figures"]["mean_cosine"]
    measured = [relations["paraphrase"], relations["other scene"]]
    assert headlines["01_similarity"] == pytest.approx(measured, abs=0.006)
    random_pairs = metrics(results, "03_sentence_transformers")["figures"]["random_pairs"]
    assert headlines["03_sentence_transformers"] == pytest.approx(
        list(random_pairs.values()), abs=0.02
    )
    # Among fewer vectors it is easier to find the right ones.
    found = [rows["64"] for rows in metrics(results, SEARCH)["figures"]["recall"].values()]
    assert headlines[SEARCH] == pytest.approx(found, abs=0.05)
    assert headlines[SEARCH][2] < headlines[SEARCH][0] <= found[0] + 0.005


@pytest.mark.slow
def test_what_stands_is_not_made_again_until_something_changes(results):
    name = "01_similarity"
    before = (results / name / "metrics.json").stat().st_mtime_ns
    _, said, _ = run(name, "-p", "source", "package", results=results)
    assert f"{name}: up to date" in said
    assert (results / name / "metrics.json").stat().st_mtime_ns == before


def test_another_parameter_or_setting_makes_a_notebook_run_again(monkeypatch):
    before = _inputs("01_similarity", {"limit": 1})
    assert _inputs("01_similarity", {"limit": 1}) == before
    assert _inputs("01_similarity", {"limit": 2}) != before
    assert _inputs("02_tweet_clustering", {"limit": 1}) != before
    monkeypatch.setenv("MICSE_DATA", "elsewhere")
    assert _inputs("01_similarity", {"limit": 1}) != before


@pytest.mark.slow
def test_a_failing_notebook_is_one_line_and_loses_nothing(results, tmp_path):
    name = "01_similarity"
    shutil.copytree(results / name, tmp_path / name)
    status, said, complaints = run(name, "-p", "model_name", "./nowhere", results=tmp_path)
    assert status == 1
    [line] = [line for line in said.splitlines() if "FAILED" in line]
    assert "ValueError: there is no model folder ./nowhere" in line
    assert "Traceback" not in said + complaints
    assert metrics(tmp_path, name) == metrics(results, name)
    assert (tmp_path / name / f"{name}.unfinished.ipynb").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["07_nothing"], "no notebook 07_nothing; there are 01_similarity"),
        (["-p", "sorce", "hub"], "no parameter sorce; there are held_out, limit"),
        (
            ["01_similarity", "-p", "seed", "7"],
            "no parameter seed; there are max_length, model_name, source",
        ),
        (["-p", "results", "mine"], "the folder is set by --results"),
        (
            ["-p", "seed", "7", "-p", "limit", "many"],
            "02_tweet_clustering: limit must be a valid integer, or be 'auto', or be None; got ",
        ),
    ],
)
def test_a_wrong_call_is_one_sentence(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["--results", str(tmp_path), *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
