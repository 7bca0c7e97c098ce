# The document model: data in the format of 20 Newsgroups and their errors, bounds and perplexities
# against formulas of their own, and words that are right.

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.distributions import Multinomial

import _documents
import document_vae as script
from _training import Place
from commands import assert_one_line
from document_vae import Corpus, Documents, DocumentVAE

PNG = b"\x89PNG\r\n\x1a\n"
NUMBER = r"(-?\d+\.\d+)"
CPU = torch.device("cpu")


def rows(output: str) -> dict[str, list[float]]:
    """ELBO, KL and importance-weighted bound, then perplexities, of each law in the table."""
    lines = re.findall(rf"^([\w:-]+) +{' +'.join([NUMBER] * 7)} +\d+ s$", output, re.M)
    return {law: [float(text) for text in numbers] for law, *numbers in lines}


def bags(*documents: str) -> Documents:
    """Documents of a vocabulary of five words, from lines of a file."""
    parsed = [_documents.parse_document(line, 5) for line in documents]
    return Documents(
        torch.tensor([label for label, _ in parsed]),
        torch.tensor([len(words) for _, words in parsed]),
        torch.tensor([i for _, words in parsed for i in words]),
        torch.tensor([c for _, words in parsed for c in words.values()]).float(),
        5,
    )


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens a run."""
    monkeypatch.setattr(script, "DRAWS", 20)
    monkeypatch.setattr(script, "MADE", (300, 50, 60))


# The whole run


def test_run(few_draws: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "figure.png"
    laws = ["vmf:40", "vmf", "power-spherical:30", "batch-norm", "gaussian"]
    options = [text for law in laws for text in ("--law", law)]
    assert script.main([*options, "--epochs", "2", "--output", str(figure)]) == 0
    output, bars = capsys.readouterr()
    assert "60 test documents" in output
    assert "8 coordinates: 7 dimensions on the sphere, 8 for a Gaussian" in output
    assert "bound of 20 draws" in output
    assert re.findall(r"100%.* 2/2 .*dev ELBO -\d+\.\d\d, KL \d+\.\d\d\]\n", bars)
    length = script.made_corpus(0).test.lengths().mean().item()
    found = rows(output)
    assert list(found) == laws
    for elbo, kl, weighted, by_word, weighted_by_word, *by_document in found.values():
        assert 0 <= kl < 60
        assert elbo < weighted < 0
        assert by_word == pytest.approx(math.exp(-elbo / length), rel=1e-3)
        assert weighted_by_word == pytest.approx(math.exp(-weighted / length), rel=1e-3)
        assert by_document[0] > by_document[1] > 1
    assert len(re.findall(r"^ +[1-8]( \w+| {2}\w+){8}$", output, re.M)) == 8
    content = figure.read_bytes()
    assert content.startswith(PNG)


def test_runs_repeat_and_seeds_differ(
    few_draws: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "draw_figure", lambda *_: None)

    def run(*options: str) -> dict[str, list[float]]:
        assert script.main(["--epochs", "1", "--law", "vmf:40", *options]) == 0
        return rows(capsys.readouterr().out)

    first = run()
    assert run() == first
    assert run("--seed", "1") != first
    assert run("--optimizer", "adam") != first
    assert run("--log-counts") != first


def test_a_stopped_run_goes_on_and_is_recorded(
    few_draws: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "draw_figure", lambda *_: None)

    def run(epochs: int, *options: str) -> dict[str, list[float]]:
        assert script.main(["--epochs", str(epochs), "--law", "vmf:40", *options]) == 0
        return rows(capsys.readouterr().out)

    saved = ["--checkpoint", str(tmp_path / "runs")]
    record = ["--record", str(tmp_path / "runs.jsonl")]
    straight = run(3, *record)
    run(1, *saved)
    assert run(3, *saved, *record) == straight
    whole, resumed = map(json.loads, (tmp_path / "runs.jsonl").read_text().splitlines())
    assert whole["scores"] == resumed["scores"]
    assert [line["epoch"] for line in resumed["history"]] == [1, 2, 3]
    settings = {"data": "made", "law": "vmf:40", "dim": 8, "epochs": 3, "seed": 0}
    assert settings.items() <= resumed.items()
    assert 0.5 < resumed["separation"] < 1
    assert script.main(["--law", "vmf:40", "--dim", "4", *saved]) == 2
    assert "it was saved with dim 8, this run has 4" in capsys.readouterr().err


# The bounds


def test_the_encoder_takes_counts_or_their_logarithms() -> None:
    torch.manual_seed(0)
    vae = script.DocumentVAE(5, "vmf:10", 4).eval()
    batch = torch.tensor([[0.0, 1.0, 2.0, 0.0, 7.0]])
    log_counts = torch.tensor([[0.0, math.log(2), math.log(3), 0.0, math.log(8)]])
    expected = vae.features(log_counts)
    assert not torch.allclose(vae.features(batch), expected)
    vae.log_counts = True
    torch.testing.assert_close(vae.features(batch), expected)


@pytest.mark.parametrize("law", ["vmf:40", "gaussian"])
def test_log_likelihood_is_multinomial_without_its_coefficient(law: str) -> None:
    torch.manual_seed(0)
    vae = DocumentVAE(6, law, 4).double().eval()
    batch = torch.tensor([[2, 0, 1, 0, 0, 5], [0, 0, 0, 1, 0, 0]]).double()
    z = vae.code.prior().sample((3, 2))
    coefficient = (batch.sum(-1) + 1).lgamma() - (batch + 1).lgamma().sum(-1)
    for i, words in enumerate(batch):
        exact = Multinomial(int(words.sum()), logits=vae.logits(z[:, i])).log_prob(words)
        found = vae.log_likelihood(batch, z)[:, i]
        torch.testing.assert_close(found, exact - coefficient[i])


def kl_by_quadrature(dim: int, concentration: float) -> mpmath.mpf:
    """The divergence of a von Mises-Fisher law from the uniform one, by the law of the cosine."""
    with mpmath.workdps(20):
        half = mpmath.mpf(dim - 3) / 2

        def integral(f: object) -> mpmath.mpf:
            return mpmath.quad(f, mpmath.linspace(-1, 1, 17))

        uniform = integral(lambda t: (1 - t**2) ** half)
        total = integral(lambda t: mpmath.exp(concentration * t) * (1 - t**2) ** half)
        first = integral(lambda t: t * mpmath.exp(concentration * t) * (1 - t**2) ** half)
        return concentration * first / total - mpmath.log(total / uniform)


@pytest.mark.parametrize(
    ("dim", "concentration"), [(25, 100), (50, 150), (50, 80), (50, 35), (4, 20), (200, 100)]
)
def test_printed_kl_of_a_fixed_concentration_is_exact(dim: int, concentration: int) -> None:
    torch.manual_seed(0)
    law, test = f"vmf:{concentration}", bags("1 1:3 2:1", "1 5:1")
    scores = script.evaluate(DocumentVAE(5, law, dim), test, seed=0)
    trained = script.Trained(None, [script.Epoch(1, 9.0, 1.0, 0.0, 0.0, 0.0)])
    corpus = Corpus(test, test, test, list("abcde"))
    printed = re.findall(
        rf"^{law} +{NUMBER} +{NUMBER} ",
        script.table({law: scores}, {law: trained}, corpus, dim),
        re.M,
    )
    assert printed[0][1] == f"{float(kl_by_quadrature(dim, concentration)):.3f}"


def test_evaluation_is_of_the_bounds_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    # On the circle the integral over codes is a sum over equidistant angles.
    torch.manual_seed(1)
    vae, test = DocumentVAE(5, "vmf", 2), bags("1 1:3 2:1", "1 5:2 3:1", "2 2:1")
    angles = torch.arange(4096) * (2 * math.pi / 4096)
    codes = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None]
    batch = test[torch.arange(3)]
    with torch.no_grad():
        vae.eval()
        exact = vae.log_likelihood(batch, codes).double().logsumexp(0) - math.log(4096)
        z = vae.posterior(batch).sample((20_000,))
        reconstruction = vae.log_likelihood(batch, z).mean().item()
    monkeypatch.setattr(script, "DRAWS", 2_000)
    scores = script.evaluate(vae, test, seed=0)
    assert scores.weighted_nll == pytest.approx(-exact.mean().item(), abs=0.1)
    assert scores.nll == pytest.approx(scores.kl - reconstruction, abs=0.05)
    assert scores.nll > scores.weighted_nll + 0.3


def test_perplexities_by_hand() -> None:
    # a document of one word at 1/2, and one of three words at 1/8 each
    losses = torch.tensor([math.log(2), 3 * math.log(8)]).double()
    by_word, by_document = script.perplexities(losses, torch.tensor([1.0, 3.0]).double())
    assert by_word == pytest.approx(2 ** (10 / 4))
    assert by_document == pytest.approx(math.sqrt(2 * 8))


def test_word_frequencies_alone() -> None:
    train, test = bags("1 1:3 2:1", "1 5:1"), bags("1 1:1 5:1", "2 3:1")
    frequencies = np.array([4, 2, 1, 1, 2]) / 10
    nll, by_word, by_document = script.without_code(Corpus(train, train, test, list("abcde")))
    first, second = -math.log(frequencies[0] * frequencies[4]), -math.log(frequencies[2])
    assert nll == pytest.approx((first + second) / 2)
    assert by_word == pytest.approx(math.exp((first + second) / 3))
    assert by_document == pytest.approx(math.exp((first / 2 + second) / 2))


# Learning


@pytest.fixture(scope="module")
def learned() -> tuple[Corpus, dict[str, script.Trained]]:
    """Made documents and a model of each kind, trained for a little while."""
    corpus = script.made_corpus(0)
    options = script.parse(["--epochs", "6"])
    laws = ("vmf:40", "gaussian")
    return corpus, {law: script.fit(law, corpus, options, Place(CPU)) for law in laws}


def test_perplexity_lies_between_truth_and_word_frequencies(
    learned: tuple[Corpus, dict[str, script.Trained]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing can beat the law that the documents were drawn from, known for each of them.
    monkeypatch.setattr(script, "DRAWS", 20)
    corpus, runs = learned
    rng = np.random.default_rng(7)
    test, law = _documents.made_documents(300, rng)
    counts = test[torch.arange(300)].double()
    lengths = counts.sum(-1)
    losses = -(counts * torch.as_tensor(law).log().clamp(min=-1e3)).sum(-1)
    truth, _ = script.perplexities(losses, lengths)
    _, frequencies, _ = script.without_code(corpus._replace(test=test))
    assert truth < 0.55 * frequencies
    for run in runs.values():
        scores = script.evaluate(run.vae, test, seed=0)
        assert truth < scores.weighted_by_word < scores.by_word < 0.75 * frequencies
        assert run.history[-1].dev_elbo > run.history[0].dev_elbo


def test_words_of_each_label_are_those_of_its_topic(
    learned: tuple[Corpus, dict[str, script.Trained]], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, runs = learned
    for law, run in runs.items():
        script.print_words(law, run.vae, corpus)
        output = capsys.readouterr().out
        for label, topic in enumerate(_documents.TOPICS.splitlines(), 1):
            listed = re.search(rf"^ +{label}  (.*)$", output, re.M)[1].split()
            assert len(set(listed) & set(topic.split())) >= script.WORDS - 1, listed
        for word, near in re.findall(r"^ +(\w+): (.*)$", output, re.M):
            topics = (words.split() for words in _documents.TOPICS.splitlines())
            (topic,) = (words for words in topics if word in words)
            # by chance there would be less than one
            assert len(set(near.split()) & set(topic)) > script.WORDS / 2, near


def test_codes_of_one_label_lie_together(
    learned: tuple[Corpus, dict[str, script.Trained]],
) -> None:
    corpus, runs = learned
    for run in runs.values():
        codes = script.codes_of(run.vae, corpus.test)
        same, different = script.cosines(codes, corpus.test.labels)
        assert same.mean() > different.mean() + 0.4
        assert script.separation(same, different) > 0.85


def test_separation_is_the_area_under_the_roc_curve() -> None:
    torch.manual_seed(0)
    codes, labels = torch.randn(40, 3), torch.randint(3, (40,))
    same, different = script.cosines(codes, labels)
    pairs = [(i, j) for i in range(40) for j in range(i)]
    unit = codes / codes.norm(dim=-1, keepdim=True)
    truth = [bool(labels[i] == labels[j]) for i, j in pairs]
    score = [(unit[i] @ unit[j]).item() for i, j in pairs]
    assert len(same) == sum(truth)
    assert len(same) + len(different) == len(pairs)
    assert script.separation(same, different) == pytest.approx(
        roc_auc_score(truth, score), abs=1e-6
    )
    assert math.isnan(script.separation(same, different[:0]))


def test_noise_to_cosine_are_of_all_labels_in_a_long_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "MOST_CODES", 10)
    labels = torch.arange(4).repeat_interleave(8)  # sorted, as files are
    same, different = script.cosines(torch.randn(32, 3), labels)
    assert (len(same), len(different)) == (4, 24)  # two documents of each label


def test_neighbours_are_the_words_with_the_largest_cosine() -> None:
    vae = DocumentVAE(4, "gaussian", 2)
    with torch.no_grad():
        vae.decoder[-1].weight.zero_()
        vae.decoder[-1].weight[:, :2] = torch.tensor([[1, 0], [-1, 9], [9, 1], [-1, 0]]).float()
    assert script.neighbours(vae, "a", list("abcd")) == ["c", "b", "d"]


# Documents


def test_minibatches_are_dense() -> None:
    documents = bags("3 2:4", "1 5:1 1:2", "2 3:7 4:1 1:1")
    expected = torch.tensor([[1, 0, 7, 1, 0], [0, 4, 0, 0, 0], [1, 0, 7, 1, 0]]).float()
    assert torch.equal(documents[torch.tensor([2, 0, 2])], expected)
    assert documents.lengths().tolist() == [4, 3, 9]
    chosen = documents.select(torch.tensor([2, 1]))
    assert len(chosen) == 2
    assert chosen.labels.tolist() == [2, 1]
    assert chosen[torch.tensor([1])].tolist() == [[2, 0, 0, 0, 1]]
    assert [len(batch) for batch in documents.dense(2)] == [2, 1]
    assert torch.equal(torch.cat(list(documents.dense(2))), documents[torch.arange(3)])


def test_the_last_tenth_of_each_label_is_watched() -> None:
    labels = torch.tensor([1] * 25 + [2] * 9 + [3] * 10 + [1] * 5)
    late = script.last_of_each(labels).nonzero().squeeze(-1).tolist()
    assert late == [43, 46, 47, 48]  # 1 of 10 with label 3, the last 3 of 30 with label 1


def test_made_documents_follow_their_law() -> None:
    documents, law = _documents.made_documents(4000, np.random.default_rng(3))
    np.testing.assert_allclose(law.sum(1), 1)
    lengths, counts = documents.lengths(), documents[torch.arange(4000)].double().numpy()
    assert lengths.min() == _documents.SHORTEST
    assert lengths.max() == _documents.LONGEST
    expected = lengths.numpy()[:, None] * law
    variance = (expected * (1 - law)).sum(0)
    deviations = (counts.sum(0) - expected.sum(0)) / np.sqrt(variance)
    assert np.abs(deviations).max() < 4.5
    assert Counter(documents.labels.tolist()).keys() == set(range(1, 9))
    # the second word of a list is half as frequent as the first, in its topic and overall
    assert counts.sum(0)[1] / counts.sum(0)[0] == pytest.approx(0.5, abs=0.05)


def test_made_words_are_all_different() -> None:
    words = script.made_corpus(0).words
    assert len(set(words)) == len(words) == 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small documents in the format, plain and gzipped."""
    vocabulary = "\n".join(f"w{i} {100 - i}" for i in range(1, 6))
    (tmp_path / "vocab.new.gz").write_bytes(gzip.compress(vocabulary.encode()))
    (tmp_path / "train.feat").write_text("1 1:2 2:1\n" * 12 + "2 3:1 4:2 5:1\n" * 10)
    (tmp_path / "test.feat").write_text("1 2:1\n2 5:3 4:1\n2 5:3\n")
    return tmp_path


def test_run_on_a_folder(few_draws: None, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = folder / "figure.PNG"
    options = ["--data", str(folder), "--epochs", "1", "--dim", "3", "--output", str(figure)]
    assert script.main(options) == 0
    output = capsys.readouterr().out
    assert "3 test documents, 2.7 words long on average, of a vocabulary of 5" in output
    assert list(rows(output)) == ["vmf:100", "gaussian"]
    assert figure.read_bytes().startswith(PNG)


def test_a_folder_is_read(folder: Path) -> None:
    corpus = script.read_corpus(folder)
    assert corpus.words == ["w1", "w2", "w3", "w4", "w5"]
    assert [len(part) for part in corpus[:3]] == [20, 2, 3]
    assert corpus.train.labels.tolist() == [1] * 11 + [2] * 9
    assert corpus.dev[torch.arange(2)].tolist() == [[2, 1, 0, 0, 0], [0, 0, 1, 2, 1]]
    assert corpus.test[torch.tensor([1])].tolist() == [[0, 0, 0, 1, 3]]


def test_a_checkpoint_knows_its_data(
    few_draws: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(folder), "--epochs", "1", "--dim", "3", "--law", "vmf"]
    options += ["--checkpoint", str(folder / "runs"), "--output", str(folder / "a.png")]
    assert script.main(options) == 0
    (folder / "train.feat").write_text("1 1:1 2:2\n" * 12 + "2 3:1 4:2 5:1\n" * 10)
    capsys.readouterr()
    assert script.main(options) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert "vmf.pt: it was saved with data 20 documents of 5 words " in error


DAMAGE = [
    pytest.param("test.feat", None, "expected this file, plain or .gz, found neither", id="gone"),
    pytest.param("test.feat", b"", "expected lines of text, found an empty file", id="empty"),
    pytest.param("train.feat", b"1 1:2\n\xff\n", ", line 2: expected text in UTF-8", id="bytes"),
    pytest.param(
        "train.feat.gz", gzip.compress(b"1 1:2\n" * 99)[:-9], "a readable file, found", id="cut gz"
    ),
    pytest.param(
        "test.feat",
        b"1 1:2\n\n",
        ", line 2: expected a label first, a whole number, found an",
        id="",
    ),
    pytest.param("test.feat", b"a 1:2\n", ", line 1: expected a label first, a whole", id="label"),
    pytest.param("test.feat", b"1:2 2:1\n", "whole number, found '1:2'", id="no label"),
    pytest.param("test.feat", b"1 1:2\n2\n", ", line 2: expected the words", id="no words"),
    pytest.param("test.feat", b"1 1:2 3:\n", "id:count, two whole numbers, found '3:'", id="cut"),
    pytest.param("test.feat", b"1 1:2 3\n", "two whole numbers, found '3'", id="no count"),
    pytest.param("test.feat", b"1 x:2\n", "two whole numbers, found 'x:2'", id="bad id"),
    pytest.param("test.feat", b"1 1:2.5\n", "two whole numbers, found '1:2.5'", id="bad count"),
    pytest.param("test.feat", b"1 1:-2\n", "two whole numbers, found '1:-2'", id="negative"),
    pytest.param("test.feat", b"1 1:0\n", "a count of at least 1, found '1:0'", id="count 0"),
    pytest.param("test.feat", b"1 0:1\n", "an id from 1 to 5, as many as", id="id 0"),
    pytest.param("test.feat", b"1 5:1\n1 6:1\n", ", line 2: expected an id from 1", id="id 6"),
    pytest.param("test.feat", b"1 5:1 4:1 5:2\n", "each id once, found 5 again", id="twice"),
    pytest.param("vocab.new", b"a 1\n\nc 1\n", ", line 2: expected a word, found", id="no word"),
    pytest.param("vocab.new", b"a 1\nb 1\na 2\n", "a new word, found 'a' of line 1", id="word"),
    pytest.param("train.feat", b"1 1:1\n" * 9, "with at least 10 documents, the last", id="few"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE)
def test_bad_data_ends_in_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    message: str,
) -> None:
    plain = name.removesuffix(".gz")
    for path in (folder / plain, folder / f"{plain}.gz"):
        path.unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    options = ["--data", str(folder), "--output", str(folder / "no.png")]
    start = f"document_vae.py: error: {folder / name}"
    assert_one_line(script.main, options, capsys, start, message)
    assert not (folder / "no.png").exists()


def test_what_cannot_be_written_is_said_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for option, value in (("--checkpoint", "file"), ("--record", "nowhere/runs.jsonl")):
        start = f"document_vae.py: error: {tmp_path / value}: cannot be written"
        assert_one_line(script.main, [option, str(tmp_path / value)], capsys, start)
