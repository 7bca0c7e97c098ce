"""float64, on devices that have it.

Draws, densities, entropies and closed forms of float32 laws do without. What sums or integrates in
float64 asks for it here, so that a device that has none says what to do.
"""

from __future__ import annotations

import torch
from torch import Tensor


def has_float64(device: torch.device) -> bool:
    """Whether it computes in float64: Apple's GPUs do not."""
    return device.type != "mps"


def require_float64(device: torch.device) -> None:
    """Raises TypeError where the device has none."""
    if not has_float64(device):
        raise TypeError(
            f"this is computed in float64, which {device.type} devices do not have: move the "
            "tensors, or the parameters of the law, to the CPU by .cpu()"
        )


def in_float64(x: Tensor) -> Tensor:
    """x in float64; raises TypeError where its device has none."""
    require_float64(x.device)
    return x.double()
