# The benchmarks are not in the default run; here each of their callables runs once, on few rows.

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent / "benchmarks"


def test_every_benchmark_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("speed", FOLDER / "test_speed.py")
    assert spec is not None
    assert spec.loader is not None
    speed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(speed)
    monkeypatch.delitem(sys.modules, "rivals")
    assert all(isinstance(case.values[-1], str) for case in speed.timed())
    for job, sizes in speed.JOBS:
        for _, dim in sizes:
            for run in job(3, dim).values():
                run()


@pytest.mark.parametrize(("dim", "most"), [(2, 53), (3, 66), (4, 46), (6, 44), (8, 43), (20, 43)])
def test_a_minibatch_takes_few_operations(
    dim: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    operations = importlib.import_module("operations")
    monkeypatch.delitem(sys.modules, "operations")
    found = operations.of_a_minibatch(dim)
    assert {"randn", "sqrt"} <= set(found["forward"])
    assert found["forward"].total() <= most
    assert 0 < found["backward"].total() <= 11
    assert found["construction"].total() <= 4


def test_views_and_what_does_nothing_are_not_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    operations = importlib.import_module("operations")
    monkeypatch.delitem(sys.modules, "operations")
    x = torch.ones(2, 3)
    counted = operations.operations(
        lambda: (x.reshape(-1).unsqueeze(0), x.to(x.dtype), x.to(torch.float64), x.mT.contiguous())
    )
    assert counted == {"_to_copy": 1, "clone": 1}
    assert operations.operations(lambda: torch.where(x > 0, x, 0.0).sum().item()) == {
        "gt": 1,
        "where": 1,
        "sum": 1,
        "_local_scalar_dense": 1,
    }
