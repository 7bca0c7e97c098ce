r"""Mixtures of von Mises-Fisher laws, fitted by expectation maximisation, and spherical k-means.

:class:`VonMisesFisherMixture` has the habits of scikit-learn's ``GaussianMixture``,
:class:`SphericalKMeans` those of its ``KMeans``. This module alone needs scikit-learn: ``pip
install "vmfdist[mixture]"``. Importing ``vmfdist`` does not load it.

Method: soft-moVMF of Banerjee et al., with the exact maximum of every concentration. An iteration
is one pass over the rows in batches of a few MB. Each batch is converted to float64 and normalised
there, so that float32 rows cost neither a copy nor accuracy, and what the M step needs is summed up
as it goes: no array of responsibilities is ever held. Sparse rows stay sparse: the products with
directions and the sums over rows are SciPy's. Rows may come in batches that are made anew in every
pass, or be shared out among processes, which add up these sums.

Accuracy: log densities start from :math:`1 - \langle x, \mu\rangle`, and so do the concentrations.
Above a concentration of :math:`2^{20}` that difference is formed as :math:`|x - \mu|^2 / 2`, which
rounding does not touch; for sparse rows by sums of products that are exact in float64, and a small
rest.

Spherical k-means, Lloyd's algorithm with centres on the sphere, is where starts of the mixture come
from, and an estimator of its own. An iteration is the same one pass over the rows.

References:
    * A. Banerjee, I. S. Dhillon, J. Ghosh and S. Sra (2005), Clustering on the unit hypersphere
      using von Mises-Fisher distributions, Journal of Machine Learning Research 6, 1345-1382.
    * I. S. Dhillon and D. S. Modha (2001), Concept decompositions for large sparse text data using
      clustering, Machine Learning 42, doi:10.1023/A:1007612920971 (spherical k-means).
    * D. Arthur and S. Vassilvitskii (2007), k-means++: the advantages of careful seeding,
      Proceedings of the 18th ACM-SIAM Symposium on Discrete Algorithms, 1027-1035.
"""

from __future__ import annotations

try:
    import sklearn.base  # noqa: F401
except ImportError as error:
    raise ImportError(
        'vmfdist.mixture needs scikit-learn 1.6 or later: pip install "vmfdist[mixture]"'
    ) from error

from vmfdist.mixture.estimator import VonMisesFisherMixture
from vmfdist.mixture.spherical_k_means import SphericalKMeans

__all__ = ["SphericalKMeans", "VonMisesFisherMixture"]
