from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import distributed

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


@pytest.fixture
def group() -> Iterator[distributed.ProcessGroup]:
    """A group of this process alone."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    world = distributed.group.WORLD
    assert world is not None
    yield world
    del world
    # Of torch 2.6 the end of a group waits for its thread, which may wait for the interpreter to
    # let go of its last tensor.
    time.sleep(0.1)
    distributed.destroy_process_group()
