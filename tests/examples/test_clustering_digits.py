# Mixtures on the sphere, docs/examples/clustering_digits.py: a run from the options to the figure,
# the data, and the scores against their definitions.

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import clustering_digits as clustering
from commands import assert_png, numbers
from vmfdist import VonMisesFisher

MODELS = (
    "von Mises-Fisher mixture",
    "k-means",
    "Gaussian mixture, spherical",
    "Gaussian mixture, full",
)


@pytest.fixture
def few_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "COUNTS", (2, 12, 4))


@pytest.mark.usefixtures("few_counts")
def test_clustering_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "clusters.png"

    def run(*options: str) -> tuple[str, str, list[list[float]]]:
        assert clustering.main(["--starts", "1", *options, "--output", str(figure)]) == 0
        output, bars = capsys.readouterr()
        return output, bars, [numbers(output, name)[:4] for name in MODELS]

    output, bars, scores = run()
    assert_png(figure)
    assert "1,797 digits as directions in 20 dimensions; each fit starts 1 x" in output
    assert re.search("all models: 100%.* 4/4", bars)
    assert re.search("BIC  .*100%.* 3/3", bars)
    for components, rand, information, homogeneity in scores:
        assert components == 10
        assert 0.4 < rand < 0.95
        assert 0.6 < information < 0.95
        assert 0.5 < homogeneity < 0.95
    # Of 2, 12 and 4 components the data ask for the most, and clusters then are purer than of 10.
    count, _, _, homogeneity = numbers(output, "its components by BIC")
    assert count == 12
    assert homogeneity > scores[0][3]
    assert run()[2] == scores
    components = {row[0] for row in run("--components", "12", "--seed", "4")[2]}
    assert components == {12}  # two rows of images


def test_digits_are_centred_directions() -> None:
    data = clustering.digits()
    assert data.directions.shape == (1797, 20)
    assert np.bincount(data.labels).min() > 170
    np.testing.assert_allclose(np.linalg.norm(data.directions, axis=1), 1, rtol=1e-12)
    # Against the singular value decomposition of the centred pixels, signs aside.
    pixels = clustering.load_digits().data
    centred = pixels - pixels.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    projected = centred @ axes[:20].T
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(data.directions), np.abs(projected / lengths), atol=1e-9)
    assert data.length == pytest.approx(lengths.mean())


def test_images_are_the_way_back() -> None:
    data = clustering.digits()
    images = data.images(data.directions[:5])
    assert images.shape == (5, 8, 8)
    pixels = clustering.load_digits().data
    difference = images.reshape(5, 64) - pixels.mean(0)
    np.testing.assert_allclose(np.linalg.norm(difference, axis=1), data.length)
    # The projection leaves little out, so that an image points much as its own pixels do.
    own = pixels[:5] - pixels.mean(0)
    cosines = (difference * own).sum(1) / (data.length * np.linalg.norm(own, axis=1))
    assert (cosines > 0.85).all()


def test_scores_of_simple_clusters() -> None:
    labels = np.repeat([0, 1], 4)
    assert clustering.score(1 - labels, labels, 2) == pytest.approx((2, 1, 1, 1))
    halves = clustering.score(np.repeat([0, 1, 2, 3], 2), labels, 4)
    # Of 28 pairs 12 share a label, 4 a cluster, 4 both; by chance 12 * 4 / 28 would.
    chance = 12 * 4 / 28
    assert halves.rand == pytest.approx((4 - chance) / ((12 + 4) / 2 - chance))
    # Entropies: of labels 1 bit, of clusters 2, shared 1.
    assert halves.information == pytest.approx(1 / 1.5)
    assert halves.homogeneity == pytest.approx(1)
    crossed = clustering.score(np.tile([0, 1], 4), labels, 2)
    assert crossed.information == pytest.approx(0, abs=1e-12)
    assert crossed.rand < 0


@pytest.mark.usefixtures("few_counts")
def test_bic_is_the_penalised_likelihood() -> None:
    data = clustering.digits()
    found = clustering.choose(data, starts=1, seed=0)
    assert [scores.components for scores in found.scores] == [2, 12, 4]
    assert found.best() == 1
    for count, bic in zip((2, 12, 4), found.bic, strict=True):
        model = clustering.VonMisesFisherMixture(count, random_state=0, **clustering.EM)
        model.fit(data.directions)
        laws = VonMisesFisher(
            torch.as_tensor(model.mean_directions_), torch.as_tensor(model.concentrations_)
        )
        joint = laws.log_prob(torch.as_tensor(data.directions).unsqueeze(1))
        log_likelihood = (joint + torch.as_tensor(model.weights_).log()).logsumexp(1).sum().item()
        parameters = count * (19 + 1) + count - 1
        assert bic == pytest.approx(parameters * math.log(1797) - 2 * log_likelihood)
