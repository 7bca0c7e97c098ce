# What the tests of the examples ask of their scripts: bad data and files end in exit code 2 and one
# line; figures, and numbers in tables; and a disk that is full.

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

Main = Callable[[Sequence[str]], int]
Capture = pytest.CaptureFixture[str]


def assert_one_line(
    main: Main, options: Sequence[str], capsys: Capture, start: str, *words: str
) -> None:
    assert main(options) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error.endswith("\n")
    assert error.count("\n") == 1
    assert error.startswith(start)
    for text in words:
        assert text in error


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: what a disk does that is nearly full."""
    resource = pytest.importorskip("resource")  # of Unix
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_png(path: Path) -> None:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    assert min(struct.unpack(">2I", content[16:24])) > 700


def entry(output: str, name: str) -> str:
    """What stands behind a name in a table."""
    match = re.search(rf"^ *{re.escape(name)}  +(.*)$", output, re.M)
    assert match is not None, output
    return match[1]


def numbers(output: str, name: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?\d+\.?\d*", entry(output, name))]
