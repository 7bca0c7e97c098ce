"""Constants that are computed once: of a dimension, a dtype, a device.

Whatever is active where a constant is first asked for must leave no trace in it: inference_mode,
a default device, a FakeTensorMode, the export of a model. All of these belong to a thread. So a
tensor is made in a thread of its own, where none is active; and where tensors are not numbers but
stand for them, those of a constant are made anew from its numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import RLock
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def once(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A least-recently-used cache of which threads that start together wait for each other."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        lock, computed = RLock(), functools.lru_cache(maxsize=maxsize)(function)

        @functools.lru_cache(maxsize=maxsize)  # what is there is had without the lock
        @functools.wraps(function)
        def cached(*args: P.args, **kwargs: P.kwargs) -> T:
            with lock:
                return computed(*args, **kwargs)  # type: ignore[arg-type]

        return cached  # type: ignore[return-value]

    return decorate


def cached_constant(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A cache of numbers, which are constants to torch.compile.

    Dynamo would otherwise trace through the cache into the function, which may be in decimals.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        cached: Callable[..., T] = once(maxsize)(function)

        @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
        def boxed(*args: Any) -> tuple[T]:
            return (cached(*args),)  # Dynamo of torch 2.6 stumbles over a mere number

        @functools.wraps(function)
        def constant(*args: Any) -> T:
            return boxed(*_static_sizes(args))[0]

        return constant  # type: ignore[return-value]

    return decorate


def pi() -> float:
    """math.pi. A literal that a function returns is a constant of every graph.

    A graph with dynamic sizes would take a number of a module as an input, and fails where it does
    so twice.
    """
    return 3.141592653589793


def in_no_mode(function: Callable[P, T]) -> Callable[P, T]:
    """Makes a function run where no mode is active, in a thread of its own."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(function, *args, **kwargs).result()

    return run


def holds_numbers(x: Tensor) -> bool:
    """Whether x is a tensor as such: those of a FakeTensorMode, say, stand for one."""
    return type(x) in (Tensor, torch.nn.Parameter)


class _Traced(torch.nn.Module):
    """Holds the tensors that a graph of torch.compile takes, each as an attribute.

    A tensor that a constant function returns has the name of that function to Dynamo, which
    refuses a graph with two of one name. It is a module since the strict export of torch 2.6 takes
    tensors of nothing else.
    """


_traced = _Traced()


class _CachedTensor(Protocol):
    def __call__(self, *key: Any, like: Tensor) -> Tensor: ...


def cached_tensor(maxsize: int) -> Callable[[Callable[..., Tensor]], _CachedTensor]:
    """A cache of a tensor that depends on a key, on the device of the tensor ``like``."""

    def decorate(build: Callable[..., Tensor]) -> _CachedTensor:
        @once(maxsize)
        @in_no_mode
        def cached(key: tuple[Any, ...], device: torch.device) -> Tensor:
            return build(*key).to(device)

        @once(maxsize)
        def named(key: tuple[Any, ...], device: torch.device) -> str:
            name = f"{build.__name__}_{len(vars(_traced))}"
            tensor = cached(key, device)
            torch._dynamo.mark_static(tensor)
            setattr(_traced, name, tensor)
            return name

        @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
        def name_in_graph(*key: Any) -> str:
            *arguments, device = key
            return named(tuple(arguments), device)

        @functools.wraps(build)
        def constant(*key: Any, like: Tensor) -> Tensor:
            if torch.compiler.is_dynamo_compiling():
                return getattr(_traced, name_in_graph(*_static_sizes(key), like.device))
            tensor = cached(key, like.device)
            if holds_numbers(like):
                return tensor
            return torch.tensor(in_no_mode(tensor.tolist)(), dtype=tensor.dtype, device=like.device)

        return constant

    return decorate


def static(size: int) -> int:
    """The same number, even where torch.compile has made a symbol of a size that changed.

    The graph then holds for this size only, as it must: it contains coefficients of the dimension.
    """
    return len(range(size))


def _static_sizes(key: tuple[Any, ...]) -> tuple[Any, ...]:
    if not torch.compiler.is_dynamo_compiling():
        return key
    return tuple(static(x) if isinstance(x, int) else x for x in key)


@once(maxsize=1024)
@in_no_mode
def _cached_tensors(
    numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    return torch.tensor(numbers, dtype=dtype, device="cpu").to(device).unbind()


def as_tensors(numbers: tuple[float, ...], like: Tensor) -> tuple[Tensor, ...]:
    """Numbers as tensors, which eager operations take in half the time of Python numbers."""
    # torch.compile trips over float64 constants of one number, and a tensor that stands for others
    # takes none of those that are cached.
    if torch.compiler.is_compiling() or not holds_numbers(like):
        return tuple(torch.full((), x, dtype=like.dtype, device=like.device) for x in numbers)
    return _cached_tensors(numbers, like.dtype, like.device)
