"""Whatever texts and numbers the core is given, what it returns is finite and within bounds."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from micse_utils.encoding import encode
from micse_utils.evaluation.metrics import unit
from micse_utils.models import load_model
from micse_utils.training.ami import attention_mutual_information
from micse_utils.training.losses import info_nce

tried = settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


@pytest.fixture(scope="module")
def tiny(tiny_bert):
    return load_model(tiny_bert, device="cpu")


@tried
@given(st.lists(st.text(st.characters(codec=None), max_size=40), min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_text_has_a_finite_vector_of_its_own(tiny, texts):
    together = encode(tiny, texts, max_length=16, dtype=torch.float32)
    assert np.isfinite(together).all()
    alone = [encode(tiny, [text], max_length=16, dtype=torch.float32)[0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-5)


@tried
@given(arrays.arrays(np.float32, (4, 3), elements=st.floats(-(2.0**60), 2.0**60, width=32)))
def test_unit_vectors_have_length_one_or_stay_zero(vectors):
    lengths = np.linalg.norm(unit(vectors).astype(np.float64), axis=1)
    assert np.isfinite(lengths).all()
    np.testing.assert_allclose(lengths[np.abs(vectors).max(axis=1) > 1e-18], 1, atol=1e-5)


@tried
@given(
    arrays.arrays(np.float32, (2, 5, 4), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(0.01, 10),
)
def test_info_nce_and_its_gradient_are_finite(views, temperature):
    both = torch.tensor(views, requires_grad=True)
    loss = info_nce(both[0], both[1], temperature=temperature)
    loss.backward()
    assert loss.item() >= -1e-6
    assert both.grad.isfinite().all()


@tried
@given(
    arrays.arrays(
        np.float32, (2, 3, 20), elements=st.one_of(st.floats(-100, 0, width=32), st.just(-np.inf))
    ),
    st.integers(2, 30),
)
def test_attention_mutual_information_and_its_gradient_are_finite(rows, samples):
    both = torch.tensor(rows, requires_grad=True)
    value = attention_mutual_information(both[0], both[1], samples=samples)
    value.backward()
    assert 0 <= value.item() < 7
    assert both.grad.isfinite().all()
