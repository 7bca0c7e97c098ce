from __future__ import annotations

from collections.abc import Iterator

import pyro
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "vmfdist",
    derandomize=True,  # a failure is found by everyone or by no one
    deadline=None,  # the first example of a dimension computes its Chebyshev tables
    print_blob=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],  # mpmath is
)
settings.load_profile("vmfdist")


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    """A fixed seed, an empty parameter store, and one thread, each test on its own.

    Operations of a few thousand elements lose more to threads than they gain.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pyro.set_rng_seed(20180)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
    torch.set_num_threads(threads)


@pytest.fixture(
    params=[pytest.param(torch.float32, id="float32"), pytest.param(torch.float64, id="float64")]
)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param
