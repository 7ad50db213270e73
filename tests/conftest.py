"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The machines that run these tests are slow and noisy at times: no deadline per example.
settings.register_profile("tilevault", deadline=None, max_examples=60)
settings.load_profile("tilevault")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images; tests that use it skip where it is absent."""
    named = os.environ.get("TILEVAULT_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "medical").is_dir():
        pytest.skip("the real images are not here (set TILEVAULT_DATA)")
    return folder
