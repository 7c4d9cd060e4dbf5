"""How a fast machine plays a slow device: what work must last, and a quota that is the kernel's where there is one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cutlayer.errors import ConfigError
from cutlayer.runtime.testbed import emulation


def test_padded_work_lasts_as_on_the_profiled_device_and_any_other_as_here():
    assert emulation.Pad().lasts_s(0.012, 1.5) == pytest.approx(0.018)
    assert emulation.AsItIs().lasts_s(0.012, 1.5) == 0.0


@pytest.fixture
def version2(tmp_path, monkeypatch):
    """A cgroup file system of version 2 as far as a quota needs it: the kernel would make the files."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    group = tmp_path / "device"
    group.mkdir()
    (group / "cpu.max").write_text("max 100000")
    return group


def test_a_share_is_a_quota_of_a_period_in_version_2(version2):
    quota = emulation.Quota(version2, 0.125)
    assert (version2 / "cgroup.procs").read_text() == str(os.getpid())
    quota.begin(1.0)
    assert (version2 / "cpu.max").read_text() == "2500 20000"
    quota.begin(4.0)  # a thirty-second of 20 ms would be less than the kernel takes
    assert (version2 / "cpu.max").read_text() == "1000 32000"


def test_a_share_that_does_not_change_is_not_written_again(version2):
    quota = emulation.Quota(version2, 0.125)
    quota.begin(1.0)
    (version2 / "cpu.max").write_text("untouched")
    quota.begin(1.0)
    assert (version2 / "cpu.max").read_text() == "untouched"


@pytest.mark.parametrize("share", [0.0, 1.0, 3.0])
def test_a_share_that_does_not_slow_is_refused(version2, share):
    with pytest.raises(ConfigError, match="a quota only slows"):
        emulation.Quota(version2, share)


def test_without_a_controller_the_reason_names_the_way_out(tmp_path):
    assert "use --device pad" in emulation.unavailable("quota", tmp_path)  # version 1 without cpu
    (tmp_path / "cgroup.controllers").write_text("")
    assert "not handed down" in emulation.unavailable("quota", tmp_path)
    assert not list(tmp_path.glob("cutlayer-*")), "nothing stays behind"
    assert emulation.unavailable("pad", tmp_path) == emulation.unavailable("none", tmp_path) == ""


def test_groups_of_processes_that_died_are_removed_and_those_of_others_stay(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("")
    for name in ("cutlayer-999999999", "cutlayer-1", "system.slice"):
        (tmp_path / name).mkdir()
    emulation.unavailable("quota", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["cutlayer-1", "system.slice"]


def test_a_real_quota_gives_a_process_its_share_of_the_time():
    """By the kernel's own account: throttled work uses about its share, where a core is free for it."""
    if reason := emulation.unavailable("quota"):
        pytest.skip(reason)
    code = """
import sys, time
from pathlib import Path
from cutlayer.runtime.testbed.emulation import Quota
Quota(Path(sys.argv[1]), 0.2).begin(1.0)
start, used = time.monotonic(), time.process_time()
while time.process_time() - used < 0.1:
    pass
print((time.process_time() - used) / (time.monotonic() - start))
"""
    with emulation.group() as made:
        done = subprocess.run([sys.executable, "-c", code, str(made)], capture_output=True, text=True, check=True)
    assert 0.0 < float(done.stdout) < 0.35  # a busy machine gives less, never more
    assert not made.exists()
