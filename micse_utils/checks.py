"""Check arguments, and show values in messages."""

import json
import reprlib
from collections.abc import Iterable, Mapping

import numpy as np

LONGEST = 300  # characters of a value in a message


def whole(name: str, value: object, least: int = 0) -> int:
    """Return `value`; raise ValueError if it is not a whole number from `least`."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise ValueError(f"{name} must be a whole number from {least}, got {shown(value)}")
    return int(value)


def shown(value: object) -> str:
    """Return a value for a message: on one line, and cut if it is too long."""
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
    """Raise TypeError unless `texts` is an ordered sequence; its items are not read."""
    if isinstance(texts, str):
        raise TypeError(f"{name} must be a list of strings, got one string; give [text]")
    unordered = isinstance(texts, (Mapping, set, frozenset)) or hasattr(texts, "columns")
    if unordered or not isinstance(texts, Iterable):
        raise TypeError(f"{name} must be a sequence of strings, got a {type(texts).__name__}")


def check_text(name: str, position: int, text: object) -> None:
    """Raise TypeError, with the position, if the text is not a string."""
    if not isinstance(text, str):
        kind = type(text).__name__
        raise TypeError(f"{name}[{position}] must be a string, got {shown(text)} ({kind})")


def repaired(text: str) -> str:
    """Return valid Unicode: a lone surrogate, such as half an emoji, becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
