"""MNIST as LeCun, Cortes and Burges published it: four IDX files, 60,000 digits to learn from and 10,000 to test with.

The writers are in no file: each image is its own patient.
"""

import gzip
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomnode.errors import ConfigError
from dicomnode.inference.preprocess import Step, prepare
from dicomnode.training.data import ImageSet, OnLoad, Sample, collect

FILES = {
    "mnist/train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "mnist/train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "mnist/t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "mnist/t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""The published MD5 of each file."""
NAMES = tuple("0123456789")
VALIDATION_SHARE = 12  # one in twelve: 5,000 of 60,000
SPLIT_SEED = 0


def mnist(
    root: Path, steps: Sequence[Step], progress: OnLoad, published: Mapping[str, str] = FILES
) -> dict[str, ImageSet]:
    """Return the digits of `root`/mnist by split: 55,000 / 5,000 by a fixed seed, and the 10,000 of the test."""
    images, labels, test_images, test_labels = (_read(root / name, md5) for name, md5 in published.items())
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    splits = np.full(len(images), "train", dtype="<U5")
    splits[order[: len(images) // VALIDATION_SHARE]] = "val"
    pixels, numbers = np.concatenate([images, test_images]), np.concatenate([labels, test_labels])
    return collect(_samples(pixels, numbers, steps, progress), [*splits.tolist(), *["test"] * len(test_images)])


def _samples(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], steps: Sequence[Step], progress: OnLoad
) -> Iterator[Sample]:
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        yield Sample(prepare(image.astype(np.float32) / 255, steps), int(label), str(number))
        if number % 1000 == 999:
            progress(number + 1, len(pixels))


def _read(file: Path, md5: str) -> NDArray[np.uint8]:
    if not file.is_file():
        raise ConfigError(f"{file}: the training data is not there; name its folder with --data")
    data = file.read_bytes()
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ConfigError(f"{file}: MD5 is {found}, the published file has {md5}: fetch it again")
    return idx(gzip.decompress(data), str(file))


def idx(data: bytes, source: str) -> NDArray[np.uint8]:
    """Return the array in `data`, an IDX file: two zeros, type 8, the number of dimensions, each one, the bytes."""
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise ConfigError(f"{source}: is no IDX file of bytes")
    shape = tuple(np.frombuffer(data, ">u4", data[3], 4).tolist())
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if values.size != int(np.prod(shape)):
        raise ConfigError(f"{source}: holds {values.size} values, its header says {shape}")
    return values.reshape(shape)
