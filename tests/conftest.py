from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from isolation import isolated

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
def isolation() -> Iterator[None]:
    """Each test starts alike, whatever the ones before have done."""
    with isolated():
        yield


@pytest.fixture(
    params=[pytest.param(torch.float32, id="float32"), pytest.param(torch.float64, id="float64")]
)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param
