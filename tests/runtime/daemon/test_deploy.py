"""The unit and the example configuration that come with it: systemd takes the one without a word, the daemon the other."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from cutlayer.runtime import config, daemon

MOST_EXPOSED = 50  # of systemd-analyze's 100: "OK" begins there; ours is far below


@pytest.fixture
def unit(root, tmp_path):
    """The unit, with a program that exists here in ExecStart."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    text = (root / "runtime/deploy/cutlayerd.service").read_text(encoding="utf-8")
    file = tmp_path / "cutlayerd.service"
    file.write_text(text.replace("/usr/local/bin/cutlayerd", "/bin/true"), encoding="utf-8")
    return file


def test_systemd_takes_the_unit_without_a_word(unit):
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_lets_little_through(unit):
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", str(unit)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_configuration_is_one(root):
    loaded = config.load(root / "runtime/deploy/cutlayerd.toml")
    text = (root / "runtime/deploy/cutlayerd.service").read_text(encoding="utf-8")
    assert loaded.socket.startswith(f"/run/{re.search('RuntimeDirectory=(.*)', text)[1]}/")
    assert loaded.trace_path.startswith(f"/var/lib/{re.search('StateDirectory=(.*)', text)[1]}/")
    assert int(re.search("LimitNOFILE=(.*)", text)[1]) >= loaded.connections + daemon.SPARE_FILES
    assert loaded.drain_s < int(re.search("TimeoutStopSec=(.*)", text)[1])
    assert f"RestartPreventExitStatus={daemon.REFUSED}" in text
