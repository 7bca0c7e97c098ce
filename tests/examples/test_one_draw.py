# One draw or many, docs/examples/one_draw.py: each bound against its definition, what a gradient's
# noise is, and a run from the options to the figure.

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

import one_draw as script
from _vae import make_code
from commands import assert_png, numbers


@pytest.fixture(params=["Gaussian", "vMF"])
def vae(request: pytest.FixtureRequest) -> script.VAE:
    torch.manual_seed(0)
    gaussian = request.param == "Gaussian"
    hidden = script.HIDDEN
    return script.VAE(
        64, make_code("gaussian", hidden, 2) if gaussian else script.DirectionCode(hidden, 3)
    )


@pytest.fixture
def images() -> torch.Tensor:
    return script.binarise_once(script.sklearn_digits().test[:5])


def test_likelihoods_are_those_of_pixels(vae: script.VAE, images: torch.Tensor) -> None:
    z = vae.code.prior().sample((7, 5))
    law = Bernoulli(logits=vae.logits(z))
    expected = law.log_prob(images).sum(-1)
    torch.testing.assert_close(vae.log_likelihood(images, z), expected)
    crossed = vae.log_likelihoods(images, z[:, 0])
    torch.testing.assert_close(crossed[:, 0], expected[:, 0])
    assert crossed.shape == (7, 5)


def test_bounds(vae: script.VAE, images: torch.Tensor) -> None:
    # means of many estimates; one draw has the mean of the closed form, more draws a higher one
    with torch.no_grad():
        exact = torch.stack([script.closed_form(vae, images) for _ in range(500)])
        weights = script.log_weights(vae, images, 2000)
        prior = script.from_prior(vae, images, 20_000)
        likelihood = script.log_mean_exp(weights)
    error = ((exact.var(0) / 500) + weights.var(0) / 2000).sqrt()
    assert ((exact.mean(0) - weights.mean(0)).abs() < 5 * error).all()
    five = script.log_mean_exp(weights.unflatten(0, (5, -1))).mean(0)
    assert (weights.mean(0) < five).all()
    assert (five < likelihood).all()
    torch.testing.assert_close(prior, likelihood, rtol=0, atol=0.5)


def test_one_weight_is_the_elbo_from_its_draw(vae: script.VAE, images: torch.Tensor) -> None:
    torch.manual_seed(1)
    found = script.from_posterior(vae, images, 1)
    torch.manual_seed(1)
    posterior, prior = vae.posterior(images), vae.code.prior()
    z = posterior.rsample((1,))[0]
    divergence = posterior.log_prob(z) - prior.log_prob(z)
    torch.testing.assert_close(found, vae.log_likelihood(images, z) - divergence)
    assert (kl_divergence(posterior, prior) > 0).all()


def test_log_mean_exp() -> None:
    assert script.log_mean_exp(torch.tensor([1.0, 3.0]).log()).item() == pytest.approx(math.log(2))


def test_signal_to_noise() -> None:
    torch.manual_seed(0)
    mean = torch.full((100,), 0.3)  # of length 3, beside noise of length 10
    assert script.signal_to_noise(mean + torch.randn(4000, 100)) == pytest.approx(0.3, rel=0.05)
    # without a signal, the length of the mean of few vectors is noise, and is taken off
    assert script.signal_to_noise(torch.randn(50, 10_000)) < 0.06


def test_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SCORED_PRIOR", 10_000)
    monkeypatch.setattr(script, "SCORED", 100)
    monkeypatch.setattr(script, "REPEATS", 3)
    figure, record = tmp_path / "draws.png", tmp_path / "record.jsonl"
    options = ["--epochs", "1", "--dim", "3", "--record", str(record), "--output", str(figure)]
    assert script.main(options) == 0
    output, bars = capsys.readouterr()
    assert "Gaussian, R^2" in output
    assert "von Mises-Fisher, the sphere in R^3" in output
    assert "16/16" in bars
    assert_png(figure)
    runs = [json.loads(line) for line in record.read_text().splitlines()]
    assert [run["law"] for run in runs] == ["Gaussian", "von Mises-Fisher"]
    for run in runs:
        assert list(run["scores"]) == ["closed form", "draws: 1", "draws: 5", "draws: 50"]
        for score in run["scores"].values():
            bounds = list(score["bounds"].values())
            assert bounds == sorted(bounds)
            assert 0 < score["accuracy"] <= 1
    elbo = runs[0]["scores"]["closed form"]["bounds"]["1"]
    assert numbers(output, "closed form")[0] == pytest.approx(elbo, abs=0.006)
