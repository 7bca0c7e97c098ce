# Directions for statisticians, docs/examples/directional_data.py: runs from the options to the
# figure, the numbers in the tables against closed forms, and one line with exit code 2 for every
# kind of bad data.

from __future__ import annotations

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

import directional_data as directional
from commands import assert_one_line, assert_png, entry, numbers
from vmfdist import VonMisesFisher


@pytest.fixture
def few_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directional, "SIMULATIONS", 99)


@pytest.mark.usefixtures("few_simulations")
def test_directions_run_on_made_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "directions.png"

    def run(*options: str) -> str:
        assert directional.main([*options, "--output", str(figure)]) == 0
        return capsys.readouterr().out

    first = run()
    assert_png(figure)
    assert "remanence (made data, seed 0)" in first
    assert "Craters (made data, seed 0)" in first
    remanence, craters = first.split("\n\n")
    assert entry(remanence, "N") == "26"
    assert entry(craters, "N") == "967"
    # The law has a concentration of 110, of which the estimate is off by a factor of 1/sqrt(26).
    assert 110 / 2 < numbers(remanence, "concentration")[0] < 110 * 2
    assert numbers(craters, "mean resultant length")[0] < 0.15
    assert run() == first
    assert "seed 1" in (second := run("--seed", "1"))
    assert numbers(second, "log likelihood") != numbers(first, "log likelihood")


def langevin_inverse(length: float) -> mpmath.mpf:
    """The concentration k with coth k - 1/k = length, that of a mean resultant in dimension 3."""
    return mpmath.findroot(lambda k: mpmath.coth(k) - 1 / k - length, 1 / (1 - length))


@pytest.mark.usefixtures("few_simulations")
def test_remanence_of_a_cross(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Four directions ten degrees from east.
    data = tmp_path / "cross.csv"
    data.write_text("declination_deg,inclination_deg\n80,0\n100,0\n90,10\n-270,-10\n")
    options = ["--remanence", str(data), "--output", str(tmp_path / "cross.png")]
    assert directional.main(options) == 0
    output = capsys.readouterr().out.split("\n\n")[0]
    assert f"({data})" in output

    n, cosine = 4, math.cos(math.radians(10))
    k = langevin_inverse(cosine)
    log_likelihood = n * (mpmath.log(k / (4 * mpmath.pi * mpmath.sinh(k))) + k * cosine)
    # Fisher (1953); and P(angle > a) = (exp(k cos a) - exp(-k)) / (exp(k) - exp(-k))
    confidence = math.acos(1 - (1 - cosine) / cosine * (0.05 ** (-1 / (n - 1)) - 1))
    mass = mpmath.acos(1 + mpmath.log(0.05) / k)
    error = 1 / mpmath.sqrt(n * k * cosine)
    k_error = 1 / mpmath.sqrt(n * (1 / k**2 - 1 / mpmath.sinh(k) ** 2))

    assert entry(output, "N") == "4"
    assert numbers(output, "resultant length R") == [pytest.approx(n * cosine, abs=1e-6)]
    assert entry(output, "mean declination, inclination") in (
        "90.0, 0.0 degrees",
        "90.0, -0.0 degrees",
    )
    expected = [pytest.approx(float(k), abs=1e-4), pytest.approx(float(k_error), abs=0.06)]
    assert numbers(output, "concentration") == expected
    corrected = pytest.approx(float(k) * (n - 1) / n, rel=1e-4)  # the limit for high concentration
    assert numbers(output, "bias corrected") == [corrected]
    assert numbers(output, "log likelihood") == [pytest.approx(float(log_likelihood), abs=1e-6)]
    angles = {
        "standard error": float(error),
        "95 % confidence cone": confidence,
        "cone of 95 % of the law": float(mass),
    }
    for name, angle in angles.items():
        assert numbers(output, name)[0] == pytest.approx(math.degrees(angle), abs=0.0051), name
    assert "4 of 4 are within" in output
    # All four have the probability p; seen from east they lie on two axes at right angles.
    p = mpmath.exp(k * (cosine - 1))
    expected = pytest.approx(float(-4 - 4 * (mpmath.log(p) + mpmath.log(1 - p))), abs=1e-4)
    assert numbers(output, "cosines")[0] == expected
    assert numbers(output, "tangents")[0] == pytest.approx(0, abs=1e-4)
    assert numbers(output, "tangents")[1] == 1


@pytest.mark.usefixtures("few_simulations")
def test_a_field_is_tested_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "cross.csv"
    data.write_text("declination,inclination\n80,0\n100,0\n90,10\n90,-10\n")
    options = ["--remanence", str(data), "--output", str(tmp_path / "cross.png"), "--field"]
    confidence = math.acos(1 - (1 / math.cos(math.radians(10)) - 1) * (0.05 ** (-1 / 3) - 1))
    for angle, p_value in ((0.0, 1.0), (math.degrees(confidence), 0.05)):
        assert directional.main([*options, "90", str(-angle)]) == 0
        output = capsys.readouterr().out.split("\n\n")[0]
        found = numbers(output, "mean direction as stated")
        assert found == [pytest.approx(p_value, abs=2e-4)]


@pytest.mark.usefixtures("few_simulations")
def test_remanence_without_a_direction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, figure = tmp_path / "axes.csv", tmp_path / "axes.png"
    data.write_text("declination,inclination\n0,0\n90,0\n180,0\n270,0\n0,90\n0,-90\n")
    assert directional.main(["--remanence", str(data), "--output", str(figure)]) == 0
    output = capsys.readouterr().out.split("\n\n")[0]
    assert entry(output, "standard error") == "none, the data do not tell a direction"
    assert numbers(output, "95 % confidence cone") == [180]
    assert numbers(output, "concentration")[0] == 0
    # The uniform law: 6 directions of density 1 / 4 pi, and a cone down to the cosine -0.9.
    assert numbers(output, "log likelihood") == [pytest.approx(-6 * math.log(4 * math.pi))]
    cone = pytest.approx(math.degrees(math.acos(-0.9)), abs=0.0051)
    assert numbers(output, "cone of 95 % of the law")[0] == cone
    assert_png(figure)


@pytest.mark.usefixtures("few_simulations")
@pytest.mark.parametrize(
    ("rows", "length", "mean"),
    [
        pytest.param(["90,0", "0,0", "0,90"], 3**-0.5, (35.26, 45), id="octant"),
        pytest.param(
            ["90,7", "-90,0", "0,0", "0,180", "0,90", "0,270"], 0.0, None, id="octahedron"
        ),
        pytest.param(["0,0", "0,0", "0,300", "-60,0"], 10.5**0.5 / 4, (-15.5, -16.1), id="four"),
    ],
)
def test_craters_with_known_statistics(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[str],
    length: float,
    mean: tuple[float, float] | None,
) -> None:
    data = tmp_path / "craters.csv"
    data.write_text("name,latitude,longitude,diameter\n" + "".join(f"x,{row},5\n" for row in rows))
    options = ["--craters", str(data), "--output", str(tmp_path / "craters.png")]
    assert directional.main(options) == 0
    output = capsys.readouterr().out.split("\n\n")[1]
    n = len(rows)
    statistic = 3 * n * length**2
    assert entry(output, "N") == str(n)
    assert numbers(output, "mean resultant length") == [pytest.approx(length, abs=1e-7)]
    assert numbers(output, "Rayleigh's statistic") == [pytest.approx(statistic, abs=2e-6)]
    p_value = pytest.approx(stats.chi2(3).sf(statistic), abs=1e-5)
    assert numbers(output, "p-value") == [p_value]
    x = directional.read_craters(data).x
    moments = np.linalg.eigvalsh((x.mT @ x / n).numpy())
    bingham = n * 3 * 5 / 2 * np.square(moments - 1 / 3).sum()
    assert numbers(output, "Bingham's statistic") == [pytest.approx(bingham, abs=2e-6)]
    expected = pytest.approx(stats.chi2(5).sf(bingham), abs=1e-5)
    assert numbers(output, "its p-value") == [expected]
    assert 0.01 <= numbers(output, "simulated p-value")[0] <= 1
    k = float(langevin_inverse(length)) if length else 0.0
    assert numbers(output, "concentration")[0] == pytest.approx(k, abs=1e-5)
    if mean is not None:
        expected = pytest.approx(list(mean), abs=0.051)
        assert numbers(output, "mean latitude, longitude") == expected


@pytest.mark.usefixtures("few_simulations")
def test_quantiles_are_those_of_the_angles() -> None:
    law = VonMisesFisher(torch.eye(3, dtype=torch.float64)[0], 40.0)
    found = directional.fit(law.sample((200,)), law.loc)
    axes = Figure().add_subplot()
    directional.draw_quantiles(axes, found)
    expected, angles = np.radians(np.asarray(axes.collections[0].get_offsets())).T
    k = found.law.concentration.item()
    below = np.expm1(-k * (1 - np.cos(expected))) / np.expm1(-2 * k)
    np.testing.assert_allclose(below, (np.arange(200) + 0.5) / 200, rtol=1e-9)
    measured = torch.acos(found.x @ found.law.loc).sort().values.numpy()
    np.testing.assert_allclose(measured, angles, rtol=1e-9)
    # so much of a law's quantiles are off by: a fiftieth of the largest angle, but for outliers
    assert np.abs(angles - expected)[:180].max() < 0.03


def test_angles_and_back() -> None:
    azimuth = torch.tensor([0.0, 90.0, -135.0, 30.0], dtype=torch.float64)
    elevation = torch.tensor([0.0, 0.0, 45.0, -90.0], dtype=torch.float64)
    x = directional.from_angles(azimuth, elevation)
    expected = torch.tensor([[1, 0, 0], [0, 1, 0], [-0.5, -0.5, 0.5**0.5], [0, 0, -1]])
    torch.testing.assert_close(x, expected.double(), rtol=0, atol=1e-7)
    angles = directional.to_angles(x[:3])
    torch.testing.assert_close(angles, torch.stack([azimuth, elevation], -1)[:3])


@pytest.mark.usefixtures("few_simulations")
def test_projection_keeps_areas_and_sides() -> None:
    for angle in (0.1, 1.0, 3.0):
        cap = 2 * math.pi * (1 - math.cos(angle))
        assert math.pi * directional.radius(angle) ** 2 == pytest.approx(cap)
    degrees = torch.tensor([[85, 95, 90, 90, 275], [0, 0, 8, -8, 0]], dtype=torch.float64)
    x = directional.from_angles(*degrees)
    axes = Figure().add_subplot()
    directional.draw_directions(axes, directional.fit(x, x[0]))
    points = torch.as_tensor(np.asarray(axes.collections[0].get_offsets()))
    loc = VonMisesFisher.fit(x).loc
    torch.testing.assert_close(points.norm(dim=-1), (x - loc).norm(dim=-1))
    # Right is east, up is down below the horizon; 275 degrees is at the rim.
    assert points[0, 0] < 0 < points[1, 0]
    assert points[3, 1] < 0 < points[2, 1]
    assert points[4].norm() > 1.9


# Data files

REMANENCE = "declination,inclination\n10,20\n11,21\n12,22\n"
BAD_REMANENCE = [
    pytest.param(None, "", "No such file or directory", id="missing"),
    pytest.param("", ", line 1", "a column named declination, found an empty line or", id="empty"),
    pytest.param(
        "dec,inc\n1,2\n",
        ", line 1",
        "expected a column named declination, found 'dec,inc'",
        id="names",
    ),
    pytest.param(
        "declination\n1\n", ", line 1", "a column named inclination, found 'decl", id="one column"
    ),
    pytest.param("declination,inclination\n", "", "at least 3 directions, found 0", id="no data"),
    pytest.param(
        REMANENCE.replace("12,22", ""), "", "at least 3 directions, found 2", id="two directions"
    ),
    pytest.param(
        "declination,inclination\n1,2\n1,2\n1,2\n",
        "",
        "that differ, found 3 equal ones",
        id="equal",
    ),
    pytest.param(REMANENCE + "13\n", ", line 5", "expected 2 values, found 1", id="short line"),
    pytest.param(REMANENCE + "13,2,5\n", ", line 5", "expected 2 values, found 3", id="long line"),
    pytest.param(
        REMANENCE + "\n13,east\n",
        ", line 6",
        "expected inclination as a number from -90 to 90, found 'east'",
        id="text",
    ),
    pytest.param(
        REMANENCE + "nan,5\n", ", line 5", "as a number from -360 to 360, found 'nan'", id="nan"
    ),
    pytest.param(REMANENCE + "5,\n", ", line 5", "number from -90 to 90, found ''", id="gap"),
    pytest.param(REMANENCE + "5,91\n", ", line 5", "from -90 to 90, found '91'", id="too steep"),
    pytest.param(b"declination,inclination\n\xff\xfe,1\n", "", "readable CSV file", id="bytes"),
]
CRATERS = "name,latitude,longitude,diameter\na,1,2,3\nb,4,5,6\nc,7,8,9\n"
BAD_CRATERS = [
    pytest.param(
        CRATERS.replace(",diameter", ""), ", line 1", "expected a column named diameter", id="name"
    ),
    pytest.param(CRATERS + "d,0,361,5\n", ", line 5", "expected longitude as", id="longitude"),
    pytest.param(CRATERS + "d,-91,0,5\n", ", line 5", "expected latitude as", id="latitude"),
    pytest.param(CRATERS + "d,0,0,-5\n", ", line 5", "from 0 to 10000, found '-5'", id="diameter"),
    pytest.param(CRATERS + "d,0,0,inf\n", ", line 5", "from 0 to 10000, found 'inf'", id="inf"),
]


@pytest.mark.parametrize(
    ("option", "content", "where", "message"),
    [pytest.param("--remanence", *case.values, id=case.id) for case in BAD_REMANENCE]
    + [pytest.param("--craters", *case.values, id=case.id) for case in BAD_CRATERS],
)
def test_bad_data_ends_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    content: str | bytes | None,
    where: str,
    message: str,
) -> None:
    data, figure = tmp_path / "data.csv", tmp_path / "no.png"
    if content is not None:
        data.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = [option, str(data), "--output", str(figure)]
    start = f"directional_data.py: error: {data}{where}: expected "
    assert_one_line(directional.main, options, capsys, start, message)
    assert not figure.exists()


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    text = (
        '\ufeffsite, Inclination [deg],"Declination, deg"\r\n\r\n"a, b",20,10\r\n"c",21,1.1e1\r\n'
    )
    data.write_bytes((text + "d,22,-12").encode())
    columns = directional.read_columns(data, ("declination", "inclination"))
    assert columns.tolist() == [[10, 11, -12], [20, 21, 22]]
    assert columns.dtype == torch.float64
    assert directional.read_remanence(data).shape == (3, 3)
