# Which law for the code of an image, docs/examples/image_vae.py: runs from the options to the
# figure and the record, the scores, and one line with exit code 2 where data or files are bad.
# The readers of MNIST are tested through hyperspherical_vae.py, the shared modules by themselves.

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch.nn.functional import normalize

import image_vae as script
from _digits import binarise_once, sklearn_digits
from _latent_figure import Column, draw_codes
from _training import Place
from cases import assert_mean, directions
from commands import assert_one_line

PNG = b"\x89PNG\r\n\x1a\n"
NUMBER = r"(-?\d+\.\d+)"
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "BOUNDS", (1, 20))


@pytest.fixture
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "draw_figure", lambda *_: None)


def row(output: str, name: str) -> list[float]:
    """ELBO, reconstruction, KL and the two bounds of a model, the last of its name in the table."""
    found = re.findall(rf"^  {re.escape(name)} +{(NUMBER + ' +') * 5}\d+ s$", output, re.M)
    assert found, output
    return [float(text) for text in found[-1]]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# The whole run


@pytest.mark.usefixtures("few_draws")
def test_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, record = tmp_path / "laws.png", tmp_path / "runs.jsonl"
    laws = ["vmf", "vmf:20", "gaussian", "batch-norm"]
    options = [f"--law={law}" for law in laws] + ["--dim", "3", "--dim", "2", "--dim", "5"]
    files = ["--output", str(figure), "--record", str(record)]
    assert script.main([*options, "--epochs", "1", *files]) == 0
    output, bars = capsys.readouterr()
    assert "300 held-out digits" in output
    assert f"figure: {figure}" in output
    for dim in (2, 3, 5):
        assert f"{dim - 1} dimensions: a sphere in R^{dim}, a Gaussian in R^{dim - 1}\n" in output
    for name in ("von Mises-Fisher", "von Mises-Fisher, fixed 20", "Gaussian"):
        elbo, reconstruction, kl, one, many = row(output, name)
        assert elbo == pytest.approx(reconstruction - kl, abs=0.0151)  # all three are rounded
        # Jensen's gap over 20 draws exceeds the noise of the mean over 300 digits
        assert -45 < one < many < 0
        assert one == pytest.approx(elbo, abs=1)
    assert bars.count("100%") >= len(laws) * 3
    content = figure.read_bytes()
    assert content.startswith(PNG)
    assert min(struct.unpack(">2I", content[16:24])) > 1000

    lines = read(record)
    assert [(line["dimensions"], line["law"]) for line in lines] == [
        (dim - 1, law) for dim in (3, 2, 5) for law in laws
    ]
    for line in lines:
        assert line["dim"] == line["dimensions"] + line["law"].startswith("vmf")
        assert (line["data"], line["epochs"], line["seed"]) == ("digits", 1, 0)
        assert len(line["history"]) == 1
        scores = line["scores"]
        assert scores["elbo"] == pytest.approx(scores["reconstruction"] - scores["kl"])
        assert set(scores["bounds"]) == {"1", "20"}
    fixed = [line["scores"]["kl"] for line in lines if line["law"] == "vmf:20"]
    sphere = math.log(20 / math.sinh(20)) + 20 / math.tanh(20) - 1
    assert fixed[0] == pytest.approx(sphere, rel=1e-5)


@pytest.mark.usefixtures("few_draws", "no_figure")
def test_runs_repeat_and_seeds_differ(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*options: str) -> list[float]:
        assert script.main(["--law", "vmf", "--epochs", "1", *options]) == 0
        return row(capsys.readouterr().out, "von Mises-Fisher")

    first = run()
    assert run() == first
    assert run("--seed", "1") != first


@pytest.mark.usefixtures("few_draws", "no_figure")
@pytest.mark.parametrize("particles", ["1", "3"])
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(tmp_path: Path, particles: str) -> None:
    records = tmp_path / "straight.jsonl", tmp_path / "resumed.jsonl"
    options = ["--law", "vmf:20", "--law", "batch-norm", "--particles", particles]
    folder = ["--checkpoint", str(tmp_path / "new" / "runs")]
    assert script.main([*options, "--epochs", "2", "--record", str(records[0])]) == 0
    for epochs in ("1", "2"):
        assert (
            script.main([*options, *folder, "--epochs", epochs, "--record", str(records[1])]) == 0
        )
    names = sorted(path.name for path in (tmp_path / "new" / "runs").iterdir())
    assert names == ["batch-norm-dim-2.pt", "vmf-20-dim-3.pt"]
    straight, resumed = read(records[0]), read(records[1])
    assert [line["epochs"] for line in resumed] == [1, 1, 2, 2]
    for one, other in zip(straight, resumed[2:], strict=True):
        assert one["scores"] == other["scores"]
        assert one["particles"] == other["particles"] == int(particles)


@pytest.mark.usefixtures("few_draws", "no_figure")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "1"], "it was saved with seed 0, this run has 1"),
        (["--particles", "5"], "it was saved with particles 1, this run has 5"),
    ],
)
def test_a_checkpoint_of_another_run_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    run = ["--law", "gaussian", "--epochs", "1", "--checkpoint", str(tmp_path)]
    assert script.main(run) == 0
    capsys.readouterr()
    assert script.main([*run, *options]) == 2
    output, error = capsys.readouterr()
    file = tmp_path / "gaussian-dim-2.pt"
    assert error == f"image_vae.py: error: {file}: {message}\n"
    assert output == ""


# Learning


def options(**changes: Any) -> argparse.Namespace:
    settings = {"seed": 0, "particles": 1, "epochs": 3, "checkpoint": None}
    return argparse.Namespace(**settings | changes)


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(
    "law", ["vmf", "vmf:40", "power-spherical", "vmf x 2", "gaussian", "batch-norm"]
)
@pytest.mark.parametrize("particles", [1, 4])
def test_training_raises_the_bounds(law: str, particles: int) -> None:
    digits = sklearn_digits()
    binary, dim = binarise_once(digits.test), script.coordinates(law, 3)
    torch.manual_seed(0)
    before = script.evaluate(script.ImageVAE(64, law, dim).eval(), binary, 0)
    trained = script.fit(law, dim, digits, options(particles=particles), Place(torch.device("cpu")))
    assert not trained.vae.training
    assert trained.seconds > 0
    after = script.evaluate(trained.vae, binary, 0)
    assert after.log_likelihood > before.log_likelihood + 5
    assert trained.history[-1].loss < trained.history[0].loss


def test_minibatches_flicker() -> None:
    torch.manual_seed(0)
    greys = torch.tensor([[0.0, 0.25, 0.9, 1.0]] * 3)
    data = script.Flickering(greys)
    assert len(data) == 3
    seen = torch.stack([data[torch.tensor([2, 0])] for _ in range(4000)])
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    assert_mean(seen.flatten(0, 1), greys[0])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("law", ["vmf", "power-spherical", "gaussian"])
def test_bounds_rise_with_the_draws(monkeypatch: pytest.MonkeyPatch, law: str) -> None:
    monkeypatch.setattr(script, "BOUNDS", (1, 5, 50, 500))
    monkeypatch.setattr(script, "AT_ONCE", 40)  # the last batch is shorter
    torch.manual_seed(0)
    vae = script.ImageVAE(64, law, 3).eval()
    image = binarise_once(torch.rand(1, 64))
    scores = script.evaluate(vae, image.expand(150, 64), seed=0)
    bounds = list(scores.bounds.values())
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[1] - 0.01
    assert scores.log_likelihood == bounds[-1]
    assert scores.elbo == pytest.approx(scores.reconstruction - scores.kl)
    # one draw for each: the spread of the weights is that of the reconstruction, about
    assert bounds[0] == pytest.approx(scores.elbo, abs=1)


@pytest.mark.parametrize(
    ("law", "dim", "name"),
    [
        ("vmf", 6, "von Mises-Fisher"),
        ("vmf:20", 6, "von Mises-Fisher, fixed 20"),
        ("power-spherical:7.5", 6, "power spherical, fixed 7.5"),
        ("vmf x 5", 10, "von Mises-Fisher x 5"),  # five circles
        ("spherical-cauchy:2 x 5", 10, "spherical Cauchy x 5, fixed 2"),
        ("gaussian", 5, "Gaussian"),
        ("batch-norm", 5, "Gaussian, batch norm"),
    ],
)
def test_laws_have_equal_dimensions_and_names(law: str, dim: int, name: str) -> None:
    assert script.coordinates(law, 6) == dim
    assert script.title(law) == name
    vae = script.ImageVAE(64, law, dim)
    z = vae.code.prior().sample((3,))
    lengths = z.norm(dim=-1)
    assert torch.allclose(lengths, torch.ones_like(lengths)) == (not name.startswith("Gaussian"))
    assert vae.likelihood(z).mean.shape == (3, 64)


# The figure


@pytest.mark.parametrize("dim", [2, 3, 41])
def test_paths_on_the_sphere_follow_great_circles(dim: int) -> None:
    start, end = directions(5, dim), directions(5, dim, seed=8)
    z = script.path(start, end, 10, spherical=True)
    assert z.shape == (5, 10, dim)
    torch.testing.assert_close(z[:, 0], start)
    torch.testing.assert_close(z[:, -1], end)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(5, 10).double())
    torch.testing.assert_close(torch.linalg.matrix_rank(z, atol=1e-12), torch.full((5,), 2))
    # as long as the shorter arc, and at a constant pace
    steps = 2 * (z.diff(dim=1).norm(dim=-1) / 2).asin()
    arc = (start * end).sum(-1).acos()
    torch.testing.assert_close(steps, (arc / 9)[:, None].expand(5, 9))


def test_paths_on_several_spheres_are_those_on_each() -> None:
    start, end = (
        directions(10, 3).unflatten(0, (5, 2)),
        directions(10, 3, seed=8).unflatten(0, (5, 2)),
    )
    z = script.path(start, end, 4, spherical=True)
    assert z.shape == (5, 4, 2, 3)
    for sphere in range(2):
        one = script.path(start[:, sphere], end[:, sphere], 4, spherical=True)
        torch.testing.assert_close(z[:, :, sphere], one)


def test_paths_between_neighbours() -> None:
    start = directions(3, 4)
    end = normalize(start + 1e-9 * directions(3, 4, seed=8), dim=-1)
    z = script.path(start, end, 3, spherical=True)
    torch.testing.assert_close(z[:, 1], normalize(start + end, dim=-1), atol=1e-15, rtol=0)
    assert torch.equal(script.path(start, start, 3, spherical=True)[:, 2], start)


def test_paths_of_gaussian_codes_are_straight() -> None:
    z = script.path(torch.zeros(1, 2), torch.tensor([[3.0, -6.0]]), 4, spherical=False)
    torch.testing.assert_close(
        z, torch.tensor([[[0.0, 0.0], [1.0, -2.0], [2.0, -4.0], [3.0, -6.0]]])
    )


def test_codes_on_a_line_have_a_row_for_each_class() -> None:
    labels = torch.tensor([0, 4, 4])
    codes = torch.tensor([[0.5], [-1.0], [2.0]])
    column = Column("", "", codes, labels, False, torch.empty(0), torch.empty(0))
    figure = Figure()
    axes = draw_codes(figure, figure.add_gridspec(1, 1)[0], column)
    assert axes.collections[0].get_offsets().tolist() == [[0.5, 0], [-1, 2], [2, 2]]
    assert axes.get_title().endswith("a row for each class")


# Files


def idx(*shape: int) -> bytes:
    """An idx file of digits 0, 1, ..., 9, 0, 1, ..."""
    count = math.prod(shape)
    header = struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)
    return header + (bytes(range(10)) * (count // 10 + 1))[:count]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small set in the format of MNIST, plain and gzipped."""
    (tmp_path / IMAGES).write_bytes(idx(10_003, 28, 28))
    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(idx(10_003)))
    (tmp_path / TEST_IMAGES).write_bytes(idx(7, 28, 28))
    (tmp_path / TEST_LABELS).write_bytes(idx(7))
    return tmp_path


@pytest.mark.usefixtures("few_draws")
def test_run_on_a_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "LAWS_MNIST", ("vmf", "vmf:400"))
    output = folder / "figure.PNG"
    run = ["--data", str(folder), "--dim", "6", "--epochs", "1", "--output", str(output)]
    assert script.main(run) == 0
    text = capsys.readouterr().out
    assert "7 held-out digits" in text
    assert len(row(text, "von Mises-Fisher, fixed 400")) == 5
    assert output.read_bytes().startswith(PNG)


@pytest.mark.usefixtures("few_draws", "no_figure")
def test_a_checkpoint_knows_its_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--data", str(folder), "--law", "vmf", "--epochs", "1", "--checkpoint", str(folder)]
    assert script.main(run) == 0
    images = idx(10_003, 28, 28)
    (folder / IMAGES).write_bytes(images[:16] + images[:15:-1])  # others, as many
    capsys.readouterr()
    assert script.main(run) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert "vmf-dim-3.pt: it was saved with data 3 x 784 " in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(TEST_LABELS, None, "plain or .gz, found neither", id="gone"),
        pytest.param(IMAGES, idx(9, 28, 28)[:-1], "after the header, found 7,055", id="cut"),
        pytest.param(TEST_IMAGES, idx(7, 28, 27), "28 x 28 pixels, found 28 x 27", id="narrow"),
        pytest.param(f"{LABELS}.gz", idx(7), "expected a readable file, found: Not a g", id="gz"),
        pytest.param(TEST_LABELS, idx(6), "expected 7 labels, one for each image", id="labels"),
    ],
)
def test_bad_data_ends_in_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    message: str,
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    checkpoint = ["--checkpoint", str(folder / "runs")]
    start = f"image_vae.py: error: {folder / name}: "
    assert_one_line(script.main, ["--data", str(folder), *checkpoint], capsys, start, message)
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("option", ["--checkpoint", "--record"])
def test_files_that_cannot_be_written_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    # before the training, not after it
    (tmp_path / "file").touch()
    name = tmp_path / "file" / "below"
    line = f"image_vae.py: error: {name}: cannot be written: Not a directory\n"
    assert_one_line(script.main, [option, str(name)], capsys, line)


# The options


def test_defaults() -> None:
    digits, mnist = script.parse([]), script.parse(["--data", "DIR"])
    assert (digits.law, digits.dim) == (["vmf", "vmf:40", "power-spherical", "gaussian"], [3])
    assert (mnist.law[1], mnist.epochs) == ("vmf:400", 15)
    given = script.parse(["--law", "vmf", "--law", "vmf", "--dim", "6", "--dim", "3", "--dim", "6"])
    assert (given.law, given.dim) == (["vmf"], [6, 3])


@pytest.mark.usefixtures("few_draws")
def test_several_spheres_share_the_dimensions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "runs.jsonl"
    files = ["--record", str(record), "--checkpoint", str(tmp_path / "runs")]
    files += ["--output", str(tmp_path / "figure.png")]
    laws = ["--law", "vmf x 2", "--law", "vmf:20 x 2", "--law", "gaussian"]
    assert script.main([*laws, "--dim", "5", "--epochs", "1", *files]) == 0
    learned, fixed, gaussian = read(record)
    assert [line["dim"] for line in (learned, fixed, gaussian)] == [6, 6, 4]
    assert learned["law"] == "vmf x 2"
    elbo, *_ = row(capsys.readouterr().out, "von Mises-Fisher x 2, fixed 20")
    assert elbo == pytest.approx(fixed["scores"]["elbo"], abs=0.005)
    # the divergences of independent codes add up: each in space, see kl_on_the_sphere
    assert fixed["scores"]["kl"] == pytest.approx(2 * (math.log(20 / math.sinh(20)) + 19), rel=1e-5)
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {"vmf-x-2-dim-6.pt", "vmf-20-x-2-dim-6.pt", "gaussian-dim-4.pt"}


@pytest.mark.parametrize("dim", [3, 6])
def test_spheres_that_cannot_share_are_refused(
    capsys: pytest.CaptureFixture[str], dim: int
) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.parse(["--law", "vmf", "--law", "vmf x 3", "--dim", "4", "--dim", str(dim)])
    message = (
        f"the spheres of 'vmf x 3' share the dimensions equally, and --dim {dim} has {dim - 1}"
    )
    assert message in capsys.readouterr().err


# At full length


@pytest.mark.slow
def test_full_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # the ELBO of a code that is never used is below -30, the scores at seed 0 about -24
    assert script.main(["--output", str(tmp_path / "figure.png"), "--dim", "3"]) == 0
    found = re.findall(rf"^  \S.*?  +{(NUMBER + ' +') * 7}\d+ s$", capsys.readouterr().out, re.M)
    assert len(found) == 4
    for line in found:
        elbo, _, kl, *bounds = map(float, line)
        assert -26 < elbo < -22
        assert kl > 1.5
        assert bounds[0] < bounds[1] < bounds[2] < bounds[3]
