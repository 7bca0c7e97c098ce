# Training on several machines: two processes, started by torchrun, take the step of one.

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import several_processes as worker
from several_processes import BATCH, ELBOS, SEED, Loss, model_and_data, set_seed

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
COUNT = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process saved."""
    folder = tmp_path_factory.mktemp("processes")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, f"--nproc-per-node={COUNT}", worker.__file__, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(COUNT)]


@pytest.mark.parametrize("name", ELBOS)
def test_gradients_are_those_of_one_process(found: list[dict[str, Any]], name: str) -> None:
    # one process, fed each rank's rows under each rank's noise
    vae, data = model_and_data()
    loss = Loss(vae, ELBOS[name]())
    for rank in range(COUNT):
        set_seed(SEED, 0, 1 + rank)
        (loss(data[BATCH[rank::COUNT]], 0.5) / len(BATCH)).backward()
    for ours in found:
        for parameter, gradient in vae.named_parameters():
            torch.testing.assert_close(ours["gradients"][name][parameter], gradient.grad)
            assert gradient.grad.norm() > 0


def test_processes_draw_different_noise(found: list[dict[str, Any]]) -> None:
    first, second = (ours["noise"] for ours in found)
    assert not torch.isclose(first, second).any()


def test_processes_end_with_the_same_weights(found: list[dict[str, Any]]) -> None:
    first, second = (ours["straight"]["weights"] for ours in found)
    start, _ = model_and_data()
    for name, weights in first.items():
        torch.testing.assert_close(weights, second[name], atol=0, rtol=0)
        assert not torch.equal(weights, start.state_dict()[name])


def test_only_one_process_speaks(found: list[dict[str, Any]]) -> None:
    assert [ours["straight"]["epochs"] for ours in found] == [3, 0]


def test_a_killed_run_goes_on_to_the_same_weights(found: list[dict[str, Any]]) -> None:
    for ours in found:
        for name, weights in ours["straight"]["weights"].items():
            torch.testing.assert_close(ours["resumed"]["weights"][name], weights, atol=0, rtol=0)
