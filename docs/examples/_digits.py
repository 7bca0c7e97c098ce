"""What the examples on images share: digits in black and white, and networks of their size.

scikit-learn's digits come with that package. MNIST is read from the four files in which it is
published, plain or gzipped, and refused in one line if anything about them is not as it should be.
"""

from __future__ import annotations

import math
import struct
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from _options import DataError, read_bytes

__all__ = [
    "HIDDEN",
    "Digits",
    "binarise",
    "binarise_once",
    "mlp",
    "mnist",
    "sklearn_digits",
]

HIDDEN = (256, 128)  # the encoder's hidden layers; the decoder mirrors them
DATA_SEED = 2018  # splits and held-out binarisation, the same whatever --seed says

# %%
# Networks


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with SiLU between them, initialised so that signals keep their size."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.SiLU()]
    return nn.Sequential(*layers[:-1])


# %%
# Data


class Digits(NamedTuple):
    """Images with a row each, pixels in [0, 1]; no model here is trained on the labels."""

    train: Tensor
    dev: Tensor  # watched during training, never trained on
    test: Tensor
    test_labels: Tensor
    train_labels: Tensor


def binarise(images: Tensor) -> Tensor:
    """Black and white images, each pixel white with the probability of its brightness."""
    return (images > torch.rand_like(images)).to(images.dtype)


def binarise_once(images: Tensor) -> Tensor:
    """The same, but alike in every call and every run."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    return (images > torch.rand(images.shape, generator=generator)).to(images.dtype)


def sklearn_digits() -> Digits:
    """scikit-learn's 1,797 digits of 8 x 8 pixels: 1,297 to train, 200 dev, 300 held out."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.data), generator=torch.Generator().manual_seed(DATA_SEED))
    images = torch.as_tensor(bunch.data, dtype=torch.float32)[order] / 16
    train, dev, test = images.split([len(images) - 500, 200, 300])
    labels = torch.as_tensor(bunch.target)[order]
    return Digits(train, dev, test, labels[-300:], labels[:-500])


def mnist(folder: Path, dev: int = 10_000) -> Digits:
    """MNIST, or a set with its format; the last `dev` training images are the dev set."""
    images, labels = labelled_images(folder, "train")
    test, test_labels = labelled_images(folder, "t10k")
    if len(images) <= dev:
        raise DataError(
            f"{folder / 'train-images-idx3-ubyte'}: expected more than {dev:,} images, the last "
            f"{dev:,} of them to watch the training, found {len(images):,}"
        )
    return Digits(images[:-dev], images[-dev:], test, test_labels, labels[:-dev])


def labelled_images(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """The images of one part of MNIST, in [0, 1] with a row each, and their labels."""
    image_path, images = read_idx(folder, f"{part}-images-idx3-ubyte", dimensions=3)
    label_path, labels = read_idx(folder, f"{part}-labels-idx1-ubyte", dimensions=1)
    if images.shape[1:] != (28, 28):
        size = " x ".join(map(str, images.shape[1:]))
        raise DataError(f"{image_path}: expected images of 28 x 28 pixels, found {size}")
    if len(labels) != len(images):
        raise DataError(
            f"{label_path}: expected {len(images):,} labels, one for each image of "
            f"{image_path.name}, found {len(labels):,}"
        )
    if labels.max() > 9:
        raise DataError(f"{label_path}: expected labels from 0 to 9, found {labels.max()}")
    return images.flatten(1).float() / 255, labels.long()


def read_idx(folder: Path, name: str, dimensions: int) -> tuple[Path, Tensor]:
    """Read an idx file of unsigned bytes, plain or with .gz behind its name.

    The header holds a magic number, 0x08 for unsigned bytes followed by the number of dimensions,
    and the length of each dimension, all of them big-endian and of four bytes.

    Raises:
        DataError: the file is missing, unreadable, too short, too long or of another kind.
    """
    path, content = read_bytes(folder / name)
    magic, header = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if content[:4] != magic:
        found = f"0x{content[:4].hex()}" if content else "an empty file"
        raise DataError(f"{path}: expected the magic number 0x{magic.hex()}, found {found}")
    if len(content) < header:
        raise DataError(f"{path}: expected a header of {header} bytes, found {len(content)} bytes")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    lengths = " x ".join(map(str, shape))
    if 0 in shape:
        raise DataError(f"{path}: expected at least one entry, found the dimensions {lengths}")
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: expected {lengths} = {math.prod(shape):,} bytes after the header, "
            f"found {len(content) - header:,}"
        )
    return path, torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(shape)
