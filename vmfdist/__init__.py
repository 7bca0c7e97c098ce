"""The von Mises-Fisher, power spherical and uniform laws on the hypersphere, for PyTorch and Pyro.

Importing the package registers its Kullback-Leibler divergences with torch and changes no other
global state.
"""

from vmfdist import cosine, estimation, similarity, special
from vmfdist import kl as _kl  # noqa: F401 -- registers the divergences
from vmfdist.hyperspherical_uniform import HypersphericalUniform
from vmfdist.power_spherical import PowerSpherical
from vmfdist.von_mises_fisher import VonMisesFisher

__all__ = [
    "HypersphericalUniform",
    "PowerSpherical",
    "VonMisesFisher",
    "cosine",
    "estimation",
    "similarity",
    "special",
]

__version__ = "0.1.0"
