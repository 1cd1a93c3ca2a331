"""What tests share."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("geoseg", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("geoseg")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real rasters that lies beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip("real data absent: ../shared/data is not beside this checkout")
    return SHARED
