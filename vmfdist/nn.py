r"""Layers between networks and laws: a head that predicts a law, a classifier made of class laws.

Both take features in any floating-point dtype, as they come out of a network under autocast, and
compute parameters and log densities in float32 (in float64 where features or weights are). What is
mapped to a mean direction always has one: a vector of (nearly) length 0, which dead units and
padded rows give, is taken for that of equal coordinates, with gradient 0.

Checks of values, for NaN and infinity, are made where torch checks the arguments of distributions,
and not where a graph is compiled or exported.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn
from torch.distributions import Distribution
from torch.nn.functional import linear, softplus

from vmfdist import _resultant
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._closed_forms.sphere import log_sphere_area
from vmfdist._numerics.autograd import may_look_at
from vmfdist._numerics.constants import cached_constant, in_no_mode, once
from vmfdist._numerics.precision import require_float64
from vmfdist._validation import (
    check_dim,
    check_integer,
    require,
    require_dense,
    require_number,
    set_validation,
)
from vmfdist.power_spherical import PowerSpherical
from vmfdist.rotational import RotationallySymmetric
from vmfdist.spherical_cauchy import SphericalCauchy
from vmfdist.von_mises_fisher import VonMisesFisher

__all__ = ["ClassStatistics", "SphericalClassifier", "SphericalHead"]

# The mean cosine at which a head's laws start, whatever the dimension, and the one below which they
# never fall, times sqrt(dim): the mean along loc of a coordinate that has size one.
_START, _FLOOR = 0.6, 0.3

# Of no class are directions so alike, or so uniform, that its logarithm would be infinite.
_LEAST_CONCENTRATION = 1e-6


@once(maxsize=1024)
@in_no_mode
def _strength_at(mean_cosine: float, law: type[RotationallySymmetric], dim: int) -> float:
    """The strength at which a law has this mean cosine, which rises with it: by bisection."""

    def is_beyond(k: float) -> bool:
        family = law._cosine._family
        return family.mean_cosine(torch.tensor(k, dtype=torch.float64), dim).item() > mean_cosine

    low, high = 0.0, 1.0
    while not is_beyond(high):
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return high


def _checks_values() -> bool:
    return bool(Distribution._validate_args) and not torch.compiler.is_compiling()


@cached_constant(maxsize=16)  # to Dynamo, which below torch 2.9 cannot ask
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    device = x.device.type
    if _has_autocast(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _dtype(*tensors: Tensor) -> torch.dtype:
    """The widest of these, at least float32."""
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return dtype


def _check_size(name: str, x: Any, size: int) -> None:
    require_dense(name, x)
    if x.dim() < 1 or x.shape[-1] != size:
        raise ValueError(
            f"{name} must have {size} entries along the last dimension, got shape {tuple(x.shape)}"
        )


def _check_law(law: Any) -> None:
    if not isinstance(law, type) or not issubclass(
        law, VonMisesFisher | PowerSpherical | SphericalCauchy
    ):
        raise TypeError(
            f"law must be VonMisesFisher, PowerSpherical or SphericalCauchy, the class, got {law!r}"
        )


def _check_concentration(
    concentration: Any, law: type[RotationallySymmetric] = VonMisesFisher
) -> float:
    end = law._cosine._family.point_mass
    if not 0 <= concentration < end:
        most = "finite" if end == math.inf else f"below {end:g}"
        raise ValueError(f"concentration must be nonnegative and {most}, got {concentration}")
    return float(concentration)


def _direction(vector: Tensor) -> Tensor:
    """The direction of any finite vector; that of equal coordinates where it is (nearly) 0.

    The gradient of a direction is one over the length. The least length is such that the square of
    this, which optimisers form, does not overflow.
    """
    scaled, length = _of_fair_length(vector)
    return scaled / length


def _with_length(vector: Tensor, length: Tensor) -> Tensor:
    """A vector of the given length in that direction."""
    scaled, given = _of_fair_length(vector)
    return scaled * (length / given)


def _of_fair_length(vector: Tensor) -> tuple[Tensor, Tensor]:
    """A multiple of the vector, and its length, whose square neither over- nor underflows."""
    least = math.sqrt(torch.finfo(vector.dtype).tiny)
    shortest, longest = 1e4 * least, 1e-4 / least  # between them no square is lost
    length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    if may_look_at(vector) and vector.numel():
        low, high = (end.item() for end in length.detach().aminmax())
        if shortest < low and high < longest:  # the rule
            return vector, length
    # Each row by itself: what one of them needs must not round the others.
    is_fair = (shortest < length.detach()) & (length.detach() < longest)
    largest = vector.detach().abs().amax(-1, keepdim=True)
    unit = torch.where(is_fair, 1.0, largest.clamp(min=least))
    scaled = torch.where(largest < least, 1.0, vector / unit)
    return scaled, torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)


class SphericalHead(nn.Module):
    r"""A linear layer from features to a law on the sphere: a mean direction and a concentration.

    With the output (v, r) of the linear layer the law has

    .. math:: \mu = \frac v {|v|}, \qquad
        \kappa = \kappa_0 + \frac{\kappa_1 - \kappa_0}{\log 2} \log(1 + e^{r / \sqrt n}),

    where n is the number of features, and the concentrations :math:`\kappa_0` and :math:`\kappa_1`
    are those at which the law has the mean cosine :math:`0.3 / \sqrt d` and 0.6. (Of a spherical
    Cauchy law, whose concentration has no digits next to its end 1, :math:`\kappa` is the distance
    that :meth:`~vmfdist.SphericalCauchy.from_distance` takes.) The weights for r are 0 at first, so
    that every law starts at the mean cosine 0.6, in any dimension. Two things keep an autoencoder
    from dropping its code before it has learned to use it, as it does where concentrations run down
    together. One is the floor, at a divergence of 0.045 nats from the uniform law: ``loc`` always
    has a gradient. The other is the root. A step of Adam moves all weights by as much, and r by the
    sum over all features. A fixed concentration is used as it is.

    Shapes:
        Features (..., in_features) give a law of batch shape (...) and event shape (dim,).

    Args:
        in_features: the number of features.
        dim: the dimension of the ambient space, at least 2 (3 for the ordinary sphere).
        law: :class:`~vmfdist.VonMisesFisher`, :class:`~vmfdist.PowerSpherical` or
            :class:`~vmfdist.SphericalCauchy`.
        concentration: None to learn it, or a number for all laws.
        device: of the linear layer.
        dtype: of the linear layer. Whatever it is, laws are computed in float32 at least.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if ``in_features`` is below 1, ``dim`` below 2, or ``concentration`` negative,
            not finite, or for a spherical Cauchy law not below 1. The call raises it where features
            have not ``in_features`` entries, or the output of the linear layer is not finite.

    Example:
        >>> import torch
        >>> from vmfdist.nn import SphericalHead
        >>> head = SphericalHead(128, dim=16)
        >>> law = head(torch.randn(32, 128))
        >>> law.batch_shape, law.event_shape
        (torch.Size([32]), torch.Size([16]))
        >>> law.mean_resultant_length[:3]
        tensor([0.6000, 0.6000, 0.6000], grad_fn=<SliceBackward0>)
    """

    def __init__(
        self,
        in_features: int,
        dim: int,
        law: type[VonMisesFisher] | type[PowerSpherical] | type[SphericalCauchy] = VonMisesFisher,
        concentration: float | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_law(law)
        if concentration is not None:
            require_number("concentration", concentration, "a Python number, or None to learn it")
            concentration = _check_concentration(concentration, law)
        self.in_features = check_integer("in_features", in_features, 1)
        self.dim = check_dim(dim)
        self.law = law
        self.concentration = concentration
        if concentration is None:
            self._floor, self._start = (
                _strength_at(cosine, law, self.dim)
                for cosine in (_FLOOR / math.sqrt(self.dim), _START)
            )
        outputs = self.dim + (concentration is None)
        self.linear = nn.Linear(self.in_features, outputs, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weights for the direction anew, and sets those for the concentration to 0."""
        self.linear.reset_parameters()
        with torch.no_grad():
            self.linear.weight[self.dim :] = 0.0
            self.linear.bias[self.dim :] = 0.0

    def forward(self, features: Tensor) -> VonMisesFisher | PowerSpherical | SphericalCauchy:
        """The law of each row of features."""
        _check_size("features", features, self.in_features)
        weight, bias = self.linear.weight, self.linear.bias
        dtype = _dtype(features, weight)
        with _without_autocast(features):
            output = linear(features.to(dtype), weight.to(dtype), bias.to(dtype))
        checks = _checks_values()
        if checks:
            require(
                f"features of shape {tuple(features.shape)} must be finite, and so must be what "
                "the linear layer makes of them",
                output,
                math.isfinite,
            )
        # The parameters are right by now.
        law: VonMisesFisher | PowerSpherical | SphericalCauchy
        if self.concentration is None:
            output, raw = output.split([self.dim, 1], -1)
            beta = 1 / math.sqrt(self.in_features)
            slope = (self._start - self._floor) / math.log(2) * beta
            strength = self._floor + slope * softplus(raw.squeeze(-1), beta)
            law = self.law._of_strength(_direction(output), strength, validate_args=False)
        else:
            law = self.law(_direction(output), self.concentration, validate_args=False)
        if checks:
            set_validation(law, None)
        return law

    def extra_repr(self) -> str:
        """What the printed module says beside its linear layer."""
        learned = "learned" if self.concentration is None else f"{self.concentration:g}"
        return f"dim={self.dim}, law={self.law.__name__}, concentration={learned}"


class ClassStatistics:
    r"""Sums and counts of unit vectors, class by class: all that laws of the classes are fitted to.

    They are accumulated over any number of batches, in float64, and added up over processes. The
    mean of a class is its sum by its count, and :meth:`vmfdist.VonMisesFisher.from_mean` makes a
    law of it; :meth:`SphericalClassifier.fit` a classifier.

    Args:
        dim: the dimension of the embeddings, at least 2.
        classes: the number of classes.
        device: where the sums are, which is where the embeddings must be.

    Raises:
        TypeError: if an argument is no integer.
        ValueError: if ``dim`` is below 2 or ``classes`` below 1.

    Example:
        >>> import torch
        >>> from vmfdist.nn import ClassStatistics
        >>> statistics = ClassStatistics(dim=3, classes=2)
        >>> for embeddings, labels in [(torch.eye(3), torch.tensor([0, 0, 1]))]:
        ...     statistics.update(embeddings, labels)
        >>> statistics.counts
        tensor([2., 1.], dtype=torch.float64)
    """

    sums: Tensor
    """The sums of unit vectors, (classes, dim)."""

    counts: Tensor
    """The numbers of vectors, (classes,)."""

    def __init__(self, dim: int, classes: int, *, device: torch.device | str | None = None) -> None:
        shape = check_integer("classes", classes, 1), check_dim(dim)
        require_float64(torch.empty(0, device=device).device)
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.counts = torch.zeros(shape[:1], dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            embeddings: vectors of shape (..., dim), which are normalised; those of length 0, as
                padding has, are left out.
            labels: their classes, integers from 0 on, of shape (...).

        Raises:
            TypeError: if ``labels`` does not hold integers.
            ValueError: if the shapes do not fit, an embedding is not finite, or a label is none of
                the classes.
        """
        classes, dim = self.sums.shape
        _check_size("embeddings", embeddings, dim)
        require_dense("labels", labels)
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        if labels.shape != embeddings.shape[:-1]:
            raise ValueError(
                f"labels must have shape {tuple(embeddings.shape[:-1])}, that of the embeddings "
                f"without the last dimension, got {tuple(labels.shape)}"
            )
        if _checks_values():
            require("embeddings must be finite", embeddings, math.isfinite)
            require(f"labels must be from 0 to {classes - 1}", labels, lambda x: 0 <= x < classes)
        counted = (embeddings != 0).any(-1).double()
        x = _direction(embeddings.double()) * counted.unsqueeze(-1)
        index = labels.reshape(-1).long()
        self.sums.index_add_(0, index, x.reshape(-1, dim))
        self.counts.index_add_(0, index, counted.reshape(-1))

    def all_reduced(self, group: distributed.ProcessGroup | None = None) -> ClassStatistics:
        """The statistics of all processes together, in each of them.

        What the processes hold of their own stays as it is. Where torch.distributed is not
        initialised, there is one process.

        Args:
            group: the processes; all of them if not given.
        """
        total = ClassStatistics(*reversed(self.sums.shape), device=self.sums.device)
        total.sums, total.counts = self.sums.clone(), self.counts.clone()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(total.sums, group=group)
            distributed.all_reduce(total.counts, group=group)
        return total


class SphericalClassifier(nn.Module):
    r"""A classifier whose classes are von Mises-Fisher laws of the direction of an embedding.

    With the direction x of an embedding, the prior :math:`\pi_c` and the law of class c, mean
    direction :math:`\mu_c` (its prototype) and concentration :math:`\kappa_c`, it gives

    .. math:: \log \pi_c f_c(x) = \log \pi_c + \log C_d(\kappa_c)
        + \kappa_c \langle x, \mu_c \rangle,

    the logarithm of the joint density of x and its class. As logits of
    :func:`torch.nn.functional.cross_entropy` they train prototypes and concentrations: with a
    shared concentration this is the softmax on cosines with a learned temperature, to which
    concentrations of their own add :math:`\log C_d(\kappa_c)`, which must not be left out then.
    Their log-sum-exp is the log density of the embedding, which is low for inputs of no class.

    Prototypes start at random directions, and concentrations at :math:`2 \sqrt d`, where cosines
    with random directions, of standard deviation :math:`1/\sqrt d`, make logits of standard
    deviation 2. The prior is uniform until :meth:`fit` sets it to the class frequencies; it is not
    trained.

    All classes together cost a matrix product, in float32 whatever autocast says, whose rounding is
    of the order of eps times the concentration. ``classifier.law.log_prob(x.unsqueeze(-2))`` has
    all digits at any concentration, for a higher price.

    Shapes:
        Embeddings (..., dim) give log densities of shape (..., classes).

    Args:
        dim: the dimension of the embeddings, at least 2.
        classes: the number of classes.
        concentration: "shared" by all classes, "per-class", or a number that is not learned.
        device: of the parameters.
        dtype: of the parameters. Whatever it is, densities are computed in float32 at least.

    Attributes:
        weight: vectors along the prototypes, of shape (classes, dim).
        log_concentration: of shape () or (classes,); None if the concentration is fixed.
        log_prior: of shape (classes,), a buffer.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if ``dim`` is below 2, ``classes`` below 1, or ``concentration`` negative, not
            finite, or another word.

    Example:
        >>> import torch
        >>> from vmfdist.nn import SphericalClassifier
        >>> classifier = SphericalClassifier(64, classes=10, concentration="per-class")
        >>> embeddings, labels = torch.randn(32, 64), torch.arange(32) % 10
        >>> loss = torch.nn.functional.cross_entropy(classifier(embeddings), labels)
        >>> loss.backward()
        >>> classifier.log_density(embeddings).shape, classifier.law.batch_shape
        (torch.Size([32]), torch.Size([10]))

    References:
        * A. Banerjee, I. S. Dhillon, J. Ghosh and S. Sra (2005), Clustering on the unit hypersphere
          using von Mises-Fisher distributions, Journal of Machine Learning Research 6, 1345-1382
          (class densities and their estimates).
        * H. Govindarajan, P. Sidén, J. Roll and F. Lindsten (2023), DINO as a von Mises-Fisher
          mixture model, ICLR, arXiv:2405.10939 (log C in the logits).
    """

    log_concentration: nn.Parameter | None
    log_prior: Tensor

    def __init__(
        self,
        dim: int,
        classes: int,
        concentration: str | float = "shared",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(concentration, str):
            if concentration not in ("shared", "per-class"):
                raise ValueError(
                    "concentration must be 'shared', 'per-class' or a number, got "
                    f"{concentration!r}"
                )
        else:
            require_number("concentration", concentration, "'shared', 'per-class' or a number")
            concentration = _check_concentration(concentration)
        self.dim, self.classes = check_dim(dim), check_integer("classes", classes, 1)
        self.concentration = concentration

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, device=device, dtype=dtype)

        self.weight = nn.Parameter(empty(self.classes, self.dim))
        learned = {"shared": (), "per-class": (self.classes,)}
        self.log_concentration = (
            nn.Parameter(empty(*learned[concentration])) if concentration in learned else None
        )
        self.register_buffer("log_prior", empty(self.classes))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws prototypes anew, and sets concentrations and prior to where they start."""
        nn.init.normal_(self.weight)
        self.weight.copy_(_direction(self.weight))
        if self.log_concentration is not None:
            self.log_concentration.fill_(math.log(2 * math.sqrt(self.dim)))
        self.log_prior.fill_(-math.log(self.classes))

    @property
    def law(self) -> VonMisesFisher:
        """The laws of the classes, of batch shape (classes,)."""
        dtype = _dtype(self.weight)
        loc, k = _direction(self.weight.to(dtype)), self._concentration(dtype)
        return VonMisesFisher(loc, k, None if _checks_values() else False)

    def _concentration(self, dtype: torch.dtype) -> Tensor:
        if self.log_concentration is not None:
            return self.log_concentration.to(dtype).exp()
        return torch.full((), float(self.concentration), dtype=dtype, device=self.weight.device)

    def forward(self, embeddings: Tensor) -> Tensor:
        """The log joint density of each embedding's direction and each class."""
        _check_size("embeddings", embeddings, self.dim)
        if _checks_values():
            require("embeddings must be finite", embeddings, math.isfinite)
        dtype = _dtype(embeddings, self.weight)
        k = self._concentration(dtype)
        log_normalizer = log_sphere_area(self.dim) + vmf.log_partition(k, self.dim)
        with _without_autocast(embeddings):
            return linear(
                _direction(embeddings.to(dtype)),
                _with_length(self.weight.to(dtype), k.unsqueeze(-1)),
                self.log_prior.to(dtype) - log_normalizer,
            )

    def log_density(self, embeddings: Tensor) -> Tensor:
        """The log density of each embedding's direction: low for inputs of an unknown class."""
        return self(embeddings).logsumexp(-1)

    def predict(self, embeddings: Tensor) -> Tensor:
        """The most probable class of each embedding."""
        return self(embeddings).argmax(-1)

    @torch.no_grad()
    def fit(self, statistics: ClassStatistics) -> Self:
        r"""Sets prototypes, concentrations and prior to those of maximum likelihood.

        That is where training may start, or a classifier as it is, of embeddings that somebody
        else has trained. With means of length :math:`R_c` of :math:`n_c` vectors, concentrations
        solve :math:`A(\kappa_c) = R_c` (:meth:`vmfdist.VonMisesFisher.from_mean`), a shared one
        :math:`A(\kappa) = \sum_c n_c R_c / n`, and a fixed one stays. The prior is
        :math:`n_c / n`.

        Args:
            statistics: of the training data, of all processes.

        Returns:
            The classifier.

        Raises:
            TypeError: if ``statistics`` are no :class:`ClassStatistics`.
            ValueError: if dimension or number of classes differ, a class has no samples, or a
                concentration would be infinite: that of a class whose samples are all equal, one
                alone included.
        """
        if not isinstance(statistics, ClassStatistics):
            raise TypeError(f"statistics must be ClassStatistics, got {type(statistics).__name__}")
        sums, counts = statistics.sums, statistics.counts
        if sums.shape != self.weight.shape:
            raise ValueError(
                f"statistics must be of {self.classes} classes in dimension {self.dim}, got "
                f"{len(sums)} in dimension {sums.shape[-1]}"
            )
        if empty := (counts == 0).nonzero().flatten().tolist():
            raise ValueError(f"every class must have samples, got none of the classes {empty}")
        laws = VonMisesFisher.from_mean(sums / counts.unsqueeze(-1))
        n = counts.sum()
        if self.log_concentration is not None:
            k = laws.concentration
            if self.concentration == "shared":
                length = torch.linalg.vector_norm(sums, dim=-1).sum() / n
                k = _resultant.concentration(length, 1 - length, self.dim)
            if infinite := k.isinf().flatten().nonzero().flatten().tolist():
                raise ValueError(
                    f"samples of a class must not all be equal, got such of the classes {infinite}:"
                    " their concentration is infinite. Share it, or fix it"
                    if k.dim()
                    else "samples of each class must not all be equal: the concentration is "
                    "infinite. Fix it"
                )
            self.log_concentration.copy_(k.clamp(min=_LEAST_CONCENTRATION).log())
        self.weight.copy_(laws.loc)
        self.log_prior.copy_((counts / n).log())
        return self

    def extra_repr(self) -> str:
        """What the printed module says."""
        return f"{self.dim}, classes={self.classes}, concentration={self.concentration!r}"
