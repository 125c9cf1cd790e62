"""Images: the digits, and small files in the formats of CIFAR-10."""

import os
import pickle
import struct

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sksetsens.datasets import load_cifar10, load_digits_images

TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


# --- digits --------------------------------------------------------------------------


def test_all_digits_in_order():
    X, y = load_digits_images(None, dtype=np.float64)
    digits = load_digits()
    np.testing.assert_array_equal(16 * X[:, 0], digits.images)
    np.testing.assert_array_equal(y, digits.target)
    assert (X.dtype, y.dtype, X.shape) == (np.float64, np.int64, (1797, 1, 8, 8))


def test_drawn_digits_are_rows_of_the_data():
    X, y = load_digits_images(1797, random_state=3)
    everything = load_digits_images(None)
    assert X.dtype == np.float32
    # Each image once, with its own label.
    assert _sorted_rows(X, y) == _sorted_rows(*everything)
    assert not np.array_equal(y, everything[1])


def _sorted_rows(X, y):
    return sorted((row.tobytes(), label) for row, label in zip(X, y, strict=True))


def test_random_state_decides():
    first, again = (load_digits_images(50, random_state=0)[0] for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, load_digits_images(50, random_state=1)[0])


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"n_samples": 0}, r"'n_samples' parameter of load_digits_images .* Got 0"),
        ({"n_samples": 1.5}, r"'n_samples' .* Got 1\.5"),
        ({"n_samples": 1798}, r"'n_samples' .* at most 1797.* Got 1798"),
        ({"dtype": np.int64}, r"'dtype' .* np\.float32 or np\.float64\. Got"),
        ({"dtype": "image"}, r"'dtype' .* Got 'image'"),
        ({"dtype": None}, r"'dtype' .* Got None"),
    ],
)
def test_invalid_parameters_of_digits(kwargs, match):
    with pytest.raises(ValueError, match=match):
        load_digits_images(**kwargs)


# --- CIFAR-10 ------------------------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as in the original files."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch[bytes] = save_string


def write_pickle(file, content):
    with file.open("wb") as stream:
        Python2Pickler(stream, protocol=2).dump(content)
    # The name of the module when the files were written.
    written = file.read_bytes()
    file.write_bytes(written.replace(b"numpy._core.", b"numpy.core."))


def write_python(file, pixels, labels):
    names = [b"image_%d.png" % number for number in range(len(labels))]
    content = {
        b"batch_label": b"testing batch 1 of 1",
        b"labels": [int(label) for label in labels],
        b"data": pixels,
        b"filenames": names,
    }
    write_pickle(file, content)


def write_binary(file, pixels, labels):
    records = np.column_stack([labels.astype(np.uint8), pixels])
    file.with_suffix(".bin").write_bytes(records.tobytes())


WRITERS = {"cifar-10-batches-py": write_python, "cifar-10-batches-bin": write_binary}


@pytest.fixture(params=sorted(WRITERS))
def cifar(request, tmp_path):
    """Folder with all files, two images each, and what they hold."""
    folder = tmp_path / request.param
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(12, 3072), dtype=np.uint8)
    labels = rng.integers(10, size=12)
    for index, name in enumerate([*TRAIN, "test_batch"]):
        rows = slice(2 * index, 2 * index + 2)
        WRITERS[request.param](folder / name, pixels[rows], labels[rows])
    return folder, pixels.reshape(-1, 3, 32, 32), labels


def a_file_of(folder):
    return next(file for file in folder.iterdir() if "data_batch_3" in file.name)


@pytest.mark.parametrize("above", [False, True])
def test_cifar_files_hold_what_was_written(cifar, above):
    folder, pixels, labels = cifar
    path = folder.parent if above else str(folder)
    X, y = load_cifar10(path, dtype=np.float64)
    np.testing.assert_array_equal(np.rint(255 * X), pixels[:10])
    np.testing.assert_array_equal(y, labels[:10])
    X, y = load_cifar10(path, subset="test")
    assert (X.dtype, y.dtype, X.shape) == (np.float32, np.int64, (2, 3, 32, 32))
    np.testing.assert_array_equal(y, labels[10:])
    assert X.min() >= 0
    assert X.max() <= 1


def test_drawn_images_keep_their_labels(cifar):
    folder, pixels, labels = cifar
    X, y = load_cifar10(folder, n_samples=4, random_state=0)
    for image, label in zip(X, y, strict=True):
        same = (np.rint(255 * image) == pixels[:10]).all(axis=(1, 2, 3))
        assert label in labels[:10][same]
    with pytest.raises(ValueError, match=r"'n_samples' .* at most 10, .* Got 11"):
        load_cifar10(folder, n_samples=11)


def test_missing_folder_and_files(cifar, tmp_path):
    folder = cifar[0]
    with pytest.raises(FileNotFoundError, match="no_such, no folder, instead"):
        load_cifar10(tmp_path / "no_such")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="empty, a folder without them, in"):
        load_cifar10(empty)
    a_file_of(folder).unlink()
    with pytest.raises(FileNotFoundError, match=r"without \['data_batch_3(\.bin)?'\]"):
        load_cifar10(folder)
    assert len(load_cifar10(folder, subset="test")[1]) == 2


def test_truncated_and_foreign_files(cifar):
    folder = cifar[0]
    file = a_file_of(folder)
    content = file.read_bytes()
    for wrong in (content[:-5], content[:40], b"", b"\x89PNG\r\n\x1a\n" + content[:99]):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"intact files .* Got .*data_batch_3"):
            load_cifar10(folder)


def test_labels_out_of_range(cifar):
    folder, pixels, _ = cifar
    write = WRITERS[folder.name]
    write(folder / "data_batch_3", pixels[:2].reshape(2, -1), np.array([3, 10]))
    with pytest.raises(ValueError, match="labels run from 3 to 10"):
        load_cifar10(folder)


def test_invalid_subset(cifar):
    with pytest.raises(ValueError, match=r"'subset' parameter of load_cifar10 .*'all'"):
        load_cifar10(cifar[0], subset="all")


PIXELS = np.zeros((2, 3072), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], "holds a list"),
        ({b"labels": [0, 1]}, "no entry 'data'"),
        ({b"data": PIXELS, b"fine_labels": [0, 1]}, "no entry 'labels'"),
        ({b"data": PIXELS, b"labels": [0]}, "must hold 2 integers"),
        ({b"data": PIXELS, b"labels": [0.5, 1.0]}, "must hold 2 integers"),
        ({b"data": PIXELS, b"labels": None}, "must hold 2 integers"),
        ({b"data": PIXELS[:, :9], b"labels": [0, 1]}, r"type uint8 and shape \(2, 9\)"),
        ({b"data": PIXELS / 2, b"labels": [0, 1]}, "not of type float64"),
        ({b"data": [[0]], b"labels": [0]}, r"not of type list and shape \(1, 1\)"),
    ],
)
def test_pickles_of_another_content(tmp_path, content, match):
    write_pickle(tmp_path / "test_batch", content)
    with pytest.raises(ValueError, match=match):
        load_cifar10(tmp_path, subset="test")


class Malicious:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("call", [os.mkdir, eval, np.load])
def test_pickles_execute_nothing(tmp_path, protocol, call):
    target = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(target)!r})" if call is eval else target
    content = {"labels": Malicious(call, str(argument))}
    file = tmp_path / "test_batch"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(ValueError, match=r"it asks for \w+\.\w+, which no file"):
        load_cifar10(tmp_path, subset="test")
    assert not target.exists()
