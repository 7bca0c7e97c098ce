# The main job, docs/examples/hyperspherical_vae.py: a run from the options to the figure, the
# meaning of the scores, and one line with exit code 2 for every kind of bad data.

from __future__ import annotations

import gzip
import math
import re
import struct
from pathlib import Path

import pytest
import torch
from torch.distributions import kl_divergence

import hyperspherical_vae as script
from commands import assert_one_line
from vmfdist import HypersphericalUniform, VonMisesFisher

PNG = b"\x89PNG\r\n\x1a\n"
NUMBER = r"(-?\d+\.\d+)"


def rows(output: str) -> dict[str, list[float]]:
    """ELBO, reconstruction, KL and log likelihood of each model in the table."""
    found = {}
    for name in ("von Mises-Fisher", "Gaussian"):
        match = re.search(rf"^{name}\s+{NUMBER}\s+{NUMBER}\s+{NUMBER}\s+{NUMBER}\s", output, re.M)
        assert match is not None, output
        found[name] = [float(text) for text in match.groups()]
    return found


# The whole run


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="sphere"),
        pytest.param(["--dim", "2", "--concentration", "7.5"], id="circle"),
        pytest.param(["--dim", "6", "--concentration", "learned"], id="5-sphere"),
    ],
)
def test_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    monkeypatch.setattr(script, "DRAWS", 50)
    figure = tmp_path / "vae.png"
    assert script.main([*options, "--epochs", "1", "--output", str(figure)]) == 0
    output, bars = capsys.readouterr()
    assert "300 held-out digits" in output
    assert "50 draws" in output
    for elbo, reconstruction, kl, log_likelihood in rows(output).values():
        assert elbo == pytest.approx(reconstruction - kl, abs=0.0151)  # all three are rounded
        assert kl >= 0
        # Jensen's gap over 50 draws exceeds the noise of the mean over all draws
        assert -45 < elbo < log_likelihood < 0
    assert bars.count("\n") == 2  # a line for each model
    assert re.findall(r"100%.* 1/1 .*ELBO -\d+\.\d\d, dev -\d+\.\d\d\]\n", bars)
    content = figure.read_bytes()
    assert content.startswith(PNG)
    assert content.endswith(b"IEND\xaeB`\x82")
    assert min(struct.unpack(">2I", content[16:24])) > 1000


def test_runs_repeat_and_seeds_differ(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "DRAWS", 5)
    monkeypatch.setattr(script, "draw_figure", lambda *_: None)

    def run(*options: str) -> dict[str, list[float]]:
        assert script.main(["--epochs", "1", *options]) == 0
        return rows(capsys.readouterr().out)

    first = run()
    assert run() == first
    assert run("--seed", "1") != first


def test_training_raises_the_elbo() -> None:
    digits = script.sklearn_digits()
    binary = script.binarise_once(digits.test)
    for make in (script.HypersphericalVAE, script.GaussianVAE):
        torch.manual_seed(0)
        vae = make(64, 3)
        before = script.evaluate(vae, binary, 20).elbo
        assert script.train(vae, digits, 3, "") > 0
        assert script.evaluate(vae, binary, 20).elbo > before + 5


def test_the_code_is_not_dropped() -> None:
    # as it is where all concentrations fall before the decoder has found a use for their codes
    digits = script.sklearn_digits()
    torch.manual_seed(0)
    vae = script.HypersphericalVAE(64, 40)
    script.train(vae, digits, 8, "")
    assert script.evaluate(vae, script.binarise_once(digits.test), 20).kl > 0.5


# The scores


@pytest.mark.parametrize(("dim", "concentration"), [(3, 20.0), (2, 0.0), (10, 50.0)])
def test_kl_of_a_constant_concentration_is_constant(dim: int, concentration: float) -> None:
    vae = script.HypersphericalVAE(64, dim, concentration)
    images = script.binarise(torch.rand(9, 64))
    loc = torch.eye(dim)[0]
    expected = kl_divergence(VonMisesFisher(loc, concentration), HypersphericalUniform(dim)).item()
    torch.testing.assert_close(
        kl_divergence(vae.posterior(images), vae.prior()), torch.full((9,), expected)
    )
    assert script.evaluate(vae, images, draws=2).kl == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("make", ["HypersphericalVAE", "GaussianVAE"])
def test_scores_are_the_bounds_that_they_are_called(make: str) -> None:
    # The same digit 500 times: draws for one image and one draw for each of many agree on the
    # ELBO, one draw makes the importance-weighted bound an ELBO, and more draws raise it.
    torch.manual_seed(0)
    vae = getattr(script, make)(64, 3)
    image = script.binarise_once(torch.rand(1, 64))
    many = script.evaluate(vae, image, draws=4000)
    single = script.evaluate(vae, image.expand(4000, 64), draws=1)
    with torch.no_grad():
        z = vae.posterior(image).sample((4000,))
        noise = vae.likelihood(z).log_prob(image).std().item() * math.sqrt(2 / 4000)
    assert many.elbo == pytest.approx(many.reconstruction - many.kl)
    assert many.kl == pytest.approx(single.kl, rel=1e-5)
    assert single.elbo == pytest.approx(many.elbo, abs=5 * noise)
    assert single.log_likelihood == pytest.approx(many.elbo, abs=10 * noise)
    assert many.log_likelihood > many.elbo


def test_importance_weighted_bound_reaches_the_log_likelihood() -> None:
    # On the sphere in the plane the integral over codes is a sum over equidistant angles.
    torch.manual_seed(1)
    vae = script.HypersphericalVAE(64, 2)
    images = script.binarise_once(torch.rand(5, 64))
    angles = torch.arange(4096) * (2 * math.pi / 4096)
    codes = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None]
    with torch.no_grad():
        exact = vae.likelihood(codes).log_prob(images).logsumexp(0) - math.log(4096)
    found = script.evaluate(vae, images, draws=5000).log_likelihood
    assert found == pytest.approx(exact.mean().item(), abs=0.1)


def test_evaluation_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = script.GaussianVAE(64, 2)
    images = script.binarise(torch.rand(7, 64))
    together = script.evaluate(vae, images, draws=3000)
    monkeypatch.setattr(script, "CHUNK", 1)
    apart = script.evaluate(vae, images, draws=3000)
    assert apart.kl == pytest.approx(together.kl, rel=1e-5)
    assert apart.elbo == pytest.approx(together.elbo, rel=0.02)


# The data


def test_digits_are_split_without_overlap() -> None:
    digits = script.sklearn_digits()
    assert [len(part) for part in digits[:3]] == [1297, 200, 300]
    assert len(digits.test_labels) == 300
    assert torch.cat(digits[:3]).unique(dim=0).shape == (1797, 64)
    assert torch.equal(digits.train, script.sklearn_digits().train)
    assert all(part.min() == 0 and part.max() == 1 for part in digits[:3])


def test_binarisation() -> None:
    greys = torch.tensor([0.0, 0.25, 0.9, 1.0]).expand(20_000, 4)
    for binary in (script.binarise(greys), script.binarise_once(greys)):
        assert set(binary.unique().tolist()) == {0.0, 1.0}
        torch.testing.assert_close(binary.mean(0), greys[0], atol=0.02, rtol=0)
        assert binary.mean(0)[[0, 3]].tolist() == [0, 1]  # black stays black, white stays white
    assert torch.equal(script.binarise_once(greys), script.binarise_once(greys))
    assert not torch.equal(script.binarise(greys), script.binarise(greys))


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(*shape: int, body: bytes | None = None, magic: int | None = None) -> bytes:
    """An idx file with the given dimensions, its entries 0, 1, ..., 9, 0, 1, ... by default."""
    count = math.prod(shape)
    body = (bytes(range(10)) * (count // 10 + 1))[:count] if body is None else body
    magic = 0x0800 + len(shape) if magic is None else magic
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + body


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small set in the format of MNIST, plain and gzipped."""
    (tmp_path / IMAGES).write_bytes(idx(10_003, 28, 28))
    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(idx(10_003)))
    (tmp_path / f"{TEST_IMAGES}.gz").write_bytes(gzip.compress(idx(7, 28, 28)))
    (tmp_path / TEST_LABELS).write_bytes(idx(7))
    return tmp_path


def test_mnist_is_read_plain_and_gzipped(folder: Path) -> None:
    digits = script.mnist(folder)
    assert [tuple(part.shape) for part in digits[:3]] == [(3, 784), (10_000, 784), (7, 784)]
    every = torch.cat([digits.train, digits.dev]).flatten()
    torch.testing.assert_close(every, (torch.arange(len(every)) % 10) / 255)
    assert digits.test_labels.tolist() == list(range(7))


def test_run_on_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "figure.PNG"
    options = ["--data", str(folder), "--epochs", "1", "--output", str(output)]
    assert script.main(options) == 0
    assert "7 held-out digits" in capsys.readouterr().out
    assert output.read_bytes().startswith(PNG)


TEN_IMAGES = idx(7, 28, 28)
DAMAGE = [
    pytest.param(TEST_LABELS, None, "expected this file, plain or .gz, found neither", id="gone"),
    pytest.param(IMAGES, b"", "the magic number 0x00000803, found an empty file", id="empty"),
    pytest.param(TEST_LABELS, b"\0\0\x08\1\0", "header of 8 bytes, found 5 bytes", id="header"),
    pytest.param(
        TEST_LABELS,
        idx(7, magic=0x0D01),
        "expected the magic number 0x00000801, found 0x00000d01",
        id="floats",
    ),
    pytest.param(
        IMAGES, idx(7), "magic number 0x00000803, found 0x00000801", id="labels as images"
    ),
    pytest.param(
        IMAGES, TEN_IMAGES[:-1], "7 x 28 x 28 = 5,488 bytes after the header, found 5,487", id="cut"
    ),
    pytest.param(
        IMAGES, TEN_IMAGES + b"!", "= 5,488 bytes after the header, found 5,489", id="too long"
    ),
    pytest.param(IMAGES, idx(0, 28, 28), "at least one entry, found the dimensions 0 x 28", id="0"),
    pytest.param(
        IMAGES, idx(2**32 - 1, 28, 28, body=b"few"), "after the header, found 3", id="absurd"
    ),
    pytest.param(IMAGES, idx(7, 28, 27), "images of 28 x 28 pixels, found 28 x 27", id="narrow"),
    pytest.param(LABELS, idx(10_002), "expected 10,003 labels, one for each image", id="mismatch"),
    pytest.param(
        TEST_LABELS, idx(7, body=b"\0\1\2\3\4\5\x0a"), "labels from 0 to 9, found 10", id="label 10"
    ),
    pytest.param(f"{TEST_LABELS}.gz", idx(7), "expected a readable file, found: Not a g", id="gz"),
    pytest.param(
        f"{LABELS}.gz", gzip.compress(idx(10_003))[:-9], "expected a readable file", id="cut gz"
    ),
    pytest.param(
        f"{LABELS}.gz",
        gzip.compress(idx(10_003), mtime=0)[:12] + b"\xff" * 40,
        "expected a readable file",
        id="broken gz",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE)
def test_bad_data_ends_in_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    message: str,
) -> None:
    for path in (folder / name.removesuffix(".gz"), folder / f"{name.removesuffix('.gz')}.gz"):
        path.unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    assert_folder_refused(capsys, folder, str(folder / name), message)


def test_too_few_images_to_spare_a_dev_set(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / IMAGES).write_bytes(idx(10_000, 28, 28))
    (folder / f"{LABELS}.gz").write_bytes(gzip.compress(idx(10_000)))
    assert_folder_refused(capsys, folder, IMAGES, "expected more than 10,000 images")


def test_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_folder_refused(capsys, tmp_path / "nowhere", IMAGES, "found neither")
    (tmp_path / "file").touch()
    assert_folder_refused(capsys, tmp_path / "file", IMAGES, "Not a directory")
    (tmp_path / IMAGES).mkdir()
    assert_folder_refused(capsys, tmp_path, IMAGES, "Is a directory")


def assert_folder_refused(
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    file: str,
    message: str,
) -> None:
    figure = folder.parent / "no.png"
    options = ["--data", str(folder), "--output", str(figure)]
    start = "hyperspherical_vae.py: error: "
    assert_one_line(script.main, options, capsys, start, file, message)
    assert not figure.exists()
