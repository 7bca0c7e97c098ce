# The test of a von Mises-Fisher law: statistics by their definitions, p-values, sizes and powers by
# simulation.

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor
from torch.nn.functional import normalize

from cases import BOUND, directions, standard_errors_off
from sizes import LEVEL, misfits
from vmfdist import SphericalCauchy, VonMisesFisher
from vmfdist.estimation import GoodnessOfFit, goodness, goodness_of_fit


def cosine_probability(w: float, k: float, dim: int) -> float:
    def density(v: float) -> float:
        return math.exp(k * (v - 1)) * (1 - v * v) ** ((dim - 3) / 2)

    below, whole = (integrate.quad(density, -1, end)[0] for end in (w, 1))
    return below / whole


@pytest.mark.parametrize("dim", [3, 4, 7])
def test_statistics_by_their_definitions(dim: int, dtype: torch.dtype) -> None:
    x = VonMisesFisher(directions(dim), 3.0).sample((12,)).to(dtype)
    found = goodness_of_fit(x, simulations=1)
    x = normalize(x.double(), dim=-1)
    law, n, p = VonMisesFisher.fit(x), 12, dim - 1
    cosines, k = x @ law.loc, law.concentration.item()
    u = np.sort([cosine_probability(w, k, dim) for w in cosines.tolist()])
    odd = 2 * np.arange(1, n + 1) - 1
    expected = -n - (odd * (np.log(u) + np.log1p(-u[::-1]))).mean()
    assert found.cosine.statistic.item() == pytest.approx(expected, rel=1e-5)
    tangents = normalize(x - cosines.unsqueeze(-1) * law.loc, dim=-1)
    frame = torch.linalg.svd(law.loc.unsqueeze(0)).Vh[1:]
    v = tangents @ frame.T
    moments = v.T @ v / n - torch.eye(p, dtype=torch.float64) / p
    second = n * p * (p + 2) / 2 * moments.square().sum()
    expected = (n * p * v.mean(0).square().sum() + second).item()
    assert found.tangent.statistic.item() == pytest.approx(expected, rel=1e-4)
    assert found.cosine.statistic.dtype == found.tangent.p_value.dtype == dtype


def test_on_the_circle_tangents_are_signs() -> None:
    x = VonMisesFisher(directions(2), 1.0).sample((30,))
    loc = VonMisesFisher.fit(x).loc
    sides = torch.sign(x @ torch.stack([-loc[1], loc[0]]))
    found = goodness_of_fit(x, simulations=1).tangent.statistic
    torch.testing.assert_close(found, 30 * sides.mean().square())


def test_p_values_are_those_of_samples_of_the_fitted_law() -> None:
    x = SphericalCauchy(directions(3), 0.5).sample((20,))
    x = torch.cat([x, VonMisesFisher(directions(3), 3.0).sample((20,))])
    found = goodness_of_fit(x, simulations=1999)
    law = VonMisesFisher.fit(x)
    drawn = goodness_of_fit(law.sample((3000, 40)), simulations=1)
    for part, null in zip(found, drawn, strict=True):
        as_large = (null.statistic >= part.statistic).double()
        shares = torch.cat([as_large, part.p_value.expand(1)])
        assert standard_errors_off(shares, part.p_value) < 2 * BOUND
    assert found.p_value == (2 * min(part.p_value.item() for part in found))


@pytest.mark.parametrize(("dim", "n", "k"), [(3, 20, 3.0), (6, 20, 100.0)])
def test_what_is_true_is_rejected_as_often_as_it_should(dim: int, n: int, k: float) -> None:
    for part, found in misfits(dim, n, k, 4000).items():
        # What it is compared to is simulated too, as often.
        assert standard_errors_off(found, LEVEL) < BOUND * 2**0.5, part
        for wrong in (0.02, 0.1):
            assert standard_errors_off(found, wrong) > BOUND * 2**0.5, part


def test_p_values_are_rejected_as_often_as_they_should() -> None:
    # A batch has one set of simulations: as many of them as there are seeds are independent.
    x = VonMisesFisher(directions(3), 10.0).sample((60, 10, 12))
    results = [goodness_of_fit(y, simulations=19, seed=i) for i, y in enumerate(x)]
    for part in ("cosine", "tangent"):
        p_values = torch.stack([getattr(result, part).p_value for result in results])
        shares = (p_values <= 0.1).double().mean(-1)
        assert standard_errors_off(shares, 0.1) < BOUND
        assert standard_errors_off(shares, 0.2) > BOUND


def power(samples: Tensor) -> list[float]:
    """The shares that cosines, tangents and both reject."""
    result = goodness_of_fit(samples, simulations=99)
    return [(x.p_value <= LEVEL).double().mean().item() for x in (*result, result)]


def test_what_each_part_sees() -> None:
    loc, side = torch.eye(3, dtype=torch.float64)[:2]
    x = VonMisesFisher(loc, 10.0).sample((40, 50))
    near = VonMisesFisher(normalize(loc + 2 * side, dim=0), 10.0).sample((40, 50))
    heavy = SphericalCauchy(loc, 0.7).sample((40, 50))
    wide = normalize(x + 1.5 * (x @ side).unsqueeze(-1) * side, dim=-1)
    cosine, tangent, both = power(heavy)
    assert cosine > 0.8
    assert tangent < 0.2
    assert both > 0.7
    for samples in (wide, torch.where(torch.rand(40, 50, 1) < 0.7, x, near)):
        cosine, tangent, both = power(samples)
        assert tangent > 0.5
        assert both > 0.4


# Degenerate data, shapes, errors


def test_degenerate_samples(dtype: torch.dtype) -> None:
    x = directions(4, dtype=dtype)
    for n in (1, 9):
        result = goodness_of_fit(x.expand(n, 4), simulations=19)
        assert result.p_value == 1
        assert [tuple(part) for part in result] == [(0, 1)] * 2
    cross = torch.cat([torch.eye(3, dtype=dtype), -torch.eye(3, dtype=dtype)])
    pair = directions(2, 3, dtype=dtype)
    for samples in (cross, cross[[0, 3]], pair):
        result = goodness_of_fit(samples, simulations=19)
        for part in result:
            assert part.statistic.isfinite()
            assert 0 < part.p_value <= 1
    # far beyond what the law could have made
    far = torch.cat([VonMisesFisher(x, 1e6).sample((60,)), -x[None]])
    assert goodness_of_fit(far, simulations=99).cosine.p_value.item() == pytest.approx(0.01)


def test_blocks_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = VonMisesFisher(directions(2, 3, 4), 5.0).sample((8,)).movedim(0, 2)
    x[0, 0] = directions(4)  # a point mass beside others
    state = torch.get_rng_state()
    whole = goodness_of_fit(x, simulations=50, seed=3)
    assert whole.p_value.shape == whole.tangent.statistic.shape == (2, 3)
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(goodness, "BLOCK_NUMBERS", 1000)
    for found, expected in (
        (goodness_of_fit(x, simulations=50, seed=3), whole),
        (goodness_of_fit(x[1, 2], simulations=50, seed=3), of_row(whole, (1, 2))),
    ):
        for part, same in zip(found, expected, strict=True):
            torch.testing.assert_close(part.statistic, same.statistic)
            torch.testing.assert_close(part.p_value, same.p_value)
    assert goodness_of_fit(x[:0], simulations=50).p_value.shape == (0, 3)
    numpys = goodness_of_fit(x, simulations=np.int64(50), seed=np.int32(3))
    assert torch.equal(numpys.p_value, whole.p_value)
    other = goodness_of_fit(x, simulations=50, seed=4)
    assert not torch.equal(other.cosine.p_value, whole.cosine.p_value)


def of_row(result: GoodnessOfFit, row: tuple[int, ...]) -> GoodnessOfFit:
    return GoodnessOfFit(*(type(part)(*(x[row] for x in part)) for part in result))


def test_turned_samples_have_the_same_statistics() -> None:
    x = VonMisesFisher(directions(5), 4.0).sample((20,))
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    for part, same in zip(
        *(goodness_of_fit(y, simulations=99) for y in (x, x @ turn)), strict=True
    ):
        torch.testing.assert_close(part.statistic, same.statistic)
        torch.testing.assert_close(part.p_value, same.p_value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"simulations": 0}, ValueError, "simulations must be positive, got 0"),
        ({"simulations": 9.5}, TypeError, "simulations must be an integer, got float"),
        ({"seed": -1}, ValueError, "seed must be from 0 to"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        goodness_of_fit(torch.eye(3), **options)


def test_what_is_no_sample() -> None:
    with pytest.raises(ValueError, match=r"samples .* unit vectors"):
        goodness_of_fit(2 * torch.eye(3))
    with pytest.raises(ValueError, match=r"samples must have shape \(..., n, d\)"):
        goodness_of_fit(torch.ones(3))
    torch.distributions.Distribution.set_default_validate_args(False)
    samples = directions(2, 5, 3)
    samples[1, 0, 0] = math.nan
    for part in goodness_of_fit(samples, simulations=9):
        assert part.statistic.isnan().tolist() == part.p_value.isnan().tolist() == [False, True]
