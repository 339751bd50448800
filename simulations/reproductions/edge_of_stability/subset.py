"""The tasks of ``reproduce edge-of-stability``: a thousand images less their mean brightness."""

from __future__ import annotations

from dataclasses import replace

from fedbias.randomness import SERVER, Purpose, generator

from ...data import Dataset, image_data
from ...settings import Settings
from ...tasks import TorchTask, image_task

EXAMPLES = 1000


def fashion_mnist(settings: Settings) -> TorchTask:
    """Images of clothes."""
    return image_task(
        _some(image_data("fashion-mnist", settings.data_root or None), settings.seed), settings
    )


def mnist(settings: Settings) -> TorchTask:
    """Handwritten digits, of the same shape."""
    return image_task(
        _some(image_data("mnist", settings.data_root or None), settings.seed), settings
    )


def _some(data: Dataset, seed: int) -> Dataset:
    """As many training examples as there shall be, drawn by the seed; all the test data.

    All pixels are shifted by the same number, the drawn ones' mean: it makes the loss less sharp at
    the start, so that there is more to see of how the sharpness rises.
    """
    rng = generator(seed, 0, SERVER, Purpose.DATA)
    drawn = rng.permutation(len(data.train_y))[:EXAMPLES]
    inputs = data.train_x[drawn]
    mean = inputs.mean()
    return replace(
        data, train_x=inputs - mean, train_y=data.train_y[drawn], test_x=data.test_x - mean
    )
