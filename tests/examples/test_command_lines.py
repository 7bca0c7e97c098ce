# What the command lines of all examples do: options are named in the help, and bad ones end in
# argparse's exit code 2 with a message that says what is expected.

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

OPTIONS = {
    "bayesian_mean_direction": "data draws",
    "choosing_a_concentration": "dim",
    "clustering_digits": "components starts",
    "clustering_documents": "clusters data embeddings labels record runs starts",
    "code_probes": "concentration data epochs longest record sentences",
    "directional_data": "craters remanence",
    "document_vae": "checkpoint data device dim epochs law log-counts optimizer record",
    "embeddings_and_classes": "data dim epochs record runs",
    "hyperspherical_vae": "concentration data dim epochs",
    "image_vae": "checkpoint data device dim epochs law particles record",
    "mixture_of_directions": "count parts steps",
    "one_draw": "dim epochs record",
    "sentence_vae": "anneal characters checkpoint data decoder device dim embedding epochs hidden "
    "law longest record sentences vocabulary word-dropout",
    "spherical_random_walk": "draws noise steps walk",
    "uncertain_embeddings": "data dim epochs record runs",
    "vanishing_kl": "anneal concentration data device epochs longest record sentences word-dropout",
}
# Refused by every script, then by some.
EVERYWHERE = [
    ("--seed -1", "argument --seed: expected at least 0 and at most 4294967295, got -1"),
    ("--seed 4294967296", "at least 0 and at most 4294967295, got 4294967296"),
    ("--output nowhere/a.png", "the folder 'nowhere' does not exist"),
    ("--output a.gif", "expected a name in .png, .pdf or .svg, got 'a.gif'"),
    ("--output .", "expected a name in .png, .pdf or .svg, got '.'"),
    ("--output folder.png", "'folder.png' cannot be written"),
    ("--size 3", "unrecognized arguments"),
]
SOMEWHERE = {
    "--epochs 0": "argument --epochs: expected at least 1, got 0",
    "--epochs many": "argument --epochs: expected a whole number, got 'many'",
    "--device abacus": "argument --device: 'abacus' cannot be used",
    "--word-dropout 1.5": "argument --word-dropout: expected at most 1, got 1.5",
}
OWN = [
    ("choosing_a_concentration", "--dim 1", "expected at least 2 and at most 1000, got 1"),
    (
        "choosing_a_concentration",
        " ".join(f"--dim {dim}" for dim in range(2, 9)),
        "argument --dim: expected at most 6, got 7",
    ),
    ("clustering_digits", "--components 1", "argument --components: expected at least 2"),
    ("clustering_digits", "--components ten", "expected a whole number, got 'ten'"),
    ("clustering_digits", "--starts 0", "argument --starts: expected at least 1, got 0"),
    ("clustering_documents", "--runs 0", "argument --runs: expected at least 1, got 0"),
    ("clustering_documents", "--labels a.npy", "expected --embeddings and --labels together"),
    (
        "clustering_documents",
        "--data a --embeddings b.npy --labels c.npy",
        "expected --data or --embeddings, not both",
    ),
    ("code_probes", "--concentration 1e39", "expected at most 1e+30, got 1e+39"),
    ("directional_data", "--data x.csv", "unrecognized arguments"),
    ("document_vae", "--law cauchy", "argument --law: expected gaussian, batch-norm, vmf"),
    ("document_vae", "--dim 1", "argument --dim: expected at least 2, got 1"),
    ("document_vae", "--optimizer lbfgs", "argument --optimizer: invalid choice: 'lbfgs'"),
    ("embeddings_and_classes", "--dim 1", "argument --dim: expected at least 2, got 1"),
    ("embeddings_and_classes", "--runs 6", "expected at least 1 and at most 5, got 6"),
    ("hyperspherical_vae", "--dim 1", "argument --dim: expected at least 2, got 1"),
    ("hyperspherical_vae", "--dim 2.5", "argument --dim: expected a whole number, got '2.5'"),
    *(
        (
            "hyperspherical_vae",
            f"--concentration {text}",
            f"'learned' or a number >= 0, got {text!r}",
        )
        for text in ("-1", "nan", "inf", "big")
    ),
    ("hyperspherical_vae", "--concentration 1e39", "expected at most 1e+30, got '1e39'"),
    ("image_vae", "--dim 1", "argument --dim: expected at least 2, got 1"),
    ("image_vae", "--law normal", "argument --law: expected gaussian, batch-norm, vmf"),
    ("image_vae", "--law vmf:-1", "a number >= 0; got 'vmf:-1'"),
    ("image_vae", "--particles 0", "argument --particles: expected at least 1, got 0"),
    ("one_draw", "--dim 1", "argument --dim: expected at least 2, got 1"),
    ("sentence_vae", "--law gaussian:3", "gaussian:3"),
    ("sentence_vae", "--law cauchy", "cauchy"),
    ("sentence_vae", "--decoder mute", "mute"),
    *(
        ("sentence_vae", option, f"argument {option.split()[0]}: expected --data with it")
        for option in ("--characters", "--longest 3", "--sentences 9")
    ),
    ("uncertain_embeddings", "--dim 1", "argument --dim: expected at least 2, got 1"),
    ("uncertain_embeddings", "--runs 0", "argument --runs: expected at least 1, got 0"),
    ("vanishing_kl", "--concentration 1e39", "expected at most 1e+30, got 1e+39"),
]


def names(script: str) -> list[str]:
    return ["seed", "output", *OPTIONS[script].split()]


REFUSED = [
    *((script, *case) for script in OPTIONS for case in EVERYWHERE),
    *(
        (script, *case)
        for script in OPTIONS
        for case in SOMEWHERE.items()
        if case[0].split()[0].removeprefix("--") in names(script)
    ),
    *OWN,
]


def test_every_example_is_here() -> None:
    assert sorted(OPTIONS) == sorted(path.stem for path in EXAMPLES.glob("[a-z]*.py"))


@pytest.mark.parametrize(("script", "options", "message"), REFUSED)
def test_bad_options_are_refused(
    script: str,
    options: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(script).main(options.split())
    assert caught.value.code == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert message in error


@pytest.mark.parametrize("script", OPTIONS)
def test_help_names_every_option(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(script).main(["--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    for option in names(script):
        assert f"--{option} " in output
