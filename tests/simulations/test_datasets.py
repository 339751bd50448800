import gzip
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from simulations.data import DataError, datasets, digits, image_data

NAMES = ("mnist", "fashion-mnist")
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def idx(array):
    """The bytes of an IDX file of uint8."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def contents(shade=51):
    """Three training and two test images; the first training pixel is the shade."""
    train = np.zeros((3, 28, 28))
    train[0, 0, 0] = shade
    train[2, 1, 27] = 255
    return {
        "train-images-idx3-ubyte": idx(train),
        "train-labels-idx1-ubyte": idx(np.array([9, 0, 4])),
        "t10k-images-idx3-ubyte": idx(np.full((2, 28, 28), 255)),
        "t10k-labels-idx1-ubyte": idx(np.array([1, 2])),
    }


def put(folder, files, spell=lambda name: name):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        zipped = spell(name).endswith(".gz")
        (folder / spell(name)).write_bytes(gzip.compress(content) if zipped else content)


def shade(data):
    return round(float(data.train_x[0, 0, 0, 0]) * 255)


@pytest.fixture(autouse=True)
def empty_machine(monkeypatch, tmp_path):
    """No package, no cache, no torchvision, unless a test says so."""
    monkeypatch.setattr(datasets, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(datasets, "CACHE", tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)


# digits


def test_digits_are_scaled_images():
    source = pytest.importorskip("sklearn.datasets").load_digits()
    data = digits()
    assert (data.name, data.classes, data.shape) == ("digits", 10, (1, 8, 8))
    assert data.train_x.dtype == data.test_x.dtype == np.float32
    assert data.train_y.dtype == data.test_y.dtype == np.int64
    assert data.train_x.min() == 0 and data.train_x.max() == 1
    # Both parts together are the whole, pixel for pixel (sixteenths are exact in float32).
    ours = np.concatenate([data.train_x, data.test_x]).reshape(-1, 64) * 16
    labelled = np.column_stack([ours, np.concatenate([data.train_y, data.test_y])])
    theirs = np.column_stack([source.data, source.target])
    assert sorted(map(tuple, labelled.tolist())) == sorted(map(tuple, theirs.tolist()))


def test_digits_split_is_stratified_and_fixed():
    pytest.importorskip("sklearn")
    data = digits()
    assert (len(data.train_y), len(data.test_y)) == (1437, 360)
    whole = np.bincount(np.concatenate([data.train_y, data.test_y]))
    assert np.all(np.abs(np.bincount(data.test_y) - whole / 5) < 1)
    # Results that were published stand on this very split.
    assert data.test_y[:12].tolist() == [4, 1, 5, 7, 9, 5, 5, 0, 8, 5, 2, 7]
    assert np.array_equal(digits().test_x, data.test_x)
    assert not np.array_equal(digits(seed=1).test_y, data.test_y)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="scikit-learn.*`simulation`"):
        digits()


# image_data


@pytest.mark.parametrize("name", NAMES)
def test_pixels_and_labels(tmp_path, name):
    put(tmp_path, contents())
    data = image_data(name, tmp_path)
    assert (data.name, data.classes, data.shape) == (name, 10, (1, 28, 28))
    assert data.train_x.dtype == data.test_x.dtype == np.float32
    expected = np.zeros((3, 1, 28, 28), np.float32)
    expected[0, 0, 0, 0] = np.float32(0.2)  # 51 / 255
    expected[2, 0, 1, 27] = 1
    assert np.array_equal(data.train_x, expected)
    assert np.array_equal(data.test_x, np.ones((2, 1, 28, 28)))
    assert data.train_y.dtype == np.int64
    assert data.train_y.tolist() == [9, 0, 4] and data.test_y.tolist() == [1, 2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", [".", "{name}", "{torchvision}/raw"])
@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-idx", ".idx"])
def test_layouts_below_the_data_root(tmp_path, name, folder, end, dot):
    place = tmp_path / folder.format(name=name, torchvision=FOLDERS[name])
    put(place, contents(), lambda file: file.replace("-idx", dot) + end)
    assert shade(image_data(name, str(tmp_path))) == 51


def test_order_of_the_places(tmp_path):
    put(tmp_path / "cache/FashionMNIST/raw", contents(1))
    assert shade(image_data("fashion-mnist")) == 1
    put(tmp_path / "debian/fashion-mnist", contents(2))
    assert shade(image_data("fashion-mnist")) == 2
    root = tmp_path / "root"
    for number, place in enumerate(["FashionMNIST/raw", "fashion-mnist", "."], start=3):
        put(root / place, contents(number))
        assert shade(image_data("fashion-mnist", root)) == number


def test_an_incomplete_folder_is_passed_over(tmp_path):
    some = contents(1)
    del some["t10k-labels-idx1-ubyte"]
    put(tmp_path / "debian/mnist", some)
    put(tmp_path / "cache/MNIST/raw", contents(2))
    assert shade(image_data("mnist")) == 2


def test_data_root_without_files_is_an_error_at_once(tmp_path):
    put(tmp_path / "debian/fashion-mnist", contents())
    put(tmp_path / "cache/FashionMNIST/raw", contents())
    root = tmp_path / "typo"
    with pytest.raises(DataError) as caught:
        image_data("fashion-mnist", root)
    for place in (root, root / "fashion-mnist", root / "FashionMNIST/raw"):
        assert str(place) in str(caught.value)
    assert "debian" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_nowhere_says_where_it_looked_and_what_to_do(tmp_path, name):
    with pytest.raises(DataError) as caught:
        image_data(name)
    message = str(caught.value)
    for word in ("debian", "cache", "--data-root DIR", "`vision`", "torchvision"):
        assert word in message
    assert ("apt-get install dataset-fashion-mnist" in message) == (name == "fashion-mnist")
    assert "\n" not in message


def test_download_is_the_last_resort(monkeypatch, tmp_path):
    calls = []

    def download(root, download):
        calls.append((root, download))
        put(tmp_path / "cache/FashionMNIST/raw", contents(7))

    fake = SimpleNamespace(FashionMNIST=download)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=fake))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    assert shade(image_data("fashion-mnist")) == 7
    assert shade(image_data("fashion-mnist")) == 7
    assert calls == [(str(tmp_path / "cache"), True)]


def test_failed_download(monkeypatch):
    def download(root, download):
        raise OSError("no route to host\nand more")

    fake = SimpleNamespace(MNIST=download)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=fake))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    with pytest.raises(DataError, match=r"no route to host\)$"):
        image_data("mnist")


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("train-labels-idx1-ubyte", np.zeros(4), "found 4 labels, expected 3"),
        ("train-labels-idx1-ubyte", np.array([0, 10, 1]), "found the label 10"),
        ("train-labels-idx1-ubyte", np.zeros((3, 1)), r"expected \(any\)"),
        ("t10k-images-idx3-ubyte", np.zeros((2, 32, 32)), r"expected \(any, 28, 28\)"),
        ("t10k-images-idx3-ubyte", np.zeros((2, 784)), r"expected \(any, 28, 28\)"),
    ],
)
def test_files_that_do_not_fit(tmp_path, file, content, match):
    put(tmp_path, contents() | {file: idx(content)})
    with pytest.raises(DataError, match=match) as caught:
        image_data("mnist", tmp_path)
    assert str(caught.value).startswith(str(tmp_path / file))


def test_file_cut_short(tmp_path):
    files = contents()
    files["train-images-idx3-ubyte"] = files["train-images-idx3-ubyte"][:-1]
    put(tmp_path, files)
    with pytest.raises(DataError, match="expected 2352 bytes"):
        image_data("mnist", tmp_path)


def test_unknown_name():
    with pytest.raises(ValueError, match="'mnist', 'fashion-mnist', not 'cifar'"):
        image_data("cifar")


def test_real_fashion_mnist(monkeypatch):
    monkeypatch.undo()
    if not datasets._four_files(datasets.DEBIAN / "fashion-mnist"):
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    data = image_data("fashion-mnist")
    assert data.train_x.shape == (60000, 1, 28, 28) and data.test_x.shape == (10000, 1, 28, 28)
    assert np.bincount(data.train_y).tolist() == [6000] * 10
    assert np.bincount(data.test_y).tolist() == [1000] * 10
    assert data.train_x.min() == 0 and data.train_x.max() == 1
    assert data.train_y[0] == 9  # an ankle boot
