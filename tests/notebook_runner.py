"""Calls of the runner on the kit's notebooks, and what they leave."""

import json
import os
import subprocess
import sys

from tools.run_notebooks import NOTEBOOKS

NAMES = [path.stem for path in sorted(NOTEBOOKS.glob("0*.ipynb"))]
TWEETS = "02_tweet_clustering"
TRAINING, SCORING, SEARCH = "04_low_shot_training", "05_senteval", "06_semantic_search"


def start(*arguments, results, **environment):
    """Start the runner as the Makefile does."""
    return subprocess.Popen(
        [sys.executable, "-m", "tools.run_notebooks", "--results", str(results), *arguments],
        cwd=NOTEBOOKS.parent,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **options):
    """Call the runner; returns its exit status, what it said, and its complaints."""
    process = start(*arguments, **options)
    said, complaints = process.communicate()
    return process.returncode, said, complaints


def options(**parameters):
    """Parameters of notebooks as the command line takes them."""
    return [word for name, value in parameters.items() for word in ("-p", name, str(value))]


def metrics(results, name):
    return json.loads((results / name / "metrics.json").read_text(encoding="utf-8"))
