from __future__ import annotations

import copy
import pickle

import pytest
import torch

from vmfdist._closed_forms import natural
from vmfdist._closed_forms import von_mises_fisher as vmf
from vmfdist._numerics.elementwise import with_derivative


def test_a_node_of_the_graph_has_the_name_of_the_formula() -> None:
    k = torch.tensor([0.5, 2.0], requires_grad=True)
    value = vmf.log_partition(k, 3)
    assert value.grad_fn.name() == "log_partitionBackward"
    (slope,) = torch.autograd.grad(value.sum(), k, create_graph=True)
    names = {node.name() for node, _ in slope.grad_fn.next_functions if node is not None}
    assert "mean_resultant_lengthBackward" in names
    assert natural.mean(torch.ones(3, requires_grad=True)).grad_fn.name() == (
        "gradient_of_log_partitionBackward"
    )


def test_a_formula_of_four_tensors() -> None:
    @with_derivative(
        lambda a, b, c, d, power: b * c * d**power,
        None,
        lambda a, b, c, d, power: a * b * d**power,
        lambda a, b, c, d, power: a * b * c * power * d ** (power - 1),
    )
    def product(
        a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor, power: int
    ) -> torch.Tensor:
        return a * b * c * d**power

    tensors = [torch.rand(shape, dtype=torch.float64) for shape in ((3,), (2, 1), (), (2, 3))]
    inputs = [x.requires_grad_() for x in tensors]
    found = torch.autograd.grad(product(*inputs, 3).sum(), inputs, allow_unused=True)
    a, b, c, d = inputs
    expected = torch.autograd.grad((a * b.detach() * c * d**3).sum(), (a, c, d))
    assert found[1] is None
    for x, y in zip((found[0], *found[2:]), expected, strict=True):
        torch.testing.assert_close(x, y)


def test_a_formula_is_called_copied_and_pickled_as_a_function_is() -> None:
    assert copy.deepcopy(vmf.log_partition) is vmf.log_partition
    assert pickle.loads(pickle.dumps(vmf.log_partition)) is vmf.log_partition
    with pytest.raises(TypeError, match="keyword"):
        vmf.log_partition(torch.ones(2), dim=3)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_formula_in_a_compiled_graph(backend: str) -> None:
    # There the node is Dynamo's own, and bears no name of a formula.
    function = torch.compile(lambda k: vmf.log_partition(k, 3), fullgraph=True, backend=backend)
    k = torch.tensor([0.5, 2.0], requires_grad=True)
    (slope,) = torch.autograd.grad(function(k).sum(), k)
    torch.testing.assert_close(slope, 1 / torch.tanh(k.detach()) - 1 / k.detach())
