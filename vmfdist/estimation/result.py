"""What tests of hypotheses return."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TestResult(NamedTuple):
    """What a test of a hypothesis finds."""

    statistic: Tensor
    """The test statistic, which is large where the hypothesis does not hold."""

    p_value: Tensor
    """The probability of a statistic at least as large under the hypothesis."""


TestResult.__test__ = False  # type: ignore[attr-defined]  # not a class of tests to pytest
