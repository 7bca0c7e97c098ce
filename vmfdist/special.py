r"""Modified Bessel functions of the first kind, in logarithms and ratios, for every order.

:func:`log_iv`, :func:`log_ive` and :func:`iv_ratio` stay finite where :math:`I_v(x)` over- or
underflows (for instance at :math:`v = 500, x = 1`), and :func:`inverse_iv_ratio` solves the
equation of the maximum-likelihood concentration without iterating.

Orders are Python numbers; arguments are float32 or float64 tensors on any device. Nothing here
waits for the device, calls SciPy or returns NaN inside the stated domain (outside it NaN is the
answer, as in :mod:`torch.special`). All functions are differentiable in the tensor, by reverse
and forward mode, under :mod:`torch.func` and :func:`torch.compile`; the first call with an order
computes Chebyshev coefficients (up to half a second) that are kept for the following ones.

The method and its accuracy are described in :mod:`vmfdist._closed_forms.von_mises_fisher` and on
the accuracy page.

References:
    * DLMF, sections 10.25 to 10.41, https://dlmf.nist.gov/10.25.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._validation import require_float, require_number

__all__ = ["inverse_iv_ratio", "iv_ratio", "log_iv", "log_ive"]


def _order(v: float, lowest: float) -> float:
    require_number("the order v", v)
    if not (lowest <= v < math.inf):
        raise ValueError(f"the order v must be finite and at least {lowest:g}, got {v}")
    return float(v)


def _argument(x: Tensor, name: str, highest: float) -> Tensor:
    """``x`` with NaN outside [0, highest]."""
    require_float(name, x, unit=False)
    return torch.where((x >= 0) & (x <= highest), x, math.nan)


def log_iv(v: float, x: Tensor) -> Tensor:
    r"""Logarithm of the modified Bessel function, :math:`\log I_v(x)`.

    At ``x = 0`` it is 0 for ``v = 0`` and :math:`-\infty` above; at infinity it is infinite. The
    derivative is :math:`I_{v+1}(x) / I_v(x) + v / x`.

    Args:
        v: the order, a number :math:`\ge 0`.
        x: the argument, :math:`\ge 0`, of any shape; NaN where it is negative.

    Returns:
        A tensor of the shape and dtype of ``x``. At order 0, where it is :math:`x^2/4` for small
        ``x``, it keeps all digits; near a zero at another argument the error is relative to the
        terms of size ``x`` and ``v`` that cancel there.

    Raises:
        ValueError: if the order is negative, infinite or NaN.
        TypeError: if the order is not a Python number, or ``x`` not a float32 or float64 tensor.

    Example:
        >>> import torch
        >>> from vmfdist.special import log_iv
        >>> log_iv(500, torch.tensor([1.0, 1e6], dtype=torch.float64))
        tensor([ -2957.9035, 999992.0483], dtype=torch.float64)
    """
    return vmf.log_bessel(_argument(x, "x", math.inf), _order(v, 0))


def log_ive(v: float, x: Tensor) -> Tensor:
    r"""Logarithm of the scaled Bessel function, :math:`\log(I_v(x) e^{-x})`.

    Formed without a term of size ``x``, so that it keeps its digits where :func:`log_iv` is all
    but ``x``. At ``x = 0`` it is 0 for ``v = 0`` and :math:`-\infty` above; at infinity it is
    :math:`-\infty`.

    Args:
        v: the order, a number :math:`\ge 0`.
        x: the argument, :math:`\ge 0`, of any shape; NaN where it is negative.

    Returns:
        A tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: if the order is negative, infinite or NaN.
        TypeError: if the order is not a Python number, or ``x`` not a float32 or float64 tensor.

    Example:
        >>> import torch
        >>> from vmfdist.special import log_ive
        >>> log_ive(0, torch.tensor([0.0, 1.0, 1e12], dtype=torch.float64))
        tensor([  0.0000,  -0.7641, -14.7344], dtype=torch.float64)
    """
    return vmf.log_bessel_scaled(_argument(x, "x", math.inf), _order(v, 0))


def iv_ratio(v: float, x: Tensor) -> Tensor:
    r"""Ratio of neighbouring Bessel functions, :math:`I_v(x) / I_{v-1}(x)`.

    With ``v = d/2`` this is the mean resultant length of the von Mises-Fisher law on the unit
    sphere of :math:`\mathbb R^d` with concentration ``x``. It rises from 0 at ``x = 0``, with slope
    :math:`1/(2v)`, to 1 at infinity.

    Args:
        v: the order of the numerator, a number :math:`\ge 1/2`.
        x: the argument, :math:`\ge 0`, of any shape; NaN where it is negative.

    Returns:
        A tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: if the order is below 1/2, infinite or NaN.
        TypeError: if the order is not a Python number, or ``x`` not a float32 or float64 tensor.

    Example:
        >>> import torch
        >>> from vmfdist.special import iv_ratio
        >>> iv_ratio(1.5, torch.tensor([0.0, 1.0, 10.0]))  # coth(x) - 1/x
        tensor([0.0000, 0.3130, 0.9000])
    """
    v = _order(v, 0.5)
    return vmf.mean_resultant_length(_argument(x, "x", math.inf), 2 * v)


def inverse_iv_ratio(
    v: float, r: Tensor | None = None, *, one_minus_r: Tensor | None = None
) -> Tensor:
    r"""The ``x`` at which :math:`I_v(x) / I_{v-1}(x) = r`: the inverse of :func:`iv_ratio`.

    With ``v = d/2`` and ``r`` the length of the mean of unit vectors this is the maximum-likelihood
    concentration. At ``r = 0`` it is 0, at ``r = 1`` infinite. Close to 1 a floating-point ``r``
    carries few digits of :math:`1 - r`, on which the result depends: give that instead if you have
    it.

    Args:
        v: the order of the numerator, a number :math:`\ge 1/2`.
        r: the ratio, in [0, 1], of any shape; NaN outside.
        one_minus_r: the complement of the ratio, in [0, 1], in place of ``r``.

    Returns:
        A tensor of the shape and dtype of the argument.

    Raises:
        ValueError: if the order is below 1/2, infinite or NaN, or not exactly one of ``r`` and
            ``one_minus_r`` is given.
        TypeError: if the order is not a Python number, or the argument not a float32 or float64
            tensor.

    Example:
        >>> import torch
        >>> from vmfdist.special import inverse_iv_ratio
        >>> inverse_iv_ratio(1.5, torch.tensor([0.0, 0.5, 0.9, 1.0]))
        tensor([ 0.0000,  1.7968, 10.0000,     inf])
        >>> inverse_iv_ratio(1.5, one_minus_r=torch.tensor(1e-12))
        tensor(1.0000e+12)
    """
    v = _order(v, 0.5)
    if (r is None) == (one_minus_r is None):
        raise ValueError("inverse_iv_ratio needs exactly one of r and one_minus_r")
    if r is not None:
        return vmf.inverse_mean_resultant_length(_argument(r, "r", 1), 2 * v)
    assert one_minus_r is not None
    u = _argument(one_minus_r, "one_minus_r", 1)
    return vmf.inverse_one_minus_mean_resultant_length(u, 2 * v)
