"""The objective against NumPy in float64, closed forms and one process against two."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from micse_utils.training import ami
from micse_utils.training.ami import attention_mutual_information, gaussian_mutual_information
from micse_utils.training.losses import MiCSELoss, _layer_range

SENTENCES = ["a dog runs", "the cat sat on the warm mat", "a man plays a guitar on the street"]


def log_attention(rng, rows=6, tokens=9, dropout=0.1):
    """Random log attention of two views after dropout, each [rows, tokens * tokens]."""
    scores = rng.normal(size=(rows, tokens, tokens)) + rng.normal(size=(2, rows, tokens, tokens))
    logs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    logs[rng.random(logs.shape) < dropout] = -np.inf
    return logs.reshape(2, rows, -1)


def information(first, second):
    """-1/2 log(1 - rho^2) by NumPy's correlation."""
    return -0.5 * np.log(1 - np.corrcoef(first, second)[0, 1] ** 2)


# --- AMI, the mathematics


def test_two_gaussians_have_the_information_of_their_correlation():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, 200_000, generator=generator, dtype=torch.float64)
    for rho in (0.0, 0.3, -0.8, 0.99):
        second = rho * noise[0] + (1 - rho**2) ** 0.5 * noise[1]
        measured = gaussian_mutual_information(noise[0], second).item()
        assert measured == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.01)
        # Log-normal attention: a scale of the probabilities, as dropout's, changes nothing.
        scaled = attention_mutual_information(noise[0] * 3 - 8, second - 1, samples=200_000)
        assert scaled.item() == pytest.approx(measured, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_stays_finite_with_its_gradient_at_the_edges(dtype):
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(1, 400, generator=generator, dtype=dtype)
    constant = torch.full_like(row, -3.4657359)
    tiny = row * 1e-7 - 3
    steep = row * 300
    lost = torch.full_like(row, -torch.inf)
    one = lost.clone()
    one[0, 5] = -1.0
    cases = [(row, row), (row, row + 1e-6), (constant, row), (constant, constant), (tiny, row)]
    cases += [(steep, steep + row), (lost, row), (one, row), (row[:, :9], row[:, 9:18])]
    for first, second in cases:
        first, second = first.clone().requires_grad_(), second.clone().requires_grad_()
        value = attention_mutual_information(first, second)
        value.backward()
        assert 0 <= value.item() < 7
        assert first.grad.isfinite().all() and second.grad.isfinite().all()
    identical = attention_mutual_information(row, row)
    assert identical.item() == pytest.approx(-0.5 * np.log(1e-6), rel=1e-3)  # its largest value
    for nothing in (constant, lost, one):
        assert attention_mutual_information(nothing, row).item() == pytest.approx(0, abs=1e-3)


# --- The loss


@pytest.fixture
def model(tiny_bert):
    """A fresh tiny sentence encoder with [CLS] pooling."""
    return SentenceTransformer(
        modules=[Transformer(str(tiny_bert)), Pooling(32, "cls")], device="cpu"
    )


def features(model, sentences, length=None):
    padding = "max_length" if length else True
    return dict(model.tokenizer(sentences, padding=padding, max_length=length, return_tensors="pt"))


def without_dropout(model):
    """Training mode in which chance plays no part: attention and hidden states are all kept."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


def total(terms):
    """The loss, as the trainer adds it up."""
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize(
    ("depth", "layers"),
    {12: (7, 11), 24: (14, 22), 6: (3, 5), 4: (2, 4), 2: (0, 2), 8: (5, 7), 3: (1, 3)}.items(),
)
def test_the_default_layers_are_an_even_number_in_proportion_to_the_papers(depth, layers):
    assert _layer_range(depth, None, None) == layers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_layer": 7, "max_layer": 11}, "layers 7 to 11 .* of this model's 2 layers"),
        ({"min_layer": 1, "max_layer": 2}, "layers 1 to 2 .* an even number"),
        ({"ami_weight": -1e-3}, "ami_weight must be 0 or more"),
        ({"ami_weight": float("nan")}, "ami_weight must be 0 or more"),
        ({"temperature": 0.0}, "temperature above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        MiCSELoss(model, **settings)


def test_views_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \[1, 9\] and \[2, 9\]"):
        attention_mutual_information(torch.zeros(1, 9), torch.zeros(2, 9))


def test_gradient_checkpointing_and_a_second_column_are_refused(model):
    batch = features(model, SENTENCES)
    with pytest.raises(ValueError, match="takes one column"):
        MiCSELoss(model)([batch, batch])
    model.transformers_model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient checkpointing"):
        MiCSELoss(model, min_layer=0, max_layer=2).train()([batch])


def test_ami_is_measured_from_a_seed_of_its_own(model):
    loss = MiCSELoss(model, 0, min_layer=0, max_layer=2)
    model.eval()
    state = torch.get_rng_state()
    once, again = loss.measure_ami(SENTENCES), loss.measure_ami(SENTENCES)
    assert once == again > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training


def test_the_head_reads_the_raw_embedding_also_of_a_model_that_normalises(model, tiny_bert):
    modules = [Transformer(str(tiny_bert)), Pooling(32, "cls"), Normalize()]
    normalising = SentenceTransformer(modules=modules, device="cpu")
    values = []
    for candidate in (model, normalising):
        torch.manual_seed(0)
        loss = MiCSELoss(candidate, 0.1).train()
        values.append(total(loss([features(candidate, SENTENCES)])).item())
    assert values[0] == values[1]


def test_it_drops_into_the_trainer_and_leaves_no_trace_in_the_model(model, tmp_path):
    loss = MiCSELoss(model, 0.1)
    before, head = model.encode(SENTENCES), loss.head[0].weight.clone()
    args = SentenceTransformerTrainingArguments(
        tmp_path / "run", num_train_epochs=2, per_device_train_batch_size=3, learning_rate=1e-2,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    data = Dataset.from_dict({"sentence": [*SENTENCES, "the red cat", "a blue park", "dogs ran"]})
    SentenceTransformerTrainer(model, args, train_dataset=data, loss=loss).train()
    assert not np.allclose(before, model.encode(SENTENCES), atol=1e-3)
    assert not torch.equal(head, loss.head[0].weight)  # the head is trained, too
    assert not any("head" in name for name in model.state_dict())


def make_second_view_differ(module, inputs, output):
    """In place of dropout, which two processes would draw otherwise than one."""
    n = len(output) // 2
    scale = 1 + 0.5 * torch.sin(torch.arange(output.shape[-1]))
    return torch.cat([output[:n], output[n:] * scale])


def first_kept(kept, samples, generator):
    """In place of a draw by chance, which two processes would make otherwise than one."""
    return kept.long().argsort(dim=1, descending=True, stable=True)[:, :samples]


def loss_of(model):
    """A loss that plays no dice."""
    without_dropout(model).transformers_model.embeddings.register_forward_hook(
        make_second_view_differ
    )
    torch.manual_seed(0)
    return MiCSELoss(model, 0.5, min_layer=0, max_layer=2).train()


def gradients_of(model, loss):
    found = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    return found | {f"head.{n}": p.grad.numpy() for n, p in loss.head.named_parameters()}


def joint_step(rank, folder, shares, queue):
    """Terms and gradients of one of two processes, averaged as DDP does."""
    torch.set_num_threads(1)
    ami._draw = first_kept
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    loss = loss_of(model)
    loss.model = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    terms = loss([features(model, shares[rank])])
    total(terms).backward()
    values = {name: term.item() for name, term in terms.items()}
    queue.put((rank, values, gradients_of(model, loss)))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_info_nce_and_have_ami_of_their_own(
    model, tmp_path, processes, monkeypatch
):
    model.save_pretrained(str(tmp_path / "model"))
    # Four tokens in the one process's share, six in the other's: each pads for itself.
    words = ["cat", "dog", "mat", "park", "sat", "ran", "red", "big"]
    pairs = [f"{a} {b}" for a in words for b in words]
    shares = pairs[:32], [f"the {pair} ." for pair in pairs[32:]]
    queue = processes.Queue()
    started = [
        processes.Process(target=joint_step, args=(rank, tmp_path, shares, queue))
        for rank in range(2)
    ]
    for process in started:
        process.start()
    results = [queue.get(timeout=120) for _ in started]
    for process in started:
        process.join(timeout=60)

    monkeypatch.setattr(ami, "_draw", first_kept)
    loss = loss_of(model)
    info_nce = loss([features(model, [*shares[0], *shares[1]])])["info_nce"]
    own = [loss([features(model, share)])["ami_term"] for share in shares]
    (info_nce + (own[0] + own[1]) / 2).backward()
    expected = gradients_of(model, loss)
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for rank, terms, gradients in results:
        assert terms["info_nce"] == pytest.approx(info_nce.item(), rel=1e-5)
        assert terms["ami_term"] == pytest.approx(own[rank].item(), rel=1e-5)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            # Some are zero but for rounding: that of a key's bias, which softmax ignores.
            np.testing.assert_allclose(gradients[name], gradient, rtol=1e-3, atol=1e-6 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_heavy_ami_trains_without_nan(model, dtype):
    """Lambda 2 at a high learning rate, where taking the logarithm of probabilities diverges."""
    torch.manual_seed(0)
    loss = MiCSELoss(model, 2.0, min_layer=0, max_layer=2).train()
    sentences = [
        f"the {a} {b} on the red mat and the {a} sat" for a in ("cat", "dog") for b in "xyz"
    ]
    batch = features(model, sentences)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-3)
    amis = []
    for _ in range(100):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            terms = loss([batch])
            value = total(terms)
        optimizer.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        assert value.isfinite() and norm.isfinite()
        optimizer.step()
        amis.append(-terms["ami_term"].item())
    assert np.mean(amis[-20:]) > 1.1 * np.mean(amis[:20])  # it learns what it is paid for
