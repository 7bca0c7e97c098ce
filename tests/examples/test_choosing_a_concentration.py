# The figure of the law: what a concentration means, and the way back.

from __future__ import annotations

from pathlib import Path

import mpmath as mp
import pytest
import torch

import choosing_a_concentration as script

PNG = b"\x89PNG\r\n\x1a\n"


def divergence(concentration: float, dim: int) -> mp.mpf:
    """The divergence from the uniform law, by Bessel functions."""
    with mp.workdps(30):
        k, order = mp.mpf(concentration), mp.mpf(dim) / 2 - 1
        # log of C_d(k) times the area of the sphere, then k A_d(k)
        log_ratio = order * mp.log(k / 2) - mp.loggamma(order + 1) - mp.log(mp.besseli(order, k))
        return log_ratio + k * mp.besseli(order + 1, k) / mp.besseli(order, k)


@pytest.mark.parametrize(
    ("dim", "most"), [(2, 5.0), (3, 10.0), (10, 20.0), (50, 20.0), (200, 20.0)]
)
def test_concentration_for(dim: int, most: float) -> None:
    nats = torch.tensor([1e-3, 0.1, 1.0, most], dtype=torch.float64)
    for target, found in zip(nats, script.concentration_for(nats, dim), strict=True):
        assert float(divergence(found.item(), dim)) == pytest.approx(target.item(), rel=1e-12)


def test_published_figures() -> None:
    for concentration, nats in ((80.0, 19.52), (35.0, 7.74)):
        assert float(divergence(concentration, 50)) == pytest.approx(nats, abs=0.005)


def test_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "figure.png"
    dims = ["--dim", "3", "--dim", "50", "--dim", "3"]  # once each
    assert script.main([*dims, "--output", str(figure)]) == 0
    output, bars = capsys.readouterr()
    assert [line.split()[0] for line in output.splitlines()[4:6]] == ["3", "50"]
    assert output.splitlines()[6].startswith("---")
    assert "82.24  (0.74)" in output  # 50 dimensions, 20 nats
    assert "100%" in bars
    assert figure.read_bytes().startswith(PNG)
