"""The mixture with the habits of scikit-learn's estimators."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from copy import copy
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._sampling.draw import draw
from vmfdist._validation import require
from vmfdist.mixture._concentrations import Concentrations
from vmfdist.mixture._expectation_maximisation import (
    Expectation,
    Mixture,
    blended,
    expect,
    log_joint,
    maximise,
    merit,
    moved,
    objective,
    standing,
)
from vmfdist.mixture._input import (
    check_enough,
    check_number,
    parameter,
    parameter_of_directions,
    read_rows,
)
from vmfdist.mixture._rows import MAX_CONCENTRATION, Rows
from vmfdist.mixture._starts import KINDS, Given, make_starts

# Of partial_fit; any between 1/2 and 1 converges (Cappe and Moulines 2009, theorem 1).
_STEP_EXPONENT = 0.6


class VonMisesFisherMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]  # untyped bases
    r"""A mixture of von Mises-Fisher laws on the unit sphere of :math:`\mathbb R^d`.

    Its density with respect to the surface measure of the sphere is

    .. math::

        f(x) = \sum_{j=1}^m w_j\, C_d(\kappa_j) \exp(\kappa_j \langle x, \mu_j \rangle),

    with weights :math:`w_j` that sum to 1 and the components of :class:`~vmfdist.VonMisesFisher`.
    :meth:`fit` maximises the likelihood by expectation maximisation (EM), which never lowers it.

    Data are NumPy arrays (and what scikit-learn makes arrays of), SciPy's sparse arrays, or tensors
    on any device with float64; on the CPU also sparse tensors in CSR layout; or iterables of such
    batches of rows, which every pass goes through anew. Sparse rows are never made dense. What is
    computed for given rows is of the kind of these rows: arrays for arrays, for tensors tensors on
    their device; densities and probabilities in the dtype of the rows. The fitted parameters and
    :meth:`sample` follow the rows given to :meth:`fit` and are always float64, since a direction
    rounded to float32 is too coarse at high concentration.

    The starts look at 65536 rows at most, drawn at random, and are of three kinds:

    * "k-means++": seeds by k-means++ with the distance :math:`1 - \cos`, which is half the squared
      Euclidean one on the sphere, each the best of 2 + log(n_components) candidates; then ten steps
      of spherical k-means; then equal weights and one concentration, the one that is most likely
      given these clusters;
    * "random_from_data": the same with the directions of rows drawn at random;
    * "random": probabilities of the components drawn at random for each row, then ten steps of EM.

    With ``n_init`` = 1 the start is of the kind ``init_params``. Further ones are the best of three
    times as many short runs, ten steps of EM each, whose kinds go in turn; those from directions
    take at most one step of k-means, and their concentrations are multiplied by random factors
    between :math:`e^{-1.5}` and :math:`e^{1.5}`. Clusters of k-means do not overlap, so that
    components of one direction and unequal concentration are hardly ever found from there.

    Degenerate data: the likelihood has no upper bound, since a component can close in on a single
    point, or on equal ones. Concentrations are therefore bounded, by :math:`2^{46} = 7 \cdot
    10^{13}` for float32 rows (no more can be told from their rounding) and :math:`2^{52} = 4.5
    \cdot 10^{15}` for float64 rows. A component at the bound has collapsed. Of several starts, one
    without collapsed components is preferred; where the result has some, :meth:`fit` warns. A
    component whose weight falls below :math:`2^{-52}` is empty: its weight becomes 0, and
    :meth:`fit` warns.

    Args:
        n_components: the number of components.
        concentration_type: "full", each component has a concentration of its own; "tied", all have
            the same one; or a number, the concentration of all, which is not estimated.
        concentration_prior: (n, r), as if each component (if tied, all of them together) had seen n
            more rows whose mean cosine with its mean direction is r. The prior density of a
            concentration is the conjugate one, :math:`\propto (C_d(\kappa) e^{r\kappa})^n`. With
            it no component collapses, and EM never lowers the posterior density.
        tol: EM stops where an iteration gains no more mean log likelihood than this.
        max_iter: the largest number of iterations, each one pass over the data.
        n_init: how many starts to take; the one of the highest likelihood is kept.
        init_params: the kind of the first start: "k-means++", "random" or "random_from_data".
        weights_init: the weights to start from, of shape (n_components,), with sum 1.
        means_init: the directions to start from, of shape (n_components, d); any length but 0.
        concentrations_init: the concentrations to start from, of shape (n_components,). What is
            given of the three holds for all starts, which find the rest as otherwise.
        warm_start: whether a fit starts, once, from what the fit before has found.
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
        lower_bound_: the mean log density of the data, ``score(X)``; with a prior, plus the
            logarithm of the prior density (up to a constant) by the number of rows.
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
        * O. Cappe and E. Moulines (2009), On-line expectation-maximization algorithm for latent
          data models, Journal of the Royal Statistical Society B 71(3), 593-613,
          doi:10.1111/j.1467-9868.2009.00698.x.
        * K. Hornik and B. Gruen (2014), movMF, Journal of Statistical Software 58(10),
          doi:10.18637/jss.v058.i10.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        concentration_type: str | float = "full",
        concentration_prior: tuple[float, float] | None = None,
        tol: float = 1e-3,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "k-means++",
        weights_init: Any = None,
        means_init: Any = None,
        concentrations_init: Any = None,
        warm_start: bool = False,
        normalize: bool = True,
        random_state: Any = None,
        verbose: int = 0,
        verbose_interval: int = 10,
    ) -> None:
        self.n_components = n_components
        self.concentration_type = concentration_type
        self.concentration_prior = concentration_prior
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.concentrations_init = concentrations_init
        self.warm_start = warm_start
        self.normalize = normalize
        self.random_state = random_state
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, group: Any = None) -> Self:
        """Estimates the mixture by EM, from ``n_init`` starts.

        A fit that fails or is interrupted changes nothing.

        Memory beside the data: some tens of MB, whatever the number of rows. Mapped files and
        batches are not held in memory, but of batches the rows are that starts look at.

        Args:
            X: the directions, of shape (n_samples, d), float32 or float64 (arrays of other types
                are converted to float64), or an iterable of such batches that starts anew in every
                pass: a list of them, or an object whose ``__iter__`` is a generator.
            y: ignored, there by convention.
            sample_weight: how often each row counts, of shape (n_samples,); fractions count as
                well, and rows of weight 0 not at all.
            group: a process group of torch.distributed, as ``torch.distributed.group.WORLD`` is.
                Each of its processes gives its share of the rows to the same call, and all of them
                get the fit of all rows. An iteration exchanges m (d + 2) + 4 numbers for m
                components. Without it, each process fits its rows alone.

        Returns:
            The estimator itself.

        Raises:
            ValueError: if a row holds NaN or infinity, is 0, or is not a unit vector although
                ``normalize`` is False; if there are fewer rows than components, or than 2, or fewer
                with a weight above 0; if a weight is negative or above 1e150; if d < 2; if batches
                are not alike, or others in another pass; if another process of the group cannot
                read its share; if an argument of the constructor is out of its range.
            TypeError: if a tensor is sparse in another layout than CSR, or nested, or not float32
                or float64; if batches come from a generator, which ends after one pass, or are no
                matrices; if an argument of the constructor is of a wrong type.
        """
        self._check_arguments()
        # What is found belongs to a copy until all of it is there: a fit that fails or is
        # interrupted leaves what the one before has found.
        fitted = copy(self)
        rows = read_rows(fitted, X, sample_weight, least=2, fitting=True, group=group)
        check_enough(rows, self.n_components, "n_components", 2)
        starts = enumerate(self._starts(rows))
        runs = (self._run(rows, *start) for start in starts)
        best = max(runs, key=lambda run: standing(run.merit))
        fitted._keep(rows, best.mixture, best.expectation)
        fitted.converged_ = best.converged
        fitted.n_iter_ = best.n_iter
        _, fitted.lower_bound_ = best.merit
        self.__dict__ = fitted.__dict__
        self._warn(best)
        return self

    def partial_fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, group: Any = None
    ) -> Self:
        """Takes one step of stepwise EM with some rows of a stream (Cappe and Moulines 2009).

        What the M step needs, sums over rows, is an average over all rows so far in which later
        ones count more: n new rows of N in all have the share :math:`(n/N)^{0.6}`, so that what the
        first, bad parameters said of early rows is forgotten. Batches of some hundred rows a
        component do well; with fewer, the estimates are noisy.

        The first call takes a start from its rows, of the kind ``init_params``. After a ``fit`` the
        stream goes on from there. ``lower_bound_`` is that of these rows before the step, which
        says how well the mixture predicts them, and ``n_iter_`` the number of steps.

        Args:
            X: the directions, of shape (n_samples, d).
            y: ignored, there by convention.
            sample_weight: how often each row counts, of shape (n_samples,).
            group: as of :meth:`fit`.

        Returns:
            The estimator itself.

        Raises:
            ValueError: as :meth:`fit`, for the first rows; later there may be fewer.
            TypeError: as :meth:`fit`.
        """
        self._check_arguments()
        fitted = copy(self)
        going_on = hasattr(self, "weights_")
        rows = read_rows(fitted, X, sample_weight, least=2, fitting=not going_on, group=group)
        concentrations = self._concentrations(rows)
        if going_on:
            mixture = self._last(rows)
        else:
            check_enough(rows, self.n_components, "n_components", 2)
            mixture = next(self._starts(rows))
        expectation = expect(rows, mixture)
        fitted.lower_bound_ = objective(expectation, mixture, concentrations)
        if going_on:
            n_rows, sums = self._seen
            seen = Expectation(math.nan, n_rows, *(x.to(rows.device) for x in sums))
            share = (expectation.n_rows / (n_rows + expectation.n_rows)) ** _STEP_EXPONENT
            expectation = blended(seen, expectation, share)
        stepped = maximise(expectation, mixture, concentrations)
        fitted._keep(rows, stepped, moved(expectation, mixture, stepped))
        fitted.converged_ = False
        fitted.n_iter_ = self.n_iter_ + 1 if going_on else 1
        self.__dict__ = fitted.__dict__
        return self

    def fit_predict(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, group: Any = None
    ) -> Any:
        """Fits, and returns ``predict(X)``."""
        return self.fit(X, sample_weight=sample_weight, group=group).predict(X)

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

    def score(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, group: Any = None
    ) -> float:
        """The mean log density of the rows; ``y`` is ignored.

        With ``group``, as of :meth:`fit`, that of the rows of all processes.
        """
        return self._expect(X, sample_weight, group).log_likelihood

    def aic(self, X: Any, sample_weight: Any = None, *, group: Any = None) -> float:
        """Akaike's information criterion of the rows, the lower the better.

        With ``group``, as of :meth:`fit`, that of the rows of all processes.
        """
        expectation = self._expect(X, sample_weight, group)
        return 2 * self._n_parameters() - 2 * expectation.n_rows * expectation.log_likelihood

    def bic(self, X: Any, sample_weight: Any = None, *, group: Any = None) -> float:
        """The Bayesian information criterion (Schwarz 1978) of the rows, the lower the better.

        A mean direction counts d - 1 parameters, each concentration that is estimated one, and the
        weights one less than their number. The number of rows is the sum of their weights. With
        ``group``, as of :meth:`fit`, the criterion is that of the rows of all processes.
        """
        expectation = self._expect(X, sample_weight, group)
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
        check_number(n_samples, "n_samples", Integral, 1)
        weights, directions, concentrations = self._parameters()
        random = check_random_state(self.random_state)
        counts = random.multinomial(n_samples, weights.cpu().numpy())
        labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(directions.device)
        noise = torch.from_numpy(random.standard_normal((n_samples, self.n_features_in_)))
        noise = noise.to(directions.device)
        x = draw(noise, directions[labels], concentrations[labels], VON_MISES_FISHER.of_noise)
        if isinstance(self.weights_, Tensor):
            return x, labels
        return x.numpy(), labels.numpy()

    # Input

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_arguments(self) -> None:
        for name in ("n_components", "max_iter", "n_init", "verbose_interval"):
            check_number(getattr(self, name), name, Integral, 1)
        check_number(self.tol, "tol", Real, 0)
        check_scalar(self.verbose, "verbose", Integral, min_val=0)
        for name in ("warm_start", "normalize"):
            check_scalar(getattr(self, name), name, (bool, np.bool_))
        self._check_concentrations()
        if self.init_params not in KINDS:
            raise ValueError(f"init_params must be one of {KINDS}, got {self.init_params!r}")

    def _check_concentrations(self) -> None:
        kind: Any = self.concentration_type
        prior: Any = self.concentration_prior
        if not isinstance(kind, str):
            check_number(kind, "concentration_type", Real, 0)
            if kind > min(MAX_CONCENTRATION.values()):
                raise ValueError(f"concentration_type must be at most 2^46 = 7e13, got {kind}")
        elif kind not in ("full", "tied"):
            raise ValueError(f"concentration_type must be 'full', 'tied' or a number, got {kind!r}")
        given = prior is not None or self.concentrations_init is not None
        if not isinstance(kind, str) and given:
            raise ValueError(
                "concentration_prior and concentrations_init need concentrations to estimate, got "
                f"concentration_type = {kind}"
            )
        if prior is None:
            return
        if not isinstance(prior, tuple | list) or len(prior) != 2:
            raise TypeError(
                "concentration_prior must be a pair, a number of rows and their mean cosine, got "
                f"{prior!r}"
            )
        rows, cosine = prior
        check_number(rows, "the number of rows in concentration_prior", Real, 0)
        check_number(cosine, "the mean cosine in concentration_prior", Real, 0)
        if rows == math.inf or cosine >= 1:
            raise ValueError(
                "concentration_prior must be a finite number of rows and a mean cosine below 1, "
                f"got {prior!r}"
            )

    def _last(self, rows: Rows) -> Mixture:
        """What the fit before has found, as a start."""
        last = self._parameters(rows.device)
        shape = (self.n_components, rows.dim)
        if last.mean_directions.shape != shape:
            raise ValueError(
                f"warm_start needs the components and features of the fit before, "
                f"{tuple(last.mean_directions.shape)}, got {shape}"
            )
        concentrations = self._concentrations(rows).admitted(last.concentrations)
        return last._replace(concentrations=concentrations)

    def _concentrations(self, rows: Rows) -> Concentrations:
        prior = (0.0, 0.0) if self.concentration_prior is None else self.concentration_prior
        return Concentrations(self.concentration_type, *prior, rows.max_concentration)

    def _given(self, rows: Rows) -> Given:
        """What is given of a start, checked."""
        n, d = self.n_components, rows.dim
        weights = parameter(self.weights_init, "weights_init", (n,), rows.device)
        directions = parameter_of_directions(self.means_init, "means_init", (n, d), rows.device)
        concentrations = parameter(
            self.concentrations_init, "concentrations_init", (n,), rows.device
        )
        if weights is not None:
            require("weights_init must be nonnegative", weights, lambda weight: weight >= 0)
            require(
                "weights_init must have the sum 1",
                weights.sum(),
                lambda total: abs(total - 1) < 1e-6,
                "sum",
            )
            weights = weights / weights.sum()
        if concentrations is not None:
            require(
                "concentrations_init must be nonnegative", concentrations, lambda value: value >= 0
            )
            if self.concentration_type == "tied" and concentrations.unique().numel() > 1:
                raise ValueError(
                    "concentrations_init must be equal with concentration_type='tied', got "
                    f"{concentrations.tolist()}"
                )
        return Given(weights, directions, concentrations)

    # Output

    def _parameters(self, device: torch.device | None = None) -> Mixture:
        fitted = (self.weights_, self.mean_directions_, self.concentrations_)
        tensors = (x if isinstance(x, Tensor) else torch.from_numpy(np.array(x)) for x in fitted)
        return Mixture(*(x.to(device) for x in tensors))

    def _n_parameters(self) -> int:
        n = len(self.weights_)
        free = Concentrations(self.concentration_type, 0.0, 0.0, math.inf).number(n)
        return n * (self.n_features_in_ - 1) + free + n - 1

    def _row_by_row(
        self, X: Any, function: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None
    ) -> Any:
        """A function of the log joint densities (rows, components), for each row of X."""
        check_is_fitted(self)
        rows = read_rows(self, X)
        evaluate = log_joint(self._parameters(rows.device))
        dtype = dtype or rows.dtype
        result = rows.gather(lambda x: function(evaluate(x)[0]).to(dtype), len(self.weights_))
        return rows.like_given(result)

    def _keep(self, rows: Rows, mixture: Mixture, expectation: Expectation) -> None:
        self.weights_, self.mean_directions_, self.concentrations_ = map(rows.like_given, mixture)
        self._seen = expectation.n_rows, expectation[2:]  # for partial_fit

    def _expect(self, X: Any, sample_weight: Any, group: Any) -> Expectation:
        check_is_fitted(self)
        rows = read_rows(self, X, sample_weight, group=group)
        return expect(rows, self._parameters(rows.device))

    # EM

    def _starts(self, rows: Rows) -> Iterator[Mixture]:
        if self.warm_start and hasattr(self, "weights_"):
            yield self._last(rows)
            return
        given = self._given(rows)
        yield from make_starts(
            rows,
            self.n_components,
            1 if None not in given else self.n_init,
            self.init_params,
            given,
            self._concentrations(rows),
            check_random_state(self.random_state),
        )

    def _run(self, rows: Rows, number: int, mixture: Mixture) -> _Run:
        """EM from one start; the progress is printed in the words of scikit-learn's mixtures."""
        began = last = time.perf_counter()
        self._print(rows, f"Initialization {number}")
        concentrations = self._concentrations(rows)
        expectation = expect(rows, mixture)
        found = merit(rows, expectation, mixture, concentrations)
        n_iter, converged = 0, False
        while n_iter < self.max_iter and not converged:
            n_iter += 1
            mixture = maximise(expectation, mixture, concentrations)
            expectation = expect(rows, mixture)
            (_, before), found = found, merit(rows, expectation, mixture, concentrations)
            gain = found[1] - before
            converged = gain <= self.tol
            if n_iter % self.verbose_interval == 0:
                now = time.perf_counter()
                detail = f"\t time lapse {now - last:.5f}s\t ll change {gain:.5f}"
                self._print(rows, f"  Iteration {n_iter}", detail)
                last = now
        lapse = time.perf_counter() - began
        self._print(
            rows,
            f"Initialization {'converged' if converged else 'did not converge'}.",
            f" time lapse {lapse:.5f}s\t lower bound {found[1]:.5f}.",
        )
        return _Run(
            mixture,
            expectation,
            found,
            n_iter,
            converged,
            concentrations.collapsed(mixture.concentrations),
        )

    def _print(self, rows: Rows, text: str, detail: str = "") -> None:
        if self.verbose and rows.group.rank == 0:
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


class _Run(NamedTuple):
    """What EM has found from one start."""

    mixture: Mixture
    expectation: Expectation
    merit: tuple[bool, float]
    n_iter: int
    converged: bool
    collapsed: int
