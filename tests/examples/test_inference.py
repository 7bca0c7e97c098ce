# The examples of inference: each runs from its options to the figure, checks its own answer, and
# ends with exit code 1 where that is wrong; full runs are slow.

from __future__ import annotations

import math
from importlib import import_module as load
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from cases import assert_mean, directions
from commands import assert_one_line
from vmfdist import VonMisesFisher

PNG = b"\x89PNG\r\n\x1a\n"

MEAN, WALK, MIXTURE = "bayesian_mean_direction", "spherical_random_walk", "mixture_of_directions"
# What makes a run short, and the tolerance that goes with so few draws; then the options.
SHORT = {
    MEAN: (
        {"CHAINS": 1, "WARMUP": 25, "STEPS": 250, "PARTICLES": 4, "TOLERANCE": 3.0},
        ["--draws", "25"],
    ),
    WALK: (
        {"CHAINS": 1, "WARMUP": 30, "SVI_STEPS": 60, "GRID": 1000, "TOLERANCE": 20.0},
        ["--steps", "8", "--draws", "20", "--walk", "20", "--noise", "20"],
    ),
    MIXTURE: (
        {"STARTS": 2, "FIRST_STEPS": 10, "SMALLEST": 0.05, "EM_STARTS": 1},
        ["--count", "300", "--parts", "8", "--steps", "100"],
    ),
}
NAMES = list(SHORT)


@pytest.mark.parametrize("name", NAMES)
def test_short_run(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script, (short, options) = load(name), SHORT[name]
    for constant, value in short.items():
        monkeypatch.setattr(script, constant, value)
    figure = tmp_path / "figure.png"
    assert script.main([*options, "--output", str(figure)]) == 0
    output, bars = capsys.readouterr()
    assert f"figure: {figure}" in output
    assert "100%" in bars
    assert figure.read_bytes().startswith(PNG)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1"])
@pytest.mark.parametrize("name", NAMES)
def test_full_run(name: str, tmp_path: Path, seed: str) -> None:
    assert load(name).main(["--seed", seed, "--output", str(tmp_path / "figure.png")]) == 0


# The mean direction


def test_a_wrong_answer_ends_in_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load(MEAN)
    right, draws = (
        script.exact(directions(5, 3), 50.0),
        script.Draws(directions(4, 3), torch.ones(4).double()),
    )
    wrong = script.Answer(directions(3, seed=2), 0.1, "")
    monkeypatch.setattr(script, "exact", lambda *_: right)
    monkeypatch.setattr(script, "by_nuts", lambda *_: (right, draws))
    for svi, code in ((right, 0), (wrong, 1)):
        monkeypatch.setattr(script, "by_svi", lambda *_, svi=svi: svi)
        assert script.main(["--output", str(tmp_path / "figure.png")]) == code


def test_angles() -> None:
    script = load(MEAN)
    degrees = torch.tensor([[0.0, 0.0], [90.0, 0.0], [0.0, 90.0], [180.0, -30.0]]).double()
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-math.sqrt(0.75), 0, -0.5]]
    torch.testing.assert_close(script.from_angles(degrees), torch.tensor(expected).double())
    for declination, inclination in ((12.5, -70.0), (359.0, 3.0), (181.0, 89.0)):
        x = script.from_angles(torch.tensor([declination, inclination]).double())
        assert script.to_angles(x) == pytest.approx((declination, inclination))


def test_predictive_p_value() -> None:
    script = load(MEAN)
    law = VonMisesFisher(directions(3), 50.0)
    draws = script.Draws(law.loc.expand(200, 3), torch.full((200,), 50.0).double())
    # with the true parameters it is uniform
    p = torch.tensor([script.predictive_p_value(law.sample((10,)), draws) for _ in range(60)])
    assert_mean(p, 0.5)
    assert_mean((p - 0.5) ** 2, 1 / 12)
    tight = VonMisesFisher(law.loc, 500.0).sample((10,))
    assert script.predictive_p_value(tight, draws) < 0.01


def test_data_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "site.csv"
    text = "10,20\n-30.5,40\n\n350,60\n"
    path.write_text(f"declination,inclination\n{text}")
    x = load(MEAN).read_data(path)
    path.write_text(f'\ufeff"declination",inclination\n{text}', encoding="utf-8")
    assert torch.equal(load(MEAN).read_data(path), x)
    assert x.shape == (3, 3)
    torch.testing.assert_close(x[0, 2].item(), math.sin(math.radians(20)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected a readable CSV file, found: "),
        ("d,i\n1,2\n3,4\n", "at least 3 of data, found 2"),
        ("d,i\n1,2\n3,4\n5\n", "line 4: expected declination and inclination, found '5'"),
        ("d,i\n1,2\nx,4\n5,6\n", "line 3: expected declination and inclination, found 'x,4'"),
        ("d,i\n1,2\n3,91\n5,6\n", "line 3: expected degrees, -360 to 360 and -90 to 90"),
        ("d,i\n1,2\n3,nan\n5,6\n", "line 3: expected degrees, -360 to 360 and -90 to 90"),
        ("d,i\n1,2\n1,2\n1,2\n", "expected directions that differ, found 3 equal ones"),
    ],
)
def test_bad_data_ends_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    message: str,
) -> None:
    path = tmp_path / "site.csv"
    if text is not None:
        path.write_text(text)
    options, start = ["--data", str(path)], f"{MEAN}.py: error: {path}"
    assert_one_line(load(MEAN).main, options, capsys, start, message)


# The walk


def test_grid_against_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    # With one time seen, each step and the noise shrink the mean by their mean resultant length.
    script = load(WALK)
    monkeypatch.setattr(script, "GRID", 2000)
    seen = directions(6, 3)
    mask = torch.tensor([False, False, True, False, False, False])
    found = script.on_grid(script.Walk(seen, seen, mask, 30.0, 15.0))
    length = 1 / math.tanh(30.0) - 1 / 30.0
    expected = [(1 / math.tanh(15.0) - 1 / 15.0) * length**k for k in (2, 1, 0, 1, 2, 3)]
    torch.testing.assert_close(
        found, torch.tensor(expected).double()[:, None] * seen[2], atol=2e-4, rtol=0
    )


# The mixture


def test_stick_breaking() -> None:
    script = load(MIXTURE)
    weights = script.break_stick(torch.tensor([0.5, 0.2, 0.0]))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.1, 0.0, 0.4]))
    assert script.break_stick(torch.rand(7, 4)).shape == (7, 5)


def test_starts_are_spread_out() -> None:
    script = load(MIXTURE)
    data, _ = script.made_data(300)
    true = normalize(torch.tensor(script.TRUE_LOCS), dim=-1)
    chosen = script.spread_out(data, 12)
    assert (chosen @ true.mT).amax(0).min() > 0.8  # one at least in each part
