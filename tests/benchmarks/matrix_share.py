"""Bulk encoding: how much of the time of `encode` is the bare products of the linear layers?"""

import copy
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from compare import interleaved, pool, speed_rows, workloads
from encoding import ENGINE, OURS
from torch import nn

from micse_utils.device import pick_dtype
from micse_utils.encoding import TOKEN_BUDGET, encode
from micse_utils.models import load_model

LENGTHS = (32, 128, 512)
TEXTS = 625  # of 128 tokens, and as many tokens of the other lengths
PRODUCTS = "linear layers alone"


def measure(options) -> list[dict]:
    """The share for tweets and for pieces of running text of one length.

    The limit is the time of the transformer's linear layers in the same number format, for the
    real tokens without padding, as many at a time as `encode` takes.
    """
    model = load_model(source="package")
    fast = load_model(source="package", engine="auto")
    # It has positions for as many, and is used up to 256.
    model.max_seq_length = fast.max_seq_length = max(LENGTHS)
    samples = {"tweets": (workloads(options.texts)["tweets"], 128)}
    ids = [i for row in model.tokenizer(pool()[-20_000:])["input_ids"] for i in row[1:-1]]
    for length in LENGTHS:
        count = 128 * (options.texts or TEXTS) // length
        pieces = np.array(ids[: count * (length - 2)]).reshape(count, -1)
        samples[f"texts of {length} tokens"] = (model.tokenizer.batch_decode(pieces), length)

    rows = []
    for dtype in {pick_dtype(model.device): None, torch.float32: None}:
        encoder = copy.deepcopy(model.transformers_model.encoder).to(dtype)
        fast.to(dtype)  # or it would be compiled in each call
        layers = [module for module in encoder.modules() if isinstance(module, nn.Linear)]
        for name, (texts, length) in samples.items():
            tokens = model.tokenizer(texts, truncation=True, max_length=length)["input_ids"]
            options_of = {"max_length": length, "dtype": dtype, "progress": False}
            calls = {
                PRODUCTS: partial(_products, layers, sum(map(len, tokens)), dtype),
                OURS: partial(encode, model, texts, **options_of),
                ENGINE: partial(encode, fast, texts, **options_of),
            }
            if not fast.provenance.engine:  # on a GPU, or without the extra
                del calls[ENGINE]
            item = f"share of the products in {dtype}, {len(texts)} {name}"
            wanted = {OURS: ">= 0.78", ENGINE: ">= 0.5 with AMX, 0.7 without"}
            rows += speed_rows(item, interleaved(calls, options.rounds), PRODUCTS, wanted)
    return rows


@torch.inference_mode()
def _products(layers: list[nn.Linear], tokens: int, dtype: torch.dtype) -> None:
    inputs = {
        w: torch.ones(TOKEN_BUDGET["cpu"], w, dtype=dtype)
        for w in {layer.in_features for layer in layers}
    }
    for start in range(0, tokens, TOKEN_BUDGET["cpu"]):
        for layer in layers:
            F.linear(inputs[layer.in_features][: tokens - start], layer.weight, layer.bias)
