"""Calls of the runner on the kit's notebooks, and what they leave."""

import contextlib
import io
import json
import os
from unittest.mock import patch

from tools.run_notebooks import NOTEBOOKS, main

NAMES = [path.stem for path in sorted(NOTEBOOKS.glob("0*.ipynb"))]
TWEETS = "02_tweet_clustering"
TRAINING, SCORING, SEARCH = "04_low_shot_training", "05_senteval", "06_semantic_search"


def run(name, results, parameters, **environment):
    """Run one notebook in a kernel with one thread; return what `metrics.json` says then."""
    options = [word for key, value in parameters.items() for word in ("-p", key, str(value))]
    said = io.StringIO()
    variables = {"OMP_NUM_THREADS": "1", "MICSE_SENTEVAL": "", **environment}
    with patch.dict(os.environ, variables), contextlib.redirect_stdout(said):
        status = main([name, "--results", str(results), *options])
    assert status == 0, said.getvalue()
    made = metrics(results, name)
    assert made["headline"] in said.getvalue()
    return made


def metrics(results, name):
    return json.loads((results / name / "metrics.json").read_text(encoding="utf-8"))
