"""Probabilities, quantiles and draws of a family's cosine, as differentiable functions.

Of float64 tensors, but for the draw; t = 1 - w, rest = 1 + w.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._families.family import Family
from vmfdist._families.tilted import refuse_second_derivative
from vmfdist._numerics.elementwise import with_derivative
from vmfdist._sampling.quadrature import Quantile
from vmfdist._sampling.tilt import cosine_ends

_Law = tuple[Family, int]  # and the dimension


def _density(t: Tensor, rest: Tensor, k: Tensor, law: _Law) -> Tensor:
    family, dim = law
    return torch.exp(family.cosine_log_density(t, rest, k, dim))


@with_derivative(refuse_second_derivative, refuse_second_derivative, refuse_second_derivative)
def _slope(t: Tensor, rest: Tensor, k: Tensor, law: _Law) -> Tensor:
    """The derivative of the probability above in the concentration."""
    family, dim = law
    slope = family.probability(t, rest, k, dim).slope
    return torch.where((t == 0) | (rest == 0), 0.0, slope)


# The derivative in rest is in that in t.


@with_derivative(lambda t, rest, k, law: -_density(t, rest, k, law), None, lambda *x: -_slope(*x))
def below(t: Tensor, rest: Tensor, k: Tensor, law: _Law) -> Tensor:
    """P(cosine < 1 - t)."""
    family, dim = law
    return torch.where(rest == 0, 0.0, family.probability(t, rest, k, dim).below)


@with_derivative(_density, None, lambda *x: _slope(*x))
def above(t: Tensor, rest: Tensor, k: Tensor, law: _Law) -> Tensor:
    """P(cosine > 1 - t)."""
    family, dim = law
    return torch.where(t == 0, 0.0, family.probability(t, rest, k, dim).above)


class Asked(Enum):
    """What a quantile is asked for."""

    ARTANH = auto()  # artanh(-w)
    ANGLE = auto()
    COMPLEMENT = auto()  # 1 - w
    COSINE = auto()


class Question(NamedTuple):
    """What is asked of a family in a dimension."""

    law: _Law
    asked: Asked
    upper: bool  # whether the probability is that of larger cosines, or smaller angles


def _solution(p: Tensor, k: Tensor, question: Question) -> Quantile:
    info, (family, dim) = torch.finfo(p.dtype), question.law
    zeta = torch.special.ndtri(p.clamp(info.tiny, 1 - info.eps / 2))
    return family.quantile(zeta if question.upper else -zeta, k, dim)


def _ends(u: Tensor, p: Tensor, question: Question) -> tuple[Tensor, Tensor]:
    """1 - w and 1 + w. w = -1 holds the probability 0 below and 1 above."""
    t, rest = cosine_ends(u)
    lowest, highest = (1, 0) if question.upper else (0, 1)
    t = torch.where(p == lowest, 2.0, torch.where(p == highest, 0.0, t))
    return t, torch.where(p == lowest, 0.0, torch.where(p == highest, 2.0, rest))


def _quantile_density(p: Tensor, k: Tensor, question: Question) -> Tensor:
    """The derivative in p: 1 over the density, which falls or rises with the probability."""
    (family, dim), asked, upper = question
    u = quantile(p, k, question._replace(asked=Asked.ARTANH))
    less = {Asked.ARTANH: 1, Asked.ANGLE: 2}.get(asked, 3)
    log_density = family.cosine_log_density(*_ends(u, p, question), k, dim, less)
    return torch.exp(-log_density) * (1.0 if upper == (asked is not Asked.COSINE) else -1.0)


@with_derivative(refuse_second_derivative, refuse_second_derivative)
def _quantile_slope(p: Tensor, k: Tensor, question: Question) -> Tensor:
    u, rate = _solution(p, k, question)
    if question.asked is Asked.ARTANH:
        return -rate
    t, rest = _ends(u, p, question)
    if question.asked is Asked.ANGLE:
        return -(t * rest).sqrt() * rate
    return t * rest * rate * (1.0 if question.asked is Asked.COSINE else -1.0)


@with_derivative(_quantile_density, _quantile_slope)
def quantile(p: Tensor, k: Tensor, question: Question) -> Tensor:
    """At a probability, of what is asked for."""
    u = _solution(p, k, question).u
    if question.asked is Asked.ARTANH:
        return u
    t, rest = _ends(u, p, question)
    if question.asked is Asked.ANGLE:
        return 2 * torch.atan2(t.sqrt(), rest.sqrt())
    return t if question.asked is Asked.COMPLEMENT else torch.where(t < 1, 1 - t, rest - 1)


@with_derivative(refuse_second_derivative, refuse_second_derivative)
def _draw_slope(zeta: Tensor, k: Tensor, law: _Law) -> Tensor:
    """The derivative of t in the concentration."""
    family, dim = law
    t, rate = family.to_cosine(zeta, k, dim)
    assert rate is not None
    return -rate * t * (2 - t)


@with_derivative(refuse_second_derivative, _draw_slope)
def one_minus_draw(zeta: Tensor, k: Tensor, law: _Law) -> Tensor:
    """1 - w from a standard normal variable."""
    family, dim = law
    return family.to_cosine(zeta, k, dim, with_rate=False).one_minus_cosine
