"""Sentences for the text models: made or read from files, as tensors, and decoded back into text.

**Files.** One sentence to a line, plain or gzipped. ``label<TAB>sentence`` gives each sentence a
label; with more tabs than one the sentence is what follows the last, and there are no labels.
Every line has to have as many tabs as the first. Blank lines are passed over.

**Tensors.** A word is a whole number: 0 the end marker, which is also what comes before the first
word, 1 the unknown word, and from 2 on the words of the vocabulary. Every position up to the end
marker is predicted, so a sentence of ten words counts eleven tokens.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from _options import DataError, read_lines

__all__ = [
    "END",
    "UNKNOWN",
    "Corpus",
    "Sentences",
    "Vocabulary",
    "beam",
    "decode",
    "drawn",
    "likeliest",
    "made_corpus",
    "of_similar_length",
    "read_corpus",
]

END, UNKNOWN = 0, 1
MARKS = ("</s>", "<unk>")  # the second is what the Penn Treebank has for rare words already
SPLIT_SEED = 2018  # of the split of a single file, the same whatever --seed says
FEWEST = 40  # sentences in a single file: 2 at least in each of its parts

# %%
# Words and sentences


class Vocabulary:
    """The words that a model knows, numbered."""

    def __init__(self, words: Iterable[str], characters: bool = False) -> None:
        """Number them, after the two marks.

        Args:
            words: each once.
            characters: whether they are characters, written without spaces between them.
        """
        self.words = (*MARKS, *(word for word in words if word not in MARKS))
        self.characters = characters
        # an end marker in a text is a word like any other, and not a known one
        self.numbers = {word: i for i, word in enumerate(self.words) if i != END}

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(cls, lines: Iterable[Line], most: int, characters: bool = False) -> Vocabulary:
        """The words seen twice or more, the most frequent ones if those are too many.

        The others become the unknown word, which a model so meets in training.
        """
        counts = Counter(word for line in lines for word in line.words)
        frequent = [word for word, count in counts.most_common(most) if count > 1]
        return cls(sorted(frequent), characters)

    def split(self, text: str) -> list[str]:
        """The words of a text."""
        return split(text, self.characters)

    def sentences(
        self, texts: Iterable[Sequence[str]], labels: Sequence[int] | None = None
    ) -> Sentences:
        """Texts, each already split into words, as tensors."""
        rows = [[self.numbers.get(word, UNKNOWN) for word in words] for words in texts]
        lengths = torch.tensor([len(row) + 1 for row in rows])
        words = torch.full((len(rows), int(lengths.max())), END)
        for row, numbers in zip(words, rows, strict=True):
            row[: len(numbers)] = torch.tensor(numbers)
        return Sentences(words, lengths, None if labels is None else torch.tensor(labels))

    def text(self, row: Tensor) -> str:
        """The words of a row up to the end marker, as text."""
        numbers = row.tolist()
        numbers = numbers[: numbers.index(END)] if END in numbers else numbers
        return ("" if self.characters else " ").join(self.words[i] for i in numbers)


@dataclass(frozen=True)
class Sentences:
    """Sentences as tensors; a tensor of indices selects a batch, no wider than its longest."""

    words: Tensor  # (n, longest), the end marker from the end of a sentence on
    lengths: Tensor  # (n,), end markers counted; always in the memory of the CPU
    labels: Tensor | None = None  # (n,)

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: Tensor) -> Sentences:
        lengths = self.lengths[index]
        labels = None if self.labels is None else self.labels[index]
        return Sentences(self.words[index, : int(lengths.max())], lengths, labels)

    def to(self, device: torch.device) -> Sentences:
        """The same sentences on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Sentences(self.words.to(device), self.lengths, labels)

    def mask(self) -> Tensor:
        """Where there is something to predict, shape (n, longest)."""
        places = torch.arange(self.words.shape[1]) < self.lengths[:, None]
        return places.to(self.words.device)

    @property
    def tokens(self) -> int:
        """How many predictions they ask for: words and end markers."""
        return int(self.lengths.sum())

    def batches(self, size: int) -> list[Sentences]:
        """All of them, the short ones first."""
        return [self[index] for index in self.lengths.argsort(stable=True).split(size)]


def of_similar_length(lengths: Tensor) -> Callable[[int, int], Sequence[Tensor]]:
    """Minibatches in random order whose sentences differ little in length: less padding."""

    def batches(count: int, size: int) -> Sequence[Tensor]:
        order = torch.randperm(count)
        order = order[lengths[order].argsort(stable=True)]  # at random among those of a length
        # as even as can be: a last one of a single sentence would have no batch statistics
        parts = order.tensor_split(math.ceil(count / size))
        return [parts[i] for i in torch.randperm(len(parts)).tolist()]

    return batches


# %%
# Files


class Line(NamedTuple):
    """A line of a file."""

    words: list[str]
    label: str | None
    where: str  # the file and the line, for messages


class Corpus(NamedTuple):
    """Sentences to train on, to watch, and to score, with what their numbers mean."""

    train: Sentences
    dev: Sentences
    test: Sentences
    vocabulary: Vocabulary
    labels: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Corpus:
        """The same corpus on a device."""
        train, dev, test = (part.to(device) for part in self[:3])
        return self._replace(train=train, dev=dev, test=test)


def read_corpus(
    path: Path,
    *,
    characters: bool = False,
    longest: int | None = None,
    most: int | None = None,
    vocabulary: int = 10_000,
) -> Corpus:
    """Read a corpus.

    Args:
        path: a folder with one file each whose name ends in train.txt, valid.txt and test.txt,
            plain or .gz; or one file, of which a twentieth each goes to dev and test, at random
            but alike in every run.
        characters: whether to split into characters rather than at spaces.
        longest: leave out sentences with more words.
        most: training sentences to keep, the first ones.
        vocabulary: of words at most.

    Raises:
        DataError: a file is missing or damaged, or a line is not what it should be.
    """
    if path.is_dir():
        parts = [read_text(find(path, f"{part}.txt"), characters) for part in PARTS]
    else:
        lines = read_text(path, characters)
        if len(lines) < FEWEST:
            raise DataError(f"{path}: expected at least {FEWEST} sentences, found {len(lines)}")
        random.Random(SPLIT_SEED).shuffle(lines)
        held_out = len(lines) // 20
        parts = [lines[2 * held_out :], lines[:held_out], lines[held_out : 2 * held_out]]
    bound = "" if longest is None else f" of at most {longest} words"
    if longest is not None:
        parts = [[line for line in lines if len(line.words) <= longest] for lines in parts]
    for name, lines in zip(PARTS, parts, strict=True):
        if len(lines) < 2:
            wanted = f"at least 2 sentences{bound} to {USES[name]}"
            raise DataError(f"{path}: expected {wanted}, found {len(lines)}")
    parts[0] = parts[0][:most]
    words = Vocabulary.of(parts[0], vocabulary, characters)
    labels = sorted({line.label for line in parts[0] if line.label is not None})
    train, dev, test = (
        words.sentences([line.words for line in lines], numbers_of(labels, lines))
        for lines in parts
    )
    return Corpus(train, dev, test, words, tuple(labels))


PARTS = ("train", "valid", "test")
USES = {"train": "train on", "valid": "watch the training", "test": "score"}


def find(folder: Path, ending: str) -> Path:
    """The one file of a folder whose name has an ending, plain or with .gz behind it."""
    found = sorted({*folder.glob(f"*{ending}"), *folder.glob(f"*{ending}.gz")})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder}: expected one file *{ending}, plain or .gz, found {names}")
    return found[0]


def read_text(path: Path, characters: bool) -> list[Line]:
    """Read the lines of a file."""
    path, texts = read_lines(path)
    lines: list[Line] = []
    expected = None
    for number, text in enumerate(texts, 1):
        where = f"{path}, line {number}"
        if not text.strip():
            continue
        *fields, sentence = text.split("\t")
        expected = len(fields) if expected is None else expected
        if len(fields) != expected:
            raise DataError(
                f"{where}: expected {expected} tab{'s' * (expected != 1)} as in the first line, "
                f"found {len(fields)}"
            )
        words = split(sentence, characters)
        if not words:
            raise DataError(f"{where}: expected a sentence after the last tab, found none")
        lines.append(Line(words, fields[0].strip() if expected == 1 else None, where))
    if not lines:
        raise DataError(f"{path}: expected sentences, found blank lines only")
    return lines


def split(text: str, characters: bool) -> list[str]:
    """The words of a text, or its characters without the spaces."""
    words = text.split()
    return [character for word in words for character in word] if characters else words


def numbers_of(labels: Sequence[str], lines: Sequence[Line]) -> list[int] | None:
    """The number of the label of each line; None if there are no labels."""
    if not labels:
        for line in lines:
            if line.label is not None:
                raise DataError(f"{line.where}: expected no label, as in training, found one")
        return None
    numbers = {label: i for i, label in enumerate(labels)}
    for line in lines:
        if line.label not in numbers:
            found = "none" if line.label is None else repr(line.label)
            raise DataError(f"{line.where}: expected a label that training has, found {found}")
    return [numbers[line.label] for line in lines if line.label is not None]


# %%
# Made sentences
#
# A small grammar. A sentence plays in one of a few scenes, whose people, deeds, things and places
# go together; the verb agrees with its subject. What is said of a scene is a matter of chance.


class Scene(NamedTuple):
    """Words that go together."""

    people: tuple[str, ...]
    deeds: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]


SCENES = tuple(
    Scene(*(tuple(part.split(", ")) for part in parts))
    for parts in (
        (
            "sailor, fisher, captain, diver",
            "paint, moor, clean, repair",
            "boat, net, sail, mast",
            "at the pier, on the beach, in the bay",
        ),
        (
            "cook, baker, waiter, guest",
            "taste, serve, carve, warm",
            "loaf, pie, soup, roast",
            "in the kitchen, at the table, by the stove",
        ),
        (
            "teacher, pupil, reader, poet",
            "read, copy, learn, explain",
            "poem, letter, page, story",
            "in the library, at school, by the window",
        ),
        (
            "farmer, shepherd, milkmaid, hunter",
            "feed, follow, call, lead",
            "goat, horse, lamb, hen",
            "in the meadow, behind the barn, near the well",
        ),
        (
            "singer, drummer, dancer, piper",
            "hear, play, practise, love",
            "song, waltz, march, tune",
            "on the stage, at the fair, in the hall",
        ),
        (
            "smith, mason, joiner, painter",
            "lift, build, move, polish",
            "wall, gate, bench, door",
            "in the workshop, beside the tower, across the street",
        ),
    )
)
ONE, MANY = ("the", "a", "this", "every"), ("the", "two", "these", "many")
QUALITIES = ("new", "young", "small", "tall", "quiet", "famous", "strange", "good")
TIMES = ("today", "at night", "every morning", "on sundays", "in summer", "before noon")


def made_line(rng: random.Random) -> Line:
    """A sentence of the grammar."""
    scene = rng.choice(SCENES)

    def phrase(noun: str) -> tuple[list[str], bool]:
        plural = rng.random() < 0.4
        quality = [rng.choice(QUALITIES)] if rng.random() < 0.5 else []
        number = "loaves" if noun == "loaf" else f"{noun}s"
        words = [rng.choice(MANY if plural else ONE), *quality, number if plural else noun]
        return words, plural

    subject, plural = phrase(rng.choice(scene.people))
    deed = rng.choice(scene.deeds)
    verb = deed if plural else f"{deed}es" if deed.endswith("sh") else third_person(deed)
    thing, _ = phrase(rng.choice(scene.things))
    place = rng.choice(scene.places).split() if rng.random() < 0.7 else []
    time = rng.choice(TIMES).split() if rng.random() < 0.6 else []
    early = bool(time) and rng.random() < 0.3
    words = [*subject, verb, *thing, *place]
    return Line([*time, ",", *words] if early else [*words, *time], None, "")


def third_person(verb: str) -> str:
    """The form of a verb that goes with one subject: carries, but plays."""
    return f"{verb[:-1]}ies" if verb[-1] == "y" and verb[-2] not in "aeiou" else f"{verb}s"


def made_corpus(train: int = 4000, held_out: int = 500) -> Corpus:
    """So many different sentences to train on, and as many each to watch and to score."""
    rng = random.Random(SPLIT_SEED)
    lines: dict[tuple[str, ...], Line] = {}
    while len(lines) < train + 2 * held_out:
        line = made_line(rng)
        lines[tuple(line.words)] = line
    every = list(lines.values())
    parts = every[:train], every[train : train + held_out], every[train + held_out :]
    words = Vocabulary.of(every[:train], most=10_000)
    return Corpus(*(words.sentences([line.words for line in part]) for part in parts), words)


# %%
# Decoding
#
# A model says in a step what may come next. A context is what it sees at every step: the code and
# what else there is. The state is the model's own, None at the start, a tuple of tensors whose
# second axis is that of the sentences.

State = tuple[Tensor, ...]
Step = Callable[[Tensor, Tensor, Any], tuple[Tensor, State]]


def likeliest(log_prob: Tensor) -> Tensor:
    """The most probable word of each sentence."""
    return log_prob.argmax(-1)


def drawn(log_prob: Tensor) -> Tensor:
    """A word of each sentence, drawn with its probability."""
    return log_prob.exp().multinomial(1).squeeze(-1)


@torch.no_grad()
def decode(
    step: Step, context: Tensor, longest: int, choose: Callable[[Tensor], Tensor] = likeliest
) -> Tensor:
    """Say a sentence for each context, word by word.

    Args:
        step: from the last words, shape (n,), contexts and state to log probabilities, shape
            (n, vocabulary), and the new state.
        context: shape (n, width).
        longest: the number of words after which a sentence is cut off.
        choose: :func:`likeliest` for greedy decoding, :func:`drawn` for a random draw.

    Returns:
        The words, shape (n, at most `longest`), the end marker from the end of a sentence on.
    """
    words = torch.full(context.shape[:1], END, device=context.device)
    ended = torch.zeros_like(words, dtype=torch.bool)
    said, state = [], None
    while len(said) < longest and not ended.all():
        log_prob, state = step(words, context, state)
        words = choose(log_prob).masked_fill(ended, END)
        ended = ended | (words == END)
        said.append(words)
    return torch.stack(said, dim=-1)


@torch.no_grad()
def beam(step: Step, context: Tensor, longest: int, width: int = 10) -> Tensor:
    """Say the most probable sentence for each context that a beam search finds.

    At every length the `width` most probable beginnings are kept; a sentence that has ended stays
    among them while its probability is high enough. No sentence is favoured for its length, so that
    a search with hundreds of beginnings may well find the empty one.

    Args:
        step: as for :func:`decode`.
        context: as for :func:`decode`.
        longest: as for :func:`decode`.
        width: how many beginnings to keep; 1 makes the search greedy.

    Returns:
        The words, as :func:`decode` returns them.
    """
    n, device = len(context), context.device
    context = context.repeat_interleave(width, 0)
    said = torch.full((n, width, 1), END, device=device)
    total = torch.full((n, width), -torch.inf, device=device)
    total[:, 0] = 0  # all beams begin alike: the others would be copies
    ended = torch.zeros(n, width, dtype=torch.bool, device=device)
    state = None
    for _ in range(longest):
        log_prob, state = step(said[..., -1].flatten(), context, state)
        log_prob = log_prob.reshape(n, width, -1)
        nothing_more = torch.full_like(log_prob[0, 0], -torch.inf)
        nothing_more[END] = 0
        log_prob = torch.where(ended[..., None], nothing_more, log_prob)
        total, place = (total[..., None] + log_prob).flatten(1).topk(width)
        origin, word = place // log_prob.shape[-1], place % log_prob.shape[-1]
        said = torch.cat([said.take_along_dim(origin[..., None], 1), word[..., None]], -1)
        ended = ended.take_along_dim(origin, 1) | (word == END)
        rows = (torch.arange(n, device=device)[:, None] * width + origin).flatten()
        state = tuple(part[:, rows] for part in state)
        if ended[:, 0].all():  # what is behind can only fall further
            break
    return said[:, 0, 1:]
