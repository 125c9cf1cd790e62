"""Settings of the whole test session."""

import os

# Read when matplotlib is first imported, by a test or by what a test imports.
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch


def pytest_sessionstart():
    # Docstring examples lie outside tests/, where the fixture below does not reach.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread():
    """Small networks run many times slower with more, and bits depend on it."""
    torch.set_num_threads(1)
