"""What every test gets: one thread, hypothesis without a deadline, and the folder of shared data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Read once, when the library is loaded; so they are set before any test imports one.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402 - after the environment is set
from hypothesis import settings  # noqa: E402 - as above

ROOT = Path(__file__).resolve().parents[1]

# A shared machine stalls for longer than hypothesis' deadline of 200 ms; on CI a failure must come back on the next run.
settings.register_profile("cutlayer", deadline=None)
settings.register_profile("cutlayer-ci", deadline=None, derandomize=True, database=None)
settings.load_profile("cutlayer-ci" if os.environ.get("CI") else "cutlayer")


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Torch runs on one thread, whatever a test before this one set; torch is not loaded for tests that do without."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the shared data (traces, images, tables): CUTLAYER_DATA, or ../shared/data beside the checkout.

    A test that asks for it is skipped where the folder is absent: the data are not part of the project.
    """
    named = os.environ.get("CUTLAYER_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        where = f"CUTLAYER_DATA={named}" if named else "../shared/data beside the checkout (or set CUTLAYER_DATA)"
        pytest.skip(f"no shared data at {where}")
    return folder
