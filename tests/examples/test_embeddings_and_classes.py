# Classifiers by direction, docs/examples/embeddings_and_classes.py: a run from the options to the
# figure, the scores against their definitions, and the data.

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import embeddings_and_classes as example
from commands import assert_one_line, assert_png, numbers
from test_hyperspherical_vae import IMAGES, LABELS, TEST_IMAGES, TEST_LABELS, idx
from vmfdist.nn import SphericalClassifier

MODELS = ("softmax layer", "shared", "shared, bfloat16", "per-class", "plug-in")


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, record = tmp_path / "classes.png", tmp_path / "record.jsonl"

    options = ["--runs", "1", "--epochs", "20", "--record", str(record)]
    assert example.main([*options, "--output", str(figure)]) == 0
    output, bars = capsys.readouterr()
    assert "1,197 digits to train, 600 held out; embeddings in 16 dimensions" in output
    assert "4/4" in bars
    scores = [numbers(output.replace(" -\n", "\n"), name)[::2] for name in MODELS]
    assert_png(figure)
    for name, (accuracy, likelihood, calibration, *areas) in zip(MODELS, scores, strict=True):
        assert accuracy > 0.92, name
        assert likelihood < 0.8
        assert calibration < 0.1
        assert len(areas) == 1 + (name != "softmax layer")
        assert all(area > 0.6 for area in areas)
    # within a percent, and not the same run
    full, rounded = scores[MODELS.index("shared")], scores[MODELS.index("shared, bfloat16")]
    assert abs(full[0] - rounded[0]) < 0.01
    recorded = json.loads(record.read_text())["scores"]
    assert recorded["softmax layer"]["by_density"] is None
    exact = [recorded[name]["nll"] for name in ("shared", "shared, bfloat16")]
    assert exact[0] != exact[1]


def test_calibration_error() -> None:
    # in one bin .9, of which half are right; in another .25, of which all are
    confidence = torch.tensor([0.9, 0.9, 0.25, 0.25, 0.25, 0.25])
    right = torch.tensor([True, False, True, True, True, True])
    expected = (2 * 0.4 + 4 * 0.75) / 6
    assert example.calibration_error(confidence, right) == pytest.approx(expected)
    assert example.calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == 0


def test_area_is_the_chance_of_the_right_order() -> None:
    known, unknown = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.0, 2.5])
    assert example.area(known, unknown) == pytest.approx(4 / 6)


def test_classes_are_numbered_as_they_come() -> None:
    data, held_out = example.sklearn_digits()
    assert len(data.images) == 1197
    assert len(held_out.images) == 600
    some = data.of_classes([7, 2])
    assert torch.equal(some.images, data.images[(data.labels == 2) | (data.labels == 7)])
    assert torch.equal(some.labels == 0, data.labels[(data.labels == 2) | (data.labels == 7)] == 7)
    assert some.labels.unique().tolist() == [0, 1]


def test_the_plug_in_is_fitted_to_the_embeddings() -> None:
    torch.manual_seed(0)
    data, _ = example.sklearn_digits()
    model = example.Model(64, 5, SphericalClassifier(5, 10))
    fitted = example.plugged_in(model, data, 10)
    units = torch.nn.functional.normalize(model.embed(data.images).detach().double(), dim=-1)
    for label, mean in enumerate(fitted.scores.law.mean.double()):
        torch.testing.assert_close(mean, units[data.labels == label].mean(0), rtol=0, atol=1e-5)


def test_mnist_with_too_few_of_a_class_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "a.png")]
    start = "embeddings_and_classes.py: error: "
    options = ["--data", str(tmp_path), *output]
    assert_one_line(example.main, options, capsys, start, "expected this file")
    (tmp_path / IMAGES).write_bytes(idx(20, 28, 28))
    (tmp_path / LABELS).write_bytes(idx(20))
    (tmp_path / TEST_IMAGES).write_bytes(idx(7, 28, 28))
    (tmp_path / TEST_LABELS).write_bytes(idx(7))
    missing = "expected 1 of each label or more, not so of [7, 8, 9]"
    assert_one_line(example.main, options, capsys, start, TEST_LABELS, missing)
    (tmp_path / IMAGES).write_bytes(idx(19, 28, 28))
    (tmp_path / LABELS).write_bytes(idx(19))
    missing = "expected 2 of each label or more, not so of [9]"
    assert_one_line(example.main, options, capsys, start, LABELS, missing)


def test_mnist_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for names, count in (((IMAGES, LABELS), 60), ((TEST_IMAGES, TEST_LABELS), 20)):
        noise = torch.randint(256, (count, 784), generator=torch.Generator().manual_seed(0))
        body = bytes(noise.flatten().tolist())
        (tmp_path / names[0]).write_bytes(idx(count, 28, 28, body=body))
        (tmp_path / names[1]).write_bytes(idx(count))
    options = ["--data", str(tmp_path), "--epochs", "1", "--runs", "2", "--dim", "3"]
    assert example.main([*options, "--output", str(tmp_path / "a.png")]) == 0
    output = capsys.readouterr().out
    assert "60 digits to train, 20 held out; embeddings in 3 dimensions; each of 2 runs" in output
    for name in MODELS:
        mean, spread = numbers(output, name)[:2]
        assert 0 <= mean <= 0.5  # noise
        assert spread < 0.3
