"""The objective against a plain reading of its six steps: NumPy in float64, explicit loops.

It shares no code with the package. Only the positions that were drawn are taken from it, after a
check that they are distinct and kept in both views.
"""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer, BertConfig, BertModel

from micse_utils.training import ami, losses
from micse_utils.training.ami import attention_mutual_information, attention_rows

MIXED = [20, 13, 9, 5]
"""Tokens of each sentence of a padded batch."""
SHORT = [6, 4, 3]
"""So few that no row keeps 150 positions."""
RANGES = {
    "7 to 11 of 12": (12, 7, 11),
    "0 to 4 of 6": (6, 0, 4),
    "2 to 4 of 6": (6, 2, 4),
    "0 to 6 of 6": (6, 0, 6),
}


def probabilities_of(scores, lengths, dropped):
    """Attention after dropout, [sentences, heads, queries, keys], from scores of that shape."""
    result = np.zeros_like(scores)
    for sentence, head, query, _ in np.ndindex(*scores.shape[:3], 1):
        odds = np.exp(scores[sentence, head, query, : lengths[sentence]])  # padding keys get 0
        result[sentence, head, query, : lengths[sentence]] = odds / odds.sum()
    return np.where(dropped, 0, result / 0.9)


def reference_ami(first, second, lengths, drawn, *, samples=150):
    """AMI of the attention probabilities of two views.

    Args:
        first, second: one [sentences, heads, queries, keys] a layer of the range.
        lengths: tokens of each sentence.
        drawn: positions of each used row, counted within the row.
    """
    rows = []
    for sentence in range(len(lengths)):
        for head in range(first[0].shape[1]):
            for chunk in range(2):
                layers = range(chunk, len(first), 2)
                a, b = [], []
                for layer in layers:
                    for query in range(first[0].shape[2]):
                        for key in range(first[0].shape[3]):
                            a.append(first[layer][sentence, head, query, key])
                            b.append(second[layer][sentence, head, query, key])
                a, b = np.array(a), np.array(b)
                rows.append((a, b, (a > 0) & (b > 0), a.size))
    if max(kept.sum() for *_, kept, _ in rows) < samples:
        samples = min(kept.sum() for *_, kept, _ in rows)
    used = [row for row in rows if row[2].sum() >= samples]
    assert len(used) == len(drawn)
    information = []
    for (a, b, kept, _), positions in zip(used, drawn, strict=True):
        assert len(set(positions)) == samples and kept[positions].all()
        x, y = np.log(a[positions]), np.log(b[positions])
        rho = np.corrcoef(x, y)[0, 1]
        information.append(-0.5 * np.log(1 - rho**2))
    fraction = sum(kept.sum() for *_, kept, _ in used) / sum(size for *_, size in used)
    return np.mean(information) * (fraction**2 + 1e-6)


@pytest.fixture
def drawn(monkeypatch):
    """The positions that the package draws, a list of rows for each call."""
    calls, draw = [], ami._draw

    def recording(*arguments):
        positions = draw(*arguments)
        calls.append(positions.tolist())
        return positions

    monkeypatch.setattr(ami, "_draw", recording)
    return calls


def package_ami(scores, lengths, dropped):
    """AMI of attention scores, [layers, 2n, heads, tokens, tokens], by the package."""
    tokens = scores.shape[-1]
    mask = torch.tensor([[t < length for t in range(tokens)] for length in [*lengths, *lengths]])
    logs = scores.masked_fill(~mask[:, None, None], -torch.inf).log_softmax(dim=-1)
    logs = logs.masked_fill(torch.tensor(dropped), -torch.inf)
    generator = torch.Generator().manual_seed(0)
    return attention_mutual_information(*attention_rows(list(logs)), generator=generator)


@pytest.mark.parametrize("lengths", [MIXED, SHORT], ids=["mixed lengths", "short"])
@pytest.mark.parametrize("layers", RANGES)
def test_ami_and_its_gradient_are_those_of_the_plain_reading(layers, lengths, drawn):
    depth, least, most = RANGES[layers]
    rng = np.random.default_rng(depth + least + most)
    n, heads, tokens = len(lengths), 3, max(lengths)
    shared = rng.normal(size=(depth, n, heads, tokens, tokens))
    scores = np.concatenate([shared, shared], axis=1) + 0.7 * rng.normal(
        size=(depth, 2 * n, heads, tokens, tokens)
    )
    dropped = rng.random(scores.shape) < 0.1
    scores, dropped = scores[least:most], dropped[least:most]

    tensor = torch.tensor(scores, requires_grad=True)
    value = package_ami(tensor, lengths, dropped)
    value.backward()

    def reference(scores):
        views = [
            [probabilities_of(s[half], lengths, d[half]) for s, d in zip(scores, dropped)]  # noqa: B905
            for half in (slice(0, n), slice(n, None))
        ]
        return reference_ami(*views, lengths, drawn[0])

    assert value.item() == pytest.approx(reference(scores), rel=1e-9)
    short = max(lengths) < 10
    assert short or len(drawn[0][0]) == 150
    assert not short or len(drawn[0][0]) < 150
    for _ in range(2):
        direction = rng.normal(size=scores.shape)
        up, down = (reference(scores + step * direction) for step in (1e-5, -1e-5))
        slope = (tensor.grad.numpy() * direction).sum()
        assert slope == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-9)


def test_padding_queries_are_positions_and_padding_keys_are_not_kept(drawn):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 4, 2, 20, 20))
    dropped = np.zeros(scores.shape, dtype=bool)
    lengths = [20, 8]
    package_ami(torch.tensor(scores), lengths, dropped)
    [rows] = drawn
    assert len(rows) == 8  # 8 * 20 keep 150 or more, 8 * 8 would not
    second_sentence = np.array(rows[4:])
    queries, keys = second_sentence // 20, second_sentence % 20
    assert queries.max() == 19 and keys.max() < 8


@pytest.fixture
def small_bert(tiny_bert, tmp_path):
    """A random BERT with six layers, in training mode."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 32}
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    config = BertConfig(
        vocab_size=len(tokenizer), num_hidden_layers=6, initializer_range=0.3, **sizes
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    modules = [Transformer(str(tmp_path)), Pooling(24, "cls")]
    return SentenceTransformer(modules=modules, device="cpu").train()


@pytest.mark.parametrize("layers", [(0, 6), (2, 4), (1, 5)])
def test_the_whole_loss_is_that_of_the_plain_reading(small_bert, monkeypatch, drawn, layers):
    sentences = [
        "the big red cat sat on the small blue mat and the dog ran on and on in the park .",
        "a dog ran",
        "the cat and the dog sat on the mat , and a small dog ran !",
        "big blue park",
    ]
    batch = dict(small_bert.tokenizer(sentences, padding=True, return_tensors="pt"))
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert len(set(lengths)) > 2
    seen = {}

    def record(maps):
        seen["maps"] = [layer.detach().double().exp().numpy() for layer in maps]
        return attention_rows(maps)

    monkeypatch.setattr(losses, "attention_rows", record)
    small_bert.transformers_model.encoder.layer[-1].register_forward_hook(
        lambda module, inputs, output: seen.update(cls=output[:, 0])
    )
    loss = losses.MiCSELoss(small_bert, 0.3, min_layer=layers[0], max_layer=layers[1]).train()
    terms = {name: term.item() for name, term in loss([batch]).items()}

    n = len(sentences)
    weight, bias = (p.detach().double().numpy() for p in loss.head[0].parameters())
    vectors = np.tanh(seen["cls"].detach().double().numpy() @ weight.T + bias)
    info_nce = 0.0
    for i in range(n):
        cosines = [
            vectors[i] @ other / np.linalg.norm(vectors[i]) / np.linalg.norm(other)
            for other in vectors[n:]
        ]
        odds = np.exp(np.array(cosines) / 0.05)
        info_nce -= np.log(odds[i] / odds.sum()) / n
    views = [[layer[half] for layer in seen["maps"]] for half in (slice(0, n), slice(n, None))]
    expected = reference_ami(*views, lengths, drawn[0])
    assert terms == pytest.approx({"info_nce": info_nce, "ami_term": -0.3 * expected}, abs=1e-5)


def test_the_head_starts_as_berts_layers_do(small_bert):
    torch.manual_seed(0)
    weight, bias = losses.MiCSELoss(small_bert).head[0].parameters()
    wide = torch.cat([losses.MiCSELoss(small_bert).head[0].weight for _ in range(20)])
    assert weight.shape == (24, 24) and not bias.any()
    assert wide.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(wide.mean().item()) < 1e-3
    assert wide.abs().max() > 0.05  # a normal distribution, not a uniform one
