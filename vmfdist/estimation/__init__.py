r"""How well samples determine a von Mises-Fisher law, and tests of hypotheses about directions.

The law itself is fitted by :meth:`vmfdist.VonMisesFisher.fit`. Here are the errors of such a fit,
:func:`fisher_information`, :func:`standard_errors` and :func:`confidence_cone`, and tests:
:func:`rayleigh_test` and :func:`uniformity_test` of uniformity, :func:`mean_direction_test` of mean
directions that are equal or stated, :func:`concentration_test` of equal concentrations, and
:func:`goodness_of_fit` of the law itself. And where one law does not fit, :class:`SphericalKDE` is
a density that takes the shape of the data, and :class:`VonMisesFisherRegression` lets the law
depend on inputs.

Samples have shape (..., n, d), unit vectors along the last dimension and a sample along the one
before; results have shape (...). They are formed in float64 and returned in the dtype of the
samples, without gradients but for the first two and the statistic of :func:`uniformity_test`.
Samples are checked where torch checks the arguments of distributions, which
``torch.distributions.Distribution.set_default_validate_args`` switches.

Cone and test of mean directions rest on the same two facts about the resultant of n vectors, of
length S, and its angle :math:`\alpha` to the true mean direction. If the concentration k is known,
:math:`2 k S (1 - \cos\alpha)` follows the chi squared law with d - 1 degrees of freedom, for large
n or large k. And if k is large, :math:`2 k (n - S)` follows that with (n - 1)(d - 1), independently
(Watson 1956). So with an estimate of k in its place the first makes an F statistic. The classical
forms for high concentration take (n - 1)(d - 1)/(n - S) for 2k. The estimate here is that of Schou
(1978), the bias-corrected one of the fit. It tends to the classical one as k grows (in dimension 3
the two differ by exp(-2k)), and remains right at low concentration, where the classical one is
about (d - 1)/2 even for uniform data. The page on fitting shows what that does to coverage.

References:
    * G. S. Watson (1956), Analysis of dispersion on a sphere, Monthly Notices of the Royal
      Astronomical Society, Geophysical Supplement 7(4), 153-159.
    * G. Schou (1978), Estimation of the concentration parameter in von Mises-Fisher distributions,
      Biometrika 65(2), 369-377, doi:10.1093/biomet/65.2.369.
    * K. V. Mardia and P. E. Jupp (2000), Directional statistics, chapter 10.
"""

from __future__ import annotations

from vmfdist.estimation.comparison import concentration_test, mean_direction_test
from vmfdist.estimation.goodness import GoodnessOfFit, goodness_of_fit
from vmfdist.estimation.kernel_density import SphericalKDE
from vmfdist.estimation.mean_shift import Modes
from vmfdist.estimation.precision import (
    FisherInformation,
    StandardErrors,
    confidence_cone,
    fisher_information,
    standard_errors,
)
from vmfdist.estimation.regression import VonMisesFisherRegression
from vmfdist.estimation.result import TestResult
from vmfdist.estimation.uniformity import rayleigh_test, uniformity_test

__all__ = [
    "FisherInformation",
    "GoodnessOfFit",
    "Modes",
    "SphericalKDE",
    "StandardErrors",
    "TestResult",
    "VonMisesFisherRegression",
    "concentration_test",
    "confidence_cone",
    "fisher_information",
    "goodness_of_fit",
    "mean_direction_test",
    "rayleigh_test",
    "standard_errors",
    "uniformity_test",
]
