"""What every test gets: one thread, hypothesis without a deadline, the folder of shared data, and the command in an empty folder."""

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


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """The command in this process, in an empty folder: (exit code, stdout, stderr)."""
    from cutlayer import cli
    from cutlayer.profiles import meters

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(meters, "SYS", Path("no-sysfs"))  # a real meter would read for seconds, a battery for minutes

    def call(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
        caught = capsys.readouterr()
        return code, caught.out, caught.err

    return call


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that must end in one line on stderr and exit code 2, and write nothing; hand back the line."""

    def call(*arguments):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith("cutlayer")
        assert "Traceback" not in err
        assert err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before, "nothing is half-written"
        return err

    return call


@pytest.fixture
def photos(tmp_path):
    """A folder of class folders, ten classes with one image each."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(1)
    for label in range(10):
        folder = tmp_path / "photos" / f"class{label}"
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "1.png")
    return tmp_path / "photos"
