import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.data import DataError, read_idx

# Two images of 2×3 pixels, written by hand.
PIXELS = bytes([0, 1, 2, 3, 4, 5, 250, 251, 252, 253, 254, 255])
HEADER = bytes.fromhex("00000803 00000002 00000002 00000003")
IMAGES = HEADER + PIXELS


@pytest.fixture(params=["plain", "gzip"])
def write(request, tmp_path):
    """Write bytes as they are or gzipped, under a name that does not give it away."""

    def write_as(content):
        path = tmp_path / "file"
        path.write_bytes(gzip.compress(content) if request.param == "gzip" else content)
        return path

    return write_as


def refusal(path, *args):
    with pytest.raises(DataError) as caught:
        read_idx(path, *args)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "found" in message and "expected" in message and "\n" not in message
    return message


def test_pixels_in_row_major_order(write):
    images = read_idx(write(IMAGES), (None, 2, 3), np.uint8)
    assert images.dtype == np.uint8
    assert images.tolist() == [[[0, 1, 2], [3, 4, 5]], [[250, 251, 252], [253, 254, 255]]]


@pytest.mark.parametrize(
    ("code", "form", "values", "dtype"),
    [
        (0x08, "3B", (0, 127, 255), "uint8"),
        (0x09, "3b", (-128, 0, 127), "int8"),
        (0x0B, "3h", (-2, 1, 258), "int16"),
        (0x0C, "3i", (-2, 1, 16909060), "int32"),
        (0x0D, "3f", (-0.5, 0.0, 1.25), "float32"),
        (0x0E, "3d", (-0.5, 0.1, 1e300), "float64"),
    ],
)
def test_every_type_arrives_in_native_order(write, code, form, values, dtype):
    read = read_idx(write(bytes([0, 0, code, 1, 0, 0, 0, 3]) + struct.pack(f">{form}", *values)))
    assert read.dtype == np.dtype(dtype) and read.dtype.isnative
    assert tuple(read.tolist()) == values


@pytest.mark.parametrize("cut", range(len(IMAGES)))
def test_cut_short_anywhere(write, cut):
    message = refusal(write(IMAGES[:cut]))
    if cut >= len(HEADER):
        assert f"found {cut - len(HEADER)}" in message and "expected 12 bytes" in message
    else:
        assert f"found {cut} bytes" in message


def test_gzip_stream_cut_short_anywhere(tmp_path):
    whole = gzip.compress(IMAGES)
    for cut in range(len(whole)):
        (tmp_path / "file.gz").write_bytes(whole[:cut])
        refusal(tmp_path / "file.gz")


def test_damaged_gzip_stream(tmp_path):
    whole = bytearray(gzip.compress(IMAGES))
    whole[-6] ^= 1  # the checksum
    (tmp_path / "file.gz").write_bytes(whole)
    assert "CRC" in refusal(tmp_path / "file.gz")


def test_trailing_bytes(write):
    assert "expected 12 bytes" in refusal(write(IMAGES + b"\0"))


@pytest.mark.parametrize(
    "magic", ["01000803", "00010803", "00000703", "00000a03", "00000800", "00000821", "89504e47"]
)
def test_foreign_magic(write, magic):
    assert f"0x{magic}" in refusal(write(bytes.fromhex(magic) + IMAGES[4:]))


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 2, 3), (None, 2), (None, 2, 3, 1), ()])
def test_other_shape(write, shape):
    assert "found the shape (2, 2, 3)" in refusal(write(IMAGES), shape)


def test_an_open_size_is_called_any(write):
    assert refusal(write(IMAGES), (None, 28, 28)).endswith("expected (any, 28, 28)")


def test_other_type(write):
    assert "found elements uint8, expected float32" in refusal(write(IMAGES), None, np.float32)


def test_no_elements(write):
    refusal(write(bytes.fromhex("00000802 00000000 ffffffff")))


def test_missing_file_and_folder(tmp_path):
    refusal(tmp_path / "nowhere")
    refusal(tmp_path)


@pytest.mark.parametrize(
    ("declared", "real"),
    [("ffffffff" * 3, 12), ("00000001" * 3, 2**24)],
    ids=["huge in the header alone", "huge when unpacked"],
)
def test_memory_follows_neither_the_header_nor_the_bomb(write, declared, real):
    path = write(bytes.fromhex("00000803" + declared) + bytes(real))
    tracemalloc.start()
    try:
        refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22


@given(content=st.binary(max_size=40), prefix=st.sampled_from([b"", HEADER[:4], b"\x1f\x8b\x08"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, prefix):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(prefix + content)
    try:
        array = read_idx(path)
    except DataError:
        return
    header = 4 + 4 * array.ndim
    assert array.nbytes == len(prefix + content) - header
