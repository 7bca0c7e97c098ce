"""Times the parts of a draw: where its time goes, for each size of docs/performance.py.

The times are the thread's own, so that other processes do not count. It runs for half a minute:

    python tests/benchmarks/parts_of_a_draw.py
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

import rivals
from vmfdist import VonMisesFisher
from vmfdist._families.von_mises_fisher import VON_MISES_FISHER
from vmfdist._sampling import draw

SECONDS = 2.0  # for each size


def parts_of_a_draw(n: int, dim: int, seconds: float = SECONDS) -> dict[str, float]:
    """Median milliseconds of each part; all but the last two are a draw without gradients."""
    loc, _, k = rivals._parameters(n, dim)
    law, upstream = VonMisesFisher(loc, k, validate_args=False), torch.randn(n, dim)
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            result = function(*args, **kwargs)
            spent[name] += time.thread_time() - start
            return result

        return run

    sample, rsample = timed("draw", law.sample), timed("draw for gradients", law.rsample)
    backward = timed("its backward pass", torch.autograd.grad)
    times: dict[str, list[float]] = defaultdict(list)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["rest"]) < 20:
        spent.clear()
        backward(rsample(), (loc, k), upstream)
        with (
            mock.patch.object(law, "_noise", timed("normal variables", law._noise)),
            mock.patch.object(
                draw, "_split_off_tangent", timed("along and across", draw._split_off_tangent)
            ),
            mock.patch.object(
                VON_MISES_FISHER, "of_noise", timed("cosine", VON_MISES_FISHER.of_noise)
            ),
            mock.patch.object(draw, "_combine", timed("put together", draw._combine)),
        ):
            sample()
        inner = ("normal variables", "along and across", "cosine", "put together")
        for name in inner:
            times[name].append(spent[name])
        times["rest"].append(spent["draw"] - sum(spent[name] for name in inner))
        times["for gradients"].append(spent["draw for gradients"] - spent["draw"])
        times["backward"].append(spent["its backward pass"])
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def main() -> None:
    torch.set_num_threads(1)
    for n, dim in rivals.SAMPLES:
        found = parts_of_a_draw(n, dim)
        each = ", ".join(f"{name} {spent:.3g}" for name, spent in found.items())
        sys.stdout.write(f"{n:,}, {dim}: {each} ms\n")


if __name__ == "__main__":
    main()
