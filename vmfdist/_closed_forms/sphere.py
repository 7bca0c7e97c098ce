"""The sphere itself: its area, and what Stirling's formula leaves of it.

References:
    * DLMF 5.19.4 (the volume of a ball, whose derivative the area is), https://dlmf.nist.gov/5.19.
"""

from __future__ import annotations

from decimal import Decimal

from vmfdist._numerics.constants import cached_constant
from vmfdist._numerics.decimals import PI, working_precision
from vmfdist._numerics.gamma_in_decimals import log_gamma


@cached_constant(maxsize=1024)
@working_precision()
def log_sphere_area(dim: float) -> float:
    r"""log of :math:`2 \pi^{d/2} / \Gamma(d/2)`, the area of the unit sphere in R^d.

    To half an ulp, by decimals: the rounding of :func:`math.lgamma` alone costs 8 eps at d = 18,
    where the logarithm of the area is small beside its terms.
    """
    half = Decimal(dim) / 2
    return float(Decimal(2).ln() + half * PI.ln() - log_gamma(half))


@cached_constant(maxsize=1024)
@working_precision()
def stirling_remainder(dim: float) -> float:
    """delta(z) = log Gamma(z) - (z - 1/2) log z + z - log(2 pi)/2 at z = d/2."""
    z = Decimal(dim) / 2
    return float(log_gamma(z) - (z - Decimal("0.5")) * z.ln() + z - (2 * PI).ln() / 2)
