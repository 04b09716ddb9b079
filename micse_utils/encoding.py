"""Encode texts fast: each once, sorted by length, packed by a token budget, returned in order."""

import contextlib
import copy
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from micse_utils.device import pick_dtype
from micse_utils.engine import Snapshot, prefetch
from micse_utils.settings import check_texts, repaired

# Tokens of a batch, padding included: enough to keep a device busy, and in a CPU's caches.
TOKEN_BUDGET = {"cpu": 1024, "cuda": 32_768, "mps": 8192}
WINDOW = 4096  # texts that are sorted by length together, and tokenised at a time
LONGEST = 128  # tokens kept of a text by default
FEW = 64  # texts up to which a copy in a different number format costs more than it saves
UNKNOWN = "are mostly unknown to the tokeniser; for other languages take a multilingual model"
_TURN = threading.RLock()  # of the threads that encode


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

    Warnings count the texts that are empty, cut, or mostly unknown to the tokeniser. Threads that
    encode take turns. After a call, a child that `fork` makes of this process may hang in its own:
    start processes with `multiprocessing.get_context("spawn")`.

    Args:
        model: a `SentenceTransformer` that begins with a transformer, without a default prompt; it
            runs as it is at this moment, in evaluation mode.
        texts: n strings. A lone surrogate is read as U+FFFD.
        max_length: tokens kept of each text, special tokens included, by default 128 or the
            model's limit.
        dtype: number format of the forward pass; by default the model's own for up to 64 texts,
            else `pick_dtype` of its device, for which the transformer is copied.
        out: array [n, d] of floats to write into, such as a `numpy.memmap`.

    Returns:
        Embeddings, float32, [n, d], in the order of `texts`; `out` if it was given.

    Raises:
        ValueError, TypeError: unusable texts, `max_length` or `out`; a model that gives NaN.
    """
    texts = check_texts("texts", texts)
    if not texts:
        raise ValueError("no texts to encode")
    tokenise = Tokeniser(model, max_length)
    few = len(texts) <= FEW
    windows = map(tokenise, windows_of(texts)) if few else prefetch(tokenise, windows_of(texts))
    with (
        torch.inference_mode(),
        _evaluating(model),
        tqdm(texts, "encode", unit="text", delay=1, disable=few or not progress) as bar,
    ):
        transformer, processor = model[0], model[0].processor
        wanted = dtype or (transformer.model.dtype if few else pick_dtype(model.device))
        if wanted != transformer.model.dtype:
            transformer = copy.deepcopy(transformer, {id(processor): processor}).to(wanted)
        forward = partial(map, transformer)
        if isinstance(transformer.model, Snapshot) and not few:
            forward = transformer.model.stream
        for window, features in windows:
            vectors = _encode_window(model, forward, features, bar)
            if not np.isfinite(vectors).all():
                raise ValueError("the model gives NaN or infinity: damaged weights, or wrong dtype")
            shape = len(texts), vectors.shape[1]
            if out is None:
                out = np.empty(shape, np.float32)
            if out.dtype.kind != "f" or out.shape != shape:
                raise ValueError(f"out must be floats, {shape}, got {out.dtype}, {out.shape}")
            out[window.rows] = vectors[window.which]
            bar.update(len(window.rows) - len(vectors))  # texts that equal another
    empty = "are empty; their vector is that of the empty text"
    for warning in tokenise.reports("texts", len(texts), {empty: tokenise.empty}):
        warnings.warn(warning, stacklevel=2)
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
    if not 2 < length <= limit:
        raise ValueError(f"max_length must be from 3 to {limit} for this model, got {max_length}")
    return length


class Window(NamedTuple):
    """Distinct texts that are encoded together, and the rows of the result that are theirs."""

    texts: list[str]
    rows: np.ndarray
    which: np.ndarray  # of `texts`, for each of `rows`


def windows_of(texts: list[str]) -> Iterator[Window]:
    """Yield the distinct texts, `WINDOW` at a time, as strings that the tokeniser accepts."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    which, distinct = np.array([numbers[text] for text in texts]), list(numbers)
    for start in range(0, len(distinct), WINDOW):
        rows = np.flatnonzero((start <= which) & (which < start + WINDOW))
        some = [repaired(text) for text in distinct[start : start + WINDOW]]
        yield Window(some, rows, which[rows] - start)


@contextlib.contextmanager
def _evaluating(model: SentenceTransformer) -> Iterator[None]:
    """Put a model into evaluation mode while one thread encodes."""
    with _TURN:
        training = [module for module in model.modules() if module.training]
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


class Tokeniser:
    """Turn windows of texts into features, and count texts to warn of."""

    def __init__(self, model: SentenceTransformer, max_length: int | None) -> None:
        self.max_length = pick_length(model, max_length)
        if model.default_prompt_name:
            way_out = "put this model's into the texts, and set default_prompt_name to None"
            raise ValueError(f"encode adds no prompt: {way_out}")
        self.tokenizer = model.tokenizer
        self.added = self.tokenizer.num_special_tokens_to_add()
        self.lower = model[0].do_lower_case
        self.empty = self.unknown = self.cut = 0

    def __call__(self, window: Window) -> tuple[Window, dict[str, list[Tensor]]]:
        """Return a window with its features: a tensor [tokens] for each text."""
        texts = [text.lower() for text in window.texts] if self.lower else window.texts
        tokens = self.tokenizer(texts, truncation=True, max_length=self.max_length)
        lengths = np.array([len(ids) for ids in tokens["input_ids"]])
        if not lengths.all():  # not with [CLS] or </s>, which most tokenisers add
            raise ValueError("a text is empty to this model; leave such texts out")
        cut = [bool(encoding.overflowing) for encoding in tokens.encodings or ()]
        if not cut:  # a tokeniser without a fast version does not say
            more = self.tokenizer(texts, truncation=True, max_length=self.max_length + 1)
            cut = [len(ids) > self.max_length for ids in more["input_ids"]]
        unknown = [ids.count(self.tokenizer.unk_token_id) for ids in tokens["input_ids"]]
        words, times = lengths - self.added, np.bincount(window.which)
        self.cut += int(times @ cut)
        self.empty += int(times @ (words == 0))
        self.unknown += int(times @ (2 * np.array(unknown) > words))
        features = {name: [*map(torch.tensor, values)] for name, values in tokens.items()}
        return window, features

    def reports(self, kind: str, total: int, more: Mapping[str, int]) -> list[str]:
        """Return a sentence for each count of texts that are not encoded as users may expect."""
        cut = f"are longer than max_length={self.max_length} tokens and were cut"
        counts = {**more, UNKNOWN: self.unknown, cut: self.cut}
        return [f"{count} of {total} {kind} {what}" for what, count in counts.items() if count]


def _encode_window(
    model: SentenceTransformer, forward: Callable, features: dict[str, list[Tensor]], bar: tqdm
) -> np.ndarray:
    """Embed the texts of one window: float32, [texts, d]."""
    lengths = np.array([len(ids) for ids in features["input_ids"]])
    # Longest texts first: what fits in memory once fits always.
    order, starts = np.argsort(-lengths, kind="stable"), [0]
    while starts[-1] < len(order):
        tokens = TOKEN_BUDGET.get(model.device.type, 8192)
        starts.append(starts[-1] + max(1, tokens // int(lengths[order[starts[-1]]])))

    def padded(rows: np.ndarray) -> dict[str, Tensor]:
        # On the right whatever the tokeniser does: on the left, some models count it.
        batch, padding = {}, {"input_ids": model.tokenizer.pad_token_id or 0}  # the rest with 0
        for name, values in features.items():
            wanted = [values[row] for row in rows]
            tensor = pad_sequence(wanted, True, padding_value=padding.get(name, 0))
            batch[name] = tensor.to(model.device, non_blocking=True)
        return batch

    vectors = []
    for batch in forward(map(padded, np.split(order, starts[1:-1]))):
        batch["token_embeddings"] = batch["token_embeddings"].to(model.dtype or torch.float32)
        for module in list(model)[1:]:
            batch = module(batch)
        vectors.append(batch["sentence_embedding"].float()[:, : model.truncate_dim])
        bar.update(len(vectors[-1]))
    vectors = torch.cat(vectors).cpu().numpy()  # waits for a GPU once a window, not once a batch
    return vectors[np.argsort(order)]
