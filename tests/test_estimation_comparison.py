# Tests of mean directions and concentrations. On the circle at high concentration directions are
# angles of a normal law, whose tests SciPy has; elsewhere simulation decides.

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize

from cases import BOUND, assert_mean, directions, standard_errors_off
from sizes import KINDS, LEVEL, rejected
from vmfdist import VonMisesFisher, estimation
from vmfdist.estimation import concentration_test, mean_direction_test


def angles(*sizes: int, spreads: tuple[float, ...], seed: int = 0) -> list[np.ndarray]:
    """Small ones, with spreads and means of their own."""
    generator = np.random.default_rng(seed)
    parts = zip(sizes, spreads, strict=True)
    return [1e-4 * (spread * generator.standard_normal(n) + 0.3 * i) for i, (n, spread) in
            enumerate(parts)]  # fmt: skip


def on_circle(angle: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)], -1))


def welch(groups: list[np.ndarray]) -> tuple[float, float]:
    """Welch (1951): statistic and p-value of the comparison of means with unequal variances."""
    r = len(groups)
    sizes, means = np.array([len(x) for x in groups]), np.array([x.mean() for x in groups])
    weights = sizes / np.array([x.var(ddof=1) for x in groups])
    total = weights.sum()
    between = (weights * (means - (weights * means).sum() / total) ** 2).sum() / (r - 1)
    blur = ((1 - weights / total) ** 2 / (sizes - 1)).sum()
    f = between / (1 + 2 * (r - 2) / (r**2 - 1) * blur)
    return float(f), float(stats.f.sf(f, r - 1, (r**2 - 1) / (3 * blur)))


def close(found: estimation.TestResult, statistic: float, p_value: float) -> None:
    assert math.isclose(found.statistic.item(), statistic, rel_tol=1e-6)
    assert math.isclose(found.p_value.item(), p_value, rel_tol=1e-5)


@pytest.mark.parametrize("sizes", [(7, 12), (7, 12, 5), (2, 2, 2, 3)])
def test_mean_directions_on_the_circle_are_means(sizes: tuple[int, ...]) -> None:
    spreads = (1.0, 0.5, 2.0, 0.7)[: len(sizes)]
    groups = angles(*sizes, spreads=spreads)
    samples = [on_circle(x) for x in groups]
    close(mean_direction_test(*samples), *stats.f_oneway(*groups))
    if sum(sizes) > 9:  # below, there are less than r - 1 second degrees of freedom
        close(mean_direction_test(*samples, equal_concentration=False), *welch(groups))
    if len(sizes) == 2:
        t, p = stats.ttest_ind(*groups, equal_var=False)
        close(mean_direction_test(*samples, equal_concentration=False), t**2, p)


def test_a_stated_mean_direction_on_the_circle_is_a_mean() -> None:
    (angle,) = angles(9, spreads=(1.0,))
    t, p = stats.ttest_1samp(angle, 2e-5)
    loc = on_circle(np.array(2e-5))
    for equal in (True, False):
        close(mean_direction_test(on_circle(angle), loc=loc, equal_concentration=equal), t**2, p)


def test_concentrations_on_the_circle_are_variances() -> None:
    for sizes in ((7, 12), (7, 12, 5)):
        groups = angles(*sizes, spreads=(1.0, 0.5, 2.0)[: len(sizes)])
        close(concentration_test(*(on_circle(x) for x in groups)), *stats.bartlett(*groups))


def test_the_stated_direction_is_in_the_cone_or_rejected() -> None:
    samples = VonMisesFisher(directions(4), 2.0).sample((12,))
    cone, mean = estimation.confidence_cone(samples), normalize(samples.sum(0), dim=0)
    side = normalize(directions(4, seed=3) - directions(4, seed=3) @ mean * mean, dim=0)
    for factor, p in ((0.999, 0.05), (1.001, 0.05)):
        angle = factor * cone
        result = mean_direction_test(samples, loc=angle.cos() * mean + angle.sin() * side)
        assert abs(result.p_value.item() - p) < 1e-3
        assert (result.p_value > p) == (factor < 1)


# Sizes: (kind, samples as (size, concentration)); all of them are in test_estimation_sizes.py.


@pytest.mark.parametrize(
    ("kind", "dim", "groups"),
    [
        ("unequal", 3, ((10, 10), (30, 100))),
        ("unequal", 10, ((50, 10), (20, 100))),
        ("unequal", 2, ((20, 3), (30, 10), (40, 100))),
        ("equal", 3, ((20, 10), (20, 10), (30, 10))),
        ("stated", 3, ((20, 3),)),
        ("concentrations", 3, ((20, 3), (50, 3))),
        ("concentrations", 10, ((20, 100), (20, 100), (30, 100))),
    ],
)
def test_what_is_true_is_rejected_as_often_as_it_should(
    kind: str, dim: int, groups: tuple[tuple[int, float], ...]
) -> None:
    found = rejected(kind, dim, groups, 4000)
    assert_mean(found, LEVEL)
    for wrong in (0.03, 0.08):
        assert standard_errors_off(found, wrong) > BOUND


def test_unequal_concentrations_spoil_the_test_that_takes_them_for_equal() -> None:
    groups = ((10, 10), (30, 100))
    assert rejected("equal", 3, groups, 500).mean() > 0.2
    assert rejected("equal", 3, groups[::-1], 500).mean() > 0.2  # whatever the order


def test_powers() -> None:
    loc, turned = (
        torch.eye(3, dtype=torch.float64)[0],
        torch.tensor([0.8, 0.6, 0.0], dtype=torch.float64),
    )
    a = VonMisesFisher(loc, 5.0).sample((300, 20))
    b = VonMisesFisher(turned, 50.0).sample((300, 30))
    for result in (
        mean_direction_test(a, b, equal_concentration=False),
        mean_direction_test(a, b, loc=turned, equal_concentration=False),
        mean_direction_test(a, loc=turned),
        concentration_test(a, b),
    ):
        assert (result.p_value < LEVEL).double().mean() > 0.9


# Degenerate data and shapes


def test_samples_without_spread(dtype: torch.dtype) -> None:
    east, north = directions(2, 3, dtype=dtype)
    spread = VonMisesFisher(directions(3, dtype=dtype), 5.0).sample((6,))
    for equal in (True, False):

        def test(*samples: Tensor, **options: Any) -> list[float]:
            result = mean_direction_test(*samples, equal_concentration=equal, **options)  # noqa: B023
            assert result.statistic.dtype == result.p_value.dtype == dtype
            return [x.item() for x in result]

        easts = east.expand(3, 3)
        assert test(easts, easts[:2], easts) == [0, 1]
        assert test(easts, north.expand(2, 3), easts) == [math.inf, 0]
        assert test(easts, loc=east) == [0, 1]
        assert test(easts, loc=north) == [math.inf, 0]
        opposite = torch.stack([north, -north])
        assert test(opposite, torch.stack([east, -east])) == [0, 1]
        assert test(opposite, loc=east) == [0, 1]
    # A sample without spread states a direction.
    among = mean_direction_test(spread, easts, equal_concentration=False)
    stated = mean_direction_test(spread, loc=east)
    torch.testing.assert_close(among, stated)
    assert concentration_test(easts, spread) == (math.inf, 0)
    assert concentration_test(easts, north.expand(2, 3)) == (0, 1)
    assert concentration_test(opposite, opposite) == (0, 1)


def test_batches_of_several_samples() -> None:
    a, b, c = directions(4, 1, 5, 3), directions(2, 6, 3, seed=2), directions(7, 3, seed=3)
    locs = directions(4, 2, 3)
    for equal in (True, False):
        result = mean_direction_test(a, b, c, equal_concentration=equal)
        assert result.statistic.shape == result.p_value.shape == (4, 2)
        single = mean_direction_test(a[3, 0], b[1], c, equal_concentration=equal)
        torch.testing.assert_close(result.p_value[3, 1], single.p_value)
        stated = mean_direction_test(a, b, loc=locs, equal_concentration=equal)
        single = mean_direction_test(a[3, 0], b[1], loc=locs[3, 1], equal_concentration=equal)
        torch.testing.assert_close(stated.p_value[3, 1], single.p_value)
    result = concentration_test(a, b, c.float())
    assert result.p_value.shape == (4, 2)
    assert result.p_value.dtype == torch.float64
    torch.testing.assert_close(result.p_value[3, 1], concentration_test(a[3, 0], b[1], c).p_value,
                               rtol=1e-4, atol=0)  # fmt: skip


def test_order_does_not_matter() -> None:
    a, b, c = (VonMisesFisher(directions(3), k).sample((9,)) for k in (2.0, 20.0, 5.0))
    for kind in ("equal", "unequal", "concentrations"):
        torch.testing.assert_close(KINDS[kind](a, b, c), KINDS[kind](c, a, b))


def test_what_cannot_be_compared() -> None:
    eye = torch.eye(3)
    for function in (mean_direction_test, concentration_test):
        for samples in ((), (eye,)):
            with pytest.raises(ValueError, match=f"at least two samples .*got {len(samples)}"):
                function(*samples)
        with pytest.raises(ValueError, match=r"dimension 3 \(samples\[0\]\) and 4 \(samples\[1\]"):
            function(eye, torch.eye(4))
    with pytest.raises(ValueError, match="more vectors in all than there are samples, got 2 vec"):
        mean_direction_test(eye[:1], eye[1:2])
    with pytest.raises(ValueError, match="got 1 vector in 1"):
        mean_direction_test(eye[:1], loc=eye[0])
    for test in (KINDS["unequal"], concentration_test):
        with pytest.raises(ValueError, match=r"samples\[1\] must hold at least two vectors"):
            test(eye, eye[:1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_unchecked_data_that_are_no_numbers_make_nan(bad: float) -> None:
    torch.distributions.Distribution.set_default_validate_args(False)
    good = directions(5, 3)
    spoilt = good.clone()
    spoilt[0, 1] = bad
    samples, other = torch.stack([good, spoilt]), directions(4, 3, seed=3)
    for kind in ("equal", "unequal", "stated", "concentrations"):
        given = (samples,) if kind == "stated" else (other, samples)
        for x in KINDS[kind](*given):
            assert x.isnan().tolist() == [False, True], kind


@pytest.mark.parametrize("test", [mean_direction_test, concentration_test])
def test_batches_that_do_not_fit(test: Any) -> None:
    with pytest.raises(ValueError, match=r"broadcast, got shapes \(4, 10, 3\) \(samples\[0\]"):
        test(directions(4, 10, 3), directions(3, 10, 3))
