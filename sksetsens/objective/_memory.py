"""Say what to lower where memory runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["is_out_of_memory", "memory_explained"]


@contextlib.contextmanager
def memory_explained(during: str) -> Iterator[None]:
    """Turn the ways in which memory runs out into one error with a remedy.

    Parameters
    ----------
    during : str
        What was going on, for the error.

    Raises
    ------
    MemoryError
        In the place of torch's and NumPy's own.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"Memory ran out during {during}. Lower 'working_memory' (MiB; None for "
            "scikit-learn's setting of that name), use solver='minres' or 'lsmr', "
            "which keep no p x p matrix, or fewer restarts at once (n_jobs). What was "
            "fitted before is unchanged."
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's CPU allocator raises a plain RuntimeError.
    return "allocate memory" in str(error) or "out of memory" in str(error).lower()
