"""Kernel densities on the sphere, with von Mises-Fisher kernels."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical
from torch.nn.functional import normalize
from torch.types import _size

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.chords import widened
from vmfdist._numerics.constants import static
from vmfdist._numerics.infinity import is_finite_throughout, steep, with_point_mass
from vmfdist._numerics.kernel_sums import log_sum, nearest
from vmfdist._numerics.precision import in_float64
from vmfdist._numerics.rows import expanded
from vmfdist._resultant import one_each
from vmfdist._validation import (
    broadcast_shapes,
    check_samples,
    check_weights,
    expanded_shape,
    require,
    require_dense,
    require_vectors,
    set_validation,
    validate_value,
)
from vmfdist.estimation import leave_one_out
from vmfdist.estimation.mean_shift import Kernels, Modes, climbed, merged
from vmfdist.von_mises_fisher import VonMisesFisher


class SphericalKDE(TorchDistribution):
    r"""A kernel density on the unit sphere of :math:`\mathbb R^d`.

    Each datum spreads its share over a von Mises-Fisher law,

    .. math:: f(x) = \sum_{i=1}^n \omega_i\, C_d(\kappa) \exp(\kappa \langle x, x_i\rangle), \qquad
        \sum_i \omega_i = 1.

    The concentration is the bandwidth: its inverse is the variance of a kernel along each tangent
    direction, where it is high. At 0 the density is uniform, towards infinity it tends to point
    masses at the data, as :class:`~vmfdist.VonMisesFisher` does. :meth:`fit` chooses it.

    It is a distribution of PyTorch and Pyro. Those who come from scikit-learn's ``KernelDensity``
    find ``fit`` as :meth:`fit`, ``score_samples`` as :meth:`log_prob`, ``sample`` as
    :meth:`sample`. Log densities of m values take m n d operations, in blocks, so that no array of
    all pairs is held: not with gradients either, for which blocks are formed again. (Compiled,
    under torch.func and in forward mode there is one block.)

    Shapes:
        ``data`` (..., n, d), ``weights`` (..., n), ``concentration`` (...); the axes to the left
        broadcast to ``batch_shape``, ``event_shape`` is (d,).

    Args:
        data: unit vectors along the last dimension.
        concentration: that of all kernels, :math:`\kappa \ge 0`, a tensor or a Python number.
        weights: nonnegative weights of the data, which need not sum to 1; equal ones if not given.
            A datum of weight 0 is left out, without gradient in its weight.
        validate_args: whether to check the parameters and the values given to :meth:`log_prob`.
            The default is torch's.

    Raises:
        TypeError: if ``data`` is not a float32 or float64 tensor, or ``weights`` or
            ``concentration`` not a real one.
        ValueError: if there are no data or shapes do not fit; under ``validate_args`` also if data
            are not unit vectors, weights are negative, infinite, NaN or all 0, or the concentration
            is negative, NaN or too large for the dtype.

    Example:
        >>> import torch
        >>> from vmfdist.estimation import SphericalKDE
        >>> data = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.6, 0.8, 0.0]])
        >>> density = SphericalKDE(data, 10.0)
        >>> density.log_prob(torch.eye(3))
        tensor([-0.4910, -2.5067, -9.5353])
        >>> density.sample((5,)).shape
        torch.Size([5, 3])

    References:
        * P. Hall, G. S. Watson and J. Cabrera (1987), Kernel density estimation with spherical
          data, Biometrika 74(4), 751-762, doi:10.1093/biomet/74.4.751.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "data": constraints.independent(constraints.sphere, 1),
        "concentration": constraints.nonnegative,
    }
    support = constraints.sphere

    _given: tuple[Tensor, Tensor]  # data and concentration (..., 1) before they are expanded
    _log_weights: Tensor  # of shape (..., n), or (1,) where all are equal

    def __init__(
        self,
        data: Tensor,
        concentration: Tensor | float,
        weights: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        validate = self._validate_args if validate_args is None else validate_args
        check_samples("data", data, validate)
        if isinstance(concentration, Tensor):
            concentration = require_dense("concentration", concentration).unsqueeze(-1)
        check_weights(weights, data, validate)
        batch_shape = _batch_shape(data, concentration, weights)
        self._given = VonMisesFisher(data, concentration, validate)._given
        self._log_weights = _log_shares(data, weights)
        super().__init__(batch_shape, data.shape[-1:], validate_args=False)
        set_validation(self, validate_args)

    @classmethod
    def fit(
        cls, data: Tensor, weights: Tensor | None = None, *, validate_args: bool | None = None
    ) -> Self:
        r"""The density with the concentration under which data are likeliest, each by the others.

        It maximises the leave-one-out likelihood,

        .. math:: L(\kappa) = \sum_i \omega_i \log f_{-i}(x_i),

        with the density :math:`f_{-i}` of all data but :math:`x_i`. The largest of its maxima is
        looked for, at concentrations that grow by factors of 2 at most, and then found by Newton's
        method. The time is that of some twenty times the log densities of the data, in blocks
        of bounded memory.

        Data that are too far apart to tell anything of their density have concentration 0, the
        uniform law. If each datum has another that is equal to it, the concentration is infinite;
        and where some have, it is higher than it should be, since they cannot be told from data
        without error. Merge equal ones into one with a weight (``torch.unique`` counts them), or
        choose the concentration yourself.

        Shapes:
            ``data`` (..., n, d), ``weights`` (..., n); each of a batch has its own concentration.

        Args:
            data: at least two unit vectors along the axis before the last.
            weights: nonnegative weights; equal ones if not given. A datum is left out with all of
                its weight.
            validate_args: whether to check data and weights, and the law's ``validate_args``.

        Returns:
            A density in the dtype of the data. It is differentiable in data and weights with the
            concentration held as it is.

        Raises:
            TypeError: if ``data`` is not a float32 or float64 tensor, or ``weights`` not a real
                one.
            ValueError: if the shapes do not fit, or there are not two data with a weight above 0;
                under ``validate_args`` also if data are not unit vectors, or weights negative,
                infinite or NaN.

        Example:
            >>> import torch
            >>> from vmfdist.estimation import SphericalKDE
            >>> data = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.6, 0.8, 0.0]])
            >>> SphericalKDE.fit(data).concentration
            tensor(8.2541)

        References:
            * R. P. W. Duin (1976), On the choice of smoothing parameters for Parzen estimators of
              probability density functions, IEEE Transactions on Computers C-25(11), 1175-1179,
              doi:10.1109/TC.1976.1674577.
            * P. Hall, G. S. Watson and J. Cabrera (1987), as above.
        """
        validate = cls._validate_args if validate_args is None else validate_args
        check_samples("data", data, validate)
        check_weights(weights, data, validate)
        log_weights = _log_shares(in_float64(data), weights).detach()
        shape = torch.broadcast_shapes(data.shape[:-1], log_weights.shape[:-1] + data.shape[-2:-1])
        log_weights = log_weights.expand(shape)
        present = (log_weights.exp() > 0).sum(-1)
        require(
            "data must hold at least two unit vectors with a weight above 0, for each to be "
            "predicted by the others (or give the concentration)",
            present,
            lambda number: number >= 2,
            "number",
        )
        n, dim = data.shape[-2:]
        rows = data.detach().expand(*shape, dim).reshape(-1, n, dim)
        k = leave_one_out.concentration(rows, log_weights.reshape(-1, n)).view(shape[:-1])
        return cls(data, k.to(data.dtype), weights, validate_args)

    @property
    def data(self) -> Tensor:
        """The data, of shape ``batch_shape + (n, d)``."""
        data, _ = self._given
        return data.expand(self.batch_shape + data.shape[-2:])

    @property
    def concentration(self) -> Tensor:
        """The concentration of the kernels."""
        return self._given[1].squeeze(-1).expand(self.batch_shape)

    @property
    def weights(self) -> Tensor:
        """The weights of the data, with sum 1, of shape ``batch_shape + (n,)``."""
        return self._log_weights.exp().expand(self.data.shape[:-1])

    @property
    def dim(self) -> int:
        """The dimension of the ambient space, d."""
        return static(self._event_shape[0])

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # as torch's Independent has it
        """Whether draws have all gradients, as they do unless weights are differentiated."""
        return not self._log_weights.requires_grad

    def __repr__(self) -> str:
        k = self.concentration
        shown = k.item() if k.numel() == 1 else k.size()
        return f"{type(self).__name__}(data: {self.data.size()}, concentration: {shown})"

    def expand(self, batch_shape: _size, _instance: Any = None) -> Self:
        """The same law with a larger batch shape, sharing memory with this one."""
        new = self._get_checked_instance(SphericalKDE, _instance)
        new._given, new._log_weights = self._given, self._log_weights
        batch_shape = expanded_shape(self.batch_shape, batch_shape)
        super(SphericalKDE, new).__init__(batch_shape, self.event_shape, validate_args=False)
        set_validation(new, self.__dict__.get("_validate_args"))
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density with respect to the surface measure of the sphere.

        Gradients in the value are along the sphere those of the density.

        Args:
            value: unit vectors of shape (..., d) that broadcast with the batch shape.

        Returns:
            A tensor of the broadcast of ``value.shape[:-1]`` and the batch shape.

        Raises:
            ValueError: under ``validate_args``, if ``value`` is not on the sphere or of another
                dimension.
        """
        if self._validate_args:
            validate_value(value, self.batch_shape, self.dim)
        shape = broadcast_shapes(value.shape[:-1], self.batch_shape)
        value = expanded(value, torch.Size((*shape, self.dim)))
        data, k = self._given
        k = k.squeeze(-1)
        is_finite = is_finite_throughout(k)
        steep_k = k if is_finite else steep(k)
        top = vmf.log_density_at_mode(steep_k, self.dim)
        result = top + log_sum(value, data, steep_k, self._log_weights)
        if is_finite:
            return result
        return with_point_mass(result, k, steep_k, nearest(value, data, self._log_weights))

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws with gradients in data and concentration, those of the kernel drawn from.

        Args:
            sample_shape: the shape of independent draws in front of the batch shape.

        Returns:
            Unit vectors of shape ``sample_shape + batch_shape + (d,)``.

        Raises:
            NotImplementedError: if weights are to be differentiated, which draws are not in.
        """
        if not self.has_rsample:
            raise NotImplementedError(
                "draws have no gradients in weights: detach them, or use sample"
            )
        return self._kernels_of_draws(sample_shape).rsample()

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws without gradients."""
        return self._kernels_of_draws(sample_shape).sample()

    def _kernels_of_draws(self, sample_shape: _size) -> VonMisesFisher:
        """The law of each draw."""
        data, k = self._given
        shape = torch.Size(sample_shape)
        if shape.numel():
            logits = self._log_weights.detach().expand(*self.batch_shape, data.shape[-2])
            index = Categorical(logits=logits, validate_args=False).sample(shape)
        else:  # which Categorical refuses
            index = torch.empty(shape + self.batch_shape, dtype=torch.long, device=data.device)
        first = torch.arange(data.shape[:-2].numel(), device=data.device) * data.shape[-2]
        loc = data.reshape(-1, self.dim)[first.view(data.shape[:-2]) + index]
        return VonMisesFisher(loc, k.squeeze(-1), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean in the ambient space."""
        data, k = self._given
        mean = (self._log_weights.exp().unsqueeze(-1) * data).sum(-2)
        mean = mean * vmf.mean_resultant_length(k, self.dim)
        return expanded(mean, self.batch_shape + self.event_shape)

    def modes(self, starts: Tensor | None = None) -> Modes:
        r"""The directions in which the density has a maximum, by mean shift.

        From each start x goes to the direction of the mean of the data, weighted by their kernels
        at x; that is a step of expectation maximisation, and never lowers the density. Steps are
        extrapolated (Varadhan and Roland 2008), also without lowering it, until some
        :math:`10^{-7}` widths of a kernel, :math:`1/\sqrt{1 + \kappa}`, are left. Ends that are
        within 0.01 widths of each other are one mode.

        Which mode a datum leads to is a clustering, whose number of clusters is that of the modes.
        A step takes as long as the log densities of all starts: to find the modes of many data,
        start at some of them.

        Args:
            starts: unit vectors of shape (m, d); the data of positive weight if not given.

        Returns:
            The modes, of highest density first, and the one that each start leads to.

        Raises:
            TypeError: if ``starts`` is not a float32 or float64 tensor.
            ValueError: if the density has a batch shape; if starts have not the shape (m, d), m at
                least 1; under ``validate_args``, if they are not unit vectors.

        Example:
            >>> import torch
            >>> from vmfdist.estimation import SphericalKDE
            >>> data = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
            >>> modes = SphericalKDE(data, 4.0).modes()
            >>> modes.directions
            tensor([[0.8943, 0.4472, 0.0167],
                    [0.0336, 0.0168, 0.9993]])
            >>> modes.labels
            tensor([0, 0, 1])

        References:
            * T. Kobayashi and N. Otsu (2010), Von Mises-Fisher mean shift for clustering on a
              hypersphere, 20th International Conference on Pattern Recognition,
              doi:10.1109/ICPR.2010.522.
            * R. Varadhan and C. Roland (2008), Simple and globally convergent methods for
              accelerating the convergence of any EM algorithm, Scandinavian Journal of Statistics
              35(2), 335-353, doi:10.1111/j.1467-9469.2007.00585.x.
        """
        if self.batch_shape:
            raise ValueError(
                "modes are those of one density, whose batch shape is (), got batch shape "
                f"{tuple(self.batch_shape)}"
            )
        given, k = (x.detach() for x in self._given)
        log_weights = in_float64(self._log_weights.detach())
        data = normalize(in_float64(given), dim=-1)
        if starts is None:
            starts = data[(log_weights > -math.inf).expand(len(data))]
        else:
            check_samples("starts", starts, bool(self._validate_args))
            require_vectors("starts", starts, self.dim)
            if starts.dim() > 2:
                raise ValueError(f"starts must have shape (m, d), got {tuple(starts.shape)}")
            starts = normalize(starts.detach().double(), dim=-1)
        kernels = Kernels(data, log_weights, k.double())
        directions, heights, labels = merged(kernels, *climbed(kernels, starts))
        log_densities = heights + vmf.log_density_at_mode(k.double(), self.dim)
        return Modes(directions.to(given.dtype), log_densities.to(given.dtype), labels)


def _log_shares(data: Tensor, weights: Tensor | None) -> Tensor:
    """Log weights with sum 1, in the dtype of the data: of shape (..., n), or (1,) if all equal."""
    if weights is None:
        return -data.new_full((1,), data.shape[-2]).log()
    weights = widened(one_each(weights, data))
    absent = weights == 0
    weights = torch.where(absent, 0.0, weights)  # without gradient
    total = weights.sum(-1, keepdim=True)
    logs = torch.where(absent, 1.0, weights).log() - torch.where(total == 0, 1.0, total).log()
    return torch.where(absent, -math.inf, logs).to(data.dtype)


def _batch_shape(data: Tensor, concentration: Tensor | float, weights: Tensor | None) -> torch.Size:
    """That of the law; raises where the concentration does not fit the others."""
    shape = data.shape[:-2]
    if weights is not None:
        shape = torch.broadcast_shapes(shape, weights.shape[:-1])
    if not isinstance(concentration, Tensor):
        return shape
    try:
        return broadcast_shapes(shape, concentration.shape[:-1])
    except RuntimeError as error:
        raise ValueError(
            f"concentration of shape {tuple(concentration.shape[:-1])} does not broadcast with "
            f"{tuple(shape)}, the shape of data without its last two dimensions: a density has one "
            "concentration for all data"
        ) from error
