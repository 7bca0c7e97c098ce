"""Writes images/accuracy.png: maps of the error over dimensions and concentrations.

Beside vmfdist stand SciPy and, where it is installed, TensorFlow Probability. It runs for a few
minutes:

    pip install tensorflow-probability tensorflow tf-keras     # if its maps are wanted
    python docs/accuracy_maps.py
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import mpmath as mp
import numpy as np
import torch
from _maps import GREENS, REDS, YELLOWS, Panel, Scale, draw_maps
from scipy import stats
from torch.distributions import kl_divergence
from tqdm import tqdm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from reference import radial  # noqa: E402
from vmfdist import HypersphericalUniform, VonMisesFisher  # noqa: E402

DIMS = [*range(2, 9), *np.unique(np.geomspace(9, 1e6, 34).round().astype(int)).tolist()]
CONCENTRATIONS = torch.tensor(np.geomspace(1e-6, 1e10, 49), dtype=torch.float32).double().numpy()
QUANTITIES = ("log density at the mode", "divergence from uniform")

# From a law's dimension and concentrations to the two quantities, each an array.
Values = tuple[np.ndarray, np.ndarray]
Package = Callable[[int, np.ndarray], Values]


def ours(dtype: torch.dtype, dim: int, concentrations: np.ndarray) -> Values:
    """Vmfdist; what is computed has the type given."""
    loc = torch.zeros(dim, dtype=dtype)
    loc[0] = 1
    law = VonMisesFisher(loc, torch.tensor(concentrations, dtype=dtype), validate_args=False)
    divergence = kl_divergence(law, HypersphericalUniform(dim))
    return law.log_prob(loc).double().numpy(), divergence.double().numpy()


def of_scipy(dim: int, concentrations: np.ndarray) -> Values:
    """SciPy, which has the entropy: the divergence is the log area less that."""
    loc = np.zeros(dim)
    loc[0] = 1
    laws = [stats.vonmises_fisher(loc, k) for k in concentrations]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the overflow that the map shows
        log_density = np.array([law.logpdf(loc) for law in laws]).reshape(-1)
        entropy = np.array([law.entropy() for law in laws]).reshape(-1)
    log_area = HypersphericalUniform(dim, dtype=torch.float64).entropy().item()
    return log_density, log_area - entropy


def of_tensorflow(dim: int, concentrations: np.ndarray) -> Values:
    """TensorFlow Probability, which has both."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow_probability as tfp

    loc = np.zeros(dim)
    loc[0] = 1
    law = tfp.distributions.VonMisesFisher(loc, concentrations)
    uniform = tfp.distributions.SphericalUniform(dim, dtype=loc.dtype)
    return law.log_prob(loc).numpy(), tfp.distributions.kl_divergence(law, uniform).numpy()


def packages() -> dict[str, tuple[Package, float]]:
    """What is measured, and the eps of its type."""
    found: dict[str, tuple[Package, float]] = {
        f"vmfdist, {str(dtype).removeprefix('torch.')}": (
            partial(ours, dtype),
            torch.finfo(dtype).eps,
        )
        for dtype in (torch.float64, torch.float32)
    }
    if importlib.util.find_spec("tensorflow_probability"):
        found["TensorFlow Prob., float64"] = of_tensorflow, 2.0**-52
    found["SciPy, float64"] = of_scipy, 2.0**-52
    return found


def errors(dim: int) -> np.ndarray:
    """In eps, for each package, quantity and concentration of a dimension; inf where it fails."""
    measured = []
    with mp.workdps(40):
        references = [(k, radial(dim, k)) for k in CONCENTRATIONS.tolist()]
        truths = [[r.log_density_at_mode(k) for k, r in references]]
        truths.append([r.kl_to_uniform(k) for k, r in references])
        scales = [[max(abs(x), abs(references[0][1].log_area), mp.mpf(1)) for x in truths[0]]]
        scales.append(truths[1])
        for package, eps in packages().values():
            found = np.array(
                [
                    [
                        float(abs(mp.mpf(x) - truth) / scale) / eps
                        for x, truth, scale in zip(*row, strict=True)
                    ]
                    for row in zip(package(dim, CONCENTRATIONS), truths, scales, strict=True)
                ]
            )
            measured.append(np.where(np.isnan(found), np.inf, found))
    return np.array(measured)


LIMITS = [0, 1, 2, 4, 8, 1e2, 1e4, 1e6, 1e10, 1e300]
LABELS = ["0", "1", "2", "4", "8", "$10^2$", "$10^4$", "$10^6$", "$10^{10}$", "no digit\nright"]
SCALE = Scale("error in eps", LIMITS, (*GREENS, *YELLOWS, *REDS), LABELS)


def draw(measured: np.ndarray, names: list[str]) -> plt.Figure:
    """A row of maps for each quantity, a column for each package."""
    titles = [name.replace(", ", "\n") for name in names]
    rows = [
        (quantity, [Panel(title, measured[:, i, row]) for i, title in enumerate(titles)])
        for row, quantity in enumerate(QUANTITIES)
    ]
    return draw_maps(rows, DIMS, CONCENTRATIONS, SCALE, size=(9, 5))


def main() -> None:
    """Measure, print the worst of each package, and draw."""
    names = list(packages())
    with ProcessPoolExecutor() as pool:
        measured = np.array(list(tqdm(pool.map(errors, DIMS), total=len(DIMS), unit="dim")))
    for column, name in enumerate(names):
        for row, quantity in enumerate(QUANTITIES):
            of_map = measured[:, column, row]
            print(
                f"{name}: {quantity}: worst {of_map.max():.2g}, median {np.median(of_map):.2g}, "
                f"above 8 eps in {100 * (of_map > 8).mean():.0f} %"
            )
    figure = draw(measured, names)
    figure.savefig(HERE / "images" / "accuracy.png", dpi=150)


if __name__ == "__main__":
    main()
