# Calls of formulas that mypy must refuse: it reads this file too, and there it minds an "ignore"
# where nothing is wrong. Nothing here is run.

from __future__ import annotations

from torch import Tensor

from vmfdist._closed_forms import power_spherical as ps
from vmfdist._closed_forms import von_mises_fisher as vmf


def right(k: Tensor) -> Tensor:
    return vmf.log_partition(k, 3) + ps.log_tilt(k, k, k, 3)


def wrong(k: Tensor) -> None:
    vmf.log_partition("x", 3)  # type: ignore[arg-type]
    vmf.log_partition(k, "3")  # type: ignore[arg-type]
    vmf.log_partition(k)  # type: ignore[call-arg]
    vmf.kl_to_another(k, k, 3)  # type: ignore[call-arg]
    ps.log_tilt(k, 3, k, 3)  # type: ignore[arg-type]
