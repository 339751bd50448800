"""Networks that the tasks train, as settings: ``mlp(hidden=128, layers=2)``.

torch is imported when a network is built, not before.
"""

from __future__ import annotations

import importlib
from math import prod
from typing import TYPE_CHECKING, Any

from fedbias import checks
from fedbias.notation import setting
from fedbias.randomness import SERVER, Purpose, generator

if TYPE_CHECKING:
    from torch import Tensor, nn


class Model:
    """A network for examples of any shape that it can take."""

    def build(self, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
        """Make the network with torch's usual initial weights, drawn from ``seed`` alone.

        Parameters
        ----------
        shape : tuple of int
            The shape of one example, (channels, height, width) for images.
        classes : int
            The number of outputs (logits).
        seed : int
            The run's seed; torch's global random state stays as it was.

        Returns
        -------
        torch.nn.Module
            On the CPU, in torch's default dtype.

        Raises
        ------
        ValueError
            If the network cannot take such examples.
        ImportError
            If torch or torchvision is missing; the sentence names the extra.
        """
        checks.whole("model", "classes", classes, least=1)
        for size in shape:
            checks.whole("model", "shape", size, least=1)
        torch = _module("torch", extra="torch")
        stream = generator(seed, 0, SERVER, Purpose.MODEL)
        # On the CPU alone: weights must not depend on the device, nor seeding touch its generator.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(int(stream.integers(2**63)))
            return self._network(shape, classes)

    def _network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        raise NotImplementedError


@setting("linear")
class Linear(Model):
    """Logistic regression: one linear layer."""

    def _network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


@setting("mlp")
class Mlp(Model):
    """Fully connected layers with ReLU between them.

    Attributes
    ----------
    hidden : int
        The width of each hidden layer.
    layers : int
        The number of hidden layers.
    """

    hidden: int = 32
    layers: int = 1

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        checks.whole("mlp", "hidden", self.hidden, least=1)
        checks.whole("mlp", "layers", self.layers, least=1)

    def _network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        parts: list[nn.Module] = [nn.Flatten()]
        width = prod(shape)
        for _ in range(self.layers):
            parts += [nn.Linear(width, self.hidden), nn.ReLU()]
            width = self.hidden
        return nn.Sequential(*parts, nn.Linear(width, classes))


@setting("fcnn")
class Fcnn(Model):
    """Two hidden layers of 512: 784-512-512-10 for MNIST, 669,706 parameters."""

    def _network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        return Mlp(hidden=512, layers=2)._network(shape, classes)


@setting("cnn")
class Cnn(Model):
    """Two 5×5 convolutions (16, 32), ReLU and 2×2 max-pooling behind each, one linear layer.

    Padding keeps height and width, so 28×28 images arrive as 7×7 and 8×8 images as 2×2.
    """

    def _network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        channels, height, width = _image("cnn", shape, least=4)
        return nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), classes),
        )


@setting("resnet18")
class ResNet18(Model):
    """torchvision's ResNet-18: 11,181,642 parameters for 10 classes.

    A grey image is taken as a coloured one whose three channels are equal.

    Attributes
    ----------
    flips : bool
        Whether images are mirrored in training, each with probability ½ at every pass, as in
        arXiv 2403.00853; drawn from torch's generator, like dropout.
    """

    flips: bool = False

    def __post_init__(self) -> None:
        """Refuse what is neither true nor false."""
        checks.instance("resnet18", "flips", self.flips, bool, "True")

    def _network(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        channels, _, _ = _image("resnet18", shape, least=1)
        if channels not in (1, 3):
            raise ValueError(f"resnet18() takes images of 1 or 3 channels, not the shape {shape}")
        models = _module("torchvision.models", extra="vision")
        network: nn.Module = models.resnet18(num_classes=classes)
        if channels == 1:
            # Hooks, not wrapping modules: the parameters keep torchvision's names.
            network.register_forward_pre_hook(_grey_to_colour)
        if self.flips:
            network.register_forward_pre_hook(_flip)
        return network


# As they are spelled in the notation.
linear = Linear
mlp = Mlp
fcnn = Fcnn
cnn = Cnn
resnet18 = ResNet18


def _grey_to_colour(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return inputs[0].expand(-1, 3, -1, -1)


def _flip(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    import torch

    (images,) = inputs
    if not module.training:
        return images
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def _image(owner: str, shape: tuple[int, ...], least: int) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ValueError(
            f"{owner}() takes images of shape (channels, height, width), at least "
            f"{least}×{least}, not the shape {shape}"
        )
    return shape[0], shape[1], shape[2]


def _module(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch: RuntimeError
        raise ImportError(
            f"this network needs {name.split('.')[0]}: install fedbias with the extra `{extra}` "
            f"({(str(error).splitlines() or ['no reason given'])[0]})"
        ) from error
