"""Texts become embeddings, fast: sorted by length, packed by a token budget, in the order given."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch.func import functional_call
from tqdm.auto import tqdm

from micse_utils.device import pick_dtype

TOKEN_BUDGET = 2048
"""Tokens of one batch, padding included: large enough to keep the cores busy, small enough to stay
in their caches."""


class Encoder(Protocol):
    """Anything that turns n strings into an array [n, d]."""

    def encode(self, sentences: list[str]) -> np.ndarray:
        """Embeddings, [n, d], in the order given."""


def encode(
    model: SentenceTransformer,
    texts: Iterable[str],
    *,
    max_length: int = 128,
    token_budget: int = TOKEN_BUDGET,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Embed texts; each vector is the one the text would get alone, whatever it is batched with.

    Args:
        model: any `SentenceTransformer` over text; it is left as it was.
        texts: n strings. A lone surrogate is read as U+FFFD; an empty text is encoded as such,
            with a warning.
        max_length: tokens kept of each text, special tokens included; a warning counts the cut.
        token_budget: tokens of one batch (texts times the longest of them).
        dtype: number format of the forward pass; by default `pick_dtype` of the model's device.
        progress: show a bar once it takes longer than a second.

    Returns:
        Embeddings, float32, [n, d], in the order of `texts`.

    Raises:
        ValueError: no texts, or `max_length` out of the model's range.
        TypeError: `texts` is one string, or holds something that is none (the message says where).
    """
    texts = _checked(texts)
    limit = model.get_max_seq_length()
    if not 2 < max_length <= (limit or max_length):
        raise ValueError(
            f"max_length={max_length} is out of this model's range, 3 to {limit} tokens"
        )
    tokens = model.tokenizer(texts, truncation=True, max_length=max_length)
    _report_cuts(tokens, len(texts), max_length)

    dtype = dtype or pick_dtype(model.device)
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    lengths = np.array([len(ids) for ids in tokens["input_ids"]])
    embeddings = None
    was_training = model.training
    model.eval()
    try:
        with (
            torch.inference_mode(),
            tqdm(
                total=len(texts), desc="encode", unit="text", delay=1, disable=not progress
            ) as bar,
        ):
            for rows in _batches(lengths, token_budget):
                batch = {key: [values[row] for row in rows] for key, values in tokens.items()}
                batch = model.tokenizer.pad(batch, return_tensors="pt").to(model.device)
                output = functional_call(model, weights, (dict(batch),))["sentence_embedding"]
                if embeddings is None:
                    embeddings = np.empty((len(texts), output.shape[1]), dtype=np.float32)
                embeddings[rows] = output.float().cpu().numpy()
                bar.update(len(rows))
    finally:
        model.train(was_training)
    return embeddings


def encode_distinct(
    model: SentenceTransformer | Encoder,
    texts: Mapping[str, Iterable[str]],
    *,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, dict[str, int]]:
    """Encode the distinct texts of several tasks together, once.

    Args:
        model: a `SentenceTransformer`, or any object with `encode(list of strings)`.
        texts: those of each task.
        dtype, progress: as for `encode`.

    Returns:
        Embeddings, [n, d], and the row of each text in them.

    Raises:
        ValueError: the encoder gives another shape, NaN, infinity or one and the same vector.
    """
    task_of = {text: task for task, group in texts.items() for text in group}
    distinct = list(task_of)
    if isinstance(model, SentenceTransformer):
        longest = model.get_max_seq_length() or 512
        vectors = encode(model, distinct, max_length=longest, dtype=dtype, progress=progress)
    else:
        vectors = np.asarray(model.encode(distinct))
    if vectors.ndim != 2 or len(vectors) != len(distinct):
        raise ValueError(
            f"the encoder gave an array of shape {vectors.shape} for {len(distinct)} sentences; "
            f"expected ({len(distinct)}, dimensions)"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        text = distinct[int(np.argmin(finite))]
        raise ValueError(
            f"{task_of[text]}: the encoder gave NaN or infinity for {(~finite).sum()} of "
            f"{len(distinct)} sentences, the first of them '{text}'"
        )
    if len(distinct) > 1 and (vectors == vectors[0]).all():
        raise ValueError("the encoder gave one and the same vector for every sentence")
    return vectors, {text: index for index, text in enumerate(distinct)}


def _checked(texts: Iterable[str]) -> list[str]:
    """The texts as a list the tokeniser accepts, or an error that says which one is wrong."""
    if isinstance(texts, str):
        raise TypeError("texts is one string; give a list of strings, such as [text]")
    texts = list(texts)
    if not texts:
        raise ValueError("no texts to encode")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{position}] is {text!r} ({type(text).__name__}), not a string")
    if empty := sum(not text.strip() for text in texts):
        warnings.warn(
            f"{empty} of {len(texts)} texts are empty; their vector is that of the empty text",
            stacklevel=3,
        )
    # Half of a surrogate pair, as cut-off emoji leave behind, is not valid Unicode.
    return [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]


def _report_cuts(tokens, count: int, max_length: int) -> None:
    if cut := sum(bool(encoding.overflowing) for encoding in tokens.encodings or []):
        warnings.warn(
            f"{cut} of {count} texts are longer than max_length={max_length} tokens and were cut",
            stacklevel=3,
        )


def _batches(lengths: np.ndarray, token_budget: int) -> Iterator[np.ndarray]:
    """Rows of each batch, longest texts first: what fits in memory once fits until the end."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, token_budget // lengths[order[start]])
        yield order[start : start + size]
        start += size
