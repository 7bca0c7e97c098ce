# Embeddings with a concentration, docs/examples/uncertain_embeddings.py: a run from the options to
# the figure; windows, losses and scores against their definitions; and the data.

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

import uncertain_embeddings as example
from commands import assert_one_line, assert_png, numbers
from test_hyperspherical_vae import IMAGES, LABELS, TEST_IMAGES, TEST_LABELS, idx
from vmfdist import VonMisesFisher

LOSSES = ["cosines", "MCInfoNCE", "kernel"]


def test_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(example, "SCORED", 300)
    figure, record = tmp_path / "sure.png", tmp_path / "record.jsonl"
    options = ["--runs", "1", "--epochs", "6", "--record", str(record)]
    assert example.main([*options, "--output", str(figure)]) == 0
    output, bars = capsys.readouterr()
    assert "1,197 digits to train, 300 held out; embeddings in 16 dimensions; 1 runs" in output
    assert "18/18" in bars
    assert_png(figure)
    recorded = json.loads(record.read_text())["scores"]
    assert list(recorded) == LOSSES
    for field, label in example.LABELS.items():
        printed = numbers(output, label)[::2]
        assert printed == pytest.approx([recorded[x][field] for x in LOSSES], abs=6e-4)
    for loss, scores in recorded.items():
        assert scores["recall_cosines"] > 0.55, loss
        assert scores["map_cosines"] > 0.35
        assert scores["surer_half"] > scores["recall_cosines"] + 0.1
        assert scores["half_most_seen"] > scores["recall_cosines"] + 0.1
        assert scores["roc"] > 0.7
    # what is learned of it, beside what length has of it for nothing
    laws_have = min(recorded[x]["correlation"] for x in LOSSES[1:])
    assert laws_have > max(0.8, recorded["cosines"]["correlation"])


def test_windows_are_squares_of_all_sizes_and_places() -> None:
    torch.manual_seed(0)
    kept, share = example.through_windows(torch.ones(4000, 64))
    kept = kept.view(-1, 8, 8)
    widths = (8 * share.sqrt()).round().long()
    assert widths.unique().tolist() == [3, 4, 5, 6, 7, 8]
    assert widths.bincount()[3:].min() > 4000 / 6 * 0.8
    for lines in (kept.amax(-1), kept.amax(-2)):
        assert torch.equal(lines.sum(-1).long(), widths)
        first, last = lines.argmax(-1), 7 - lines.flip(-1).argmax(-1)
        assert torch.equal(last - first + 1, widths)  # in one piece
        assert first[widths == 3].unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(kept.sum((-2, -1)).long(), widths**2)
    images = torch.rand(50, 784)
    seen = example.through_windows(images).images
    assert torch.equal(seen, images.where(seen > 0, 0))
    assert (seen > 0).sum(-1).sqrt().min() >= 11  # of 28, less what is black by chance


def test_partners_are_of_the_same_class() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([2, 0, 1, 1, 2, 0, 2, 4])  # no 3
    rows = torch.arange(8).repeat(200)
    found = example.partners(labels)(rows)
    assert torch.equal(labels[found], labels[rows])
    for row in range(8):
        reached = found[rows == row].unique()
        assert torch.equal(reached, (labels == labels[row]).nonzero().flatten())


@pytest.mark.parametrize("draws", [None, 3])
def test_the_loss_is_its_definition(draws: int | None) -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 0, 2])
    logits = torch.randn(*([draws] if draws else []), 4, 4, dtype=torch.float64)
    expected = 0.0
    for i in range(4):
        others = [j for j in range(4) if j == i or labels[j] != labels[i]]
        weight = logits.exp().reshape(-1, 4, 4)[:, i]
        expected -= (weight[:, i] / weight[:, others].sum(-1)).mean().log().item() / 4
    assert example.contrastive_loss(logits, labels).item() == pytest.approx(expected)


def laws(concentration: float) -> tuple[VonMisesFisher, VonMisesFisher]:
    loc = normalize(torch.randn(2, 5, 4, dtype=torch.float64), dim=-1)
    first, second = (VonMisesFisher(x, torch.full((5,), concentration).double()) for x in loc)
    return first, second


def test_certain_draws_have_the_cosines_of_their_laws() -> None:
    torch.manual_seed(0)
    pair, temperature = laws(1e9), torch.tensor(7.0)
    found = example.by_draws(*pair, temperature)
    assert found.shape == (example.DRAWS, 5, 5)
    expected = example.by_cosines(*pair, temperature).expand_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)


def test_the_kernel_is_the_mean_density_of_draws() -> None:
    torch.manual_seed(0)
    first, second = laws(6.0)
    found = example.by_kernel(first, second, torch.tensor(1.0)).exp()
    draws = first.sample((50_000,)).unsqueeze(-2)
    torch.testing.assert_close(found, second.log_prob(draws).exp().mean(0), rtol=0.05, atol=2e-3)


def test_retrieval() -> None:
    labels = torch.tensor([0, 0, 1, 1, 0])
    similarity = torch.tensor(
        [
            [9.0, 3, 2, 1, 4],  # 4, 1, 2, 3: right, right
            [3.0, 9, 4, 2, 1],  # 2, 0, 3, 4: right in the second place and in the last
            [1.0, 2, 9, 3, 4],  # 4, 3, 1, 0: right in the second place
            [4.0, 3, 2, 9, 1],  # 0, 1, 2, 4: right in the third
            [2.0, 1, 3, 4, 9],  # 3, 2, 0, 1: right in the third and in the last
        ]
    )
    before = similarity.clone()
    right, mean = example.retrieval(similarity, labels)
    assert right.tolist() == [True, False, False, False, False]
    precisions = [1, (1 / 2 + 2 / 4) / 2, 1 / 2, 1 / 3, (1 / 3 + 2 / 4) / 2]
    assert mean == pytest.approx(sum(precisions) / 5)
    assert torch.equal(similarity, before)


def test_recall_by_share_left_out() -> None:
    order_by, right = torch.tensor([3.0, 1, 4, 2]), torch.tensor([True, False, True, False])
    found = example.recall_by_share_left_out(order_by, right)
    assert found.tolist() == pytest.approx([1 / 2, 2 / 3, 1, 1])


def test_the_length_of_a_vector_is_its_concentration() -> None:
    layer = example.DirectionAndLength(3, 4)
    features = torch.randn(6, 3)
    vector = torch.nn.functional.linear(features, layer.weight, layer.bias)
    torch.testing.assert_close(layer(features).concentration, vector.norm(dim=-1))
    torch.testing.assert_close(layer(features).loc, normalize(vector, dim=-1))


def test_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    for names, count in (((IMAGES, LABELS), 60), ((TEST_IMAGES, TEST_LABELS), 40)):
        noise = torch.randint(256, (count, 784), generator=generator)
        (tmp_path / names[0]).write_bytes(idx(count, 28, 28, body=bytes(noise.flatten().tolist())))
        (tmp_path / names[1]).write_bytes(idx(count))
    output = ["--output", str(tmp_path / "a.png")]
    options = ["--data", str(tmp_path), "--epochs", "1", "--runs", "2", "--dim", "3", *output]
    assert example.main(options) == 0
    printed = capsys.readouterr().out
    assert "60 digits to train, 40 held out; embeddings in 3 dimensions; 2 runs" in printed
    assert "nan" not in printed
    assert max(numbers(printed, "recall@1, by cosines")) < 0.4  # noise
    # one of a class has nothing to find
    (tmp_path / TEST_IMAGES).write_bytes(idx(19, 28, 28))
    (tmp_path / TEST_LABELS).write_bytes(idx(19))
    start = "uncertain_embeddings.py: error: "
    missing = "expected 2 of each label or more, not so of [9]"
    assert_one_line(example.main, options, capsys, start, TEST_LABELS, missing)
