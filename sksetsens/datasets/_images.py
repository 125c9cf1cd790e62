"""Real images: the digits that come with scikit-learn, and CIFAR-10 from disk."""

import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.datasets import load_digits
from sklearn.utils import check_random_state

from sksetsens._validation import check_choice, check_count
from sksetsens.datasets._cifar import read_cifar10

Images = tuple[NDArray[np.floating], NDArray[np.int64]]


def load_digits_images(
    n_samples: int | None = 1000,
    *,
    dtype: DTypeLike = np.float32,
    random_state: int | np.random.RandomState | None = None,
) -> Images:
    """Handwritten digits as grey images of 8 x 8 pixels.

    The 1797 images of :func:`sklearn.datasets.load_digits`, which come with
    scikit-learn; nothing is downloaded.

    Parameters
    ----------
    n_samples : int or None, default=1000
        Number of images, drawn without replacement. None takes all, in their order.

    dtype : {np.float32, np.float64}, default=np.float32
        Type of the pixels.

    random_state : int, RandomState instance or None, default=None
        Determines which images are drawn, and their order.

    Returns
    -------
    X : ndarray of shape (n_samples, 1, 8, 8)
        Pixels from 0 to 1.

    y : ndarray of int64 of shape (n_samples,)
        The digits.

    Examples
    --------
    >>> from sksetsens.datasets import load_digits_images
    >>> X, y = load_digits_images(500, random_state=0)
    >>> X.shape, float(X.min()), float(X.max()), sorted(set(y.tolist()))
    ((500, 1, 8, 8), 0.0, 1.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    owner = "load_digits_images"
    dtype = _check_dtype(owner, dtype)
    X, y = load_digits(return_X_y=True)
    rows = _draw(owner, n_samples, len(y), random_state)
    images = X[rows].reshape(-1, 1, 8, 8).astype(dtype)
    return images / dtype.type(16), y[rows].astype(np.int64)


def load_cifar10(
    path: str | os.PathLike[str],
    *,
    subset: str = "train",
    n_samples: int | None = None,
    dtype: DTypeLike = np.float32,
    random_state: int | np.random.RandomState | None = None,
) -> Images:
    """CIFAR-10 from its original files; nothing is downloaded.

    Reads the Python version (``data_batch_1``, pickled) and the binary version
    (``data_batch_1.bin``). Of the pickles, arrays, strings, numbers and builtin
    containers are read; a file that asks for anything else is refused, so that none of
    them can execute code.

    Parameters
    ----------
    path : str or path-like
        Folder with the files, or the folder that holds ``cifar-10-batches-py`` or
        ``cifar-10-batches-bin``, as the archives unpack.

    subset : {"train", "test"}, default="train"
        Which images: those of the five training batches or of the test batch.

    n_samples : int or None, default=None
        Number of images, drawn without replacement. None takes all, in their order.

    dtype : {np.float32, np.float64}, default=np.float32
        Type of the pixels.

    random_state : int, RandomState instance or None, default=None
        Determines which images are drawn, and their order.

    Returns
    -------
    X : ndarray of shape (n_samples, 3, 32, 32)
        Pixels from 0 to 1; the channels are red, green and blue.

    y : ndarray of int64 of shape (n_samples,)
        Classes from 0 to 9.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.

    ValueError
        If a file is not what it should be.

    References
    ----------
    .. [1] A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
       technical report, University of Toronto, 2009.

    Examples
    --------
    >>> from sksetsens.datasets import load_cifar10
    >>> X, y = load_cifar10("downloads", subset="test")  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (10000, 3, 32, 32)
    """
    owner = "load_cifar10"
    check_choice(owner, "subset", subset, ("train", "test"))
    dtype = _check_dtype(owner, dtype)
    pixels, labels = read_cifar10(path, subset)
    rows = _draw(owner, n_samples, len(labels), random_state)
    images = pixels[rows].reshape(-1, 3, 32, 32).astype(dtype)
    images /= dtype.type(255)
    return images, labels[rows].astype(np.int64)


def _check_dtype(owner: str, dtype: Any) -> np.dtype[np.floating]:
    try:
        known = np.dtype(dtype) in (np.float32, np.float64)
    except TypeError:
        known = False
    if not known or dtype is None:
        raise ValueError(
            f"The 'dtype' parameter of {owner} must be np.float32 or np.float64. "
            f"Got {dtype!r} instead."
        )
    return np.dtype(dtype)


def _draw(
    owner: str, n_samples: int | None, available: int, random_state: Any
) -> slice | NDArray[np.intp]:
    """Rows drawn without replacement; all of them for None."""
    if n_samples is None:
        return slice(None)
    check_count(owner, "n_samples", n_samples, low=1)
    if n_samples > available:
        raise ValueError(
            f"The 'n_samples' parameter of {owner} must be at most {available}, the "
            f"number of images. Got {n_samples!r} instead."
        )
    return check_random_state(random_state).permutation(available)[:n_samples]
