"""What users give to the estimators, checked and in one form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.utils import check_scalar
from sklearn.utils.validation import validate_data
from torch import Tensor

from vmfdist._numerics.precision import require_float64
from vmfdist._validation import require, require_dense, require_dtype, require_float
from vmfdist.mixture._batches import RowsInBatches, in_batches
from vmfdist.mixture._group import Group
from vmfdist.mixture._rows import LONGEST, NO_WEIGHT, SHORTEST, Rows
from vmfdist.mixture._sparse import SparseRows


def read_rows(
    estimator: Any,
    X: Any,
    sample_weight: Any = None,
    *,
    least: int = 1,
    fitting: bool = False,
    group: Any = None,
) -> Rows:
    """The rows of X with their weights.

    Args:
        estimator: the one that is asked, which keeps their number of columns in a fit.
        X: what the user has given, and ``sample_weight`` too.
        sample_weight: of shape (rows,), or None.
        least: how many rows are needed in a fit.
        fitting: whether the estimator is fitted to them.
        group: the process group in which they are a share; a share may be empty.
    """
    processes = Group(group)
    least = 0 if group is not None else least if fitting else 1
    rows = processes.each(lambda: _own_rows(estimator, X, sample_weight, least, fitting))
    rows.group = processes
    if fitting:
        rows.join(processes)
    return rows


def _own_rows(estimator: Any, X: Any, sample_weight: Any, least: int, fitting: bool) -> Rows:
    if in_batches(X):
        rows: Rows = RowsInBatches(
            X,
            lambda batch, is_first, number: _read(
                estimator, batch, 0, fitting, fitting and is_first, number
            ),
        )
        if fitting:
            len(rows)  # a pass that checks all of them
    else:
        rows = _read(estimator, X, least, fitting, fitting)
    if sample_weight is not None:
        weights = _in_float64(sample_weight, "sample_weight", (len(rows),), rows.device)
        require(
            f"sample_weight must be nonnegative and at most {LONGEST:g}",
            weights,
            lambda w: 0 <= w <= LONGEST,
        )
        if least and not weights.any():
            raise ValueError(NO_WEIGHT)
        rows.weights = weights
    return rows


def _read(estimator: Any, X: Any, least: int, fitting: bool, reset: bool, number: int = 0) -> Rows:
    """Of one matrix, whose first row has that number in what the user has given."""
    least_shape = {"ensure_min_samples": least, "ensure_min_features": 2 if fitting else 1}
    if isinstance(X, Tensor):
        is_sparse = not X.is_nested and X.layout == torch.sparse_csr
        if is_sparse:
            require_dtype("X", X.dtype)
        elif not X.is_nested and X.layout != torch.strided:
            raise TypeError(
                f"X must be dense or in CSR layout, got layout {X.layout}: convert it with "
                "X.to_dense() or X.to_sparse_csr()"
            )
        else:
            require_float("X", X, unit=False)
        if X.dim() != 2:
            raise ValueError(f"X must have the shape (n_samples, d), got {tuple(X.shape)}")
        # scikit-learn's checks of shapes, with its messages, on an array without memory.
        shape = np.broadcast_to(np.float32(0), tuple(X.shape))
        validate_data(estimator, shape, reset=reset, **least_shape)
        X = X.detach()
        rows: Rows = SparseRows(_in_scipy(X), is_tensor=True) if is_sparse else Rows(X)
    else:
        X = validate_data(
            estimator,
            X,
            reset=reset,
            accept_sparse="csr",
            # Rows converts other types of dense arrays a batch at a time.
            dtype=[np.float64, np.float32] if sparse.issparse(X) else "numeric",
            ensure_all_finite=False,  # Rows.check does this too
            **least_shape,
        )
        rows = SparseRows(X) if sparse.issparse(X) else Rows(X)
    require_float64(rows.device)
    rows.check(normalize=estimator.normalize, first=number)
    return rows


def _in_scipy(X: Tensor) -> Any:
    """The same sparse array, in the same memory."""
    if X.device.type != "cpu":
        raise TypeError(f"a sparse X must be on the CPU, got device {X.device}: move it by X.cpu()")
    parts = (X.values(), X.col_indices(), X.crow_indices())
    return sparse.csr_array(tuple(part.numpy() for part in parts), shape=tuple(X.shape))


def check_enough(rows: Rows, number: int, name: str, least: int = 1) -> None:
    """Raises ValueError if a fit of so many parts cannot start from the rows."""
    if rows.n_rows < number:
        raise ValueError(
            f"Expected n_samples >= {name} but got {name} = {number}, n_samples = {rows.n_rows}"
        )
    least = max(least, number)
    if rows.n_counted < least:
        raise ValueError(
            f"{least} rows with a weight above 0 are needed for {name} = {number}, got "
            f"{rows.n_counted} of {rows.n_rows}"
        )


def check_number(value: Any, name: str, kind: type, least: int) -> None:
    """scikit-learn's check, which takes truth values and NaN for numbers."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not bool")
    check_scalar(value, name, kind, min_val=least)
    if math.isnan(value):
        raise ValueError(f"{name} == nan, must be >= {least}.")


def parameter(value: Any, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """A parameter that the user may give, in float64."""
    return None if value is None else _in_float64(value, name, shape, device)


def _in_float64(value: Any, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        require_dense(name, value)
        tensor = value.detach()
    else:
        tensor = torch.from_numpy(_array(value, name))
    if tensor.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, got {tuple(tensor.shape)}")
    return tensor.to(device, torch.float64)


def _array(value: Any, name: str) -> Any:
    """A copy in float64 of what an array can be made of."""
    if sparse.issparse(value):
        raise TypeError(
            f"{name} must be dense, got {type(value).__name__}: convert it with {name}.toarray()"
        )
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biufO":
            raise TypeError(array.dtype)
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array of real numbers, with rows of one length, got "
            f"{type(value).__name__}"
        ) from error


def parameter_of_directions(
    value: Any, name: str, shape: tuple[int, int], device: torch.device
) -> Tensor | None:
    """Directions that the user may give, as unit vectors in float64."""
    directions = parameter(value, name, shape, device)
    if directions is None:
        return None
    length = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    require(
        f"{name} must hold directions, vectors of a length other than 0",
        length,
        lambda norm: SHORTEST <= norm <= LONGEST,
        "norm",
    )
    return directions / length
