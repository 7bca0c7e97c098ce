"""The decimal arithmetic that constants are computed in, whatever the context of the user.

A context belongs to the current thread (or asyncio task) and is the user's to set: with few
digits, another rounding, narrow exponents, traps for what is inexact or for floats in decimals.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)

#: Working precision, in decimal digits, of everything that is fitted.
DIGITS = 60

PI = Decimal(  # exact: the constructor rounds to no context
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899863"
)

# All that a context has: what is left out here would come from decimal.DefaultContext.
_CONTEXT = Context(
    prec=DIGITS,
    rounding=ROUND_HALF_EVEN,
    Emin=MIN_EMIN,
    Emax=MAX_EMAX,
    capitals=1,
    clamp=0,
    flags=[],
    traps=[InvalidOperation, DivisionByZero, Overflow],
)


@contextmanager
def working_precision() -> Iterator[None]:
    """A context manager, and decorator, within which decimals have DIGITS digits.

    Each use works in a copy, so that threads share nothing; the context before comes back after.
    """
    with localcontext(_CONTEXT):
        yield
