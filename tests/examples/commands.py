# What the tests of the examples ask of their command lines: bad options end in argparse's exit code
# 2, bad data in exit code 2 and one line, and the help names every option; and a disk that is full.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest

Main = Callable[[Sequence[str]], int]
Capture = pytest.CaptureFixture[str]


def assert_options_refused(
    main: Main, options: Sequence[str], message: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert message in error


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


def assert_help_names(main: Main, options: Iterable[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    for option in options:
        assert f"--{option} " in output


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
