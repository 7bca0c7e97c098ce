r"""Mixtures of von Mises-Fisher laws, fitted by expectation maximisation.

:class:`VonMisesFisherMixture` has the habits of scikit-learn's ``GaussianMixture``, and this module
alone needs scikit-learn: ``pip install "vmfdist[mixture]"``. Importing ``vmfdist`` does not load
it.

Method: soft-moVMF of Banerjee et al., with the exact maximum of every concentration. An iteration
is one pass over the rows in batches of a few MB. Each batch is converted to float64 and normalised
there, so that float32 rows cost neither a copy nor accuracy, and what the M step needs is summed up
as it goes: no array of responsibilities is ever held.

Accuracy: log densities start from :math:`1 - \langle x, \mu\rangle`, and so do the concentrations.
Above a concentration of :math:`2^{20}` that difference is formed as :math:`|x - \mu|^2 / 2`, which
rounding does not touch.

References:
    * A. Banerjee, I. S. Dhillon, J. Ghosh and S. Sra (2005), Clustering on the unit hypersphere
      using von Mises-Fisher distributions, Journal of Machine Learning Research 6, 1345-1382.
    * I. S. Dhillon and D. S. Modha (2001), Concept decompositions for large sparse text data using
      clustering, Machine Learning 42, doi:10.1023/A:1007612920971 (spherical k-means).
    * D. Arthur and S. Vassilvitskii (2007), k-means++: the advantages of careful seeding,
      Proceedings of the 18th ACM-SIAM Symposium on Discrete Algorithms, 1027-1035.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from copy import copy
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._sampling.draw import draw
from vmfdist._validation import require_float, unit_tolerance

try:
    import numpy as np
    from sklearn.base import BaseEstimator, DensityMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state, check_scalar
    from sklearn.utils.random import sample_without_replacement
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        'vmfdist.mixture needs scikit-learn 1.6 or later: pip install "vmfdist[mixture]"'
    ) from error

__all__ = ["VonMisesFisherMixture"]

# Where the rounding of 1 - <x, mu> in float64 puts the log density off by 2^-32.
_CLOSE = 2.0**20

# What stands for a point: for float32 rows 1 / eps^2, a spread of the size of their rounding; for
# float64 rows 1 / eps, at which the rounding of a direction, eps^2 in its square, still is nothing.
_MAX_CONCENTRATION = {torch.float32: 2.0**46, torch.float64: 2.0**52}

# Of a batch and what is computed of it: a few MB, which stay in a processor's cache.
_BATCH_NUMBERS, _BATCH_NUMBERS_ON_DEVICE = 1 << 19, 1 << 22

# The start looks at this many rows, and takes so many steps of k-means.
_START_ROWS, _START_STEPS = 1 << 16, 10

# Outside, the square of a norm in float64 over- or underflows.
_SHORTEST, _LONGEST = 1e-150, 1e150


class VonMisesFisherMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]  # untyped bases
    r"""A mixture of von Mises-Fisher laws on the unit sphere of :math:`\mathbb R^d`.

    Its density with respect to the surface measure of the sphere is

    .. math::

        f(x) = \sum_{j=1}^m w_j\, C_d(\kappa_j) \exp(\kappa_j \langle x, \mu_j \rangle),

    with weights :math:`w_j` that sum to 1 and the components of :class:`~vmfdist.VonMisesFisher`.
    :meth:`fit` maximises the likelihood by expectation maximisation (EM), which never lowers it.

    Data are NumPy arrays (and what scikit-learn makes arrays of), or tensors on any device with
    float64. What is computed for given rows is of the kind of these rows: arrays for arrays, for
    tensors tensors on their device; densities and probabilities in the dtype of the rows. The
    fitted parameters and :meth:`sample` follow the rows given to :meth:`fit` and are always
    float64, since a direction rounded to float32 is too coarse at high concentration.

    The start: seeds by k-means++ with the distance :math:`1 - \cos`, which is half the squared
    Euclidean one on the sphere, each the best of 2 + log(n_components) candidates; then ten steps
    of spherical k-means, of at most 65536 rows drawn at random; then equal weights and one
    concentration, the one that is most likely given these clusters.

    Degenerate data: the likelihood has no upper bound, since a component can close in on a single
    point, or on equal ones. Concentrations are therefore bounded, by :math:`2^{46} = 7 \cdot
    10^{13}` for float32 rows (no more can be told from their rounding) and :math:`2^{52} = 4.5
    \cdot 10^{15}` for float64 rows. A component at the bound has collapsed. Of several starts, one
    without collapsed components is preferred; where the result has some, :meth:`fit` warns. A
    component whose weight falls below :math:`2^{-52}` is empty: its weight becomes 0, and
    :meth:`fit` warns.

    Args:
        n_components: the number of components.
        tol: EM stops where an iteration gains no more mean log likelihood than this.
        max_iter: the largest number of iterations, each one pass over the data.
        n_init: how many starts to take; the one of the highest likelihood is kept.
        normalize: whether rows of any length but 0 are taken for their directions, as is usual for
            embeddings and counts of words. If False, rows that are not unit vectors are refused.
        random_state: a seed or generator as everywhere in scikit-learn; the same seed gives the
            same result.
        verbose: 1 prints the iterations, 2 also times and gains.
        verbose_interval: how many iterations pass between two lines.

    Attributes:
        weights_: the weights, of shape (n_components,).
        mean_directions_: the mean directions, of shape (n_components, d).
        concentrations_: the concentrations, of shape (n_components,).
        converged_: whether EM stopped by ``tol``.
        n_iter_: the number of iterations of the start that was kept.
        lower_bound_: the mean log density of the data, ``score(X)``.
        n_features_in_: the dimension d.

    Example:
        >>> import torch
        >>> from vmfdist import VonMisesFisher
        >>> from vmfdist.mixture import VonMisesFisherMixture
        >>> _ = torch.manual_seed(0)
        >>> laws = VonMisesFisher(torch.eye(3)[:2], torch.tensor([50.0, 10.0]))
        >>> X = laws.sample((1000,)).reshape(-1, 3)
        >>> mixture = VonMisesFisherMixture(n_components=2, random_state=0).fit(X)
        >>> mixture.predict(torch.eye(3)[:2]) == mixture.concentrations_.argsort(descending=True)
        tensor([True, True])
        >>> mixture.score(X) > VonMisesFisherMixture().fit(X).score(X)
        True

    References:
        * Banerjee, Dhillon, Ghosh and Sra (2005), Journal of Machine Learning Research 6, algorithm
          soft-moVMF.
        * K. Hornik and B. Gruen (2014), movMF, Journal of Statistical Software 58(10),
          doi:10.18637/jss.v058.i10.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        normalize: bool = True,
        random_state: Any = None,
        verbose: int = 0,
        verbose_interval: int = 10,
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.normalize = normalize
        self.random_state = random_state
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    def fit(self, X: Any, y: Any = None) -> Self:
        """Estimates the mixture by EM, from ``n_init`` starts.

        A fit that fails or is interrupted changes nothing.

        Memory beside the data: some tens of MB, whatever the number of rows.

        Args:
            X: the directions, of shape (n_samples, d), float32 or float64 (arrays of other types
                are converted to float64).
            y: ignored, there by convention.

        Returns:
            The estimator itself.

        Raises:
            ValueError: if a row holds NaN or infinity, is 0, or is not a unit vector although
                ``normalize`` is False; if there are fewer rows than components, or than 2; if
                d < 2; if an argument of the constructor is out of its range.
            TypeError: if a tensor is sparse or nested, or not float32 or float64; if an argument of
                the constructor is of a wrong type.
        """
        self._check_arguments()
        # What is found belongs to a copy until all of it is there: a fit that fails or is
        # interrupted leaves what the one before has found.
        fitted = copy(self)
        rows = fitted._rows(X, fitting=True)
        if len(rows) < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {len(rows)}"
            )
        random = check_random_state(self.random_state)
        best = max((self._run(rows, random, start) for start in range(self.n_init)), key=_Run.merit)
        fitted.weights_, fitted.mean_directions_, fitted.concentrations_ = map(
            rows.like_given, best.mixture
        )
        fitted.converged_ = best.converged
        fitted.n_iter_ = best.n_iter
        fitted.lower_bound_ = best.lower_bound
        self.__dict__ = fitted.__dict__
        self._warn(best)
        return self

    def fit_predict(self, X: Any, y: Any = None) -> Any:
        """Fits, and returns ``predict(X)``."""
        return self.fit(X).predict(X)

    def predict(self, X: Any) -> Any:
        """The most probable component of each row, integers of shape (n_samples,)."""
        return self._row_by_row(X, lambda joint: joint.argmax(1), torch.int64)

    def predict_proba(self, X: Any) -> Any:
        """The probabilities of the components given each row, of shape (n_samples, n_components).

        Also called responsibilities.
        """
        return self._row_by_row(X, lambda joint: joint.softmax(1))

    def score_samples(self, X: Any) -> Any:
        """The log density at each row, of shape (n_samples,)."""
        return self._row_by_row(X, lambda joint: joint.logsumexp(1))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log density of the rows; ``y`` is ignored."""
        return self._expect(X).log_likelihood

    def aic(self, X: Any) -> float:
        """Akaike's information criterion of the rows, the lower the better."""
        expectation = self._expect(X)
        return 2 * self._n_parameters() - 2 * expectation.n_rows * expectation.log_likelihood

    def bic(self, X: Any) -> float:
        """The Bayesian information criterion (Schwarz 1978) of the rows, the lower the better.

        A component counts d + 1 parameters, and the weights one less than their number.
        """
        expectation = self._expect(X)
        n = expectation.n_rows
        return math.log(n) * self._n_parameters() - 2 * n * expectation.log_likelihood

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Draws from the fitted mixture, ordered by component.

        As everywhere in scikit-learn, a ``random_state`` that is a number gives the same draws at
        every call.

        Args:
            n_samples: how many, at least 1.

        Returns:
            The draws of shape (n_samples, d) in float64, and their components (n_samples,).
        """
        check_is_fitted(self)
        _check_number(n_samples, "n_samples", Integral, 1)
        weights, directions, concentrations = self._parameters()
        random = check_random_state(self.random_state)
        counts = random.multinomial(n_samples, weights.cpu().numpy())
        labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(directions.device)
        noise = torch.from_numpy(random.standard_normal((n_samples, self.n_features_in_)))
        noise = noise.to(directions.device)
        x = draw(noise, directions[labels], concentrations[labels], VON_MISES_FISHER.to_cosine)
        if isinstance(self.weights_, Tensor):
            return x, labels
        return x.numpy(), labels.numpy()

    # Input

    def _check_arguments(self) -> None:
        for name in ("n_components", "max_iter", "n_init", "verbose_interval"):
            _check_number(getattr(self, name), name, Integral, 1)
        _check_number(self.tol, "tol", Real, 0)
        check_scalar(self.verbose, "verbose", Integral, min_val=0)
        check_scalar(self.normalize, "normalize", (bool, np.bool_))

    def _rows(self, X: Any, *, fitting: bool = False) -> _Rows:
        least = {"ensure_min_samples": 2, "ensure_min_features": 2} if fitting else {}
        if isinstance(X, Tensor):
            require_float("X", X, unit=False)
            if X.dim() != 2:
                raise ValueError(f"X must have the shape (n_samples, d), got {tuple(X.shape)}")
            # scikit-learn's checks of shapes, with its messages, on an array without memory.
            shape = np.broadcast_to(np.float32(0), tuple(X.shape))
            validate_data(self, shape, reset=fitting, **least)
            X = X.detach()
        else:
            X = validate_data(
                self,
                X,
                reset=fitting,
                dtype=[np.float64, np.float32],
                ensure_all_finite=False,  # _Rows.check does this too
                **least,
            )
        rows = _Rows(X)
        rows.check(normalize=self.normalize)
        return rows

    # Output

    def _parameters(self, device: torch.device | None = None) -> _Mixture:
        fitted = (self.weights_, self.mean_directions_, self.concentrations_)
        tensors = (x if isinstance(x, Tensor) else torch.from_numpy(np.array(x)) for x in fitted)
        return _Mixture(*(x.to(device) for x in tensors))

    def _n_parameters(self) -> int:
        return len(self.weights_) * (self.n_features_in_ + 1) - 1

    def _row_by_row(
        self, X: Any, function: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None
    ) -> Any:
        """A function of the log joint densities (rows, components), for each row of X."""
        check_is_fitted(self)
        rows = self._rows(X)
        evaluate = _log_joint(self._parameters(rows.device))
        dtype = dtype or rows.dtype
        result = rows.gather(lambda x: function(evaluate(x)[0]).to(dtype), len(self.weights_))
        return rows.like_given(result)

    def _expect(self, X: Any) -> _Expectation:
        check_is_fitted(self)
        rows = self._rows(X)
        return _expect(rows, self._parameters(rows.device))

    # EM

    def _run(self, rows: _Rows, random: np.random.RandomState, start: int) -> _Run:
        """EM from one start; the progress is printed in the words of scikit-learn's mixtures."""
        began = last = time.perf_counter()
        self._print(f"Initialization {start}")
        mixture = _start(rows, self.n_components, random)
        expectation = _expect(rows, mixture)
        n_iter, converged = 0, False
        while n_iter < self.max_iter and not converged:
            n_iter += 1
            mixture = _maximise(expectation, mixture, rows.max_concentration)
            previous, expectation = expectation, _expect(rows, mixture)
            gain = expectation.log_likelihood - previous.log_likelihood
            converged = gain <= self.tol
            if n_iter % self.verbose_interval == 0:
                now = time.perf_counter()
                detail = f"\t time lapse {now - last:.5f}s\t ll change {gain:.5f}"
                self._print(f"  Iteration {n_iter}", detail)
                last = now
        lower_bound = expectation.log_likelihood
        lapse = time.perf_counter() - began
        self._print(
            f"Initialization {'converged' if converged else 'did not converge'}.",
            f" time lapse {lapse:.5f}s\t lower bound {lower_bound:.5f}.",
        )
        collapsed = int((mixture.concentrations >= rows.max_concentration).sum())
        return _Run(mixture, lower_bound, n_iter, converged, collapsed)

    def _print(self, text: str, detail: str = "") -> None:
        if self.verbose:
            print(text + (detail if self.verbose > 1 else ""))  # noqa: T201 -- asked for

    def _warn(self, run: _Run) -> None:
        empty = int((run.mixture.weights == 0).sum())
        messages = []
        if not run.converged:
            messages.append(
                "Best performing initialization did not converge. Increase max_iter or tol, or "
                "check for degenerate data."
            )
        if run.collapsed:
            messages.append(
                f"{run.collapsed} of {self.n_components} components have collapsed on one row or "
                "equal rows, with a concentration at its upper bound. Use fewer components, more "
                "starts (n_init), or leave out repeated rows."
            )
        if empty:
            messages.append(
                f"{empty} of {self.n_components} components are empty, with weight 0. Use fewer "
                "components, or more starts (n_init)."
            )
        for message in messages:
            warnings.warn(message, ConvergenceWarning, stacklevel=3)


def _check_number(value: Any, name: str, kind: type, least: int) -> None:
    """scikit-learn's check, which takes truth values and NaN for numbers."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not bool")
    check_scalar(value, name, kind, min_val=least)
    if math.isnan(value):
        raise ValueError(f"{name} == nan, must be >= {least}.")


class _Mixture(NamedTuple):
    """The parameters of a mixture, in float64."""

    weights: Tensor
    mean_directions: Tensor
    concentrations: Tensor


class _Run(NamedTuple):
    """What EM has found from one start."""

    mixture: _Mixture
    lower_bound: float
    n_iter: int
    converged: bool
    collapsed: int

    def merit(self) -> tuple[bool, float]:
        # The likelihood of a collapsed component says how high the bound is, not how good the fit.
        return self.collapsed == 0, self.lower_bound


class _Rows:
    """The rows of an array or tensor as unit vectors in float64, a batch at a time."""

    def __init__(self, values: Any) -> None:
        self._values, self._is_tensor = values, isinstance(values, Tensor)
        self.dim: int = values.shape[1]
        if self._is_tensor:
            self.dtype, self.device = values.dtype, values.device
        else:
            self.dtype = torch.float32 if values.dtype == np.float32 else torch.float64
            self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self._values)

    @property
    def max_concentration(self) -> float:
        return _MAX_CONCENTRATION[self.dtype]

    def like_given(self, result: Tensor) -> Any:
        return result if self._is_tensor else result.numpy()

    def _take(self, rows: slice | np.ndarray) -> Tensor:
        if not self._is_tensor:  # a copy, which may be written to even where the data may not
            return torch.from_numpy(self._values[rows].astype(np.float64))
        if isinstance(rows, slice):
            return self._values[rows].double()
        return self._values[torch.from_numpy(rows).to(self.device)].double()

    def take(self, rows: slice | np.ndarray) -> Tensor:
        """These rows, normalised."""
        x = self._take(rows)
        return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)

    def _parts(self, columns: int, chosen: np.ndarray | None) -> Iterator[slice | np.ndarray]:
        numbers = _BATCH_NUMBERS if self.device.type == "cpu" else _BATCH_NUMBERS_ON_DEVICE
        step = max(1, numbers // (self.dim + 3 * columns))
        for first in range(0, len(self) if chosen is None else len(chosen), step):
            part = slice(first, first + step)
            yield part if chosen is None else chosen[part]

    def batches(self, columns: int, chosen: np.ndarray | None = None) -> Iterator[Tensor]:
        """All rows or the chosen ones, in batches for which so many columns are computed."""
        return map(self.take, self._parts(columns, chosen))

    def gather(
        self, function: Callable[[Tensor], Tensor], columns: int, chosen: np.ndarray | None = None
    ) -> Tensor:
        """The function of each batch, in one tensor.

        That is allocated first: a list of small parts between large batches would keep the memory
        of each batch from being used again.
        """
        first, n = 0, len(self) if chosen is None else len(chosen)
        for x in self.batches(columns, chosen):
            part = function(x)
            if first == 0:
                result = part.new_empty((n, *part.shape[1:]))
            result[first : first + len(part)] = part
            first += len(part)
        return result

    def check(self, *, normalize: bool) -> None:
        """Raises ValueError at the first row that is no direction."""
        tolerance = unit_tolerance(self.dtype, self.dim)
        first = 0
        for part in self._parts(0, None):
            norm = torch.linalg.vector_norm(self._take(part), dim=1)
            good = (norm >= _SHORTEST) & (norm <= _LONGEST)
            if not normalize:
                good &= (norm - 1).abs() < tolerance
            if not bool(good.all()):
                bad = int(good.logical_not().nonzero()[0])
                self._refuse(first + bad, norm[bad].item())
            first += len(norm)

    def _refuse(self, row: int, norm: float) -> None:
        if not norm <= _LONGEST:
            raise ValueError(
                f"X contains NaN, infinity or a value too large: row {row} has the norm {norm:.9g}"
            )
        if norm < _SHORTEST:
            raise ValueError(
                f"row {row} of X has the norm {norm:.9g} and so no direction: leave such rows out"
            )
        raise ValueError(
            f"row {row} of X has the norm {norm:.9g}, but with normalize=False every row must be a "
            "unit vector: normalise the rows, or set normalize=True to use their directions only"
        )


# --------------------------------------------------------------------------------------------------
# The start
# --------------------------------------------------------------------------------------------------


def _start(rows: _Rows, n_components: int, random: np.random.RandomState) -> _Mixture:
    """Spherical k-means from seeds; then equal weights and the concentration they all share."""
    n = min(len(rows), _START_ROWS)
    chosen = np.sort(sample_without_replacement(len(rows), n, random_state=random))
    directions = _seeds(rows, chosen, n_components, random)
    for _ in range(_START_STEPS):
        directions, distance = _k_means_step(rows, chosen, directions)
    # The mean of 1 - cos is one minus the mean resultant length.
    concentration = vmf.inverse_one_minus_mean_resultant_length(distance.clamp(0, 1), rows.dim)
    concentration = concentration.clamp(max=rows.max_concentration).expand(n_components)
    return _Mixture(torch.full_like(concentration, 1 / n_components), directions, concentration)


def _seeds(
    rows: _Rows, chosen: np.ndarray, n_components: int, random: np.random.RandomState
) -> Tensor:
    """k-means++: a row is drawn in proportion to its distance 1 - cos from the nearest seed.

    Of 2 + log(n_components) such candidates the one that leaves the smallest sum of distances
    becomes the next seed, as in scikit-learn (Arthur and Vassilvitskii 2007, section 5).
    """
    trials = 2 + int(math.log(n_components))
    seeds = rows.take(chosen[random.randint(len(chosen), size=1)])
    nearest = _distances(rows, chosen, seeds).squeeze(1)
    while len(seeds) < n_components:
        cumulative = nearest.cumsum(0)
        targets = torch.from_numpy(random.uniform(size=trials)).to(rows.device) * cumulative[-1]
        picks = torch.searchsorted(cumulative, targets).clamp(max=len(chosen) - 1)
        candidates = rows.take(chosen[picks.cpu().numpy()])
        distances = torch.minimum(nearest.unsqueeze(1), _distances(rows, chosen, candidates))
        best = distances.sum(0).argmin()
        nearest = distances[:, best].contiguous()
        seeds = torch.cat((seeds, candidates[best].unsqueeze(0)))
    return seeds


def _distances(rows: _Rows, chosen: np.ndarray, directions: Tensor) -> Tensor:
    """1 - cos between rows and directions, of shape (rows, directions)."""
    return rows.gather(lambda x: (1 - x @ directions.T).clamp_(min=0), len(directions), chosen)


def _k_means_step(rows: _Rows, chosen: np.ndarray, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The directions of the clusters, and the mean distance 1 - cos to the directions before."""
    sums = torch.zeros_like(directions)
    distance = directions.new_zeros(())
    for x in rows.batches(len(directions), chosen):
        largest, cluster = (x @ directions.T).max(1)
        members = torch.nn.functional.one_hot(cluster, len(directions)).to(x.dtype)
        sums.addmm_(members.T, x)
        distance += (1 - largest).sum()
    length = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    return torch.where(length > 0, sums / length, directions), distance / len(chosen)


# --------------------------------------------------------------------------------------------------
# Expectation and maximisation
# --------------------------------------------------------------------------------------------------


class _Expectation(NamedTuple):
    """Sums over the rows x with the responsibilities r of a mixture, and its log likelihood."""

    log_likelihood: float  # the mean over the rows
    n_rows: int
    weights: Tensor  # sum of r, for each component
    sums: Tensor  # sum of r x
    distances: Tensor  # sum of r (1 - <x, mu>)


def _log_joint(mixture: _Mixture) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Rows -> log(w f(x)) and 1 - <x, mu>, each of shape (rows, components)."""
    weights, directions, concentrations = mixture
    dim = directions.shape[1]
    peaks = weights.log() + vmf.log_density_at_mode(concentrations, dim)
    (close,) = (concentrations > _CLOSE).nonzero(as_tuple=True)

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        distances = 1 - x @ directions.T
        if len(close):
            mode = "donot_use_mm_for_euclid_dist"
            distances[:, close] = torch.cdist(x, directions[close], compute_mode=mode) ** 2 / 2
        return torch.addcmul(peaks, concentrations, distances, value=-1), distances

    return evaluate


def _expect(rows: _Rows, mixture: _Mixture) -> _Expectation:
    """The E step, one pass over the rows."""
    evaluate = _log_joint(mixture)
    weights = torch.zeros_like(mixture.weights)
    sums = torch.zeros_like(mixture.mean_directions)
    total_distances = torch.zeros_like(weights)
    total = weights.new_zeros(())
    for x in rows.batches(len(weights)):
        log_joint, distances = evaluate(x)
        log_density = log_joint.logsumexp(1, keepdim=True)
        responsibilities = log_joint.sub_(log_density).exp_()
        total += log_density.sum()
        weights += responsibilities.sum(0)
        sums.addmm_(responsibilities.T, x)
        total_distances += responsibilities.mul_(distances).sum(0)
    return _Expectation(total.item() / len(rows), len(rows), weights, sums, total_distances)


def _maximise(expectation: _Expectation, mixture: _Mixture, max_concentration: float) -> _Mixture:
    r"""The M step.

    With the mean m of a component's rows, |m| is its mean resultant length R. Close to 1 that has
    lost 1 - R, which comes from distances to the former direction mu instead: the identity
    1 - |m|^2 = 2 mean(1 - <x, mu>) - |m - mu|^2 has no term of size 1.
    """
    _, _, sizes, sums, distances = expectation
    former = mixture.mean_directions
    weights = sizes / sizes.sum()
    mean = sums / sizes.unsqueeze(1)
    length = torch.linalg.vector_norm(mean, dim=1)
    one_minus_square = 2 * distances / sizes - (mean - former).square().sum(1)
    concentrations = vmf.inverse_one_minus_mean_resultant_length(
        (one_minus_square / (1 + length)).clamp(0, 1), former.shape[1]
    ).clamp(max=max_concentration)
    directed = (length > 0).unsqueeze(1)  # opposite rows may cancel; any direction is one then
    directions = torch.where(directed, mean / length.unsqueeze(1), former)
    filled = weights >= torch.finfo(weights.dtype).eps
    return _Mixture(
        torch.where(filled, weights, 0.0),
        torch.where(filled.unsqueeze(1), directions, former),
        torch.where(filled, concentrations, mixture.concentrations),
    )
