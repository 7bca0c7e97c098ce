"""Documents as bags of words for the examples: read from files, or made.

**Files.** A folder holds ``train.feat`` and ``vocab.new``, plain or with .gz behind their names. A
line of the first is a document, ``label id:count id:count ...``; the first id is 1, and line 1 of
``vocab.new`` begins with its word.

**Made documents** come by latent Dirichlet allocation: a document draws its shares of eight topics,
and each word from a topic by these shares or from the words that all topics have in common.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from _options import DataError, read_lines

__all__ = [
    "TOPICS",
    "Documents",
    "made_documents",
    "made_words",
    "parse_document",
    "read_documents",
    "read_vocabulary",
]

# %%
# Documents


class Documents:
    """Bags of words, kept without the words that they lack; a minibatch of them is dense."""

    def __init__(
        self, labels: Tensor, sizes: Tensor, ids: Tensor, counts: Tensor, vocabulary: int
    ) -> None:
        """Keep them.

        Args:
            labels: of each document, shape (n,).
            sizes: the number of different words of each document, shape (n,).
            ids: of the words of the first document, the second and so on, from 0.
            counts: of the same words, in the same order.
            vocabulary: the number of words that there are.
        """
        self.labels, self.sizes, self.ids, self.counts = labels, sizes, ids, counts
        self.starts, self.vocabulary = sizes.cumsum(0) - sizes, vocabulary

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.sizes)

    def __getitem__(self, index: Tensor) -> Tensor:
        """The counts of all words in these documents, shape (len(index), vocabulary)."""
        row, entry = self.entries(index)
        batch = torch.zeros(len(index), self.vocabulary, device=self.ids.device)
        batch[row, self.ids[entry]] = self.counts[entry]
        return batch

    def entries(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The place in `index` and the place in `ids` of each word of these documents."""
        index = index.to(self.ids.device)
        sizes = self.sizes[index]
        row = torch.arange(len(index), device=index.device).repeat_interleave(sizes)
        shift = self.starts[index] - (sizes.cumsum(0) - sizes)
        return row, torch.arange(len(row), device=index.device) + shift[row]

    def select(self, index: Tensor) -> Documents:
        """These documents."""
        _, entry = self.entries(index)
        parts = self.labels[index], self.sizes[index], self.ids[entry], self.counts[entry]
        return Documents(*parts, self.vocabulary)

    def batches(self, size: int) -> list[Tensor]:
        """The indices of all documents in order, a number at a time."""
        return list(torch.arange(len(self)).split(size))

    def dense(self, size: int) -> Iterator[Tensor]:
        """The counts of all documents in order, a number of documents at a time."""
        return (self[index] for index in self.batches(size))

    def lengths(self) -> Tensor:
        """The number of words of each document, shape (n,)."""
        return torch.stack([x.sum() for x in self.counts.double().split(self.sizes.tolist())])

    def frequencies(self) -> Tensor:
        """The share of each word in all documents, each counted once more so that none is 0."""
        counts = torch.bincount(self.ids, self.counts.double(), self.vocabulary) + 1
        return counts / counts.sum()

    def to(self, device: torch.device) -> Documents:
        """The same on a device."""
        parts = (x.to(device) for x in (self.labels, self.sizes, self.ids, self.counts))
        return Documents(*parts, self.vocabulary)


# %%
# Files


def read_vocabulary(path: Path) -> list[str]:
    """Read the words, the first of each line; what follows them is not read."""
    path, lines = read_lines(path)
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        word = line.split(maxsplit=1)[0] if line.strip() else ""
        if not word:
            raise DataError(f"{path}, line {number}: expected a word, found an empty line")
        if word in seen:
            raise DataError(
                f"{path}, line {number}: expected a new word, found {word!r} of line {seen[word]}"
            )
        seen[word] = number
    return list(seen)


def read_documents(path: Path, vocabulary: int) -> tuple[Path, Documents]:
    """Read documents, a line each: a label, and the id and count of each of its words."""
    path, lines = read_lines(path)
    labels, sizes, ids, counts = array("q"), array("q"), array("q"), array("f")
    for number, line in enumerate(lines, 1):
        try:
            label, words = parse_document(line, vocabulary)
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        labels.append(label)
        sizes.append(len(words))
        ids.extend(words)
        counts.extend(words.values())
    whole = (torch.tensor(x, dtype=torch.long) for x in (labels, sizes, ids))
    return path, Documents(*whole, torch.tensor(counts), vocabulary)


LABEL = re.compile(r"-?\d{1,9}", re.ASCII)
PAIR = re.compile(r"(\d{1,9}):(\d{1,9})", re.ASCII)


def parse_document(line: str, vocabulary: int) -> tuple[int, dict[int, int]]:
    """The label of a line, and the counts of its words by their ids, counted from 0."""
    label, *pairs = line.split() or [""]
    if not LABEL.fullmatch(label):
        found = f"found {label!r}" if label else "found an empty line"
        raise DataError(f"expected a label first, a whole number, {found}")
    if not pairs:
        raise DataError("expected the words of a document, id:count, after its label; found none")
    words: dict[int, int] = {}
    for pair in pairs:
        match = PAIR.fullmatch(pair)
        if match is None:
            raise DataError(f"expected id:count, two whole numbers, found {pair!r}")
        word, count = int(match[1]), int(match[2])
        if not 1 <= word <= vocabulary:
            raise DataError(
                f"expected an id from 1 to {vocabulary:,}, as many as there are words in the "
                f"vocabulary, found {pair!r}"
            )
        if count == 0:
            raise DataError(f"expected a count of at least 1, found {pair!r}")
        if word - 1 in words:
            raise DataError(f"expected each id once, found {word} again in {pair!r}")
        words[word - 1] = count
    return int(label), words


# %%
# Made documents

TOPICS = """\
oven pan flour butter onion soup recipe knife salt sugar bread plate
rain wind cloud snow storm sun fog frost thunder forecast breeze umbrella
goal match team ball player referee score coach stadium league penalty whistle
piano song concert violin choir drum melody singer chord orchestra tune rhythm
train ticket station platform luggage bus hotel map passport journey airport suitcase
seed soil rose spade lawn hedge tulip weed compost blossom bulb rake
bank loan price tax debt wage budget coin profit market invoice savings
boat wave harbour sail tide anchor fish net beach gull lighthouse captain"""
COMMON = """\
time day people year good old new long way place thing home small great week friend
house morning evening again often today early late"""
SHARE_OF_COMMON = 0.3
EVENNESS = 0.15  # of the shares of the topics: the smaller, the fewer topics has a document
SHORTEST, LONGEST = 10, 70  # words


def made_words() -> list[str]:
    """The vocabulary of made documents."""
    return [word for topic in TOPICS.splitlines() for word in topic.split()] + COMMON.split()


def made_documents(count: int, rng: np.random.Generator) -> tuple[Documents, np.ndarray]:
    """Documents, and the probability of each word in each of them."""
    shares = rng.dirichlet([EVENNESS] * len(TOPICS.splitlines()), count)
    law = shares @ word_laws()
    lengths = rng.integers(SHORTEST, LONGEST, count, endpoint=True)
    counts = rng.multinomial(lengths, law)
    row, ids = counts.nonzero()
    parts = shares.argmax(1) + 1, (counts > 0).sum(1), ids, counts[row, ids]
    labels, sizes, ids, counts = (torch.as_tensor(x) for x in parts)
    return Documents(labels, sizes, ids, counts.float(), law.shape[1]), law


def word_laws() -> np.ndarray:
    """The probability of each word in each topic, shape (topics, words), falling along a list."""
    topics = [len(topic.split()) for topic in TOPICS.splitlines()]
    common = falling(len(COMMON.split()))
    laws = np.zeros((len(topics), sum(topics) + len(common)))
    for k, size in enumerate(topics):
        start = sum(topics[:k])
        laws[k, start : start + size] = (1 - SHARE_OF_COMMON) * falling(size)
        laws[k, -len(common) :] = SHARE_OF_COMMON * common
    return laws


def falling(count: int) -> np.ndarray:
    """Probabilities by Zipf's law."""
    weights = 1 / np.arange(1, count + 1)
    return weights / weights.sum()
