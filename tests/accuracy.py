"""Measures errors in units of machine epsilon, for the tests and for docs/accuracy.py."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import mpmath as mp
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from reference import power_spherical, radial, spherical_cauchy
from vmfdist import HypersphericalUniform, PowerSpherical, VonMisesFisher, special
from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms import spherical_cauchy as sc
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._closed_forms.sphere import log_sphere_area
from vmfdist._families.spherical_cauchy import SPHERICAL_CAUCHY

# Rounded to float32, so that both dtypes and one reference share the very same numbers.
CONCENTRATIONS: list[float] = torch.tensor(
    [0.0, *(10.0**e for e in range(-12, 13)), 0.3, 0.7, 1.7, 3.0, 5.5, 17.0, 42.0, 333.0, 7e3, 2e5],
    dtype=torch.float32,
).tolist()
ALL_SMALL_DIMS = list(range(2, 41))
LARGE_DIMS = [50, 64, 65, 100, 333, 1000, 4096, 30_000, 100_000, 1_000_000]

Truth = Callable[[Any, mp.mpf], tuple[mp.mpf, mp.mpf]]  # the true value and its scale


class Quantity(NamedTuple):
    name: str
    compute: Callable[[Tensor, int], Tensor]
    truth: Truth
    limit: float  # in units of eps
    reference: Callable[[int, float], Any] = radial
    concentrations: Sequence[float] = CONCENTRATIONS


class Error(NamedTuple):
    eps: float
    dim: int
    concentration: float | tuple[float, float]


def _law(k: Tensor, dim: int) -> VonMisesFisher:
    loc = torch.zeros(dim, dtype=k.dtype)
    loc[0] = 1
    return VonMisesFisher(loc, k, validate_args=False)


def _kl(k: Tensor, dim: int) -> Tensor:
    return kl_divergence(_law(k, dim), HypersphericalUniform(dim))


def derivative(function: Callable[[Tensor, int], Tensor], times: int = 1) -> Callable[..., Tensor]:
    def compute(k: Tensor, dim: int) -> Tensor:
        x = k.detach().requires_grad_()
        y = function(x, dim)
        for _ in range(times):
            (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y.detach()

    return compute


def _relative(value: Callable[[Any, mp.mpf], mp.mpf]) -> Truth:
    def truth(r: Any, k: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
        v = value(r, k)
        return v, abs(v)

    return truth


def _scaled(value: Callable[[Any, mp.mpf], mp.mpf]) -> Truth:
    def truth(r: Any, k: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
        v = value(r, k)
        return v, max(abs(v), abs(r.log_area), mp.mpf(1))

    return truth


def _third(r: Any, k: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    # A''' changes sign: beside A''/k, which is as large at either end.
    return r.fourth_cumulant, max(abs(r.fourth_cumulant), abs(r.third_cumulant) / k if k else 0)


def _across_slope(pair: tuple[Any, Any], k: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    # A/k = 1 / (d + k A_{d+2})
    r, above = pair
    across = r.mean / k if k else r.variance
    value = -(across**2) * (above.mean + k * above.variance)
    return value, abs(value)


def _across_curvature(pair: tuple[Any, Any], k: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    # It changes sign: relative to its terms.
    r, above = pair
    across = r.mean / k if k else r.variance
    square = 2 * across**3 * (above.mean + k * above.variance) ** 2
    first, second = 2 * across**2 * above.variance, across**2 * k * above.third_cumulant
    return square - first - second, square + abs(first) + abs(second)


def _with_next(dim: int, k: float) -> tuple[Any, Any]:
    return radial(dim, k), radial(dim + 2, k)


def _kl_second(r: Any, k: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    # A' + k A'' changes sign: relative to its terms.
    return r.variance + k * r.third_cumulant, r.variance + abs(k * r.third_cumulant)


QUANTITIES = [
    Quantity("log-partition", vmf.log_partition, _relative(lambda r, k: r.log_partition), 8),
    Quantity(
        "mean resultant length",
        lambda k, d: _law(k, d).mean_resultant_length,
        _relative(lambda r, k: r.mean),
        8,
    ),
    Quantity(
        "1 - mean resultant length",
        vmf.one_minus_mean_resultant_length,
        _relative(lambda r, k: r.one_minus_mean),
        8,
    ),
    Quantity(
        "variance across loc",
        lambda k, d: _law(k, d).covariance_eigenvalues.across,
        _relative(lambda r, k: r.mean / k if k else r.variance),
        8,
    ),
    Quantity("KL to uniform", _kl, _relative(lambda r, k: r.kl_to_uniform(k)), 8),
    Quantity("entropy", lambda k, d: _law(k, d).entropy(), _scaled(lambda r, k: r.entropy(k)), 8),
    Quantity(
        "log normalizer",
        lambda k, d: _law(k, d).log_normalizer,
        _scaled(lambda r, k: r.log_normalizer),
        8,
    ),
    Quantity(
        "log density at the mode",
        vmf.log_density_at_mode,
        _scaled(lambda r, k: r.log_density_at_mode(k)),
        16,
    ),
    Quantity(
        "log-partition, 1st derivative",
        derivative(vmf.log_partition),
        _relative(lambda r, k: r.mean),
        16,
    ),
    Quantity(
        "mean resultant length, 1st derivative",
        derivative(vmf.mean_resultant_length),
        _relative(lambda r, k: r.variance),
        16,
    ),
    Quantity(
        "KL to uniform, 1st derivative",
        derivative(_kl),
        _relative(lambda r, k: k * r.variance),
        16,
    ),
    Quantity(
        "log density at the mode, 1st derivative",
        derivative(vmf.log_density_at_mode),
        _relative(lambda r, k: r.one_minus_mean),
        16,
    ),
    Quantity(
        "log-partition, 2nd derivative",
        derivative(vmf.log_partition, 2),
        _relative(lambda r, k: r.variance),
        64,
    ),
    Quantity(
        "mean resultant length, 2nd derivative",
        derivative(vmf.mean_resultant_length, 2),
        _relative(lambda r, k: r.third_cumulant),
        64,
    ),
    Quantity(
        "mean resultant length, 3rd derivative",
        derivative(vmf.mean_resultant_length, 3),
        _third,
        64,
    ),
    Quantity(
        "variance across loc, 1st derivative",
        derivative(lambda k, d: _law(k, d).covariance_eigenvalues.across),
        _across_slope,
        16,
        _with_next,
    ),
    Quantity(
        "variance across loc, 2nd derivative",
        derivative(lambda k, d: _law(k, d).covariance_eigenvalues.across, 2),
        _across_curvature,
        64,
        _with_next,
    ),
    Quantity("KL to uniform, 2nd derivative", derivative(_kl, 2), _kl_second, 64),
]


def _power_law(k: Tensor, dim: int) -> PowerSpherical:
    loc = torch.zeros(dim, dtype=k.dtype)
    loc[0] = 1
    return PowerSpherical(loc, k, validate_args=False)


def _power_to_uniform(k: Tensor, dim: int) -> Tensor:
    return kl_divergence(_power_law(k, dim), HypersphericalUniform(dim))


def _uniform_to_power(k: Tensor, dim: int) -> Tensor:
    return kl_divergence(HypersphericalUniform(dim), _power_law(k, dim))


def _cosine_entropy(k: Tensor, dim: int) -> Tensor:
    return _power_law(k, dim).cosine.entropy()


def _power_kl_second(r: Any, k: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    term = k * r.third_cumulant_log
    return r.variance_log + term, r.variance_log + abs(term)


def _of_power(
    name: str, compute: Any, truth: Truth, limit: float, reference: Any = power_spherical
) -> Quantity:
    return Quantity(f"power spherical: {name}", compute, truth, limit, reference)


# Of its cosine, functions of b = (d - 1)/2 and k: (1 + w)/2 has the law Beta(b + k, b).


def _mean_cosine(b: mp.mpf, k: mp.mpf) -> mp.mpf:
    return k / (2 * b + k)


def _along(b: mp.mpf, k: mp.mpf) -> mp.mpf:
    y = 2 * b + k
    return 4 * (b + k) * b / (y**2 * (y + 1))


def _across(b: mp.mpf, k: mp.mpf) -> mp.mpf:
    y = 2 * b + k
    return 2 * (b + k) / (y * (y + 1))


_OfCosine = Callable[[mp.mpf, mp.mpf], mp.mpf]


def _beside(value: _OfCosine, term: _OfCosine = lambda b, k: mp.mpf(0)) -> Truth:
    """What changes sign is judged beside a term of it."""

    @functools.cache
    def truth(b: mp.mpf, k: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
        with mp.workdps(70):
            found = value(b, k)
            return found, max(abs(found), term(b, k))

    return truth


def _derivative_of(function: _OfCosine, times: int) -> _OfCosine:
    def at(b: mp.mpf, k: mp.mpf) -> mp.mpf:
        with mp.workdps(150):
            step = (b + k) * mp.mpf("1e-30")
            return mp.diff(lambda x: function(b, x), k, times, h=step)

    return at


def _across_slope_term(b: mp.mpf, k: mp.mpf) -> mp.mpf:
    y = 2 * b + k
    return 2 * b / (y * (y + 1)) ** 2


def _across_curvature_term(b: mp.mpf, k: mp.mpf) -> mp.mpf:
    y = 2 * b + k
    return 4 * b * (3 * y * (y + 1) + 1) / (y * (y + 1)) ** 3


def _along_curvature_term(b: mp.mpf, k: mp.mpf) -> mp.mpf:
    y = 2 * b + k
    return 8 * b * b * (2 * y + 1) / (y**4 * (y + 1) ** 3)


def _half_dim(dim: int, k: float) -> mp.mpf:
    return mp.mpf(dim - 1) / 2


_COSINE = [
    (
        "mean cosine",
        lambda k, d: _power_law(k, d).mean_resultant_length,
        [
            (8, _beside(_mean_cosine)),
            (16, _beside(_derivative_of(_mean_cosine, 1))),
            (64, _beside(_derivative_of(_mean_cosine, 2))),
        ],
    ),
    (
        "variance along loc",
        lambda k, d: _power_law(k, d).covariance_eigenvalues.along,
        [
            (8, _beside(_along)),
            (16, _beside(_derivative_of(_along, 1))),
            (64, _beside(_derivative_of(_along, 2), _along_curvature_term)),
        ],
    ),
    (
        "variance across loc",
        lambda k, d: _power_law(k, d).covariance_eigenvalues.across,
        [
            (8, _beside(_across)),
            (16, _beside(_derivative_of(_across, 1), _across_slope_term)),
            (64, _beside(_derivative_of(_across, 2), _across_curvature_term)),
        ],
    ),
]
_ORDINALS = ("", ", 1st derivative", ", 2nd derivative")
QUANTITIES += [
    _of_power(
        name + _ORDINALS[times],
        derivative(compute, times) if times else compute,
        truth,
        limit,
        _half_dim,
    )
    for name, compute, truths in _COSINE
    for times, (limit, truth) in enumerate(truths)
]


QUANTITIES += [
    _of_power("log-partition", ps.log_partition, _relative(lambda r, k: r.log_partition), 8),
    _of_power(
        "log-partition, 1st derivative",
        derivative(ps.log_partition),
        _relative(lambda r, k: r.mean_log),
        16,
    ),
    _of_power(
        "log-partition, 2nd derivative",
        derivative(ps.log_partition, 2),
        _relative(lambda r, k: r.variance_log),
        64,
    ),
    _of_power(
        "log-partition, 3rd derivative",
        derivative(ps.log_partition, 3),
        _relative(lambda r, k: r.third_cumulant_log),
        64,
    ),
    _of_power(
        "log normalizer",
        lambda k, d: _power_law(k, d).log_normalizer,
        _scaled(lambda r, k: r.log_normalizer(k)),
        8,
    ),
    _of_power(
        "entropy", lambda k, d: _power_law(k, d).entropy(), _scaled(lambda r, k: r.entropy(k)), 8
    ),
    _of_power(
        "entropy of the cosine",
        _cosine_entropy,
        lambda r, k: (r.cosine_entropy, max(abs(r.cosine_entropy), mp.mpf(1))),
        8,
    ),
    _of_power(
        "entropy of the cosine, 1st derivative",
        derivative(_cosine_entropy),
        lambda r, k: (r.cosine_entropy_slope, max(abs(r.cosine_entropy_slope), 1 / (r.b + k))),
        16,
    ),
    _of_power(
        "entropy of the cosine, 2nd derivative",
        derivative(_cosine_entropy, 2),
        lambda r, k: (
            r.cosine_entropy_curvature,
            max(abs(r.cosine_entropy_curvature), 1 / (r.b + k) ** 2),
        ),
        64,
    ),
    _of_power("KL to uniform", _power_to_uniform, _relative(lambda r, k: r.kl_to_uniform(k)), 8),
    _of_power(
        "KL to uniform, 1st derivative",
        derivative(_power_to_uniform),
        _relative(lambda r, k: k * r.variance_log),
        16,
    ),
    _of_power(
        "KL to uniform, 2nd derivative", derivative(_power_to_uniform, 2), _power_kl_second, 64
    ),
    _of_power("KL from uniform", _uniform_to_power, _relative(lambda r, k: r.from_uniform), 8),
    _of_power(
        "KL from uniform, 1st derivative",
        derivative(_uniform_to_power),
        _relative(lambda r, k: r.mean_log_rise),
        16,
    ),
]


# Functions of k = 2 artanh(rho), the strength of the spherical Cauchy law, for which there is no
# point in more than 36: there rho is 1 to rounding.
STRENGTHS: list[float] = torch.tensor(
    [
        0.0,
        *(10.0**e for e in range(-12, 0, 2)),
        0.03,
        0.3,
        0.7,
        1.0,
        2.5,
        4.0,
        7.0,
        12.0,
        20.0,
        28.0,
    ],
    dtype=torch.float32,
).tolist()


def _cauchy_entropy(k: Tensor, dim: int) -> Tensor:
    return log_sphere_area(dim) - sc.kl_to_uniform(k, dim)


def _of_cauchy(name: str, compute: Any, truth: Truth, limit: float) -> Quantity:
    return Quantity(f"spherical Cauchy: {name}", compute, truth, limit, spherical_cauchy, STRENGTHS)


CAUCHY_QUANTITIES = [
    _of_cauchy("KL to and from uniform", sc.kl_to_uniform, _relative(lambda r, k: r.divergence), 8),
    _of_cauchy("entropy", _cauchy_entropy, _scaled(lambda r, k: r.log_area - r.divergence), 8),
    _of_cauchy("mean resultant length", sc.mean_cosine, _relative(lambda r, k: r.mean), 8),
    _of_cauchy(
        "1 - mean resultant length", sc.one_minus_mean_cosine, _relative(lambda r, k: 1 - r.mean), 8
    ),
    _of_cauchy(
        "mean resultant length, 2nd derivative",
        lambda k, d: derivative(sc.mean_cosine, 2)(k, d) / (d - 1),
        _relative(lambda r, k: r.across_slope),
        64,
    ),
    _of_cauchy("variance across loc", sc.tangent_variance, _relative(lambda r, k: r.across), 8),
    _of_cauchy(
        "variance across loc, 1st derivative",
        derivative(sc.tangent_variance),
        _relative(lambda r, k: r.across_slope),
        16,
    ),
    _of_cauchy(
        "variance across loc, 2nd derivative",
        derivative(sc.tangent_variance, 2),
        lambda r, k: (r.across_curvature, max(abs(r.across_curvature), r.across)),  # changes sign
        64,
    ),
    _of_cauchy("variance along loc", sc.cosine_variance, _relative(lambda r, k: r.along), 8),
    _of_cauchy(
        "variance along loc, 1st derivative",
        derivative(sc.cosine_variance),
        _relative(lambda r, k: r.along_slope),
        16,
    ),
    _of_cauchy(
        "variance along loc, 2nd derivative",
        derivative(sc.cosine_variance, 2),
        lambda r, k: (r.along_curvature, max(abs(r.along_curvature), r.along)),
        64,
    ),
]


def draw_errors(dim: int, dtype: torch.dtype) -> Iterator[Error]:
    """Of artanh w = k - u as draws make it of noise along loc and across, by u or k if above 1.

    Beyond the rounding of 1 - w, of which next to the antipode nothing is left.
    """
    along = torch.tensor([-8.0, -2.0, -0.1, 0.0, 1e-3, 0.7, 3.0, 8.0], dtype=dtype)
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    for k, share in itertools.product(STRENGTHS, (1e-9, 1e-3, 0.6, 2.0)):
        across = torch.full_like(along, (share * (dim - 1)) ** 0.5)
        strength = torch.tensor(k, dtype=dtype)
        t, _ = SPHERICAL_CAUCHY.of_noise(along.clone(), across.clone(), strength, dim)
        rows = zip(along.tolist(), across.tolist(), t.tolist(), strict=True)
        for zeta, length, one_minus_w in rows:
            if 2 - one_minus_w < 8 * eps or one_minus_w < tiny:
                continue
            with mp.workdps(40):
                u = mp.asinh(zeta / mp.mpf(length))
                found = mp.log(2 / mp.mpf(one_minus_w) - 1) / 2
                error = abs(found - (k - u)) - eps / (2 - mp.mpf(one_minus_w))
                yield Error(max(0.0, float(error / (eps * max(1, abs(u), k)))), dim, k)


def errors(
    quantity: Quantity,
    dim: int,
    dtype: torch.dtype,
    concentrations: Sequence[float] | None = None,
) -> Iterator[Error]:
    """The error at every concentration, by default of its grid, in units of eps of the scale."""
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    concentrations = quantity.concentrations if concentrations is None else concentrations
    computed = quantity.compute(torch.tensor(concentrations, dtype=dtype), dim).tolist()
    for k, value in zip(concentrations, computed, strict=True):
        with mp.workdps(40):
            truth, scale = quantity.truth(quantity.reference(dim, k), mp.mpf(k))
            # Below the smallest normal number nothing has its digits.
            error = abs(mp.mpf(value) - truth) / max(scale, mp.mpf(tiny) / eps)
            yield Error(float(error / eps), dim, k)


# Where docs/accuracy_search.py found the largest errors: float64, float32, and of another seed.
WORST: dict[str, list[tuple[int, float]]] = {
    "log-partition": [(254, 1.01429987), (17, 27.7779217), (5, 0.00702716364), (36, 1.34344721)],
    "mean resultant length": [
        (34, 7.47677768e-05),
        (10, 0.0905348957),
        (8, 0.000281294517),
        (325, 41.4523582),
    ],
    "1 - mean resultant length": [
        (37, 13.4297295),
        (36, 0.458222389),
        (13, 7.28833008),
        (33, 16.2055664),
    ],
    "variance across loc": [
        (85, 487.427612),
        (692, 130885.062),
        (178, 2075.15088),
        (17, 16647.9707),
    ],
    "KL to uniform": [
        (29, 0.252051353),
        (10, 0.0105430884),
        (37, 6.08523692e-07),
        (16, 0.13101314),
    ],
    "entropy": [(7, 84.9069748), (16, 11.3250523), (13, 17.4499569), (4, 48.2632942)],
    "log normalizer": [(30, 38.8553276), (28, 26.8853607), (33, 43.4123001), (29, 26.7856827)],
    "log density at the mode": [
        (40, 4540752.5),
        (16, 12.0596991),
        (13, 7.35544157),
        (11, 9.0376606),
    ],
    "log-partition, 1st derivative": [
        (34, 7.47677768e-05),
        (10, 0.0905348957),
        (8, 0.000281294517),
        (325, 45.509285),
    ],
    "mean resultant length, 1st derivative": [
        (4, 0.0268577207),
        (128, 29.597517),
        (132, 13.7950449),
        (147, 5.43637133),
    ],
    "KL to uniform, 1st derivative": [
        (4, 0.0268577207),
        (148, 177.876099),
        (4, 0.673368096),
        (38, 17341.8652),
    ],
    "log density at the mode, 1st derivative": [
        (37, 13.4297295),
        (36, 0.458528161),
        (13, 7.29310846),
        (33, 16.2055664),
    ],
    "log-partition, 2nd derivative": [
        (4, 0.0268577207),
        (128, 29.597517),
        (132, 13.7950449),
        (147, 5.43637133),
    ],
    "mean resultant length, 2nd derivative": [
        (2, 6.50181917e-08),
        (4, 0.0685968474),
        (2, 0.0114754178),
        (3, 0.128808469),
    ],
    "mean resultant length, 3rd derivative": [
        (3, 0.831825554),
        (3, 0.181911573),
        (2, 0.000511233578),
        (3, 1.45944393),
    ],
    "variance across loc, 1st derivative": [
        (126, 4.10541043e-06),
        (33, 2.98796296),
        (8, 0.00123914867),
        (30, 3786.37964),
    ],
    "variance across loc, 2nd derivative": [
        (523, 112249.156),
        (13, 2457.57349),
        (38, 2055484.0),
        (30, 3786.37964),
    ],
    "KL to uniform, 2nd derivative": [
        (4, 0.0268577207),
        (4, 0.0688758269),
        (5, 2.3549499e-05),
        (8, 0.0212725829),
    ],
    "power spherical: mean cosine": [
        (18, 1.71994561e-08),
        (31, 36.3481255),
        (308, 2.49496537e-07),
        (9, 3.0988147e-05),
    ],
    "power spherical: mean cosine, 1st derivative": [
        (27, 2.04132871e-08),
        (80, 2004.974),
        (925, 9.10013853e-07),
        (20, 17615536.0),
    ],
    "power spherical: mean cosine, 2nd derivative": [
        (12, 1.36111558e-08),
        (67, 15.2654228),
        (925, 9.23741197e-07),
        (20, 17615536.0),
    ],
    "power spherical: variance along loc": [
        (27, 2.04132871e-08),
        (14, 4.29119837e-06),
        (26, 2.7605358e-08),
        (14, 4.289971e-06),
    ],
    "power spherical: variance along loc, 1st derivative": [
        (37, 3.61255523e-08),
        (4, 0.000983856968),
        (26, 2.79413737e-08),
        (40, 17188414.0),
    ],
    "power spherical: variance along loc, 2nd derivative": [
        (37, 3.33288845e-08),
        (2, 0.00017148543),
        (26, 2.79413737e-08),
        (16, 0.000647114241),
    ],
    "power spherical: variance across loc": [
        (27, 2.18140617e-08),
        (30, 17728132.0),
        (26, 2.78055534e-08),
        (32, 2.7744702e-06),
    ],
    "power spherical: variance across loc, 1st derivative": [
        (27, 2.04132871e-08),
        (32, 0.00122326764),
        (922, 5.77009054e-08),
        (16, 19173426.0),
    ],
    "power spherical: variance across loc, 2nd derivative": [
        (4, 3.66901475e-07),
        (19, 33579744.0),
        (9, 25.4667969),
        (40, 16922370.0),
    ],
    "power spherical: log-partition": [
        (2, 0.000727858627),
        (36, 3.58464599),
        (178, 3.06052243e-05),
        (27, 0.101353392),
    ],
    "power spherical: log-partition, 1st derivative": [
        (2, 0.0100766663),
        (15, 23633624.0),
        (205, 835373.438),
        (2, 0.0358571783),
    ],
    "power spherical: log-partition, 2nd derivative": [
        (2, 0.0141071072),
        (19, 17009548.0),
        (626, 1.43346917e-08),
        (3, 1.22974312),
    ],
    "power spherical: log-partition, 3rd derivative": [
        (6, 8.41839494e-07),
        (10, 69678728.0),
        (36, 1.44722447e-08),
        (3, 0.00062101509),
    ],
    "power spherical: log normalizer": [
        (21, 7.89966106),
        (27, 33.3839722),
        (32, 49.6193237),
        (21, 11.8748331),
    ],
    "power spherical: entropy": [
        (10, 28.6565762),
        (8, 103.13456),
        (16, 63.0749359),
        (18, 13.847436),
    ],
    "power spherical: entropy of the cosine": [
        (58, 0.00016852167),
        (80, 0.000858367712),
        (27, 5.38875902e-05),
        (39, 0.23164928),
    ],
    "power spherical: entropy of the cosine, 1st derivative": [
        (30, 1842216.62),
        (2, 0.00017148543),
        (2, 0.0114762634),
        (2, 0.000473198248),
    ],
    "power spherical: entropy of the cosine, 2nd derivative": [
        (2, 767.641724),
        (2, 0.000171845473),
        (2, 557.646301),
        (2, 0.000517549983),
    ],
    "power spherical: KL to uniform": [
        (20, 1.1459055e-08),
        (10, 0.19765307),
        (24, 0.198301509),
        (255, 141.150955),
    ],
    "power spherical: KL to uniform, 1st derivative": [
        (58, 0.000124096317),
        (19, 17009548.0),
        (308, 1.00820143e-08),
        (3, 1.23026049),
    ],
    "power spherical: KL to uniform, 2nd derivative": [
        (2, 0.0141071072),
        (6, 7.27204315e-06),
        (308, 9.98549776e-09),
        (17, 0.00112391321),
    ],
    "power spherical: KL from uniform": [
        (282, 115.354774),
        (8, 2.5004828),
        (73, 26.1391029),
        (224, 86.8666229),
    ],
    "power spherical: KL from uniform, 1st derivative": [
        (746, 1.72112152e-07),
        (21, 32.9837112),
        (36, 45.5482254),
        (8, 6.71566158e-05),
    ],
    "spherical Cauchy: KL to and from uniform": [(585, 0.118964449), (15, 7.68190221e-05)],
    "spherical Cauchy: entropy": [(4, 2.69591475), (12, 12.2866182)],
    "spherical Cauchy: mean resultant length": [(2, 0.000340897765), (3, 0.00019864639)],
    "spherical Cauchy: 1 - mean resultant length": [(3, 1.71657634), (3, 3.11374235)],
    "spherical Cauchy: mean resultant length, 2nd derivative": [
        (3, 0.00044839055),
        (3, 0.00169588358),
    ],
    "spherical Cauchy: variance across loc": [(32, 2.8164258), (3, 0.000186682853)],
    "spherical Cauchy: variance across loc, 1st derivative": [
        (3, 0.00044839055),
        (3, 0.0016959206),
    ],
    "spherical Cauchy: variance across loc, 2nd derivative": [(134, 0.69435662), (43, 0.632953405)],
    "spherical Cauchy: variance along loc": [
        (5, 0.000410151144),
        (4, 19.0716839),
        (5, 0.000205326287),
        (5, 0.0156701077),
    ],
    "spherical Cauchy: variance along loc, 1st derivative": [
        (5, 0.000410151144),
        (4, 17.5345135),
        (5, 0.0156701077),
    ],
    "spherical Cauchy: variance along loc, 2nd derivative": [(29, 0.579336584), (177, 0.410070211)],
}
# And by others:
WORST["log normalizer"] += [(63, 110.757)]
WORST["entropy"] += [(10, 29.84)]


RATIOS = (0.0, 1 + 2.0**-22, 1 + 2.0**-12, 1.01, 1.5, 3.0, 1e3, 1e-3)


def pair_errors(dim: int, dtype: torch.dtype, stride: int = 1) -> Iterator[Error]:
    """Errors of the divergence between two laws of the same direction, near and far apart."""
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    for k1 in CONCENTRATIONS[::stride]:
        for ratio in RATIOS:
            k2 = torch.tensor(k1 * ratio if k1 else ratio, dtype=torch.float32).item()
            p, q = (_law(torch.tensor(k, dtype=dtype), dim) for k in (k1, k2))
            value = kl_divergence(p, q).item()
            with mp.workdps(60):
                a, b = radial(dim, k1), radial(dim, k2)
                truth = b.log_partition - a.log_partition - a.mean * (mp.mpf(k2) - mp.mpf(k1))
                # 25 digits of the reference leave as many minus those that cancel.
                if k1 == k2 or abs(truth) < mp.mpf("1e-22") * abs(b.log_partition):
                    continue
                error = abs(mp.mpf(value) - truth) / max(abs(truth), mp.mpf(tiny) / eps)
                yield Error(float(error / eps), dim, (k1, k2))


def power_to_von_mises_fisher_errors(dim: int, dtype: torch.dtype) -> Iterator[Error]:
    """Errors of the divergence from a power spherical to a von Mises-Fisher law.

    Over the largest of its terms, the log densities at the mode, which cancel where both laws are
    concentrated alike; at low concentration over those from the uniform law.
    """
    eps = torch.finfo(dtype).eps
    for k1 in CONCENTRATIONS[::2]:
        for ratio in (0.1, 0.5, 0.51, 3.0):
            k2 = torch.tensor(k1 * ratio if k1 else ratio, dtype=torch.float32).item()
            k1_tensor, k2_tensor = (torch.tensor(k, dtype=dtype) for k in (k1, k2))
            value = kl_divergence(_power_law(k1_tensor, dim), _law(k2_tensor, dim)).item()
            with mp.workdps(60):
                p, q = power_spherical(dim, k1), radial(dim, k2)
                x, y = mp.mpf(k1), mp.mpf(k2)
                mean = x / (dim - 1 + x)
                spread = y * (1 - mean)
                truth = p.kl_to_uniform(k1) + q.log_partition - y * mean
                log_mode = y - q.log_partition
                low = (p.kl_to_uniform(k1), q.log_partition, y * mean)
                high = (p.kl_to_uniform(k1), log_mode, spread, q.log_area)
                scale = max(low) if y < mp.mpf(dim) / 2 else max(map(abs, high))
                error = abs(mp.mpf(value) - truth) / max(scale, mp.mpf("1e-30"))
                yield Error(float(error / eps), dim, (k1, k2))


def inverse_errors(dim: int, dtype: torch.dtype) -> Iterator[Error]:
    """Errors of the inverse of the ratio, over max(1, A / (k A')), what one ulp of A costs."""
    eps = torch.finfo(dtype).eps
    with mp.workdps(40):
        known = [(k, radial(dim, k)) for k in CONCENTRATIONS if k > 0]
        lengths = torch.tensor([float(r.mean) for _, r in known], dtype=dtype)
        rest = torch.tensor([float(r.one_minus_mean) for _, r in known], dtype=dtype)
        found = special.inverse_iv_ratio(dim / 2, lengths).tolist()
        found_from_rest = special.inverse_iv_ratio(dim / 2, one_minus_r=rest).tolist()
        rows = zip(known, lengths.tolist(), found, rest.tolist(), found_from_rest, strict=True)
        for (k, r), length, x, complement, y in rows:
            # What was asked is the inverse of the rounded argument: one Newton step from k.
            for argument, true, value in ((length, r.mean, x), (complement, r.one_minus_mean, y)):
                shift = (mp.mpf(argument) - true) / r.variance
                if abs(shift) > mp.mpf("1e-3") * k or argument in (0, 1):
                    continue  # ill-conditioned: 1 - r has no digits left
                sign = 1 if true is r.mean else -1
                target = mp.mpf(k) + sign * shift
                condition = max(1, abs(argument) / (k * r.variance))
                # Second order of the Newton step is left out of the target: leave it in the error.
                yield Error(float(abs(value - target) / target / condition / eps), dim, k)
