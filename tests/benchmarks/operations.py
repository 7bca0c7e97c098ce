"""Counts the tensor operations of a draw, its backward pass and its law; views are not counted.

With few rows that is what a draw costs: an operation on a hundred rows takes its call and little
more. It runs for seconds:

    python tests/benchmarks/operations.py
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile

from vmfdist import VonMisesFisher

DIMS = [2, 3, 5, 8, 20, 512]
ROWS = 128


def _kind(name: str) -> str:
    """Of an event: an operation, a view, or what is made of others, as ``to`` and ``item`` are."""
    domain, _, operation = name.partition("::")
    if domain != "aten":
        return "made of others"
    packet = getattr(torch.ops.aten, operation)
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    known = [op for op in overloads if torch._C._dispatch_has_kernel(op.name())]
    implicit = torch._C.DispatchKey.CompositeImplicitAutograd
    if all(op.has_kernel_for_dispatch_key(implicit) for op in known):
        return "made of others"
    return "view" if any(op.is_view for op in known) else "operation"


def _tally(events: Iterable[Any], found: Counter[str]) -> None:
    for event in events:
        kind = _kind(event.name)
        if kind == "made of others":
            _tally(event.cpu_children, found)
        elif kind == "operation":
            found[event.name.removeprefix("aten::")] += 1


def operations(run: Callable[[], object]) -> Counter[str]:
    """How often each operation runs that is not a view, as the profiler sees it.

    A dispatch mode would see another draw: under one nothing may look at the rows.
    """
    run()  # tables, and what is done once
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    found: Counter[str] = Counter()
    _tally((event for event in profiler.events() if event.cpu_parent is None), found)
    return found


def of_a_minibatch(dim: int, rows: int = ROWS) -> dict[str, Counter[str]]:
    """Those of a law with a location and a concentration for each row, and of its draw."""
    loc = normalize(torch.randn(rows, dim), dim=-1).requires_grad_()
    k = (1 + 100 * torch.rand(rows)).requires_grad_()
    law = VonMisesFisher(loc, k, validate_args=False)
    x = law.rsample()
    grad = torch.randn_like(x)
    return {
        "construction": operations(lambda: VonMisesFisher(loc, k, validate_args=False)),
        "forward": operations(law.rsample),
        "backward": operations(lambda: torch.autograd.grad(x, (loc, k), grad, retain_graph=True)),
    }


def main() -> None:
    for dim in DIMS:
        for name, found in of_a_minibatch(dim).items():
            each = ", ".join(f"{op} {count}" for op, count in found.most_common())
            sys.stdout.write(f"dimension {dim}, {name}: {found.total()} ({each})\n")


if __name__ == "__main__":
    main()
