"""Spherical k-means with the habits of scikit-learn's estimators."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from copy import copy
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from vmfdist.mixture._input import check_enough, check_number, parameter_of_directions, read_rows
from vmfdist.mixture._k_means import (
    assign,
    distances_to,
    k_means_seeds,
    lloyd,
    random_rows,
    rows_to_start_from,
)
from vmfdist.mixture._nearest import Nearest
from vmfdist.mixture._rows import Rows


class SphericalKMeans(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]  # untyped bases
    TransformerMixin,  # type: ignore[misc]
    ClusterMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    r"""Spherical k-means: clusters of directions around centres that are directions.

    :meth:`fit` lowers the inertia, the sum over the rows x of :math:`1 - \cos` to the nearest
    centre,

    .. math::

        \sum_i w_i \min_j \bigl(1 - \langle x_i, c_j \rangle\bigr), \qquad |x_i| = |c_j| = 1,

    by Lloyd's algorithm: each row goes to its nearest centre, then each centre becomes the mean
    direction of its rows. On the sphere :math:`|x - c|^2 = 2 (1 - \cos)`, so that this is k-means
    whose centres stay on the sphere, and what :class:`VonMisesFisherMixture` does with equal
    weights and one concentration that grows without bound.

    Data are as in :class:`VonMisesFisherMixture`: arrays, tensors, sparse rows, which are never
    made dense, and iterables of batches. What is computed for given rows is of the kind of these
    rows, ``cluster_centers_`` and ``labels_`` of those given to :meth:`fit`; the centres are always
    float64. Distances are formed as :math:`1 - \cos` in float64: directions nearer to each other
    than about :math:`10^{-8}` are not told apart. Products in float32 tell which centre is nearest
    to a float32 row where their rounding leaves no doubt; nothing else depends on them.

    An empty cluster gets the row that adds most to the inertia as its centre, which lowers it. So
    clusters are empty in the end only if there are fewer different directions than clusters, or
    ``max_iter`` is reached; then :meth:`fit` warns. Of two centres equally near to a row the first
    has it.

    Args:
        n_clusters: the number of clusters.
        init: where a start has its centres: "k-means++", seeds in proportion to the distance
            :math:`1 - \cos`, each the best of 2 + log(n_clusters) candidates; "random", different
            rows at random; both among 65536 rows at most, drawn at random, and in proportion to
            their weights; or an array of shape (n_clusters, d), directions of any length but 0.
        n_init: how many starts to take; the one of the lowest inertia is kept. With an array for
            ``init`` there is one.
        max_iter: the largest number of iterations, each one pass over the data.
        tol: a start ends with the iteration that lowers the inertia by no more than this share of
            it; with 0, where nothing changes any more.
        normalize: whether rows of any length but 0 are taken for their directions. If False, rows
            that are not unit vectors are refused.
        random_state: a seed or generator as everywhere in scikit-learn; the same seed gives the
            same result.

    Attributes:
        cluster_centers_: the centres, unit vectors, of shape (n_clusters, d).
        labels_: the cluster of each row given to :meth:`fit`, integers of shape (n_samples,).
        inertia_: the inertia of these rows. scikit-learn's ``KMeans`` has the sum of squared
            distances to means, which are inside of the sphere.
        n_iter_: the number of iterations of the start that was kept.
        n_features_in_: the dimension d.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> from vmfdist.mixture import SphericalKMeans
        >>> _ = torch.manual_seed(0)
        >>> X = VonMisesFisher(torch.eye(3)[:2], 50.0).sample((1000,)).reshape(-1, 3)
        >>> clusters = SphericalKMeans(n_clusters=2, random_state=0).fit(X)
        >>> (clusters.cluster_centers_.float() @ torch.eye(3)[:2].T).amax(1) > 0.999
        tensor([True, True])
        >>> torch.equal(clusters.labels_, clusters.predict(5 * X))
        True

    References:
        * I. S. Dhillon and D. S. Modha (2001), Concept decompositions for large sparse text data
          using clustering, Machine Learning 42, doi:10.1023/A:1007612920971.
        * K. Hornik, I. Feinerer, M. Kober and C. Buchta (2012), Spherical k-means clustering,
          Journal of Statistical Software 50(10), doi:10.18637/jss.v050.i10.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: int = 1,
        max_iter: int = 300,
        tol: float = 1e-5,
        normalize: bool = True,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.normalize = normalize
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, group: Any = None) -> Self:
        """Finds the clusters, from ``n_init`` starts.

        A fit that fails or is interrupted changes nothing.

        Args:
            X: the directions, of shape (n_samples, d), float32 or float64 (arrays of other types
                are converted to float64), or an iterable of such batches that starts anew in every
                pass.
            y: ignored, there by convention.
            sample_weight: how often each row counts, of shape (n_samples,); fractions count as
                well, and rows of weight 0 not at all.
            group: a process group of torch.distributed, as ``torch.distributed.group.WORLD`` is.
                Each of its processes gives its share of the rows, and all of them get the clusters
                of all rows; ``labels_`` are those of the share. Without it, each process fits its
                rows alone.

        Returns:
            The estimator itself.

        Raises:
            ValueError: if a row holds NaN or infinity, is 0, or is not a unit vector although
                ``normalize`` is False; if there are fewer rows than clusters, or fewer with a
                weight above 0; if a weight is negative or above 1e150; if d < 2; if an argument of
                the constructor is out of its range.
            TypeError: if a tensor is sparse in another layout than CSR, or nested, or not float32
                or float64; if an argument of the constructor is of a wrong type.
        """
        self._check_arguments()
        fitted = copy(self)
        rows = read_rows(fitted, X, sample_weight, fitting=True, group=group)
        check_enough(rows, self.n_clusters, "n_clusters")
        runs = (lloyd(rows, start, self.max_iter, self.tol) for start in self._starts(rows))
        # Runs that end in the same clusters differ by rounding: of these the first.
        best, fitted.n_iter_ = min(runs, key=lambda run: float(f"{run[0].inertia:.9g}"))
        fitted.cluster_centers_ = rows.like_given(best.centers)
        fitted.labels_ = rows.like_given(best.labels)
        fitted.inertia_ = best.inertia.item()
        self.__dict__ = fitted.__dict__
        empty = int((best.sizes == 0).sum())
        if empty:
            warnings.warn(
                f"{empty} of {self.n_clusters} clusters are empty: there are fewer different "
                "directions than clusters, or max_iter is too small.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, group: Any = None
    ) -> Any:
        """Fits, and returns ``labels_``."""
        return self.fit(X, sample_weight=sample_weight, group=group).labels_

    def predict(self, X: Any) -> Any:
        """The nearest centre of each row, integers of shape (n_samples,)."""
        rows, centers = self._rows_and_centers(X)
        return rows.like_given(rows.gather(Nearest(centers), len(centers)))

    def transform(self, X: Any) -> Any:
        r"""The distance :math:`1 - \cos` of each row to each centre, (n_samples, n_clusters)."""
        rows, centers = self._rows_and_centers(X)
        distances = rows.gather(
            lambda batch: distances_to(batch, centers).to(rows.dtype), len(centers)
        )
        return rows.like_given(distances)

    def score(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, group: Any = None
    ) -> float:
        """Minus the inertia of the rows; ``y`` is ignored.

        With ``group``, as of :meth:`fit`, that of the rows of all processes.
        """
        return -assign(*self._rows_and_centers(X, sample_weight, group)).inertia.item()

    @property
    def _n_features_out(self) -> int:
        """Of :meth:`transform`, for scikit-learn's names of them."""
        return len(self.cluster_centers_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_arguments(self) -> None:
        for name in ("n_clusters", "n_init", "max_iter"):
            check_number(getattr(self, name), name, Integral, 1)
        check_number(self.tol, "tol", Real, 0)
        check_scalar(self.normalize, "normalize", (bool, np.bool_))
        named = self.init is None or isinstance(self.init, str)
        if named and self.init not in ("k-means++", "random"):
            raise ValueError(
                f"init must be 'k-means++', 'random' or an array of directions, got {self.init!r}"
            )

    def _starts(self, rows: Rows) -> Iterator[Tensor]:
        init = None if isinstance(self.init, str) else self.init
        shape = (self.n_clusters, rows.dim)
        given = parameter_of_directions(init, "init", shape, rows.device)
        if given is not None:
            yield given
            return
        random = rows.group.first_object(check_random_state(self.random_state))
        sample = rows_to_start_from(rows, self.n_clusters, random)
        make = k_means_seeds if self.init == "k-means++" else random_rows
        for _ in range(self.n_init):
            yield make(sample, self.n_clusters, random)

    def _rows_and_centers(
        self, X: Any, sample_weight: Any = None, group: Any = None
    ) -> tuple[Rows, Tensor]:
        check_is_fitted(self)
        rows = read_rows(self, X, sample_weight, group=group)
        centers = self.cluster_centers_
        if not isinstance(centers, Tensor):
            centers = torch.from_numpy(np.array(centers))
        return rows, centers.to(rows.device)
