# What the command lines of the examples share, docs/examples/_options.py and _record.py: files that
# cannot be written are found before the work, or end in one line that says what is lost.

from __future__ import annotations

import argparse
import errno
import json
import os
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from _options import (
    RESERVE,
    DataError,
    ends_in_one_line,
    prepare_to_write,
    read_figure_name,
    read_lines,
    save_figure,
)
from _record import add_record
from commands import no_more_than

CPU = torch.device("cpu")
FULL = Path("/dev/full")  # where every write finds the disk full
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs Linux's /dev/full")


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


# Before the work


def test_figures_that_can_be_written_leave_no_trace(tmp_path: Path) -> None:
    new, old = tmp_path / "new.png", tmp_path / "old.PNG"
    old.write_bytes(b"a former figure")
    to_new = link(tmp_path / "link.svg", tmp_path / "later.svg")  # of a link the target is made
    before = {path.name: path.lstat().st_mtime_ns for path in tmp_path.iterdir()}
    for path in (new, old, to_new):
        assert read_figure_name(str(path)) == path
    assert {path.name: path.lstat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert old.read_bytes() == b"a former figure"


def figure_refused(path: Path, words: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        read_figure_name(str(path))
    assert str(caught.value) == f"{str(path)!r} cannot be written: {words}"


def test_figures_that_cannot_be_written_are_found_at_once(tmp_path: Path) -> None:
    broken = link(tmp_path / "broken.png", tmp_path / "gone" / "figure.png")
    figure_refused(broken, "No such file or directory")
    circle = link(tmp_path / "circle.png", tmp_path / "circle.png")
    figure_refused(circle, os.strerror(errno.ELOOP))
    assert circle.is_symlink()
    (tmp_path / "folder.png").mkdir()
    figure_refused(tmp_path / "folder.png", "Is a directory")
    with no_more_than(RESERVE - 1):
        figure_refused(tmp_path / "large.png", "File too large")
    assert not (tmp_path / "large.png").exists()
    with no_more_than(RESERVE):
        read_figure_name(str(tmp_path / "large.png"))


@needs_full
def test_a_full_disk_is_found_at_once(tmp_path: Path) -> None:
    full = "No space left on device"
    figure_refused(link(tmp_path / "full.png", FULL), full)
    with pytest.raises(DataError) as caught:
        prepare_to_write(None, FULL)
    assert str(caught.value) == f"{FULL}: cannot be written: {full}"


def test_records_and_checkpoints_are_tried(tmp_path: Path) -> None:
    folder, record = tmp_path / "new" / "runs", tmp_path / "runs.jsonl"
    record.write_text("a run\n")
    prepare_to_write(folder, record)
    assert record.read_text() == "a run\n"
    assert list(folder.iterdir()) == []
    with no_more_than(RESERVE - 1):
        for arguments in ((folder, None), (None, record)):
            path = next(filter(None, arguments))
            with pytest.raises(DataError) as caught:
                prepare_to_write(*arguments)
            assert str(caught.value) == f"{path}: cannot be written: File too large"
    assert record.read_text() == "a run\n"
    assert list(folder.iterdir()) == []


# After it


def test_a_figure_that_finds_the_disk_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure, path = Figure(), tmp_path / "a.png"

    @ends_in_one_line("script.py")
    def main(argv: object = None) -> int:
        figure.subplots()
        print("the scores")  # noqa: T201
        with no_more_than(1000):
            save_figure(figure, path)
        return 0

    assert main() == 2
    output, error = capsys.readouterr()
    assert output == "the scores\n"
    lost = "the figure is lost, what has been printed is not"
    assert error == f"script.py: error: {path}: cannot be written: File too large; {lost}\n"
    assert main.__name__ == "main"


def test_a_record_that_finds_the_disk_full(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    add_record(path, CPU, law="vmf")
    with no_more_than(path.stat().st_size), pytest.raises(DataError) as caught:
        add_record(path, CPU, law="gaussian")
    words = f"{path}: cannot be written: File too large; the record of this run is lost"
    assert str(caught.value) == words
    assert [json.loads(line)["law"] for line in path.read_text().splitlines()] == ["vmf"]


# Data


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_none_of_the_text(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "text"
    path.write_bytes(mark + "Öl und\nWasser\n".encode())
    assert read_lines(path) == (path, ["Öl und", "Wasser"])
    path.write_bytes(mark + b"a\n\xff\n")
    with pytest.raises(DataError, match="line 2: expected text in UTF-8"):
        read_lines(path)
