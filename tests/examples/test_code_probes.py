# The probes of sentence codes: each against what it has to say where the answer is known.

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyro
import pytest
import torch

import code_probes as script
from _record import read_records
from _sentences import END, made_corpus
from commands import assert_one_line

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", autouse=True)
def clean() -> Iterator[None]:
    yield
    pyro.clear_param_store()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few sentences, few draws, one more model than the probes need."""
    monkeypatch.setattr(script, "made_corpus", lambda: made_corpus(300, 60))
    monkeypatch.setattr(script, "SWEEP", (0.5, 2.0))
    monkeypatch.setattr(script, "DRAWS", 5)


def test_bags_count_words_and_no_end_marker() -> None:
    corpus = made_corpus(50, 20)
    bags = script.bags(corpus.train, len(corpus.vocabulary))
    assert (bags[:, END] == 0).all()
    torch.testing.assert_close(bags.norm(dim=-1), torch.ones(50))
    for row, words, length in zip(bags, corpus.train.words, corpus.train.lengths, strict=True):
        counts = words[: length - 1].bincount(minlength=len(row)).float()
        torch.testing.assert_close(row, counts / counts.norm())


def test_a_linear_map_is_found_and_noise_is_not() -> None:
    torch.manual_seed(0)
    x, weights = torch.randn(2000, 5), torch.randn(5, 7)
    y = x @ weights + 0.5
    found, constant = script.cosine_of_map(x[:1000], y[:1000], x[1000:], y[1000:])
    assert found > 0.999
    assert constant < 0.6
    noise = torch.randn(2000, 7) + 0.5
    found, constant = script.cosine_of_map(x[:1000], noise[:1000], x[1000:], noise[1000:])
    assert found == pytest.approx(constant, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_swaps_exchange_so_many_neighbours(count: int) -> None:
    sentences = made_corpus(200, 20).train
    twins = script.swapped(sentences, count, seed=0)
    assert torch.equal(twins.words.sort(-1).values, sentences.words.sort(-1).values)
    assert torch.equal(twins.lengths, sentences.lengths)
    moved = twins.words != sentences.words
    for row, length in zip(moved, sentences.lengths, strict=True):
        assert not row[length - 1 :].any()  # the end marker stays where it is
    # "the" before "the" does not occur, so that every swap moves two words where there is room
    room = sentences.lengths - 1 >= 3 * count  # enough, however the pairs fall
    assert room.any()
    assert (moved.sum(-1)[room] == 2 * count).all()


def test_a_sentence_too_short_for_a_swap_is_left_alone() -> None:
    corpus = made_corpus(50, 20)
    short = corpus.vocabulary.sentences([["boat"], ["the", "boat"]])
    twins = script.swapped(short, 3, seed=0)
    assert torch.equal(twins.words[0], short.words[0])
    assert torch.equal(twins.words[1, :2], short.words[1, :2].flip(0))


@pytest.mark.usefixtures("small")
def test_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, record = tmp_path / "figure.png", tmp_path / "runs.jsonl"
    options = ["--epochs", "1", "--output", str(figure), "--record", str(record)]
    assert script.main(options) == 0
    output, bars = capsys.readouterr()
    for name in ("vmf:40, standard", "batch-norm, bow", "vmf:20 ", "vmf:80 "):
        assert f"\n{name}" in output
    assert bars.count("\n") == 7  # four models to probe, two fixed and one learned to sweep
    assert figure.read_bytes().startswith(PNG)
    (run,) = read_records(record)
    for scores in run["sweep"].values():
        assert scores["nll"] == pytest.approx(scores["kl"] + scores["reconstruction"])
    kl = [run["sweep"][f"vmf:{c}"]["kl"] for c in (20, 40, 80)]
    assert kl == sorted(kl)


def test_bad_data_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nothing.txt"
    line = f"code_probes.py: error: {path}: expected this file, plain or .gz, found neither\n"
    assert_one_line(script.main, ["--data", str(path)], capsys, line)
