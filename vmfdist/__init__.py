"""The von Mises-Fisher law on the hypersphere and its relatives, for PyTorch and Pyro.

Importing the package registers its Kullback-Leibler divergences with torch and changes no other
global state.
"""

from vmfdist import cosine, estimation, nn, similarity, special
from vmfdist import kl as _kl  # noqa: F401 -- registers the divergences
from vmfdist.hyperspherical_uniform import HypersphericalUniform
from vmfdist.power_spherical import PowerSpherical
from vmfdist.spherical_cauchy import SphericalCauchy
from vmfdist.von_mises_fisher import VonMisesFisher

__all__ = [
    "HypersphericalUniform",
    "PowerSpherical",
    "SphericalCauchy",
    "VonMisesFisher",
    "cosine",
    "estimation",
    "nn",
    "similarity",
    "special",
]

__version__ = "0.1.0"
