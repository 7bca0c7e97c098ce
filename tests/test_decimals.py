# Whatever a user's decimal context is, the constants are those of ours, and the context is left.

from __future__ import annotations

import decimal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import mpmath as mp
import pytest
import torch

from vmfdist import PowerSpherical, VonMisesFisher, special
from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms import sphere
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.bessel_in_decimals import log_partition_and_ratio
from vmfdist._numerics.chebyshev import powers
from vmfdist._numerics.decimals import DIGITS, working_precision
from vmfdist._numerics.gamma_in_decimals import log_gamma, polygamma

HOSTILE = {
    "traps": {
        "traps": [
            decimal.FloatOperation,
            decimal.Inexact,
            decimal.Rounded,
            decimal.Subnormal,
            decimal.Underflow,
            decimal.Clamped,
        ]
    },
    "narrow": {"prec": 3, "Emin": -9, "Emax": 9, "rounding": decimal.ROUND_UP},
    "clamped": {"prec": 2, "Emin": -99, "Emax": 99, "clamp": 1, "capitals": 0},
}
contexts = pytest.mark.parametrize("settings", HOSTILE.values(), ids=HOSTILE)


def constants(dim: int) -> list[object]:
    """All that is computed in decimals, not taken from a cache."""
    return [
        log_gamma(Decimal(dim)),
        *(polygamma(n, Decimal(dim)) for n in range(3)),
        log_partition_and_ratio(Decimal(dim), Decimal("4.25")),
        powers(tuple(1 / (j + 3) for j in range(9))),
        sphere.log_sphere_area.__wrapped__(dim),
        sphere.stirling_remainder.__wrapped__(dim),
        vmf._SERIES.fitted.__wrapped__(dim),
        vmf._INVERSE.fitted.__wrapped__(dim),
        ps._SERIES.fitted.__wrapped__(dim),
        ps._leading_constants.__wrapped__(dim),
        ps._scales.__wrapped__(dim),
    ]


@contexts
def test_the_context_of_the_user_does_not_matter(settings: dict[str, object]) -> None:
    expected = constants(70)
    with decimal.localcontext(decimal.Context(**settings)) as context:
        before = repr(context)
        assert constants(70) == expected
        assert decimal.getcontext() is context
        assert repr(context) == before


def test_it_comes_back_after_an_error() -> None:
    with decimal.localcontext(decimal.Context(prec=5)) as context:
        with pytest.raises(decimal.DivisionByZero), working_precision():
            Decimal(1) / Decimal(0)
        assert decimal.getcontext() is context


def test_digits() -> None:
    with working_precision():
        third = Decimal(1) / 3
    assert third == Decimal("0." + "3" * DIGITS)
    with mp.workdps(70):
        truth = mp.loggamma(mp.mpf("2.5"))
        assert abs(mp.mpf(str(log_gamma(Decimal("2.5")))) - truth) < mp.mpf("1e-56")


def test_threads_with_contexts_of_their_own() -> None:
    dims = range(71, 79)
    expected = [vmf._INVERSE.fitted.__wrapped__(dim)["inverse"][:3] for dim in dims]

    def in_thread(dim: int) -> tuple[Decimal, ...]:
        decimal.setcontext(decimal.Context(prec=dim % 5 + 1, traps=[decimal.Inexact]))
        result = vmf._INVERSE.fitted.__wrapped__(dim)["inverse"][:3]
        assert decimal.getcontext().prec == dim % 5 + 1
        return result

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(in_thread, dims)) == expected


SCRIPT = """
import decimal, sys
hostile = decimal.Context(prec=2, Emin=-9, Emax=9, rounding=decimal.ROUND_UP)
for signal in (decimal.FloatOperation, decimal.Inexact, decimal.Rounded, decimal.Subnormal):
    hostile.traps[signal] = True
decimal.DefaultContext = hostile
decimal.setcontext(hostile)
import torch
from vmfdist import PowerSpherical, VonMisesFisher, special
loc = torch.eye(7, dtype=torch.float64)[0]
values = [law(loc, 3.0).entropy() for law in (VonMisesFisher, PowerSpherical)]
values.append(special.inverse_iv_ratio(3.5, torch.tensor(0.5, dtype=torch.float64)))
assert decimal.getcontext() is hostile
assert not any(hostile.flags.values())
print(*(value.item().hex() for value in values))
"""


def test_a_context_from_before_the_import() -> None:
    loc = torch.eye(7, dtype=torch.float64)[0]
    values = [law(loc, 3.0).entropy() for law in (VonMisesFisher, PowerSpherical)]
    values.append(special.inverse_iv_ratio(3.5, torch.tensor(0.5, dtype=torch.float64)))
    command = [sys.executable, "-c", SCRIPT]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [value.item().hex() for value in values]
