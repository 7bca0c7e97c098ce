"""F and chi squared laws, by what the package has of them.

If F follows the F law with a and b degrees of freedom, its share a F / (a F + b) follows
Beta(a/2, b/2), the law of (1 - w)/2 of a power spherical cosine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vmfdist.cosine import PowerSphericalCosine


def _cosine(small: int, large: Tensor) -> PowerSphericalCosine:
    """The law of a cosine w with (1 - w)/2 ~ Beta(small/2, large/2)."""
    return PowerSphericalCosine((large - small) / 2, small + 1)


def f_survival(f: Tensor, a: int, b: int) -> Tensor:
    """P(F > f) with a and b degrees of freedom."""
    others = 1 / (1 + a / b * f)  # the share of b
    share = 1 / (1 + b / (a * f))  # which keeps its digits where that is 1
    if a <= b:
        return _cosine(a, f.new_full((), float(b))).cdf(one_minus_value=2 * share)
    return _cosine(b, f.new_full((), float(a))).sf(one_minus_value=2 * others)


def f_survival_from(f: Tensor, a: int, b: Tensor) -> Tensor:
    """The same with a tensor b of at least a, which need not be whole."""
    share = 1 / (1 + b / (a * f))
    return _cosine(a, b).cdf(one_minus_value=2 * share)


def f_quantile(level: float, a: int, b: Tensor) -> Tensor:
    """The f with P(F < f) = level, for b of at least a."""
    t = _cosine(a, b).one_minus_isf(b.new_full((), float(level)))
    return b * t / (a * (2 - t))


def chi_squared_survival(x: Tensor, degrees: int) -> Tensor:
    """P(chi squared > x)."""
    return torch.special.gammaincc(torch.full_like(x, degrees / 2), x / 2)
