import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedbias.notation import names, parse
from simulations import models
from simulations.models import Model, cnn, fcnn, linear, mlp, resnet18
from tests.tools.torchvision_schemas import import_torchvision

torch = pytest.importorskip("torch")

SMALL = [linear(), mlp(), mlp(hidden=5, layers=3), fcnn(), cnn()]


@pytest.fixture(scope="module")
def torchvision():
    """Import torchvision; one built for another torch needs the schemas of two operators."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return import_torchvision()


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_names_and_spelling():
    assert names(Model) == ["cnn", "fcnn", "linear", "mlp", "resnet18"]
    assert parse("mlp(hidden=128, layers=2)", Model) == mlp(hidden=128, layers=2)
    assert [repr(model) for model in SMALL[:2]] == ["linear()", "mlp()"]


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        (linear(), (1, 28, 28), 7850),  # 784·10 + 10
        (linear(), (57,), 580),
        (mlp(), (1, 8, 8), 2410),  # 64·32 + 32 + 32·10 + 10
        (mlp(hidden=128, layers=2), (1, 28, 28), 118282),  # 100480 + 16512 + 1290
        (fcnn(), (1, 28, 28), 669706),  # 784-512-512-10
        (cnn(), (1, 28, 28), 28938),  # 416 + 12832 + 1568·10 + 10
        (cnn(), (1, 8, 8), 14538),  # 416 + 12832 + 128·10 + 10
        (cnn(), (3, 32, 32), 34538),  # 1216 + 12832 + 2048·10 + 10
    ],
    ids=lambda value: repr(value),
)
def test_parameters_counted_by_hand(model, shape, count):
    assert parameters(model.build(shape, 10, seed=0)) == count


@pytest.mark.parametrize("model", SMALL, ids=repr)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 5, 7)])
def test_one_row_of_logits_per_example(model, shape):
    network = model.build(shape, 7, seed=0)
    inputs = torch.arange(4.0)[:, None, None, None].expand(4, *shape) / 4
    outputs = network(inputs)
    assert outputs.shape == (4, 7) and outputs.dtype == torch.float32
    torch.testing.assert_close(network(inputs[2:3]), outputs[2:3])  # examples do not mix


def test_linear_is_linear_and_mlp_is_relu():
    x = torch.linspace(-1, 1, 6).reshape(1, 1, 2, 3)
    weight, bias = linear().build((1, 2, 3), 4, seed=0).parameters()
    expected = x.flatten(1) @ weight.T + bias
    torch.testing.assert_close(linear().build((1, 2, 3), 4, seed=0)(x), expected)
    network = mlp(hidden=5).build((1, 2, 3), 4, seed=0)
    first, first_bias, second, second_bias = network.parameters()
    hidden = (x.flatten(1) @ first.T + first_bias).clamp(min=0)
    torch.testing.assert_close(network(x), hidden @ second.T + second_bias)


@pytest.mark.parametrize("model", SMALL, ids=repr)
def test_weights_come_from_the_seed_alone(model):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = weights(model.build((1, 8, 8), 10, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(weights(model.build((1, 8, 8), 10, seed=3)), one)
    assert not torch.equal(weights(model.build((1, 8, 8), 10, seed=4)), one)


def test_random_state_survives_a_refusal():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="cnn"):
        cnn().build((64,), 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("model", [cnn(), resnet18()], ids=repr)
@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 1, 8, 8)])
def test_images_have_three_dimensions(model, shape):
    with pytest.raises(ValueError, match=r"\(channels, height, width\).*not the shape"):
        model.build(shape, 10, seed=0)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="at least 4×4"):
        cnn().build((1, 3, 8), 10, seed=0)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        resnet18().build((2, 8, 8), 10, seed=0)
    with pytest.raises(ValueError, match="mlp: hidden must be a whole number >= 1, not 0"):
        mlp(hidden=0)
    with pytest.raises(ValueError, match="mlp: layers must be a whole number >= 1, not 1.5"):
        mlp(layers=1.5)
    with pytest.raises(ValueError, match="classes"):
        linear().build((4,), 0, seed=0)
    with pytest.raises(ValueError, match="shape"):
        linear().build((4, 0), 10, seed=0)


@pytest.mark.parametrize(
    ("model", "module", "extra"),
    [(linear(), "torch", "torch"), (resnet18(), "torchvision.models", "vision")],
)
def test_a_missing_library_names_its_extra(monkeypatch, model, module, extra):
    found = importlib.import_module

    def without(name):
        if name == module:
            raise ImportError(f"No module named {name!r}")
        return found(name)

    monkeypatch.setattr(models.importlib, "import_module", without)
    with pytest.raises(ImportError, match=f"needs {module.split('.')[0]}: .* `{extra}`"):
        model.build((1, 8, 8), 10, seed=0)


def test_torch_is_not_imported_before_a_network_is_built():
    script = (
        "import sys; from simulations import models, data; models.mlp(hidden=3); "
        "print(sorted({'torch', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_resnet18(torchvision):
    network = resnet18().build((1, 28, 28), 10, seed=0).eval()
    assert parameters(network) == 11_181_642
    assert torch.equal(weights(network), weights(resnet18().build((3, 28, 28), 10, seed=0)))
    grey = torch.linspace(0, 1, 2 * 784).reshape(2, 1, 28, 28)
    coloured = torchvision.models.resnet18(num_classes=10)
    coloured.load_state_dict(network.state_dict())
    coloured.eval()
    assert torch.equal(network(grey), coloured(grey.repeat(1, 3, 1, 1)))
    state = dict(network.named_parameters())
    torch.testing.assert_close(torch.func.functional_call(network, state, grey), network(grey))


def test_resnet18_flips_in_training_alone(torchvision):
    """A symmetric image has one output, another one two, each for about half of its copies.

    64 ± 32 of 128 heads are 5.6 standard deviations. Kills: flips in evaluation, one coin for
    a whole batch, an image upside down.
    """
    network = resnet18(flips=True).build((1, 28, 28), 10, seed=0)
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    seen = []
    network.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    with torch.no_grad():
        network.train()(image.expand(128, -1, -1, -1))
        network.eval()(image.expand(2, -1, -1, -1))
    mirrored = (seen[0] == image.flip(-1)).all((1, 2, 3))
    assert torch.equal(mirrored, ~(seen[0] == image).all((1, 2, 3)))
    assert 32 < int(mirrored.sum()) < 96
    assert torch.equal(seen[1], image.expand(2, 3, -1, -1))


def test_initial_weights_have_torchs_usual_scale():
    weight = linear().build((1, 28, 28), 10, seed=0)[1].weight.detach().numpy()
    bound = 1 / np.sqrt(784)  # torch draws uniformly from ±1/√(fan in)
    assert np.abs(weight).max() <= bound
    assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
