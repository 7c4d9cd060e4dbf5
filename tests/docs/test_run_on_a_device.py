"""The page "Run it on a device" is true: its commands run as they stand, one after the other, and the unit they start serves.

Their folders lie under one of the test's own, HTTP is on a free port, and the socket's group is the test's. Users are not really made. For
systemctl and journalctl there are stand-ins, which run what the installed unit says: tests must not change the machine's services.
"""

from __future__ import annotations

import dataclasses
import grp
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from prometheus_client import parser

from cutlayer.agents.bench_decision import random_bundle
from cutlayer.envs import scenarios

PATIENCE_S = 900.0  # some dozen commands, each a new process; far beyond what they take, also on a busy machine
PLACES = ("/etc/", "/run/cutlayer", "/var/lib/")
NOTHING = "#!/bin/sh\n"  # sudo of the user that the test is; users and groups
SYSTEMCTL = """#!/bin/sh
# enable --now, reload, stop, disable --now, is-active: with what the unit says.
unit={root}/etc/systemd/system/cutlayerd.service
command=$(sed -n 's/^ExecStart=//p' $unit | sed 's|/etc/|{root}/etc/|')
case "$1 $2" in
"daemon-reload ") test -f $unit ;;
"enable --now") mkdir -p {root}/run/cutlayer {root}/var/lib/cutlayer
    $command > {root}/log 2>&1 &
    echo $! > {root}/pid
    while ! grep -q '"event":"ready"' {root}/log; do kill -0 $(cat {root}/pid) || exit 1; done ;;
"is-active cutlayerd") kill -0 $(cat {root}/pid) && echo active ;;
"reload cutlayerd") before=$(grep -c reload {root}/log); kill -HUP $(cat {root}/pid)
    while [ $(grep -c reload {root}/log) = $before ]; do :; done ;;
"stop cutlayerd" | "disable --now") [ ! -f {root}/pid ] || kill -TERM $(cat {root}/pid)
    while [ -f {root}/pid ] && kill -0 $(cat {root}/pid) 2>/dev/null; do :; done
    rm -f {root}/pid ;;
*) echo "no stand-in for $*"; exit 1 ;;
esac
"""
INSTALL = """#!/bin/sh
{real} "$@" || exit 1
for file in "$@"; do
    name=$(basename $file)
    if [ $name = cutlayerd.toml ]; then
        sed -i 's|/etc/|{root}/etc/|; s|/run/cutlayer|{root}/run/cutlayer|; s|/var/lib/|{root}/var/lib/|' {root}/etc/cutlayer/cutlayerd.toml
        sed -i 's|:9464|:{port}|; s|"cutlayer"$|"{group}"|' {root}/etc/cutlayer/cutlayerd.toml
        echo 'trace_every = 1' >> {root}/etc/cutlayer/cutlayerd.toml
    fi
done
"""


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs/run-on-a-device.md").read_text(encoding="utf-8")


@pytest.fixture
def machine():
    """A folder to stand for `/`, with a short name: a socket lies in it."""
    folder = Path(tempfile.mkdtemp(prefix="cl"))
    yield folder
    if (folder / "pid").exists():
        subprocess.run(["kill", (folder / "pid").read_text(encoding="utf-8").strip()], check=False)
    shutil.rmtree(folder)


def program(file, text):
    file.write_text(text, encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def script(page, root, port):
    """All commands of the page as one program, in its places; each is shown before it runs."""
    text = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    for place in PLACES:
        text = re.sub(rf"(?<![\w{{}}/]){re.escape(place)}", f"{root}{place}", text)
    return "set -euxo pipefail\n" + text.replace(":9464", f":{port}")


@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl", "sed", "install"))), reason="the page needs bash, curl, sed and install")
def test_its_commands_run_in_its_order(page, machine, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tools = machine / "bin"
    tools.mkdir()
    for name in ("useradd", "usermod", "userdel"):
        program(tools / name, NOTHING)
    program(tools / "sudo", '#!/bin/sh\nexec "$@"\n')
    program(tools / "journalctl", f"#!/bin/sh\ncat {machine}/log\n")
    program(tools / "systemctl", SYSTEMCTL.format(root=machine))
    group = grp.getgrgid(os.getgid()).gr_name
    program(tools / "install", INSTALL.format(real=shutil.which("install"), root=machine, port=port, group=group))
    made = random_bundle(scenarios.make("camera"))
    made.save(tmp_path / "policy.cutlayer", "0")
    dataclasses.replace(made, algorithm="newer").save(tmp_path / "newer.cutlayer", "0")
    environment = {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",  # what the extra names is installed: it stands in the test's own environment
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    (tmp_path / "page.sh").write_text(script(page, machine, port), encoding="utf-8")
    done = subprocess.run(
        ["bash", "page.sh"], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "configuration and bundle are good",
        "cutlayerd.service",
        "active",
        '{"ready": true}',
        '"event":"ready"',
        "Decision(id=1, plan=",
    ):
        assert said in done.stdout
    assert "1 decisions and 0 outcomes" in done.stdout
    assert "<title>cutlayerd</title>" in (tmp_path / "live.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "status.json").read_bytes())["decisions"] == 1
    families = parser.text_string_to_metric_families((tmp_path / "metrics.txt").read_text(encoding="utf-8"))
    assert {"cutlayer_decisions", "cutlayer_decision_seconds"} <= {family.name for family in families}
    log = [json.loads(line) for line in (machine / "log").read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in log] == ["start", "ready", "reload", "rollback", "drain", "stop"]
    assert [line.get("algorithm") for line in log[1:4]] == ["random", "newer", "random"]
    assert (machine / "var/lib/grafana/dashboards/cutlayerd.json").exists()
    assert (machine / "etc/prometheus/alerts.yml").exists()
    assert not (machine / "etc/cutlayer").exists()


def test_the_unit_of_the_page_is_the_one_that_systemd_has_checked(page, root):
    """`tests/runtime/daemon/test_deploy.py` gives it to systemd-analyze, where there is one; the page changes ExecStart alone."""
    assert "/usr/local/bin/cutlayerd" in (root / "runtime/deploy/cutlayerd.service").read_text(encoding="utf-8")
    assert "s|/usr/local/bin/cutlayerd|" in page


def test_its_files_are_in_the_package(root):
    """The wheel takes the folder as it is: what the page installs lies there."""
    assert {file.name for file in (root / "runtime/deploy").iterdir()} == {
        "alerts.yml", "cutlayerd.service", "cutlayerd.toml", "grafana.json", "prometheus.yml"
    }  # fmt: skip
