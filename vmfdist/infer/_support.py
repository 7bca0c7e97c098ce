"""Which laws live on the sphere."""

from __future__ import annotations

from typing import Any

from pyro.distributions import constraints


def is_spherical(law: Any) -> bool:
    """Whether draws of the law are unit vectors, or arrays of them."""
    support = law.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.sphere))
