"""Encode texts fast: each once, sorted by length, packed by a token budget, returned in order."""

import contextlib
import copy
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from micse_utils.device import pick_dtype
from micse_utils.engine import Snapshot
from micse_utils.settings import check_sequence, check_texts, repaired, shown

TOKEN_BUDGET = {"cpu": 1024, "cuda": 32_768, "mps": 8192}
"""Tokens of one batch, padding included, by device: enough to keep it busy, and on a CPU few
enough to stay in its caches."""
WINDOW = 4096  # texts that are sorted by length together, and held at a time besides the result
LONGEST = 128  # tokens kept of a text by default
FEW = 64  # texts up to which a copy in another number format costs more than it saves
UNKNOWN = "are mostly unknown to the tokeniser; for other languages take a multilingual model"
_TRAINING = threading.RLock()
"""Held while a model in training is in evaluation mode for a call."""


def encode(
    model: SentenceTransformer,
    texts: Iterable[str],
    *,
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    out: np.ndarray | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Embed texts; batching does not change a text's vector, and equal texts get the same one.

    The model runs as it is at this moment. After a call, a child that `fork` makes of this process
    may hang in its own: start processes with `multiprocessing.get_context("spawn")`.

    Args:
        model: a `SentenceTransformer` that begins with a transformer; in evaluation mode during the
            call. One with a default prompt is refused.
        texts: n strings, from a list or from any iterable. One without a length is read a window of
            4,096 at a time. A lone surrogate is read as U+FFFD. A warning counts the texts that are
            empty or mostly unknown to the tokeniser.
        max_length: tokens kept of each text, special tokens included, by default 128 or the
            model's limit; a warning counts the texts that were cut.
        dtype: number format of the forward pass; by default the model's own for a list of up to 64
            texts, else `pick_dtype` of its device, for which the transformer is copied.
        out: array [n, d] of floats to write into, such as a `numpy.memmap` for more embeddings than
            fit in memory.
        progress: show a bar once it takes longer than a second.

    Returns:
        Embeddings, float32, [n, d], in the order of `texts`; `out` if it was given. d is the
        model's `truncate_dim`, if it has one.

    Raises:
        ValueError: no texts, a text without a single token, `max_length` out of the model's range,
            `out` of the wrong shape, or a model that gives NaN or infinity.
        TypeError: a text that is not a string, or an `out` that is not of floats.
    """
    check_sequence("texts", texts)
    total = len(texts) if isinstance(texts, Sized) else None
    if out is not None and not np.issubdtype(out.dtype, np.floating):
        raise TypeError(f"out must be an array of floats, got {out.dtype}")
    if out is not None and total not in (None, len(out)):
        raise ValueError(f"out has {len(out)} rows for {total} texts")
    tokenise = Tokeniser(model, pick_length(model, max_length))
    few = total is not None and total <= FEW
    windows = map(tokenise, windows_of(texts)) if few else _prefetch(tokenise, windows_of(texts))
    pieces, seen = [], 0
    with (
        torch.inference_mode(),
        _evaluating(model),
        tqdm(total=total, desc="encode", unit="text", delay=1, disable=few or not progress) as bar,
    ):
        own = model.transformers_model.dtype
        transformer = _in_format(model, dtype or (own if few else pick_dtype(model.device)))
        for window, features in windows:
            vectors = _encode_window(model, transformer, features, few)
            if not np.isfinite(vectors).all():
                raise ValueError(
                    "the model gives NaN or infinity; its weights are damaged, or too large for "
                    "this number format"
                )
            vectors = vectors[window.which]
            seen += len(vectors)
            if out is None:
                pieces.append((window.rows, vectors))
            elif seen <= len(out) and out.shape[1:] == vectors.shape[1:]:
                out[window.rows] = vectors
            else:
                raise ValueError(f"out has shape {out.shape} for texts of shape {vectors.shape}")
            bar.update(len(vectors))
    if not seen:
        raise ValueError("no texts to encode")
    if out is not None and seen < len(out):
        raise ValueError(f"out has {len(out)} rows for {seen} texts; those were written")
    empty = "are empty; their vector is that of the empty text"
    for warning in tokenise.reports("texts", seen, {empty: tokenise.empty}):
        warnings.warn(warning, stacklevel=2)
    if out is None:
        out = np.empty((seen, vectors.shape[1]), np.float32)
        for rows, vectors in pieces:
            out[rows] = vectors
    return out


def token_limit(model: SentenceTransformer) -> int:
    """Return how many tokens a model can read: its `max_seq_length` or its positions."""
    if not isinstance(model[0], Transformer):
        kind = type(model[0]).__name__
        raise TypeError(f"model must begin with a transformer, got {kind}; use its own encode()")
    transformer = model.transformers_model
    positions = getattr(transformer.config, "max_position_embeddings", None) or 512
    table = getattr(getattr(transformer, "embeddings", None), "position_embeddings", None)
    if (padding := getattr(table, "padding_idx", None)) is not None:  # RoBERTa counts from there
        positions -= padding + 1
    return min(model.get_max_seq_length() or positions, positions)


def pick_length(model: SentenceTransformer, max_length: int | None) -> int:
    """Return the tokens kept of a text: `max_length` if valid, by default 128 or the limit."""
    limit = token_limit(model)
    length = min(LONGEST, limit) if max_length is None else max_length
    if not isinstance(length, (int, np.integer)) or not 2 < length <= limit:
        raise ValueError(
            f"max_length must be from 3 to {limit} tokens for this model, got {shown(max_length)}"
        )
    return int(length)


class Window(NamedTuple):
    """Distinct texts that are encoded together, and the rows of the result that are theirs."""

    texts: list[str]
    rows: np.ndarray
    which: np.ndarray  # of `texts`, for each of `rows`


def windows_of(texts: Iterable[str]) -> Iterator[Window]:
    """Yield the distinct texts, `WINDOW` at a time, as strings that the tokeniser accepts."""
    source, seen = iter(texts), 0
    size = None if isinstance(texts, Sized) else WINDOW
    while group := check_texts("texts", islice(source, size), seen):
        numbers = {text: number for number, text in enumerate(dict.fromkeys(group))}
        which = np.array([numbers[text] for text in group])
        order, distinct = np.argsort(which, kind="stable"), list(numbers)
        for start in range(0, len(distinct), WINDOW):
            first, last = np.searchsorted(which[order], [start, start + WINDOW])
            rows = order[first:last]
            some = [repaired(text) for text in distinct[start : start + WINDOW]]
            yield Window(some, rows + seen, which[rows] - start)
        seen += len(group)


@contextlib.contextmanager
def _evaluating(model: SentenceTransformer) -> Iterator[None]:
    """Put a model into evaluation mode; threads that encode with one in training take turns."""
    with _TRAINING:
        if training := [module for module in model.modules() if module.training]:
            try:
                for module in training:
                    module.training = False
                yield
            finally:
                for module in training:
                    module.training = True
            return
    yield


def _in_format(model: SentenceTransformer, dtype: torch.dtype) -> Transformer:
    """Return the model's transformer itself, or for a different number format a copy."""
    if dtype == model.transformers_model.dtype:
        return model[0]
    processor = model[0].processor
    return copy.deepcopy(model[0], {id(processor): processor}).to(dtype)


class Tokeniser:
    """Turn windows of texts into features, and count texts to warn of."""

    lock = threading.Lock()  # the tokeniser cannot be used by two threads at once

    def __init__(self, model: SentenceTransformer, max_length: int) -> None:
        self.max_length = max_length
        if model.default_prompt_name:
            raise ValueError(
                "this model puts a prompt before each text, which encode does not: set its "
                "default_prompt_name to None, and put the prompt into the texts"
            )
        self.tokenizer = model.tokenizer
        self.added = self.tokenizer.num_special_tokens_to_add()
        self.lower = model[0].do_lower_case
        self.empty = self.unknown = self.cut = 0

    def __call__(self, window: Window) -> tuple[Window, dict[str, list[Tensor]]]:
        """Return a window with its features: a tensor [tokens] for each text."""
        texts = [text.lower() for text in window.texts] if self.lower else window.texts
        with self.lock:
            tokens = self.tokenizer(texts, truncation=True, max_length=self.max_length)
            if tokens.encodings:
                cut = [bool(encoding.overflowing) for encoding in tokens.encodings]
            else:  # a tokeniser without a fast version does not say
                more = self.tokenizer(texts, truncation=True, max_length=self.max_length + 1)
                cut = [len(ids) > self.max_length for ids in more["input_ids"]]
        lengths = np.array([len(ids) for ids in tokens["input_ids"]])
        if not lengths.all():  # not with [CLS] or </s>, which most tokenisers add
            raise ValueError("a text is empty to this model; leave such texts out")
        flat = {name: np.concatenate(values) for name, values in tokens.items()}
        times = np.bincount(window.which, minlength=len(texts))
        self.cut += int(times @ cut)
        self._count(flat["input_ids"], lengths, times)
        features = {name: torch.from_numpy(v).split(lengths.tolist()) for name, v in flat.items()}
        return window, features

    def _count(self, ids: np.ndarray, lengths: np.ndarray, times: np.ndarray) -> None:
        words, starts = lengths - self.added, np.cumsum(lengths) - lengths
        unknown = np.add.reduceat(ids == self.tokenizer.unk_token_id, starts, dtype=int)
        self.empty += int(times @ (words == 0))
        self.unknown += int(times @ (2 * unknown > words))

    def reports(self, kind: str, total: int, more: Mapping[str, int]) -> list[str]:
        """Return a sentence for each count of texts that are not encoded as users may expect."""
        cut = f"are longer than max_length={self.max_length} tokens and were cut"
        counts = {**more, UNKNOWN: self.unknown, cut: self.cut}
        return [f"{count} of {total} {kind} {what}" for what, count in counts.items() if count]


def _prefetch(function: Callable, items: Iterable) -> Iterator:
    """Map, working one item ahead in a thread, so that tokenising costs no extra time."""
    pending = deque()
    with ThreadPoolExecutor(max_workers=1) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 1:
                yield pending.popleft().result()
        yield from (future.result() for future in pending)


def _encode_window(
    model: SentenceTransformer,
    transformer: Transformer,
    features: dict[str, list[Tensor]],
    few: bool,
) -> np.ndarray:
    """Embed the texts of one window: float32, [texts, d]."""
    lengths = np.array([len(ids) for ids in features["input_ids"]])
    filler = {"input_ids": model.tokenizer.pad_token_id or 0}

    def padded(rows: np.ndarray) -> dict[str, Tensor]:
        # On the right whatever the tokeniser does: on the left, some models count it.
        batch = {}
        for name, values in features.items():
            some, value = [values[row] for row in rows], filler.get(name, 0)
            tensor = pad_sequence(some, batch_first=True, padding_value=value)
            batch[name] = tensor.to(model.device, non_blocking=True)
        return batch

    order = list(_batches(lengths, TOKEN_BUDGET.get(model.device.type, 8192)))
    if isinstance(transformer.model, Snapshot) and not few:
        done = transformer.model.stream(map(padded, order))
    else:
        done = map(transformer, map(padded, order))
    vectors = []
    for batch in done:
        batch["token_embeddings"] = batch["token_embeddings"].to(model.dtype or torch.float32)
        for module in list(model)[1:]:
            batch = module(batch)
        vectors.append(batch["sentence_embedding"].float()[:, : model.truncate_dim])
    vectors = torch.cat(vectors).cpu().numpy()  # waits for a GPU once a window, not once a batch
    embeddings = np.empty_like(vectors)
    embeddings[np.concatenate(order)] = vectors
    return embeddings


def _batches(lengths: np.ndarray, token_budget: int) -> Iterator[np.ndarray]:
    """Yield the rows of each batch, longest texts first: what fits in memory once fits always."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, token_budget // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size
