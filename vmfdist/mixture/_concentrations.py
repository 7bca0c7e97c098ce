"""How the concentrations of a mixture are estimated: each, one for all, or not at all."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vmfdist._closed_forms import von_mises_fisher as vmf


class Concentrations(NamedTuple):
    r"""What the M step does with them.

    The prior density of a concentration is, up to a constant, that of the density of n rows whose
    mean cosine with the mean direction is r: :math:`(C_d(\kappa) e^{r\kappa})^n`, the conjugate
    one. So the maximum of the posterior density is that of the likelihood with these rows added.
    """

    kind: str | float  # "full", "tied", or the concentration of all
    prior_rows: float
    prior_cosine: float
    largest: float

    @property
    def is_fixed(self) -> bool:
        return not isinstance(self.kind, str)

    def number(self, n_components: int) -> int:
        """How many are estimated."""
        return 0 if self.is_fixed else 1 if self.kind == "tied" else n_components

    def estimated(self, sizes: Tensor, distances: Tensor, dim: int) -> Tensor:
        """The maximum, given sum of r and sum of r (1 - <x, mu>) for each component."""
        if self.is_fixed:
            return torch.full_like(sizes, float(self.kind))
        if self.kind == "tied":
            sizes, distances = (x.sum().expand(x.shape) for x in (sizes, distances))
        distances = distances + self.prior_rows * (1 - self.prior_cosine)
        mean = (distances / (sizes + self.prior_rows)).clamp(0, 1)
        return vmf.inverse_one_minus_mean_resultant_length(mean, dim).clamp(max=self.largest)

    def admitted(self, given: Tensor) -> Tensor:
        """The nearest to given ones that this allows."""
        if self.is_fixed:
            return torch.full_like(given, float(self.kind))
        if self.kind == "tied":
            given = given.mean().expand(given.shape)
        return given.clamp(max=self.largest)

    def log_prior(self, concentrations: Tensor, dim: int) -> float:
        """The logarithm of the prior density, up to a constant."""
        if not self.prior_rows:
            return 0.0
        free = concentrations[: self.number(len(concentrations))]
        peaks = vmf.log_density_at_mode(free, dim)
        return self.prior_rows * (peaks - (1 - self.prior_cosine) * free).sum().item()

    def collapsed(self, concentrations: Tensor) -> int:
        """How many are at the bound."""
        return 0 if self.is_fixed else int((concentrations >= self.largest).sum())
