"""Texts become embeddings, fast: sorted by length, packed by a token budget, in the order given."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from micse_utils.checks import shown, whole
from micse_utils.device import pick_dtype
from micse_utils.inference import ready_to_encode

TOKEN_BUDGET = {"cpu": 1024, "cuda": 32_768, "mps": 8192}
"""Tokens of one batch, padding included, by device: enough to keep it busy, and on a CPU few
enough to stay in its caches."""
WINDOW = 4096
"""Texts that are sorted by length together: what `encode` holds at a time besides the result."""


class Encoder(Protocol):
    """Anything that turns n strings into an array [n, d]."""

    def encode(self, sentences: list[str]) -> np.ndarray:
        """Embeddings, [n, d], in the order given."""


def encode(
    model: SentenceTransformer,
    texts: Iterable[str],
    *,
    max_length: int = 128,
    token_budget: int | None = None,
    dtype: torch.dtype | None = None,
    out: np.ndarray | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Embed texts; each vector is the one the text would get alone, whatever it is batched with.

    Args:
        model: any `SentenceTransformer` over text; it is left as it was.
        texts: n strings, from a list or from any iterable, which is read a window at a time. A
            lone surrogate is read as U+FFFD; an empty text is encoded as such, with a warning.
        max_length: tokens kept of each text, special tokens included; a warning counts the cut.
        token_budget: tokens of one batch (texts times the longest of them); by default the
            `TOKEN_BUDGET` of the model's device.
        dtype: number format of the forward pass; by default `pick_dtype` of the model's device.
        out: array [n, d] to write into, of any float type: a `numpy.memmap`, for more embeddings
            than fit in memory.
        progress: show a bar once it takes longer than a second.

    Returns:
        Embeddings, float32, [n, d], in the order of `texts`; `out`, where one was given.

    Raises:
        ValueError: no texts, `max_length` out of the model's range, `token_budget` that is no
            positive whole number, or `out` of another shape.
        TypeError: `texts` is one string, or holds something that is none (the message says where);
            a model, number format or `out` that is none.
    """
    if not isinstance(model, SentenceTransformer):
        raise TypeError(f"model={shown(model)} is no SentenceTransformer; load_model gives one")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype={shown(dtype)} is no number format such as torch.float32")
    if out is not None and getattr(getattr(out, "dtype", None), "kind", None) != "f":
        raise TypeError(f"out={shown(out)} is no array of floats")
    total = _counted(texts)
    limit = model.get_max_seq_length()
    is_whole = isinstance(max_length, (int, np.integer))
    if not is_whole or not 2 < max_length <= (limit or max_length):
        raise ValueError(
            f"max_length={shown(max_length)} is out of this model's range, 3 to {limit} tokens"
        )
    if out is not None and total not in (None, len(out)):
        raise ValueError(f"out has {len(out)} rows for {total} texts")
    budget = TOKEN_BUDGET.get(model.device.type, 8192)
    if token_budget is not None:
        budget = whole("token_budget", token_budget, 1)
    windows = _ahead(lambda window: _tokenise(model, window, max_length), _windows(texts))
    pieces, seen, empty, cut = [], 0, 0, 0
    with (
        ready_to_encode(model, dtype or pick_dtype(model.device)),
        tqdm(total=total, desc="encode", unit="text", delay=1, disable=not progress) as bar,
    ):
        for features, empty_here, cut_here in windows:
            vectors = _encode_window(model, features, budget, bar)
            rows = slice(seen, seen + len(vectors))
            if out is None:
                pieces.append(vectors)
            elif out[rows].shape != vectors.shape:
                raise ValueError(
                    f"out has shape {out.shape}; there are {'' if total else 'at least '}"
                    f"{total or rows.stop} texts of {vectors.shape[1]} dimensions"
                )
            else:
                out[rows] = vectors
            seen, empty, cut = rows.stop, empty + empty_here, cut + cut_here
    if not seen:
        raise ValueError("no texts to encode")
    if out is not None and seen < len(out):
        raise ValueError(f"out has {len(out)} rows for {seen} texts; those were written")
    if empty:
        warnings.warn(
            f"{empty} of {seen} texts are empty; their vector is that of the empty text",
            stacklevel=2,
        )
    if cut:
        warnings.warn(
            f"{cut} of {seen} texts are longer than max_length={max_length} tokens and were cut",
            stacklevel=2,
        )
    if out is not None:
        return out
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


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
    if vectors.ndim != 2 or len(vectors) != len(distinct) or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"the encoder gave an array of shape {vectors.shape} for {len(distinct)} sentences; "
            f"expected numbers, ({len(distinct)}, dimensions)"
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


def _counted(texts: Iterable[str]) -> int | None:
    """How many texts there are, if that can be known; those of a list are checked at once."""
    if isinstance(texts, str):
        raise TypeError("texts is one string; give a list of strings, such as [text]")
    if not isinstance(texts, Iterable):
        raise TypeError(f"texts={shown(texts)} is no list of strings")
    if not isinstance(texts, Sized):
        return None
    if not len(texts):
        raise ValueError("no texts to encode")
    for position, text in enumerate(texts):
        _check(text, position)
    return len(texts)


def _check(text: object, position: int) -> None:
    if not isinstance(text, str):
        raise TypeError(f"texts[{position}] is {shown(text)} ({type(text).__name__}), not a string")


def _windows(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts, `WINDOW` at a time, as strings that the tokeniser accepts."""
    source, seen = iter(texts), 0
    while window := list(islice(source, WINDOW)):
        for position, text in enumerate(window, start=seen):
            _check(text, position)
        seen += len(window)
        # Half of a surrogate pair, as cut-off emoji leave behind, is not valid Unicode.
        yield [t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in window]


def _tokenise(
    model: SentenceTransformer, texts: list[str], max_length: int
) -> tuple[dict[str, list[Tensor]], int, int]:
    """Features of a window, a tensor [tokens] a text; how many texts are empty, and were cut."""
    tokens = model.tokenizer(texts, truncation=True, max_length=max_length)
    lengths = [len(ids) for ids in tokens["input_ids"]]
    features = {
        name: list(torch.from_numpy(np.concatenate(values)).split(lengths))
        for name, values in tokens.items()
    }
    cut = sum(bool(encoding.overflowing) for encoding in tokens.encodings or [])
    return features, sum(not text.strip() for text in texts), cut


def _ahead(function: Callable, items: Iterable) -> Iterator:
    """`map`, one item ahead in a thread: the next window is tokenised while this one is encoded."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = None
        for item in items:
            following = pool.submit(function, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


def _encode_window(
    model: SentenceTransformer, features: dict[str, list[Tensor]], token_budget: int, bar: tqdm
) -> np.ndarray:
    """Embeddings of the texts of one window, float32, [texts, d]."""
    lengths = np.array([len(ids) for ids in features["input_ids"]])
    filler = {"input_ids": model.tokenizer.pad_token_id or 0}
    order, vectors = [], []
    for rows in _batches(lengths, token_budget):
        batch = {
            name: pad_sequence(
                [values[row] for row in rows],
                batch_first=True,
                padding_value=filler.get(name, 0),
                padding_side=model.tokenizer.padding_side,
            ).to(model.device, non_blocking=True)
            for name, values in features.items()
        }
        vectors.append(model(batch)["sentence_embedding"].float())
        order.append(rows)
        bar.update(len(rows))
    vectors = torch.cat(vectors).cpu().numpy()  # waits for a GPU once a window, not once a batch
    embeddings = np.empty_like(vectors)
    embeddings[np.concatenate(order)] = vectors
    return embeddings


def _batches(lengths: np.ndarray, token_budget: int) -> Iterator[np.ndarray]:
    """Rows of each batch, longest texts first: what fits in memory once fits until the end."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, token_budget // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size
