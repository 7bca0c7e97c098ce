"""Chebyshev series on [-1, 1]: fitted once in 60-digit decimals, evaluated on tensors.

The fit samples at the Chebyshev nodes of the first kind and transforms (Mason & Handscomb 2003,
section 6.3). The evaluation is Horner's scheme where the powers of the series do not cancel, which
short series allow, one pass over memory per term; else Clenshaw's recurrence, in place, two passes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from decimal import Decimal

import torch
from torch import Tensor

from vmfdist._numerics.decimals import DIGITS, PI, working_precision


@functools.lru_cache(maxsize=16)
@working_precision()
def _cosines(n: int) -> tuple[Decimal, ...]:
    """cos(pi j / 2n) for j = 0 .. 4n - 1, one turn in steps of half a node."""
    angle = PI / (2 * n)
    # Taylor series of the cosine, then Chebyshev's recurrence cos((j+1)a) = 2 cos(a) cos(ja) - ...
    term = first = Decimal(1)
    power = 0
    while abs(term) > Decimal(10) ** (-DIGITS - 2):
        power += 2
        term *= -angle * angle / (power * (power - 1))
        first += term
    cosines = [Decimal(1), first]
    while len(cosines) < 4 * n:
        cosines.append(2 * first * cosines[-1] - cosines[-2])
    return tuple(cosines)


@working_precision()
def fit(function: Callable[[Decimal], Decimal], n: int) -> tuple[Decimal, ...]:
    """Coefficients of the polynomial through ``function`` at the n zeros of T_n."""
    cosines = _cosines(n)
    values = [function(x) for x in cosines[1 : 2 * n : 2]]
    coefficients = []
    for i in range(n):
        terms = (value * cosines[i * (2 * j + 1) % (4 * n)] for j, value in enumerate(values))
        coefficients.append(sum(terms, Decimal(0)) * (1 if i == 0 else 2) / n)
    return tuple(coefficients)


def truncate(
    coefficients: Sequence[Decimal], dtype: torch.dtype, scale: float = 1.0
) -> tuple[float, ...]:
    """The shortest leading part whose left-out terms add up to at most eps/25 of the scale."""
    tolerance = torch.finfo(dtype).eps / 25 * scale
    length, tail = len(coefficients), 0.0
    while length > 1:
        tail += abs(float(coefficients[length - 1]))
        if tail > tolerance:
            break
        length -= 1
    return tuple(float(c) for c in coefficients[:length])


# No series cancels by a factor between 10 and 16: any of these is the same.
_CANCELLATION = 12


@working_precision()
def powers(coefficients: Sequence[float]) -> tuple[float, ...] | None:
    """The coefficients of 1, x, x^2, ...; None if these cancel by more than that factor."""
    result = [Decimal(0)] * len(coefficients)
    before, polynomial = [Decimal(0)], [Decimal(1)]  # T_{j-1} and T_j
    for j, coefficient in enumerate(map(Decimal, coefficients)):
        for power, term in enumerate(polynomial):
            result[power] += coefficient * term
        doubled = [Decimal(0), *((2 if j else 1) * term for term in polynomial)]
        padded = before + [Decimal(0)] * (len(doubled) - len(before))
        before, polynomial = polynomial, [a - b for a, b in zip(doubled, padded, strict=True)]
    whole = sum(abs(Decimal(c)) for c in coefficients)
    cancelling = sum(map(abs, result)) > _CANCELLATION * whole
    return None if cancelling else tuple(map(float, result))


def horner(coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
    """Evaluates sum c_j x^j, for coefficients that broadcast with x: one number, or of each x."""
    *lower, result = coefficients
    for coefficient in reversed(lower):
        result = torch.addcmul(coefficient, result, x)
    return result


def clenshaw(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Evaluates sum a_j T_j(x) element by element; not differentiable (it works in place).

    Clenshaw's b_j = a_j + 2 x b_{j+1} - b_{j+2} takes a subtraction that no fused operation has.
    With the signs + + - - of period four, g_j = sign_j b_j obeys
    g_j = sign_j a_j + (2 sign_j sign_{j+1}) x g_{j+1} + g_{j+2}, one addcmul_ and one add_.
    """
    if len(coefficients) == 1:
        return torch.full_like(x, coefficients[0])

    def sign(j: int) -> float:
        return -1.0 if j & 2 else 1.0

    last = len(coefficients) - 1
    g1, g2 = torch.full_like(x, sign(last) * coefficients[last]), torch.zeros_like(x)
    for j in range(last - 1, 0, -1):
        g2.addcmul_(x, g1, value=2 * sign(j) * sign(j + 1)).add_(sign(j) * coefficients[j])
        g1, g2 = g2, g1
    # sum = a_0 + x b_1 - b_2, where sign_1 = + and sign_2 = -.
    return g2.addcmul_(x, g1).add_(coefficients[0])


def divided_differences(
    coefficients: Sequence[float], x1: Tensor, x2: Tensor
) -> tuple[Tensor, Tensor]:
    """f[x1, x2] and f[x1, x1, x2] of f = sum a_j T_j, without cancellation where x1 is near x2.

    Clenshaw's recurrence b_j = a_j + 2 x b_{j+1} - b_{j+2} at x2, with its divided differences
    taken term by term: (x g)[x1, x2] = x1 g[x1, x2] + g(x2).
    """
    zero = torch.zeros_like(x1)
    value, first, second = (zero, zero), (zero, zero), (zero, zero)
    for coefficient in reversed(coefficients[1:]):
        next_value = coefficient + 2 * x2 * value[0] - value[1]
        next_first = 2 * (x1 * first[0] + value[0]) - first[1]
        next_second = 2 * (x1 * second[0] + first[0]) - second[1]
        value = next_value, value[0]
        first = next_first, first[0]
        second = next_second, second[0]
    # f = a_0 + x b_1 - b_2
    return x1 * first[0] + value[0] - first[1], x1 * second[0] + first[0] - second[1]
