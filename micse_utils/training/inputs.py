"""The inputs of an experiment: encoders to start from, sentences, development pairs, tasks."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from sentence_transformers import SentenceTransformer

from micse_utils.datasets.sts import load_stsb
from micse_utils.datasets.texts import Corpus, load_low_shot
from micse_utils.datasets.wikitext import distinct_sentences, packaged_articles
from micse_utils.encoding import encode
from micse_utils.evaluation.reported import Reported, load_reported, with_fair
from micse_utils.models import BERT, keep_first_layers, load_model
from micse_utils.training.run_table import SEARCH_SEED, SEARCH_SIZE, STARTS, Run


def load_start(name: str, source: str = "hub") -> SentenceTransformer:
    """Load a start; `source` is that of bert-base-uncased, the others are made from the package."""
    start = STARTS[name]
    if name == "bert":
        return load_model(BERT, source=source, pooling=start.pooling, engine="torch")
    model = load_model(source="package", pooling=start.pooling, engine="torch")
    model = keep_first_layers(model, start.layers)
    if name == "centred":
        # The last thing the encoder does is to add a bias, so that is where its mean can go.
        unscaled = SentenceTransformer(modules=list(model)[:2], device=str(model.device))
        texts = load_sentences_of("raw", SEARCH_SIZE, SEARCH_SEED).texts
        vectors = encode(unscaled, texts, dtype=torch.float32, progress=False)
        bias = model.transformers_model.encoder.layer[-1].output.LayerNorm.bias
        bias.data -= torch.as_tensor(vectors.mean(axis=0), device=bias.device)
        model.provenance = replace(model.provenance, name=f"{model.provenance.name}, centred")
    return model


@cache
def load_sentences_of(start: str, size: int, seed: int, source: str = "hub") -> Corpus:
    """Load the sentences of a run: the paper's splits, or from the package without the search's."""
    if start == "bert":
        return load_low_shot([size], seeds=[seed], source=source)[size, seed]
    searched = load_low_shot([SEARCH_SIZE], seeds=[SEARCH_SEED], source="package")
    searched = searched[SEARCH_SIZE, SEARCH_SEED]
    if (size, seed) == (SEARCH_SIZE, SEARCH_SEED):
        return searched
    others = dict.fromkeys(distinct_sentences(packaged_articles("training")))
    for text in searched.texts:
        del others[text]
    if size > len(others):
        raise ValueError(f"size must be at most {len(others)}, got {size}")
    return replace(searched, texts=list(others)).sample(size, seed=seed)


load_dev = cache(load_stsb)
"""The development pairs, loaded once in each process."""


def dev_name() -> str:
    """Return what the scores on the development pairs are called."""
    official = load_dev().provenance.name.startswith("STSBenchmark")
    return "STS-B dev" if official else "kit's own dev pairs"


@cache
def load_tasks(names: tuple[str, ...]) -> Reported:
    """Load reported tasks, and beside them those without the pairs of the development file."""
    return with_fair(load_reported(names), load_dev())


def shared_settings(runs: Sequence[Run], source: str, tasks: Sequence[str]) -> dict[str, object]:
    """Return what all runs of a folder share: encoders, sentences, development pairs, tasks.

    Raises:
        FileNotFoundError: something of the paper is missing; it says which starts work without.
    """
    encoders, sentences = {}, {}
    papers = [run for run in runs if run.start == "bert"]
    if own := next((run for run in runs if run.start != "bert"), None):
        encoders["packaged"] = str(load_start("shipped").provenance)
        sentences["packaged"] = str(load_sentences_of(own.start, own.size, own.seed).provenance)
    if papers:
        sizes, seeds = (sorted({getattr(r, of) for r in papers}) for of in ("size", "seed"))
        try:
            encoders["bert"] = str(load_start("bert", source).provenance)
            found = load_low_shot(sizes, seeds=seeds, source=source)
            if dev_name() != "STS-B dev":
                raise FileNotFoundError("no STS-B dev file")
        except OSError as error:
            works = " ".join(name for name in STARTS if name != "bert")
            raise FileNotFoundError(
                "the paper's experiment needs bert-base-uncased, its sentences and STSBenchmark's "
                "development pairs, from the Hugging Face hub or a folder (--source, "
                f"MICSE_SENTEVAL): {error}; without, these work here: --starts {works}"
            ) from error
        # The commit is that of all files; of a folder there is one file.
        data = found[sizes[0], seeds[0]].provenance
        sentences["bert"] = f"{data.origin}, {data.revision or data.sha256}"
    reported = load_reported(tasks, missing_ok=True)
    return {
        "encoders": encoders, "sentences": sentences, "dev": str(load_dev().provenance),
        "tasks": {name: str(task.provenance) for name, task in reported.items()},
    }  # fmt: skip
