"""What the notebooks' parameters may be, so that a wrong one is refused before anything runs."""

import ast
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from micse_utils.datasets.sts import PACKAGED_STS, STS_TASKS
from micse_utils.sources.choose import absolute, is_source

METHODS = ("micse", "simcse")  # those of `training.config`, which takes seconds to import
FEWEST = 100
"""Texts that a notebook needs: for 15 neighbours, five folds and three classes of them."""
BATCH = 64
LARGEST_SEED = 2**32 - 1  # of scikit-learn


@dataclass(frozen=True)
class Kind:
    """What a parameter may be.

    Attributes:
        what: in words, as they follow "expects".
        fits: whether a value is that.
    """

    what: str
    fits: Callable[[object], bool]


def _whole(least: int, most: float = float("inf")) -> Kind:
    upper = f" to {most}" if most < float("inf") else ""
    return Kind(
        f"a whole number from {least}{upper}",
        lambda value: type(value) is int and least <= value <= most,
    )


def _list(example: str, kind: Kind) -> Kind:
    return Kind(
        f"a list such as '{example}', each {kind.what}",
        lambda value: isinstance(value, list) and bool(value) and all(map(kind.fits, value)),
    )


def _one_of(*names: str) -> Kind:
    return Kind(f"one of {', '.join(names)}", lambda value: value in names)


TEXT = Kind("a name or a folder", lambda value: isinstance(value, str) and bool(value))
SEED = _whole(0, LARGEST_SEED)
COSINE = Kind("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
KINDS = {
    "source": Kind('"hub", "package", "auto" or a folder that exists', is_source),
    "model_name": TEXT,
    "max_length": _whole(3, 512),
    "limit": _whole(FEWEST),
    "held_out": _whole(1),
    "same_from": COSINE,
    "n_neighbors": _whole(2),
    "min_cluster_size": _whole(2),
    "seed": SEED,
    "sizes": _list("[64, 1000]", _whole(BATCH)),
    "methods": _list('["simcse", "micse"]', _one_of(*METHODS)),
    "seeds": _list("[48, 49]", SEED),
    "whole_steps": _whole(1),
    "raw_steps": _whole(1),
    "quick": Kind("True or False", lambda value: isinstance(value, bool)),
    "tasks": _list('["STS16"]', _one_of(*STS_TASKS, *PACKAGED_STS)),
    "trained_in": TEXT,
    "train_sentences": _whole(BATCH),
    "transfer_limit": _whole(FEWEST),
}
"""By name; a parameter of one name means the same in every notebook."""


def read_value(name: str, text: str) -> object:
    """A parameter's value from the command line: a number, a list or the like, else the text.

    A folder that exists is meant from where the command is called; notebooks run elsewhere.
    """
    if name in ("source", "model_name", "trained_in") and (folder := absolute(text)) != text:
        return folder
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes, as in folders of Windows
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return list(value) if isinstance(value, tuple) else value  # 48, 49


def expected(name: str, value: object, cell: dict[str, str]) -> str | None:
    """What a parameter must be, in words, where `value` is not that; None where it is.

    Args:
        name: of the parameter; one that `KINDS` does not know may be anything.
        value: to check.
        cell: its `default` and `help` (the comment) in the notebook's cell of parameters, as
            `papermill.inspect_notebook` gives them. "auto" as default and None, where the comment
            speaks of it, are values, too.
    """
    if name not in KINDS:
        return None
    kind = KINDS[name]
    more = ['"auto"'] if cell["default"] == '"auto"' and '"auto"' not in kind.what else []
    more += ["None"] if "None" in f"{cell['default']} {cell['help']}" else []
    if kind.fits(value) or value in map(ast.literal_eval, more):
        return None
    return f"{kind.what}{''.join(f', or {word}' for word in more)}"
