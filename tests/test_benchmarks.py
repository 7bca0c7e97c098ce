# The benchmarks are not in the default run; here each of their callables runs once, on few rows.

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

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
