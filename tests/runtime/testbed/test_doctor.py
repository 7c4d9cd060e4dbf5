"""`cutlayer doctor`: says what was found by trying, what falls short of it, and which command that touches."""

from __future__ import annotations

import json

import pytest

from cutlayer import cli
from cutlayer.profiles import meters
from cutlayer.runtime.testbed import doctor, link


def by_name(findings):
    return {one.name: one for one in findings}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(doctor, "LOOK_S", 0.0)


def test_every_finding_says_what_it_means(quick, capsys):
    assert cli.main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"load", "link tun", "link proxy", "cores", "energy", "package torch"} <= {one["name"] for one in findings}
    assert all(one["found"] and one["means"] for one in findings)
    assert cli.main(["doctor"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * len(findings)


def test_without_root_the_proxy_is_named(monkeypatch):
    monkeypatch.setattr(link, "unavailable", lambda name: "network namespaces need root" if name == "tun" else "")
    found = by_name(doctor.examine(sleep=lambda _: None))
    assert (found["link tun"].good, found["link proxy"].good) == (False, True)
    assert "need root" in found["link tun"].found
    assert "proxy instead" in found["link tun"].means


def test_a_busy_machine_is_told(monkeypatch):
    class Busy:
        def share(self):
            return 0.6

    monkeypatch.setattr(doctor, "Others", Busy)
    load = by_name(doctor.examine(sleep=lambda _: None))["load"]
    assert not load.good
    assert "60%" in load.found
    assert "flag" in load.means


def test_a_system_without_linux_files_is_no_fault(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PROC", tmp_path)
    found = by_name(doctor.examine(sleep=lambda _: None))
    assert found["congestion control"].found == "unknown"
    assert found["slow start after idle"].found == "unknown"
    assert "no autogroup" in found["priority"].found


def test_the_power_model_is_no_meter(monkeypatch):
    candidates = [meters.Candidate("rapl", None, "no counter"), meters.Candidate("modelled", meters.Modelled())]
    monkeypatch.setattr(meters, "survey", lambda *, gpu: [] if gpu else candidates)
    energy = by_name(doctor.examine(sleep=lambda _: None))["energy"]
    assert not energy.good
    assert "modelled" in energy.means
