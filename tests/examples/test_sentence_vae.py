# The sentence autoencoder, docs/examples/sentence_vae.py, its data and decoding, _sentences.py, and
# the demonstration of the vanishing KL, vanishing_kl.py: what the scores are, against sums over all
# sentences and word-by-word evaluation; one line with exit code 2 for every kind of bad data.

from __future__ import annotations

import gzip
import itertools
import json
import math
import re
from importlib import import_module as load
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from cases import assert_mean
from commands import assert_one_line
from vmfdist import HypersphericalUniform, VonMisesFisher

PNG = b"\x89PNG\r\n\x1a\n"
DECODERS = ("standard", "inputless", "bow", "inputless-bow")
LAWS = ("gaussian", "batch-norm", "vmf", "vmf:20", "power-spherical:5")


@pytest.fixture
def script() -> ModuleType:
    return load("sentence_vae")


@pytest.fixture
def data() -> ModuleType:
    return load("_sentences")


@pytest.fixture
def small(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with few made sentences, small networks and few draws."""
    corpus = script.made_corpus(200, 40)
    monkeypatch.setattr(script, "made_corpus", lambda: corpus)
    monkeypatch.setattr(script, "WIDTHS_MADE", (8, 16, 4))
    monkeypatch.setattr(script, "DRAWS", 4)
    return script


TINY = (5, 7, 3)  # widths


def make(script: ModuleType, law: str = "vmf", vocabulary: int = 9, **options: Any) -> Any:
    """A tiny model; its weights are large enough for words and codes to matter."""
    torch.manual_seed(0)
    vae = script.SentenceVAE(law, vocabulary, script.Widths(*TINY), **options)
    for weight in vae.parameters():
        torch.nn.init.normal_(weight, std=0.7)
    return vae.eval()


def sentences(data: ModuleType, labels: bool = False) -> Any:
    """Five sentences of 1 to 6 words, numbered 1 to 8."""
    rng = torch.Generator().manual_seed(1)
    lengths = torch.tensor([4, 2, 7, 3, 7])
    words = torch.randint(1, 9, (5, 7), generator=rng)
    words[torch.arange(7) >= lengths[:, None] - 1] = 0
    return data.Sentences(words, lengths, torch.tensor([0, 1, 1, 0, 2]) if labels else None)


# The model


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("decoder", DECODERS)
def test_log_likelihood_is_that_of_word_after_word(
    script: ModuleType, data: ModuleType, decoder: str, labels: int
) -> None:
    vae, batch = make(script, decoder=decoder, labels=labels), sentences(data, bool(labels))
    for shape in ((), (2,), (2, 3)):
        z = vae.code.prior().sample((*shape, 5))
        found = vae.log_likelihood(batch, z)
        assert found.shape == (*shape, 5)
        context = vae.context(batch, z)
        for place in itertools.product(*map(range, found.shape)):
            row, last, state, expected = batch.words[place[-1]], torch.tensor([0]), None, 0.0
            for position in range(int(batch.lengths[place[-1]])):
                log_prob, state = vae.step(last, context[place][None], state)
                assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-5)
                last = row[position : position + 1]
                expected += log_prob[0, last[0]].item()
            assert found[place].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_padding_changes_nothing(script: ModuleType, data: ModuleType, decoder: str) -> None:
    vae, batch = make(script, decoder=decoder), sentences(data)
    z = vae.code.prior().sample((5,))
    together = vae.log_likelihood(batch, z), vae.features(batch)
    for i in range(5):
        alone = batch[torch.tensor([i])]
        assert alone.words.shape == (1, batch.lengths[i])
        torch.testing.assert_close(together[0][i : i + 1], vae.log_likelihood(alone, z[i : i + 1]))
        torch.testing.assert_close(together[1][i : i + 1], vae.features(alone))


def test_what_each_decoder_sees(script: ModuleType, data: ModuleType) -> None:
    # Of the four sentences a b, c d, a d, c b an inputless decoder says the words independently of
    # one another; a bag makes them depend, but not on their order.
    words = torch.tensor([[2, 3, 0], [4, 5, 0], [2, 5, 0], [4, 3, 0], [3, 2, 0]])
    batch = data.Sentences(words, torch.full((5,), 3))
    code = torch.eye(3)[:1].expand(5, 3)
    for decoder in DECODERS:
        vae = make(script, decoder=decoder)
        ab, cd, ad, cb, _ = vae.log_likelihood(batch, code).tolist()
        independent = abs(ab + cd - ad - cb) < 1e-4
        assert independent == (decoder == "inputless")
        context = vae.context(batch, code)
        torch.testing.assert_close(context[0], context[4])
        assert torch.equal(context[0], context[1]) == (not decoder.endswith("bow"))


@pytest.mark.parametrize("law", LAWS)
def test_code_reaches_the_decoder_as_large_as_a_standard_normal(
    script: ModuleType, data: ModuleType, law: str
) -> None:
    vae, batch = make(script, law), sentences(data)
    z = vae.code.prior().sample((4000, 5))
    seen = vae.context(batch, z)
    torch.testing.assert_close(seen.square().mean(), torch.tensor(1.0), atol=0.05, rtol=0)
    assert vae.posterior(batch).batch_shape == (5,)


def test_labels_are_seen_at_every_step(script: ModuleType, data: ModuleType) -> None:
    vae, batch = make(script, labels=3), sentences(data, labels=True)
    other = data.Sentences(batch.words, batch.lengths, (batch.labels + 1) % 3)
    z = vae.code.prior().sample((5,))
    assert (vae.log_likelihood(batch, z) - vae.log_likelihood(other, z)).abs().min() > 1e-3


def test_word_dropout_hides_previous_words_in_training_only(
    script: ModuleType, data: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "DROPOUT", 0.0)
    batch = sentences(data)
    z = torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])]
    plain, hiding = make(script), make(script, word_dropout=1.0)
    torch.testing.assert_close(plain.log_likelihood(batch, z), hiding.log_likelihood(batch, z))
    hiding.train()
    found = hiding.log_likelihood(batch, z)
    context, state, expected = hiding.context(batch, z), None, torch.zeros(5)
    for position in range(7):
        last = torch.full((5,), data.UNKNOWN if position else data.END)
        log_prob, state = hiding.step(last, context, state)
        term = log_prob.gather(1, batch.words[:, position : position + 1]).squeeze(1)
        expected = expected + torch.where(position < batch.lengths, term, 0)
    torch.testing.assert_close(found, expected)


def test_texts_are_encoded_as_their_sentences(script: ModuleType, data: ModuleType) -> None:
    vocabulary = data.Vocabulary(["a", "cat", "sat"])
    vae = make(script, vocabulary=len(vocabulary))
    found = vae.encode(["a cat sat", "a dog"], vocabulary)
    batch = data.Sentences(torch.tensor([[2, 3, 4, 0], [2, 1, 0, 0]]), torch.tensor([4, 3]))
    assert isinstance(found, VonMisesFisher)
    torch.testing.assert_close(found.loc, vae.posterior(batch).loc)


# Scores


def test_bounds_and_the_exact_likelihood(script: ModuleType, data: ModuleType) -> None:
    # On the circle the integral over codes is a mean over equidistant angles.
    torch.manual_seed(2)
    vae = script.SentenceVAE("vmf:1", 9, script.Widths(5, 7, 2)).eval()
    batch = sentences(data)
    angles = torch.arange(1024) * (2 * math.pi / 1024)
    z = torch.stack([angles.cos(), angles.sin()], -1)[:, None].expand(-1, 5, -1)
    with torch.no_grad():
        exact = vae.log_likelihood(batch, z).logsumexp(0) - math.log(1024)
    terms = script.held_out_score(vae, batch, 30_000)
    order = batch.lengths.argsort(stable=True)
    torch.testing.assert_close(terms.log_likelihood.float(), exact[order], atol=0.03, rtol=0)
    kl = kl_divergence(VonMisesFisher(torch.tensor([1.0, 0.0]), 1.0), HypersphericalUniform(2))
    torch.testing.assert_close(terms.kl.float(), kl.expand(5))
    assert (terms.elbo < exact[order]).all()


def test_perplexity_counts_words_and_end_markers(script: ModuleType, data: ModuleType) -> None:
    terms = script.Terms(*torch.tensor([[-10.0, -20.0], [1.0, 3.0], [-10.5, -21.5]]).double())
    scores = script.summary(terms, data.Sentences(torch.zeros(2, 5), torch.tensor([3, 5])).tokens)
    assert scores == pytest.approx((17, 15, 2, math.exp(34 / 8), 16, math.exp(4)))


def test_memory_bound_changes_no_divergence(
    script: ModuleType, data: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, batch = make(script, "gaussian"), sentences(data)
    together = script.held_out_score(vae, batch, 2000)
    monkeypatch.setattr(script, "AT_ONCE", 1)
    apart = script.held_out_score(vae, batch, 50)
    torch.testing.assert_close(apart.kl, together.kl)
    assert abs(apart.reconstruction - together.reconstruction).max() < 3


# Decoding


def every_sentence(longest: int, words: int) -> Tensor:
    """All rows of words up to an end marker, or as long as allowed without one."""
    rows = []
    for length in range(longest + 1):
        for row in itertools.product(range(1, words), repeat=length):
            rows.append([*row, *[0] * (longest - length)])
    return torch.tensor(rows)


def test_decoding_against_all_sentences(script: ModuleType, data: ModuleType) -> None:
    vae, longest = make(script, vocabulary=4), 4
    vae.output.bias.data[0] -= 2  # let sentences be long
    codes = torch.nn.functional.normalize(torch.randn(3, 3), dim=-1)
    rows = every_sentence(longest, 4)  # 121, those of full length without an end marker

    def log_prob(context: Tensor, row: list[int]) -> float:
        last, state, total = torch.tensor([0]), None, 0.0
        for word in row:
            terms, state = vae.step(last, context[None], state)
            total += terms[0, word].item()
            if word == 0:
                break
            last = torch.tensor([word])
        return total

    def search(context: Tensor, width: int) -> list[int]:
        beginnings: list[list[int]] = [[]]
        for _ in range(longest):
            longer = [
                [*row, word] for row in beginnings for word in range(4 if 0 not in row else 1)
            ]
            beginnings = sorted(longer, key=lambda row: -log_prob(context, row))[:width]
        return beginnings[0]

    def filled(found: Tensor) -> list[list[int]]:
        return torch.nn.functional.pad(found, (0, longest - found.shape[1])).tolist()

    with torch.no_grad():
        contexts = vae.code.spread_out(codes)
        exact = filled(data.beam(vae.step, contexts, longest, width=200))  # keeps all there are
        for context, best in zip(contexts, exact, strict=True):
            scores = torch.tensor([log_prob(context, row) for row in rows.tolist()])
            assert math.log(scores.exp().sum()) == pytest.approx(0, abs=1e-5)  # it is a law
            assert log_prob(context, best) == pytest.approx(scores.max().item(), abs=1e-5)
        greedy = filled(data.decode(vae.step, contexts, longest))
        assert greedy == filled(data.beam(vae.step, contexts, longest, width=1))
        for width in (1, 2, 3):
            found = filled(data.beam(vae.step, contexts, longest, width))
            assert found == [search(context, width) for context in contexts]
    assert greedy != exact


def test_greedy_takes_the_likeliest_word_each_time(script: ModuleType, data: ModuleType) -> None:
    vae = make(script)
    context = vae.code.spread_out(torch.eye(3))
    said = data.decode(vae.step, context, 5)
    words, state = torch.zeros(3, dtype=torch.long), None
    for column in said.T:
        log_prob, state = vae.step(words, context, state)
        words = torch.where((words == 0) & (column == 0), 0, log_prob.argmax(-1))
        assert torch.equal(words, column)


def test_drawn_words_have_their_probabilities(script: ModuleType, data: ModuleType) -> None:
    vae = make(script, vocabulary=4)
    context = vae.code.spread_out(torch.eye(3)[:1])
    expected = vae.step(torch.tensor([0]), context, None)[0][0].exp()
    said = data.decode(vae.step, context.expand(20_000, -1), 2, data.drawn)
    for word in range(4):
        assert_mean((said[:, 0] == word).double(), expected[word].item())
    assert (said[said[:, 0] == 0] == 0).all()  # nothing comes after the end marker


def test_way_between_codes(script: ModuleType) -> None:
    start, end = torch.nn.functional.normalize(torch.randn(2, 5).double(), dim=-1)
    codes = script.way(start, end, 5, spherical=True)
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(5).double())
    torch.testing.assert_close(codes[[0, -1]], torch.stack([start, end]))
    cosines = (codes[1:] * codes[:-1]).sum(-1)
    torch.testing.assert_close(cosines, torch.cos(torch.acos(start @ end) / 4).expand(4))
    straight = script.way(start, end, 3, spherical=False)
    torch.testing.assert_close(straight[1], (start + end) / 2)
    torch.testing.assert_close(straight[[0, -1]], torch.stack([start, end]))
    assert torch.isfinite(script.way(start, start, 3, spherical=True)).all()


# Sentences


def test_vocabulary(data: ModuleType) -> None:
    lines = [data.Line(text.split(), None, "") for text in ("b a a", "a b c", "d d <unk>")]
    vocabulary = data.Vocabulary.of(lines, most=10)
    assert vocabulary.words == ("</s>", "<unk>", "a", "b", "d")  # c is seen once
    assert data.Vocabulary.of(lines, most=1).words == ("</s>", "<unk>", "a")
    found = vocabulary.sentences([["a", "c", "d"], ["b"], ["</s>", "b", "<unk>"]])
    assert found.words.tolist() == [[2, 1, 4, 0], [3, 0, 0, 0], [1, 3, 1, 0]]
    assert found.lengths.tolist() == [4, 2, 4]
    assert found.tokens == 10
    assert [vocabulary.text(row) for row in found.words] == ["a <unk> d", "b", "<unk> b <unk>"]
    characters = data.Vocabulary("ab", characters=True)
    assert characters.split(" ab a\n") == ["a", "b", "a"]
    assert characters.text(torch.tensor([2, 3, 2, 0, 3])) == "aba"


def test_batches_hold_every_sentence_once_and_similar_lengths(data: ModuleType) -> None:
    corpus = data.made_corpus(300, 20)
    lengths = corpus.train.lengths
    make_batches = data.of_similar_length(lengths)
    first, second = make_batches(300, 32), make_batches(300, 32)
    for batches in (first, second):
        assert torch.equal(torch.cat(batches).sort().values, torch.arange(300))
        ranges = sorted((int(lengths[b].min()), int(lengths[b].max())) for b in batches)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert min(len(batch) for batch in data.of_similar_length(lengths)(300, 299)) == 150
    in_order = corpus.test.batches(8)
    assert torch.equal(torch.cat([b.lengths for b in in_order]), corpus.test.lengths.sort().values)
    batch = corpus.train[torch.tensor([3, 5])]
    assert batch.words.shape == (2, int(lengths[[3, 5]].max()))
    assert torch.equal(batch.mask().sum(1), lengths[[3, 5]])


def test_made_sentences(data: ModuleType) -> None:
    corpus = data.made_corpus(400, 50)
    texts = [[corpus.vocabulary.text(row) for row in part.words] for part in corpus[:3]]
    assert [len(part) for part in texts] == [400, 50, 50]
    assert len(set(itertools.chain(*texts))) == 500
    assert not any("<unk>" in text for text in texts[0] if text.count(" ") < 3)
    # with one subject the verb ends in s, with several it does not
    verb = "clean|read|serve|carve|feed|call|play|love|build|move|paint|polish|carry|lead|hear"
    for text in itertools.chain(*texts):
        one = re.search(rf"\b(this|every|a)( \w+)? \w+[^s] ({verb})(e?s)?\b", text)
        assert one is None or one[4] is not None, text
        many = re.search(rf"\b(two|these|many)( \w+)? \w+s ({verb})(e?s)?\b", text)
        assert many is None or many[4] is None, text
        assert not re.search(r"\ba [aeiou]", text)
    assert [data.third_person(verb) for verb in ("carry", "play", "copy")] == [
        "carries",
        "plays",
        "copies",
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files with the names of the Penn Treebank, plain and gzipped."""
    (tmp_path / "x.train.txt").write_text("the cat sat\n the dog sat \n\nthe cat ran away\n")
    (tmp_path / "x.valid.txt").write_text("a cat\nthe\n")
    (tmp_path / "x.test.txt.gz").write_bytes(gzip.compress(b"the dog\nthe the the the the\ncat\n"))
    return tmp_path


def test_folder_is_read(data: ModuleType, folder: Path) -> None:
    corpus = data.read_corpus(folder)
    assert corpus.vocabulary.words == ("</s>", "<unk>", "cat", "sat", "the")
    assert corpus.train.words.tolist() == [[4, 2, 3, 0, 0], [4, 1, 3, 0, 0], [4, 2, 1, 1, 0]]
    assert corpus.dev.words.tolist() == [[1, 2, 0], [4, 0, 0]]
    assert corpus.test.lengths.tolist() == [3, 6, 2]
    assert corpus.labels == ()
    assert corpus.train.labels is None
    short = data.read_corpus(folder, longest=3, most=1)
    assert [len(part) for part in short[:3]] == [1, 2, 2]


def test_single_file_is_split_alike_in_every_run(data: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "poems.tsv"
    path.write_text("".join(f"tune {i % 3}\tname\t字{i:03}　字\n" for i in range(100)))
    corpus = data.read_corpus(path, characters=True)
    texts = [[corpus.vocabulary.text(row) for row in part.words] for part in corpus[:3]]
    assert [len(part) for part in texts] == [90, 5, 5]
    assert sorted(itertools.chain(*texts)) == [f"字{i:03}字" for i in range(100)]
    again = data.read_corpus(path, characters=True)
    assert all(torch.equal(a.words, b.words) for a, b in zip(corpus[:3], again[:3], strict=True))
    held_out = {text[1:-1] for text in texts[1] + texts[2]}
    assert held_out != {f"{i:03}" for i in range(90, 100)}  # shuffled first
    assert corpus.labels == ()  # with two tabs there are none


def test_labels_are_read(data: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "reviews.txt"
    path.write_text("".join(f"{1 + i % 5}\tgood {'very ' * (i % 5)}food\n" for i in range(40)))
    corpus = data.read_corpus(path)
    assert corpus.labels == ("1", "2", "3", "4", "5")
    for part in corpus[:3]:
        assert torch.equal(part.labels, part.lengths - 3)


DAMAGE = [
    pytest.param("x.train.txt", None, "expected one file *train.txt, plain or .gz, found none"),
    pytest.param("y.train.txt", "b\n", "found x.train.txt, y.train.txt"),
    pytest.param("x.valid.txt", "", "x.valid.txt: expected lines of text, found an empty file"),
    pytest.param("x.valid.txt", " \n\n", "x.valid.txt: expected sentences, found blank lines only"),
    pytest.param(
        "x.test.txt.gz", gzip.compress(b"a\n", mtime=0), "at least 2 sentences to score, found 1"
    ),
    pytest.param("x.valid.txt", "a\n1\tb\n", "line 2: expected 0 tabs as in the first line, found"),
    pytest.param("x.train.txt", "1\ta\n1 b\n", "line 2: expected 1 tab as in the first line, fou"),
    pytest.param("x.train.txt", "1\ta\n1\t \n", "line 2: expected a sentence after the last tab"),
    pytest.param(
        "x.train.txt", "1\ta\n2\tb\n", "valid.txt, line 1: expected a label that training"
    ),
    pytest.param(
        "x.valid.txt", "1\ta\n2\tb\n", "valid.txt, line 1: expected no label, as in training"
    ),
    pytest.param("x.valid.txt", b"a\n\xff\n", "x.valid.txt, line 2: expected text in UTF-8"),
    pytest.param("x.test.txt.gz", b"no gzip", "x.test.txt.gz: expected a readable file, found"),
    pytest.param(
        "x.test.txt.gz",
        gzip.compress(b"a b\n" * 99, mtime=0)[:-9],
        "expected a readable file, found",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE)
def test_bad_data_ends_in_one_line(
    script: ModuleType,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | bytes | None,
    message: str,
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert_data_refused(script, capsys, [str(folder)], message)


def test_bad_file_or_bound_ends_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = folder / "few.txt"
    few.write_text("a b\n" * 39)
    for script in (load("sentence_vae"), load("vanishing_kl")):
        assert_data_refused(
            script, capsys, [str(folder / "nowhere")], "expected this file, plain or"
        )
        assert_data_refused(script, capsys, [str(few)], "expected at least 40 sentences, found 39")
        options = [str(folder), "--longest", "1"]
        assert_data_refused(
            script, capsys, options, "expected at least 2 sentences of at most 1 words to train on"
        )


def assert_data_refused(
    script: ModuleType, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    start = f"{script.PROGRAM}: error: "
    assert_one_line(script.main, ["--data", *options], capsys, start, message)


# The whole run


NUMBER = r"(-?\d+\.\d+)"


def rows(output: str, laws: tuple[str, ...]) -> dict[str, list[float]]:
    """NLL, reconstruction, KL, perplexity, tight NLL, tight perplexity of each law."""
    found = {}
    for law in laws:
        match = re.search(rf"^{law} +\d+{f' +{NUMBER}' * 6} +\d+$", output, re.M)
        assert match is not None, output
        found[law] = [float(text) for text in match.groups()]
    return found


@pytest.mark.parametrize("decoder", DECODERS)
def test_run(
    small: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    decoder: str,
) -> None:
    figure, record = tmp_path / "vae.png", tmp_path / "runs.jsonl"
    laws = LAWS if decoder == "standard" else ("gaussian", "vmf")
    options = [option for law in laws for option in ("--law", law)]
    options += ["--epochs", "1", "--decoder", decoder, "--output", str(figure)]
    assert small.main([*options, "--record", str(record)]) == 0
    output, bars = capsys.readouterr()
    tokens = small.made_corpus().test.tokens
    assert f"40 held-out sentences, {tokens:,} tokens" in output
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["law"] for line in lines] == list(laws)
    for (law, row), line in zip(rows(output, laws).items(), lines, strict=True):
        nll, reconstruction, kl, perplexity, tight_nll, tight_perplexity = row
        assert row == pytest.approx(list(line["scores"].values()), abs=0.0051)
        assert nll == pytest.approx(reconstruction + kl, abs=0.0151)
        assert perplexity == pytest.approx(math.exp(nll * 40 / tokens), rel=1e-3)
        assert tight_perplexity == pytest.approx(math.exp(tight_nll * 40 / tokens), rel=1e-3)
        assert kl >= 0
        assert tight_nll < nll + 0.3
        assert reconstruction < tokens / 40 * math.log(200)  # less than the uniform law would
        assert f"{law}:\n  held out, and decoded" in output
        assert line["decoder"] == decoder
        assert line["data"] == "made"
        assert len(line["history"]) == 1
    assert bars.count("100%") >= len(laws)
    assert figure.read_bytes().startswith(PNG)
    assert f"figure: {figure}" in output


def test_run_on_labelled_characters(
    small: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labelled.txt.gz"
    lines = "".join(f"{i % 2}\t{'yes no' if i % 2 else 'no。yes'}。\n" for i in range(60))
    path.write_bytes(gzip.compress(lines.encode()))
    options = ["--data", str(path), "--characters", "--law", "vmf:9", "--hidden", "8", "--dim", "3"]
    assert small.main([*options, "--epochs", "1", "--output", str(tmp_path / "a.svg")]) == 0
    output = capsys.readouterr().out
    assert "54 training sentences, 8 words" in output  # y e s n o 。 and the two marks
    assert "= no。yes。" in output or "= yesno。" in output


def test_run_goes_on_from_its_checkpoint(
    small: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(epochs: int, folder: Path, *options: str) -> str:
        output = str(tmp_path / "a.png")
        options = ("--law", "vmf", "--checkpoint", str(folder), *options, "--output", output)
        assert small.main(["--epochs", str(epochs), *options]) == 0
        # all but the seconds
        return re.sub(r" +\d+$", "", capsys.readouterr().out, flags=re.M)

    run(1, tmp_path / "one")
    assert run(2, tmp_path / "one") == run(2, tmp_path / "two")
    assert run(2, tmp_path / "one") == run(2, tmp_path / "two")  # once more, of the finished run
    assert small.main(["--dim", "3", "--law", "vmf", "--checkpoint", str(tmp_path / "one")]) == 2
    assert "it was saved with dim 4, this run has 3" in capsys.readouterr().err


def test_a_checkpoint_knows_its_data(
    small: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, record = tmp_path / "text.txt", tmp_path / "runs.jsonl"
    options = ["--data", str(path), "--law", "vmf", "--hidden", "8", "--dim", "3", "--epochs", "1"]
    options += ["--checkpoint", str(tmp_path / "runs"), "--output", str(tmp_path / "a.png")]
    options += ["--record", str(record)]
    path.write_text("yes no\nno yes\n" * 30)
    assert small.main(options) == 0
    path.write_text("yes no\nno no\n" * 30)  # as many sentences of as many words
    capsys.readouterr()
    assert small.main(options) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert "vmf.pt: it was saved with data " in error
    assert len(record.read_text().splitlines()) == 1


def test_a_law_is_taken_once(
    small: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "runs.jsonl"
    laws = ["--law", "vmf:9", "--law", "vmf:9.0", "--law", "vmf:9"]
    figure = ["--output", str(tmp_path / "a.png"), "--record", str(record), "--epochs", "1"]
    assert small.main([*laws, *figure]) == 0
    assert [json.loads(line)["law"] for line in record.read_text().splitlines()] == ["vmf:9"]
    assert list(rows(capsys.readouterr().out, ("vmf:9",))) == ["vmf:9"]


@pytest.mark.parametrize("law", ["vmf:10", "gaussian"])
def test_training_raises_the_bound(
    small: ModuleType, law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "LEARNING_RATE", 0.02)
    corpus = small.made_corpus()
    torch.manual_seed(0)
    vae = small.SentenceVAE(law, len(corpus.vocabulary), small.Widths(8, 16, 4))
    before = small.held_out_score(vae, corpus.test, 1).elbo.mean()
    small.train(
        vae,
        small.recipe(corpus, 6, seed=0, anneal=5),
        corpus.train,
        corpus.dev.batches(20),
        name="",
        where=small.Place(torch.device("cpu")),
    )
    assert small.held_out_score(vae, corpus.test, 1).elbo.mean() > before + 5


@pytest.mark.parametrize("name", ["sentence_vae", "vanishing_kl", "code_probes"])
def test_records_that_cannot_be_written_end_in_one_line(
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # before the training, not after it
    script = load(name)
    monkeypatch.setattr(script, "train", None)
    path = tmp_path / "nowhere" / "runs.jsonl"
    line = f"{name}.py: error: {path}: cannot be written: No such file or directory\n"
    assert_one_line(script.main, ["--record", str(path)], capsys, line)


# The vanishing KL


@pytest.fixture
def demonstration() -> ModuleType:
    return load("vanishing_kl")


def test_swapped_codes_are_those_of_others(demonstration: ModuleType) -> None:
    z = torch.arange(14.0).reshape(1, 7, 2).expand(3, 7, 2)
    for _ in range(50):
        swapped = demonstration.swap(z)
        assert torch.equal(swapped[0].sort(0).values, z[0])
        assert (swapped != z).all()


def test_a_decoder_that_ignores_its_codes_loses_nothing(
    demonstration: ModuleType, script: ModuleType, data: ModuleType
) -> None:
    batch, costs = sentences(data), []
    for ignores in (True, False):
        vae = make(script)
        if ignores:  # the last columns of the input weights are those of the code
            vae.decoder.weight_ih_l0.data[:, -3:] = 0
        use = demonstration.measure(vae, batch, draws=20)
        assert use.kl == pytest.approx(
            kl_divergence(vae.posterior(batch), vae.code.prior()).mean().item()
        )
        costs.append(use.cost)
    assert costs[0] == pytest.approx(0, abs=1e-5)
    assert abs(costs[1]) > 1e-3


def test_what_is_claimed(demonstration: ModuleType) -> None:
    use = demonstration.Use
    models = demonstration.trials(20.0, 800)
    assert [trial.law for trial in models.values()] == [
        *("gaussian", "gaussian", "batch-norm", "vmf:20", "vmf")
    ]
    vanished, used = use(0.09, 20.0, 20.09), use(0.11, 20.0, 21.01)
    hardly, hidden = use(0.11, 20.0, 20.99), use(0.09, 20.0, 20.11)
    claimed = demonstration.as_claimed
    for name, trial in models.items():
        expected = {"Gaussian": [True, False, False, False], "vMF, learned": [True] * 4}
        found = [claimed(trial, x) for x in (vanished, used, hardly, hidden)]
        assert found == expected.get(name, [False, True, False, False])


def test_untrained_models_end_in_exit_code_1(
    demonstration: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = demonstration.made_corpus(200, 40)
    monkeypatch.setattr(demonstration, "made_corpus", lambda: corpus)
    monkeypatch.setattr(demonstration, "WIDTHS_MADE", demonstration.Widths(8, 16, 4))
    figure, record = tmp_path / "a.png", tmp_path / "runs.jsonl"
    options = ["--epochs", "1", "--output", str(figure), "--record", str(record)]
    assert demonstration.main(options) == 1
    output = capsys.readouterr().out
    assert output.endswith("NOT AS CLAIMED\n")
    assert len(record.read_text().splitlines()) == 5
    assert figure.read_bytes().startswith(PNG)


def test_kl_of_the_gaussian_vanishes_and_fixed_codes_are_used(
    demonstration: ModuleType,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Two of the five models, few sentences and large steps: the others need the full run.
    corpus, trials = demonstration.made_corpus(400, 100), demonstration.trials
    monkeypatch.setattr(demonstration, "made_corpus", lambda: corpus)
    monkeypatch.setattr(demonstration, "WIDTHS_MADE", demonstration.Widths(16, 32, 8))
    monkeypatch.setattr(script, "LEARNING_RATE", 0.02)
    two = ("Gaussian", "vMF, fixed")
    monkeypatch.setattr(
        demonstration, "trials", lambda *options: {name: trials(*options)[name] for name in two}
    )
    options = ["--epochs", "30", "--concentration", "100", "--word-dropout", "0"]
    options += ["--output", str(tmp_path / "a.png")]
    assert demonstration.main(options) == 0
    output, bars = capsys.readouterr()
    assert output.endswith("\nas claimed\n")
    assert bars.count("30/30") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1"])
def test_kl_vanishes_and_remedies_work(
    demonstration: ModuleType, tmp_path: Path, seed: str
) -> None:
    assert demonstration.main(["--seed", seed, "--output", str(tmp_path / "a.png")]) == 0
