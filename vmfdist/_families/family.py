r"""What the code for laws in general knows of a family of laws.

A family is a law on the unit sphere of :math:`\mathbb R^d` that is symmetric about a mean direction
:math:`\mu`, for every dimension :math:`d \ge 2` and strength :math:`k \ge 0`, uniform at 0 and the
point mass at :math:`\mu` at infinity. It is determined by the law of the cosine
:math:`w = \langle x, \mu\rangle`, that is of t = 1 - w. One instance of a class here stands for
each: it has no state.

The strength is what formulas take. The concentration is what users give, the parameter that the
literature knows the law by; for most laws they are the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from vmfdist._sampling.noise_to_cosine import CosineDraw
from vmfdist._sampling.quadrature import Probability, Quantile


class Family(ABC):
    """A family of laws; its functions work element by element, in float32 and float64.

    They are differentiable but for the last three, which give their derivative in k beside.
    """

    point_mass: ClassVar[float] = math.inf
    """The largest concentration, that of the point mass."""

    def strength(self, concentration: Tensor) -> Tensor:
        """The k of the formulas, from 0 to infinity, for a concentration."""
        return concentration

    mean_cosine: ClassVar[staticmethod[[Tensor, int], Tensor]]
    """The mean of w, which is the mean resultant length."""

    one_minus_mean_cosine: ClassVar[staticmethod[[Tensor, int], Tensor]]
    """1 less that mean, with its own digits."""

    cosine_variance: ClassVar[staticmethod[[Tensor, int], Tensor]]
    """The variance of w, along the mean direction."""

    tangent_variance: ClassVar[staticmethod[[Tensor, int], Tensor]]
    """The variance across the mean direction, E (1 - w^2) / (d - 1)."""

    kl_to_uniform: ClassVar[staticmethod[[Tensor, int], Tensor]]
    """The divergence to the uniform law: what the entropy is less than that one's."""

    kl_from_uniform: ClassVar[staticmethod[[Tensor, int], Tensor]]
    """The divergence from the uniform law."""

    @abstractmethod
    def log_density(self, value: Tensor, loc: Tensor, k: Tensor, dim: int) -> Tensor:
        """On the sphere, of unit vectors ``value``; all broadcast but for the last axis."""

    @abstractmethod
    def cosine_log_density(
        self, t: Tensor, rest: Tensor, k: Tensor, dim: int, less: int = 3
    ) -> Tensor:
        """Of w, at t and rest = 2 - t, where it has the power (d - less)/2 of 1 - w^2.

        Of the angle, less is 2; of artanh(w) it is 1. The derivative in rest is in that in t.
        """

    @abstractmethod
    def cosine_entropy(self, k: Tensor, dim: int) -> Tensor:
        """Differential entropy of w."""

    @abstractmethod
    def probability(self, t: Tensor, rest: Tensor, k: Tensor, dim: int) -> Probability:
        """Of cosines on either side of t, rest = 2 - t; float64 tensors of one shape."""

    @abstractmethod
    def quantile(self, zeta: Tensor, k: Tensor, dim: int) -> Quantile:
        """The u = artanh(-w) exceeded with the probability Phi_N(-zeta); float64, of one shape."""

    @abstractmethod
    def to_cosine(self, zeta: Tensor, k: Tensor, dim: int, with_rate: bool = True) -> CosineDraw:
        """The same map for draws, in the dtype of zeta, as :class:`CosineDraw` says.

        On the circle abs(zeta) takes the part of zeta: there P(1 - w <= t) is 2 Phi_N(|zeta|) - 1.
        """

    def of_noise(
        self, zeta: Tensor, across: Tensor, k: Tensor, dim: int, with_rate: bool = True
    ) -> CosineDraw:
        """Of a vector of noise, as :data:`Transport` says; anything but its direction across."""
        return self.to_cosine(zeta, k, dim, with_rate)
