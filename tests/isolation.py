# What a test may change of the process, and the next one must not see. A test that fails half-way
# gets to none of its own restoring, and torch changes some of this by itself: the first
# torch.compile of a process switches the validation of all distributions off.

from __future__ import annotations

import decimal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import mpmath as mp
import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch.distributions import Distribution, biject_to, transform_to
from torch.distributions.kl import _KL_MEMOIZE, _KL_REGISTRY

SEED = 20180


class Setting(NamedTuple):
    """Something of the process that can be read and set."""

    get: Callable[[], Any]
    set: Callable[[Any], Any]


def _contents(of: dict[Any, Any]) -> Setting:
    def fill(before: dict[Any, Any]) -> None:
        of.clear()
        of.update(before)

    return Setting(lambda: dict(of), fill)


def _default_device() -> torch.device:
    # That none is set and that it is the CPU read alike; tests start with none.
    try:
        return torch.get_default_device()
    except AttributeError:  # torch 2.6, after one that was set and is none again
        return torch.device("cpu")


def _set_handlers(before: list[Any]) -> None:
    _PYRO_STACK[:] = before


def _set_deterministic(mode: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])


SETTINGS = {
    "validation": Setting(
        lambda: Distribution._validate_args, Distribution.set_default_validate_args
    ),
    "Pyro's settings": Setting(pyro.settings.get, lambda before: pyro.settings.set(**before)),
    "Pyro's handlers": Setting(_PYRO_STACK.copy, _set_handlers),
    "dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "device": Setting(_default_device, lambda _: torch.set_default_device(None)),
    "gradients": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "anomalies": Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "determinism": Setting(
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _set_deterministic,
    ),
    "precision of products": Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    "divergences": _contents(_KL_REGISTRY),
    "divergences found": _contents(_KL_MEMOIZE),
    "bijections": _contents(biject_to._registry),
    "transforms": _contents(transform_to._registry),
    "digits of mpmath": Setting(lambda: mp.mp.prec, lambda before: setattr(mp.mp, "prec", before)),
    # Contexts compare by identity, so that the copy is set after every test.
    "decimals": Setting(lambda: decimal.getcontext().copy(), decimal.setcontext),
}


@contextmanager
def isolated() -> Iterator[None]:
    """A fixed seed, an empty parameter store and one thread; all is as before in the end.

    One thread, since operations of a few thousand elements lose more to threads than they gain.
    The states of random generators are not restored: every test starts from the seed.
    """
    before = {name: setting.get() for name, setting in SETTINGS.items()}
    torch.set_num_threads(1)
    pyro.set_rng_seed(SEED)
    pyro.clear_param_store()
    try:
        yield
    finally:
        pyro.clear_param_store()
        if "torch._dynamo" in sys.modules:  # what it has compiled depends on the settings
            torch._dynamo.reset()
        for name, setting in SETTINGS.items():
            if setting.get() != before[name]:
                setting.set(before[name])
