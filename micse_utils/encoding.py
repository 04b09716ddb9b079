"""Encode texts fast: sorted by length, packed by a token budget, returned in their order.

The forward pass runs on a twin of the model's transformer, so that the model is never changed and
several threads can encode with it at once.
"""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from micse_utils.checks import check_sequence, check_text, repaired, shown
from micse_utils.device import pick_dtype
from micse_utils.twin import forward_of

TOKEN_BUDGET = {"cpu": 1024, "cuda": 32_768, "mps": 8192}
"""Tokens of one batch, padding included, by device: enough to keep it busy, and on a CPU few
enough to stay in its caches."""
WINDOW = 4096  # texts that are sorted by length together, and held at a time besides the result
LONGEST = 128  # tokens kept of a text by default
FEW = 64  # texts up to which a thread that tokenises ahead, and a bar, cost more than they save


def encode(
    model: SentenceTransformer,
    texts: Iterable[str],
    *,
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    out: np.ndarray | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Embed texts; batching does not change a text's vector.

    Args:
        model: a `SentenceTransformer` that begins with a transformer; it is not changed. Its
            `default_prompt_name` names the prompt put before each text, if any.
        texts: n strings, from a list or from any iterable, which is read a window at a time. A
            lone surrogate is read as U+FFFD. A warning counts the texts that are empty, that are
            mostly unknown to the tokeniser, or that hold control tokens such as [SEP].
        max_length: tokens kept of each text, special tokens included, by default 128 or the
            model's limit; a warning counts the texts that were cut.
        dtype: number format of the forward pass; by default `pick_dtype` of the model's device.
        out: array [n, d] to write into, of any float type, such as a `numpy.memmap` for more
            embeddings than fit in memory.
        progress: show a bar once it takes longer than a second.

    Returns:
        Embeddings, float32, [n, d], in the order of `texts`; `out` if it was given. d is the
        model's `truncate_dim`, if it has one.

    Raises:
        ValueError: no texts, `max_length` out of the model's range, `out` of the wrong shape, or a
            model that gives NaN or infinity.
        TypeError: an argument of a wrong type, such as a text that is not a string.
    """
    if not isinstance(model, SentenceTransformer) or not isinstance(model[0], Transformer):
        raise TypeError(f"model must be a SentenceTransformer (see load_model), got {shown(model)}")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a number format such as torch.float32, got {shown(dtype)}")
    if out is not None and getattr(getattr(out, "dtype", None), "kind", None) != "f":
        raise TypeError(f"out must be an array of floats, got {shown(out)}")
    total = _counted(texts)
    if out is not None and total not in (None, len(out)):
        raise ValueError(f"out has {len(out)} rows for {total} texts")
    tokenise = _Tokeniser(model, pick_length(model, max_length))
    few = total is not None and total <= FEW
    windows = map(tokenise, _windows(texts)) if few else _prefetch(tokenise, _windows(texts))
    forward = forward_of(model, dtype or pick_dtype(model.device))
    pieces, seen = [], 0
    with (
        torch.inference_mode(),
        tqdm(total=total, desc="encode", unit="text", delay=1, disable=few or not progress) as bar,
    ):
        for features in windows:
            vectors = _encode_window(model, forward, features, bar)
            finite = np.isfinite(vectors).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"the model gives NaN or infinity for texts[{seen + int(np.argmin(finite))}]; "
                    "its weights are damaged, or too large for this number format"
                )
            rows = slice(seen, seen + len(vectors))
            if out is None:
                pieces.append(vectors)
            elif out[rows].shape == vectors.shape:
                out[rows] = vectors
            else:
                raise ValueError(f"out has shape {out.shape} for texts of shape {vectors.shape}")
            seen = rows.stop
    if not seen:
        raise ValueError("no texts to encode")
    if out is not None and seen < len(out):
        raise ValueError(f"out has {len(out)} rows for {seen} texts; those were written")
    for warning in tokenise.warnings(seen):
        warnings.warn(warning, stacklevel=2)
    return np.concatenate(pieces) if out is None else out


def token_limit(model: SentenceTransformer) -> int:
    """Return how many tokens a model can read: its `max_seq_length` or its positions."""
    config = model.transformers_model.config
    positions = getattr(config, "max_position_embeddings", None) or 512
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):  # they count from the padding
        positions -= config.pad_token_id + 1
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


def _counted(texts: Iterable[str]) -> int | None:
    """Check the texts of a list, and count them; an iterable has no length, None."""
    check_sequence("texts", texts)
    if not isinstance(texts, Sized):
        return None
    if not len(texts):
        raise ValueError("no texts to encode")
    for position, text in enumerate(texts):
        check_text("texts", position, text)
    return len(texts)


def _windows(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts, `WINDOW` at a time, as strings that the tokeniser accepts."""
    source, seen = iter(texts), 0
    while window := list(islice(source, WINDOW)):
        for position, text in enumerate(window, start=seen):
            check_text("texts", position, text)
        seen += len(window)
        yield [repaired(text) for text in window]


class _Tokeniser:
    """Turn windows of texts into features, and count texts to warn of."""

    lock = threading.Lock()  # the tokeniser cannot be used by two threads at once

    def __init__(self, model: SentenceTransformer, max_length: int) -> None:
        self.max_length = max_length
        self.prompt = (model.prompts | {None: ""})[model.default_prompt_name]
        # For poolings that exclude the prompt.
        prompted = model.preprocess(["text"], prompt=self.prompt) if self.prompt else {}
        self.extra = {k: v for k, v in prompted.items() if k == "prompt_length"}
        self.tokenizer = model.tokenizer
        self.lower = model[0].do_lower_case
        self.empty = self.unknown = self.control = self.cut = 0

    def __call__(self, texts: list[str]) -> dict[str, list[Tensor] | int]:
        """Return the features of a window: a tensor [tokens] for each text."""
        if self.prompt:
            texts = [self.prompt + text for text in texts]
        if self.lower:
            texts = [text.lower() for text in texts]
        with self.lock:
            tokens = self.tokenizer(texts, truncation=True, max_length=self.max_length)
        lengths = np.array([len(ids) for ids in tokens["input_ids"]])
        flat = {name: np.concatenate(values) for name, values in tokens.items()}
        self._count(flat["input_ids"], lengths, tokens.encodings or [])
        features = {name: torch.from_numpy(v).split(lengths.tolist()) for name, v in flat.items()}
        return features | self.extra

    def _count(self, ids: np.ndarray, lengths: np.ndarray, encodings: list) -> None:
        tokenizer, starts = self.tokenizer, np.cumsum(lengths) - lengths
        added, unknown = tokenizer.num_special_tokens_to_add(), ids == tokenizer.unk_token_id
        control = np.isin(ids, tokenizer.all_special_ids) & ~unknown
        controls = np.add.reduceat(control, starts, dtype=int)
        unknowns = np.add.reduceat(unknown, starts, dtype=int)
        self.empty += int((lengths == added).sum())
        self.unknown += int(((lengths > controls) & (2 * unknowns > lengths - controls)).sum())
        self.control += int((controls > added).sum())
        self.cut += sum(bool(encoding.overflowing) for encoding in encodings)

    def warnings(self, total: int) -> Iterator[str]:
        """Yield a sentence for each kind of text that was not encoded as users may expect."""
        counted = {
            "are empty; their vector is that of the empty text": self.empty,
            "are mostly unknown to the tokeniser, and get nearly the same vector; for other "
            "languages try a multilingual model, such as "
            "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": self.unknown,
            "hold control tokens such as [SEP] or [MASK], which act as such": self.control,
            f"are longer than max_length={self.max_length} tokens and were cut": self.cut,
        }
        return (f"{count} of {total} texts {what}" for what, count in counted.items() if count)


def _prefetch(function: Callable, items: Iterable) -> Iterator:
    """Map, working one item ahead in a thread, so that tokenising costs no extra time."""
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
    model: SentenceTransformer,
    forward: Callable[[dict], Tensor],
    features: dict[str, list[Tensor] | int],
    bar: tqdm,
) -> np.ndarray:
    """Embed the texts of one window: float32, [texts, d]."""
    lengths = np.array([len(ids) for ids in features["input_ids"]])
    filler = {"input_ids": model.tokenizer.pad_token_id or 0}
    order, vectors = [], []
    for rows in _batches(lengths, TOKEN_BUDGET.get(model.device.type, 8192)):
        batch = {
            name: values
            if isinstance(values, int)
            else pad_sequence(
                [values[row] for row in rows], batch_first=True, padding_value=filler.get(name, 0),
                padding_side=model.tokenizer.padding_side,
            ).to(model.device, non_blocking=True)
            for name, values in features.items()
        }  # fmt: skip
        vectors.append(forward(batch)[:, : model.truncate_dim])
        order.append(rows)
        bar.update(len(rows))
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
