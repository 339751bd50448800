"""Labelled examples for the tasks: digits from scikit-learn, MNIST and Fashion-MNIST from files.

Every data set comes as a train and a test part with float32 inputs in [0, 1] and int64 labels.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedbias import checks
from fedbias.randomness import SERVER, Purpose, generator

from .idx import DataError, read_idx

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
DEBIAN = Path("/usr/share/datasets")
CACHE = Path(os.path.expanduser("~"), ".cache", "fedbias")
_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # its classes and folders


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled examples in a train and a test part.

    Attributes
    ----------
    train_x, test_x : ndarray of float32
        Shape (n, channels, height, width) for images; pixels scaled to [0, 1].
    train_y, test_y : ndarray of int64
        Shape (n,); labels 0, …, classes − 1.
    classes : int
        The number of classes.
    name : str
        What the data set is called on the command line.
    """

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]
    classes: int
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.train_x.shape[1:]


def digits(seed: int = 0) -> Dataset:
    """Scikit-learn's 1797 handwritten digits, 8×8 pixels, with every fifth of each class as test.

    Parameters
    ----------
    seed : int
        Which split; a run leaves it alone, so runs with different seeds share their test part.

    Raises
    ------
    ImportError
        If scikit-learn is not installed; the sentence names the extra.
    """
    try:
        source: Any = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError(
            "digits needs scikit-learn: install fedbias with the extra `simulation`"
        ) from error
    images, labels = source.load_digits(return_X_y=True)
    x = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    y = labels.astype(np.int64)
    test = _every_fifth(y, seed)
    return Dataset(x[~test], y[~test], x[test], y[test], classes=10, name="digits")


def _every_fifth(labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Mark one fifth of the examples, at random, and of each class as nearly as can be."""
    order = generator(seed, 0, SERVER, Purpose.DATA).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    mask = np.zeros(len(labels), dtype=np.bool_)
    mask[order[::5]] = True
    return mask


def image_data(name: str, data_root: str | os.PathLike[str] | None = None) -> Dataset:
    """MNIST or Fashion-MNIST: 60,000 + 10,000 grey images of 28×28 pixels in 10 classes.

    Parameters
    ----------
    name : str
        ``mnist`` or ``fashion-mnist``.
    data_root : path-like, optional
        The folder that holds the four IDX files, in itself, in ``name`` or in torchvision's
        layout; nothing else is searched then. Without it: Debian's package, then what torchvision
        downloaded before, then a download by torchvision.

    Raises
    ------
    DataError
        If the files are nowhere to be found (the sentence lists where it looked and what to do),
        or are not what they should be.
    """
    checks.choice("image_data", "name", name, tuple(_TORCHVISION))
    train_images, train_labels, test_images, test_labels = _locate(name, data_root)
    train_x, train_y = _labelled_images(train_images, train_labels)
    test_x, test_y = _labelled_images(test_images, test_labels)
    return Dataset(train_x, train_y, test_x, test_y, classes=10, name=name)


def _locate(name: str, data_root: str | os.PathLike[str] | None) -> list[Path]:
    downloaded = CACHE / _TORCHVISION[name] / "raw"
    if data_root is None:
        places = [DEBIAN / name, downloaded]
    else:
        root = Path(os.path.abspath(os.path.expanduser(data_root)))
        places = [root, root / name, root / _TORCHVISION[name] / "raw"]
    for place in places:
        if files := _four_files(place):
            return files
    listed = ", ".join(str(place) for place in places)
    looked = f"{name}: expected {', '.join(FILES)} (.gz or not), found no such four in {listed}"
    if data_root is not None:
        raise DataError(f"{looked}; point `--data-root` at the folder that holds them")
    failure = _download(name)
    if files := _four_files(downloaded):
        return files
    package = "run `apt-get install dataset-fashion-mnist`, " if name == "fashion-mnist" else ""
    raise DataError(
        f"{looked}; {package}name their folder with `--data-root DIR`, or install fedbias with "
        f"the extra `vision` to download them ({failure})"
    )


def _four_files(folder: Path) -> list[Path]:
    """Find the four files, in the order of FILES; nothing if one of them is missing."""
    found = []
    for name in FILES:
        spellings = (name, name.replace("-idx", ".idx"))
        paths = (folder / f"{spelling}{end}" for spelling in spellings for end in ("", ".gz"))
        found += [path for path in paths if os.path.isfile(path)][:1]
    return found if len(found) == len(FILES) else []


def _download(name: str) -> str:
    """Let torchvision fill the cache; returns what went wrong, in words."""
    try:
        vision: Any = importlib.import_module("torchvision.datasets")
    except Exception as error:  # one built for another torch fails with more than ImportError
        return f"torchvision cannot be imported: {_first_line(error)}"
    try:
        getattr(vision, _TORCHVISION[name])(str(CACHE), download=True)
    except (OSError, RuntimeError) as error:
        return f"torchvision's download failed: {_first_line(error)}"
    return "torchvision's download left files out"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _labelled_images(images: Path, labels: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    pixels = read_idx(images, (None, 28, 28), np.uint8)
    y = read_idx(labels, (None,), np.uint8)
    if len(y) != len(pixels):
        raise DataError(
            f"{labels}: found {len(y)} labels, expected {len(pixels)}, one for each image in "
            f"{images.name}"
        )
    if y.max() >= 10:
        raise DataError(f"{labels}: found the label {y.max()}, expected labels below 10")
    x = pixels[:, np.newaxis].astype(np.float32)
    x /= 255
    return x, y.astype(np.int64)
