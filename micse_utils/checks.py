"""Checks at the boundary, and values as messages show them."""

import json
import reprlib
from collections.abc import Iterable, Mapping

import numpy as np

LONGEST = 300
"""Characters of a value that a message shows."""


def whole(name: str, value: object, least: int = 0) -> int:
    """Return `value`; raise ValueError if it is not a whole number from `least`."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise ValueError(f"{name}={shown(value)} is not a whole number from {least}")
    return int(value)


def shown(value: object) -> str:
    """A value in a message: on one line, and short however large it is."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else reprlib.repr(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def check_texts(name: str, texts: object) -> list[str]:
    """Return the texts as a list; raise TypeError if they are not a sequence of strings."""
    check_sequence(name, texts)
    texts = list(texts)
    for position, text in enumerate(texts):
        check_text(name, position, text)
    return texts


def check_sequence(name: str, texts: object) -> None:
    """Raise TypeError for what has no texts in an order of their own; nothing is read."""
    if isinstance(texts, str):
        raise TypeError(f"{name} must be a list of strings, got one string; give [text]")
    if isinstance(texts, (Mapping, set, frozenset)) or hasattr(texts, "columns"):
        raise TypeError(
            f"{name} must be a sequence of strings, got a {type(texts).__name__}; give one "
            "column, or a list"
        )
    if not isinstance(texts, Iterable):
        raise TypeError(f"{name} must be a list of strings, got {shown(texts)}")


def check_text(name: str, position: int, text: object) -> None:
    """Raise TypeError, with the position, if the text is not a string."""
    if not isinstance(text, str):
        raise TypeError(
            f"{name}[{position}] must be a string, got {shown(text)} ({type(text).__name__})"
        )


def repaired(text: str) -> str:
    """Return the text as valid Unicode: half of a surrogate pair becomes U+FFFD.

    Emoji that were cut in two leave such halves behind.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
