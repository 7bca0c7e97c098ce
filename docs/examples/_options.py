"""What the command lines of the examples share: readers of options, errors about data, files."""

from __future__ import annotations

import argparse
import gzip
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from tempfile import TemporaryFile

import torch
from matplotlib.figure import Figure

__all__ = [
    "MOST_CONCENTRATION",
    "DataError",
    "add_seed_and_output",
    "add_training_options",
    "ends_in_one_line",
    "one_thread",
    "prepare_to_write",
    "read_bytes",
    "read_device",
    "read_figure_name",
    "read_lines",
    "read_number",
    "read_whole_number",
    "save_figure",
    "writing",
]

MOST_CONCENTRATION = 1e30  # float32 has room for it, and for a few times as much
RESERVE = 2**20  # bytes that have to be free where something is to be written


def add_seed_and_output(parser: argparse.ArgumentParser) -> None:
    """The two options that every script has."""
    text = "of all that is drawn at random (default: %(default)s)"
    parser.add_argument("--seed", type=read_whole_number(0, 2**32 - 1), default=0, help=text)
    name = f"{parser.prog.removesuffix('.py')}.png"
    text = "the figure, a .png, .pdf or .svg file in a folder that exists (default: %(default)s)"
    parser.add_argument("--output", metavar="FILE", type=read_figure_name, default=name, help=text)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The options of the scripts that train for long: where, and what is kept of it."""
    add = parser.add_argument
    add("--device", type=read_device, default="cpu", help="such as cpu or cuda (default: cpu)")
    text = "folder to save the runs in after each epoch; runs that are there go on"
    add("--checkpoint", metavar="DIR", type=Path, help=text)
    add_record_option(parser)


def add_record_option(parser: argparse.ArgumentParser, each: str = "run") -> None:
    """The file that scores are added to."""
    text = f"file to append the scores to, a line of JSON for each {each}"
    parser.add_argument("--record", metavar="FILE", type=Path, help=text)


def read_whole_number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """A reader of whole numbers between two bounds, for argparse."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        if not least <= value <= most:
            bounds = f"at least {least}" + (f" and at most {most}" if most < math.inf else "")
            raise argparse.ArgumentTypeError(f"expected {bounds}, got {value}")
        return value

    return read


def read_number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """A reader of finite numbers between two bounds, for argparse."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"expected a number >= {least:g}, got {text!r}")
        if value > most:
            raise argparse.ArgumentTypeError(f"expected at most {most:g}, got {value:g}")
        return value

    return read


def read_figure_name(text: str) -> Path:
    """Read the name of a figure that can be written."""
    path = Path(text)
    if path.suffix.lower() not in {".png", ".pdf", ".svg"}:
        raise argparse.ArgumentTypeError(f"expected a name in .png, .pdf or .svg, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {str(path.parent)!r} does not exist")
    target = Path(os.path.realpath(path))  # of a link; a circle of links stays as it is
    new = not target.exists()
    try:
        try_to_write(target)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {error.strerror}") from None
    finally:
        if new and target.is_file():
            target.unlink(missing_ok=True)
    return path


def read_device(text: str) -> torch.device:
    """Read the name of a device that is there."""
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {reason}") from None
    return device


class DataError(ValueError):
    """A file is missing, damaged or not what it should be, or cannot be written."""


Main = Callable[[Sequence[str] | None], int]


def ends_in_one_line(program: str) -> Callable[[Main], Main]:
    """Let a script end in one line and exit code 2 where its data or files are bad."""

    def decorate(main: Main) -> Main:
        @wraps(main)
        def run(argv: Sequence[str] | None = None) -> int:
            try:
                return main(argv)
            except DataError as error:
                print(f"{program}: error: {error}", file=sys.stderr)
                return 2

        return run

    return decorate


def try_to_write(path: Path) -> None:
    """Write to a file and beside it, on the same disk; what the file holds stays as it is.

    Raises:
        OSError: that cannot be, or less than `RESERVE` bytes are free.
    """
    with path.open("ab") as file:
        if not path.is_file():  # a device has no disk
            file.write(b"\n")
    folder = os.path.dirname(os.path.realpath(path))
    with suppress(PermissionError), TemporaryFile(dir=folder) as file:
        file.write(bytes(RESERVE))


def prepare_to_write(checkpoint: Path | None, record: Path | None) -> None:
    """See before the training that what follows it can be written; make the folder.

    Raises:
        DataError: it cannot.
    """
    path = checkpoint
    try:
        if checkpoint is not None:
            checkpoint.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=checkpoint) as file:
                file.write(bytes(RESERVE))
        if record is not None:
            path = record
            try_to_write(record)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def writing(path: Path, lost: str) -> Iterator[None]:
    """Say what is lost where a file cannot be written after all, since the disk is full by now.

    Raises:
        DataError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; {lost}") from error


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure, in the format that the end of its name asks for."""
    with writing(path, "the figure is lost, what has been printed is not"):
        figure.savefig(path, dpi=dpi)


def read_bytes(path: Path) -> tuple[Path, bytes]:
    """Read a file, or the one with .gz behind its name uncompressed; return its path too.

    Raises:
        DataError: neither is there, or it cannot be read.
    """
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        try:
            with (
                gzip.open(candidate) if candidate.suffix == ".gz" else candidate.open("rb") as file
            ):
                return candidate, file.read()
        except FileNotFoundError:
            continue
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{candidate}: expected a readable file, found: {error}") from error
    raise DataError(f"{path}: expected this file, plain or .gz, found neither")


def read_lines(path: Path) -> tuple[Path, list[str]]:
    """Read a file of text in UTF-8, plain or gzipped, as :func:`read_bytes` finds it.

    A byte-order mark in front is none of the text.

    Raises:
        DataError: it is missing, empty, unreadable or not text, with the line where that shows.
    """
    path, content = read_bytes(path)
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: expected text in UTF-8, found other bytes") from None
    if not lines:
        raise DataError(f"{path}: expected lines of text, found an empty file")
    return path, lines


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: on tensors this small, several mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
