# Fits that processes share, beside those of one process.

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from torch import distributed, multiprocessing

import shares
from vmfdist.mixture import VonMisesFisherMixture, _k_means, _rows


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes have found."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(shares.process, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", shares.cases())
def test_two_processes_are_as_one(
    name: str, of_processes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = shares.cases()[name]
    monkeypatch.setattr(_k_means, "_START_ROWS", _k_means._START_ROWS)
    monkeypatch.setattr(_rows, "_BATCH_NUMBERS", _rows._BATCH_NUMBERS)
    shares.few_rows_at_once()
    expected = shares.found(case, slice(None))
    first, second = (found[name] for found in of_processes)
    assert first.keys() == expected.keys()
    for key, wanted in expected.items():
        assert type(first[key]) is type(wanted)
        if key in ("predict", "labels_"):  # of the share
            labels = np.concatenate((first[key], second.get(key, [])))
            assert np.array_equal(labels, wanted), key
            continue
        np.testing.assert_allclose(first[key], wanted, rtol=1e-10, atol=1e-10, err_msg=key)
        assert np.array_equal(first[key], second[key]), key


def test_without_a_seed_they_take_that_of_the_first(of_processes: list[dict[str, Any]]) -> None:
    first, second = (found["unseeded"] for found in of_processes)
    assert torch.equal(first, second)


def test_all_processes_are_told_of_a_bad_share(of_processes: list[dict[str, Any]]) -> None:
    first, second = (found["failures"] for found in of_processes)
    zero = "row 7 of X has the norm 0 and so no direction: leave such rows out"
    assert first["zero"] == f"ValueError: process 1 of the group has failed: {zero}"
    assert second["zero"] == f"ValueError: {zero}"
    for name, words in (
        ("features", "one number of features in all processes of the group, got 3, 4$"),
        ("dtype", "one dtype in all .*, got torch.float64, torch.float32$"),
        ("few", "n_samples = 2"),
        ("weights", "3 rows with a weight above 0 are needed .* got 0 of 600"),
        ("score", "sample_weight is 0 throughout"),
    ):
        for told in (first, second):
            assert re.match(f"ValueError: .*{words}", told[name]), told


# In this process


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each message between processes."""
    sizes: list[int] = []

    def counting(name: str) -> None:
        original = getattr(distributed, name)

        def exchange(message: torch.Tensor, *args: Any, **options: Any) -> Any:
            sizes.append(message.nbytes)
            return original(message, *args, **options)

        monkeypatch.setattr(distributed, name, exchange)

    counting("all_reduce")
    counting("broadcast")
    return sizes


@pytest.mark.filterwarnings("ignore:Best performing:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("kind", [torch.Tensor.numpy, lambda X: sparse.csr_array(X.numpy())])
def test_traffic_of_an_iteration_is_that_of_the_parameters(
    n: int, kind: Any, group: Any, sent: list[int]
) -> None:
    X, dim, components = kind(shares.rows(20).repeat(n, 1)), 20, 3
    totals = []
    for max_iter in (1, 2):
        sent.clear()
        VonMisesFisherMixture(components, max_iter=max_iter, tol=0, random_state=0).fit(
            X, group=group
        )
        totals.append(sum(sent))
    assert totals[1] - totals[0] == 8 * (components * (dim + 2) + 4)
    # nor does that of a start depend on the number of rows
    assert totals[0] < 8 * 50 * components * (dim + 2)


def test_a_group_of_one_process_is_as_none(group: Any, capsys: pytest.CaptureFixture[str]) -> None:
    X = shares.rows()
    expected = VonMisesFisherMixture(3, random_state=0).fit(X)
    model = VonMisesFisherMixture(3, random_state=0, verbose=1)
    labels = model.fit_predict(X, group=group)
    assert "Initialization converged" in capsys.readouterr().out
    assert torch.equal(labels, expected.predict(X))
    assert torch.equal(model.mean_directions_, expected.mean_directions_)
    assert clone(model).get_params() == model.get_params()


def test_without_the_argument_processes_fit_alone(group: Any, sent: list[int]) -> None:
    VonMisesFisherMixture(3, random_state=0).fit(shares.rows())
    assert not sent


def test_what_is_no_group() -> None:
    assert distributed.group.WORLD is None  # and so one process, where none are initialised
    for wrong in (True, "gloo", distributed.GroupMember.NON_GROUP_MEMBER):
        with pytest.raises(TypeError, match=r"group must be a process group .*group\.WORLD"):
            VonMisesFisherMixture().fit(torch.eye(3), group=wrong)
