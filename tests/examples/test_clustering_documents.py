# Clusters of texts, docs/examples/clustering_documents.py: runs from files to the figure, tf-idf
# and tables against their definitions, and files that are not what they should be.

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import _documents
import clustering_documents as clustering
from commands import assert_one_line, assert_png, numbers

MODELS = (
    "von Mises-Fisher mixture",
    "of one concentration",
    "spherical k-means",
    "k-means",
    "Gaussian mixture, reduced",
)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "MADE", 400)


def run(capsys: Capture, *options: str) -> tuple[str, str]:
    assert clustering.main(options) == 0
    return capsys.readouterr()


@pytest.mark.usefixtures("few")
def test_run_on_made_documents(tmp_path: Path, capsys: Capture) -> None:
    figure, record = tmp_path / "clusters.png", tmp_path / "runs.jsonl"
    options = ("--runs", "2", "--output", str(figure), "--record", str(record))
    output, bars = run(capsys, *options)
    assert_png(figure)
    assert "400 texts (made) as directions in 120 dimensions, 8 groups; 8 clusters," in output
    assert re.search("all models: 100%.* 10/10", bars)
    line = json.loads(record.read_text())
    assert line["shape"] == [400, 120]
    assert line["seeds"] == [0, 1]
    for name in MODELS:
        information, least, most, rand, *_ = numbers(output, name)
        assert least <= information <= most
        assert 0.3 < information < 0.95
        assert 0.1 < rand < 0.95
        scores = line["scores"][name]
        assert np.mean(scores["information"]) == pytest.approx(information, abs=5e-4)
        assert np.mean(scores["rand"]) == pytest.approx(rand, abs=5e-4)
    # each cluster's words are those of one topic, and what all topics have in common
    common = set(_documents.COMMON.split())
    topics = [set(topic.split()) for topic in _documents.TOPICS.splitlines()]
    lists = re.findall(r"^ +([\d,]+) +\d+%  ([a-z ]+)$", output, re.M)
    assert sum(int(size) for size, _ in lists) == 400
    for _, words in lists:
        assert any(set(words.split()) <= topic | common for topic in topics), words
    again, _ = run(capsys, *options)
    strip = lambda text: re.sub(r"\d+\.\d s$", "", text, flags=re.M)  # noqa: E731
    assert strip(again) == strip(output)


def test_run_on_files(tmp_path: Path, capsys: Capture) -> None:
    documents = ["1 1:2 2:1", "1 1:1 2:3", "1 2:2", "7 3:1 4:2", "7 3:3", "7 4:1 3:1"] * 3
    with gzip.open(tmp_path / "train.feat.gz", "wt") as file:
        file.write("\n".join(documents) + "\n")
    (tmp_path / "vocab.new").write_text("sun 9\nrain 7\nbread 5\nsoup 3\n")
    options = ("--data", str(tmp_path), "--runs", "1", "--output", str(tmp_path / "a.png"))
    output, _ = run(capsys, *options)
    assert "18 texts" in output
    assert "2 groups; 2 clusters" in output
    assert numbers(output, "spherical k-means") == [1, 1, pytest.approx(0, abs=1)]
    assert re.search(r"^ +9 +100%  (bread soup|soup bread) ", output, re.M)


def test_run_on_embeddings(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c"], 40)
    rows = 5 * np.repeat(np.eye(60)[:3], 40, axis=0) + rng.standard_normal((120, 60)) / 4
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    np.save(tmp_path / "groups.npy", groups)
    files = ("--embeddings", str(tmp_path / "rows.npy"), "--labels", str(tmp_path / "groups.npy"))
    options = ("--clusters", "3", "--runs", "1", "--output", str(tmp_path / "a.png"))
    output, _ = run(capsys, *files, *options)
    assert "120 texts (rows) as directions in 60 dimensions, 3 groups; 3 clusters" in output
    assert "words" not in output
    for name in MODELS[:4]:
        assert numbers(output, name)[:2] == [1, 1]
    assert_png(tmp_path / "a.png")


def test_tf_idf() -> None:
    labels, sizes = torch.tensor([1, 2]), torch.tensor([2, 1])
    documents = _documents.Documents(
        labels, sizes, torch.tensor([0, 2, 2]), torch.tensor([3.0, 1.0, 5.0]), 3
    )
    texts = clustering.of_words("two", documents, ["a", "b", "c"])
    # a is in one of two documents, c in both: log((1 + 2) / (1 + df)) + 1
    rare = math.log(3 / 2) + 1
    norm = math.hypot(3 * rare, 1)
    expected = [[3 * rare / norm, 0, 1 / norm], [0, 0, 1]]
    np.testing.assert_allclose(texts.directions.toarray(), expected)
    assert texts.labels.tolist() == [1, 2]


def test_scores_over_seeds() -> None:
    assert clustering.over_seeds([0.25]) == "0.250"
    assert clustering.over_seeds([0.2, 0.3, 0.1]) == "0.200 (0.100 to 0.300)"


def saved(folder: Path, name: str, array: object) -> str:
    np.save(folder / name, array, allow_pickle=True)
    return str(folder / name)


@pytest.mark.parametrize(
    ("rows", "labels", "words"),
    [
        (np.eye(3), np.arange(2), "expected 3 labels, one for each row of rows.npy, found 2"),
        (
            np.ones(3),
            np.arange(3),
            "rows.npy: expected one array with 2 axes, found the sh",
        ),
        (np.eye(3), np.eye(3), "labels.npy: expected one array with 1 axes, found the shape"),
        (np.eye(3, dtype=int), np.arange(3), "expected floating point numbers, found int64"),
        (np.diag([1.0, 0.0]), np.arange(2), "expected a direction, found row 1 of norm 0.0"),
        (np.diag([math.nan, 1.0]), np.arange(2), "expected a direction, found row 0 of norm nan"),
        (np.ones((2, 1)), np.arange(2), "expected at least 2 columns, found 1"),
        (
            np.eye(2),
            np.array([0, math.nan]),
            "labels.npy: expected a group for each row, found nan",
        ),
        (np.array([[{}]]), np.arange(1), "rows.npy: expected an array in a .npy file, found: "),
        (np.eye(2), np.arange(2), "expected at least as many texts as clusters, found 2 for 5"),
    ],
)
def test_bad_arrays(
    rows: np.ndarray, labels: np.ndarray, words: str, tmp_path: Path, capsys: Capture
) -> None:
    files = ("--embeddings", saved(tmp_path, "rows.npy", rows))
    files += ("--labels", saved(tmp_path, "labels.npy", labels), "--clusters", "5")
    assert_one_line(clustering.main, files, capsys, "clustering_documents.py: error: ", words)


def test_missing_files(tmp_path: Path, capsys: Capture) -> None:
    start = f"clustering_documents.py: error: {tmp_path}"
    for options in (
        ("--data", str(tmp_path)),
        ("--embeddings", str(tmp_path / "no.npy"), "--labels", str(tmp_path / "no.npy")),
    ):
        assert_one_line(clustering.main, options, capsys, start, "expected")
