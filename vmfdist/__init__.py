"""The von Mises-Fisher and the uniform law on the hypersphere, for PyTorch and Pyro.

Importing the package registers its Kullback-Leibler divergences with torch and changes no other
global state.
"""

from vmfdist import kl as _kl  # noqa: F401 -- registers the divergences
from vmfdist import special
from vmfdist.hyperspherical_uniform import HypersphericalUniform
from vmfdist.von_mises_fisher import VonMisesFisher

__all__ = ["HypersphericalUniform", "VonMisesFisher", "special"]

__version__ = "0.1.0"
