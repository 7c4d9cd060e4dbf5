"""A scenario file changes what it names and nothing else; a fault in it is told with file, key, value and mend."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cutlayer.envs import scenarios
from cutlayer.envs.channels import Constant, GilbertElliott
from cutlayer.envs.deadlines import ChosenDeadlines, UniformDeadlines
from cutlayer.envs.spec import PLATFORMS, Battery, Memory, Scenario
from cutlayer.envs.streams import draw
from cutlayer.envs.workload import ArrivalTrace, Bursty, EdgeJobs, EdgeStream, Poisson, RateTrace, SlowDown
from cutlayer.errors import ConfigError
from cutlayer.profiles.energy import LTE_UPLINK, RADIOS
from cutlayer.runtime.features import Blocks


def test_an_empty_file_is_its_base(written):
    scenario, base = scenarios.make(written("")), scenarios.make("camera")
    for field in dataclasses.fields(Scenario):
        if field.name not in ("name", "inputs"):
            assert getattr(scenario, field.name) == getattr(base, field.name), field.name
    assert scenario.name == "mine"
    assert "mine.toml" in scenario.inputs


def test_a_file_overrides_what_it_names_and_nothing_else(written):
    scenario = scenarios.make(
        written("""
        base = "urllc-ge"
        name = "harder"
        requests = 50
        plans = "privacy"
        cancel_margin_s = 0
        [objective]
        late_penalty = 5
        enforce_deadline = true
        [path]
        rtt_s = 0.01
        radio = "lte"
        [channel]
        kind = "constant"
        rate_bps = 1e6
        [arrivals]
        kind = "bursty"
        rates_per_s = [5, 60.0]
        stays_s = [1.0, 0.5]
        [edge]
        servers = 2
        platform = "vm"
        [battery]
        capacity_j = 5
        harvest = { kind = "gilbert-elliott", good_bps = 1.0, bad_bps = 0.0, good_s = 1.0, bad_s = 2.0 }
        [memory]
        capacity_bytes = 1e6
        read_bytes_per_s = 1e7
        [slow_down]
        factor = 2.0
        busy_share = 1.0
        [edge_jobs]
        kind = "stream"
        mean_s = 0.002
        arrivals = { kind = "poisson", rate_per_s = 9.0 }
        """)
    )
    base = scenarios.make("urllc-ge")
    assert (scenario.name, scenario.requests, len(scenario.plans), scenario.cancel_margin_s) == ("harder", 50, 90, 0.0)
    assert scenario.objective == dataclasses.replace(base.objective, late_penalty=5.0)
    assert scenario.path == dataclasses.replace(base.path, rtt_s=0.01, radio=LTE_UPLINK)
    assert scenario.channel == Constant(1e6)
    assert scenario.arrivals == Bursty((5.0, 60.0), (1.0, 0.5))
    assert (scenario.edge.servers, scenario.edge.platform) == (2, PLATFORMS["vm"])
    assert scenario.battery == Battery(5.0, harvest=GilbertElliott(1.0, 0.0, 1.0, 2.0))
    assert scenario.memory == Memory(1e6, 1e7)
    assert scenario.slow_down == SlowDown(2.0, 1.0)
    assert scenario.edge_jobs == EdgeStream(Poisson(9.0), 0.002)
    assert (scenario.slot_s, scenario.thermal, scenario.link) == (base.slot_s, base.thermal, base.link)


def test_parts_of_a_part_can_be_changed_alone(written):
    text = """
    base = "battery-harvest"
    [battery]
    start = 1
    [path.radio]
    base_w = 2
    [edge.platform]
    request_s = 0.001
    """
    scenario, base = scenarios.make(written(text)), scenarios.make("battery-harvest")
    assert scenario.battery == dataclasses.replace(base.battery, start=1.0)
    assert scenario.path.radio == dataclasses.replace(base.path.radio, base_w=2.0)
    assert scenario.edge.platform.request_s == 0.001


def test_a_part_can_be_switched_off(written):
    scenario = scenarios.make(written('base = "compound"\nthermal = "none"'))
    assert scenario.thermal is None
    off = scenarios.make(written('base = "battery-harvest"\nbattery.harvest = "none"'))
    assert off.battery.harvest is None


def test_files_are_found_beside_the_scenario_file(written, tmp_path):
    written("t_s,ul_mbps\n0,1\n1,2\n2,3\n", "drive.csv")
    written("t_s\n0.0\n0.5\n0.7\n", "requests.csv")
    table = tmp_path / "table.json"
    table.write_bytes(scenarios.make("privacy").plans.encode())
    text = """
    plans = "table.json"
    [channel]
    kind = "trace"
    files = ["drive.csv"]
    [arrivals]
    kind = "trace"
    file = "requests.csv"
    speed = 2
    """
    scenario = scenarios.make(written(text))
    assert scenario.channel.names == ("drive",)
    assert isinstance(scenario.arrivals, ArrivalTrace)
    assert scenario.arrivals.speed == 2.0
    assert len(scenario.plans) == 90


@pytest.mark.parametrize(
    ("text", "arrivals"),
    [
        ('kind = "poisson"\nrate_per_s = 9.0', Poisson(9.0)),
        ('kind = "bursty"\nrates_per_s = [20.0, 190.0]\nstays_s = [2.0, 1.0]', Bursty((20.0, 190.0), (2.0, 1.0))),
    ],
)
def test_background_jobs_may_come_as_any_stream(written, text, arrivals):
    stream = scenarios.make(written(f'[edge_jobs]\nkind = "stream"\nmean_s = 0.002\ncv = 2.0\n[edge_jobs.arrivals]\n{text}')).edge_jobs
    assert stream == EdgeStream(arrivals, 0.002, 2.0)


def test_background_jobs_requests_and_slow_down_may_be_measured(written, tmp_path):
    """Traces beside the scenario file; what is drawn from them is what they hold."""
    written("at_s\n0.0\n0.5\n0.7\n", "jobs.csv")
    written("t_s,slow_down\n10,1\n11,3\n12,1\n", "load.csv")
    np.savez(tmp_path / "web.npz", req_per_s=np.array([50.0, 0.0]))
    text = """
    [edge_jobs]
    kind = "stream"
    mean_s = 0.01
    arrivals = { kind = "trace", file = "jobs.csv", time_column = "at_s", speed = 2.0 }
    [arrivals]
    kind = "rates"
    file = "web.npz"
    scale = 2.0
    [slow_down]
    kind = "trace"
    file = "load.csv"
    """
    scenario = scenarios.make(written(text))
    assert isinstance(scenario.edge_jobs, EdgeStream)
    assert isinstance(scenario.arrivals, RateTrace)
    streams = draw(scenario, 1)
    gaps = np.round(np.diff(streams.job_arrival_s), 9)
    assert set(gaps) == {0.25, 0.1, 0.175}  # halves of 0.5 and 0.2 s, and of their mean where the trace begins anew
    assert set(streams.slow_down) == {1.0, 3.0}
    slow_down = np.concatenate([draw(scenario, episode).slow_down for episode in range(40)])
    assert slow_down.mean() == pytest.approx(1 + 2 / 3, abs=0.1)  # a third of the trace, from wherever an episode begins
    assert len(set((streams.arrival_s // 1 % 2).tolist())) == 1  # 100 a second in every other second
    rates = scenarios.make(
        written(text.replace('"trace", file = "jobs.csv", time_column = "at_s", speed = 2.0', '"rates", file = "web.npz"'))
    )
    assert isinstance(rates.edge_jobs.arrivals, RateTrace)


def test_deadlines_may_differ_and_the_edge_may_tell_its_queue(written):
    text = """
    base = "hidden-load"
    [deadlines]
    kind = "choice"
    choices_s = [0.03, 0.1]
    weights = [3, 1]
    [edge]
    broadcast_s = 0.1
    """
    scenario = scenarios.make(written(text))
    assert scenario.deadlines == ChosenDeadlines((0.03, 0.1), (3.0, 1.0))
    assert scenario.edge.broadcast_s == 0.1
    assert scenario.blocks == Blocks(deadline=True, broadcast=True)
    uniform = scenarios.make(written('[deadlines]\nkind = "uniform"\nshortest_s = 0.05\nlongest_s = 0.2'))
    assert uniform.deadlines == UniformDeadlines(0.05, 0.2)
    assert scenarios.make(written('deadlines = "none"\n[edge]\nbroadcast_s = "none"')).blocks == Blocks()


def test_a_changed_kind_forgets_the_base(written):
    text = '[edge_jobs]\nkind = "poisson"\nrate_per_s = 3.0'
    assert scenarios.make(written(text)).edge_jobs == EdgeJobs(3.0)


FAULTS = [
    ("requsts = 3", "requsts", "did you mean 'requests'?"),
    ("[objective]\ndeadline = 1.0", "objective.deadline", "did you mean 'deadline_s'?"),
    ("[path.radio]\nbase = 1.0", "path.radio.base", "did you mean 'base_w'?"),
    ('base = "urlc-ge"', "urlc-ge", "did you mean 'urllc-ge'?"),
    ('[arrivals]\nkind = "poison"', "poison", "did you mean 'poisson'?"),
    ('[channel]\nkind = "rayleig"', "rayleig", "did you mean 'rayleigh'?"),
    ('[edge]\nplatform = "contaner"', "edge.platform", "did you mean 'container'?"),
    ('plans = "privcy"', "privcy", "did you mean 'privacy'?"),
    ('[path]\nradio = "4g"', "path.radio", ", ".join(RADIOS)),
    ('requests = "many"', "requests", "'many'"),
    ("requests = 2.5", "requests", "2.5"),
    ("requests = 0", "requests", "above 0"),
    ("slot_s = nan", "slot_s", "above 0"),
    ("slot_s = inf", "slot_s", "above 0"),
    ("cancel_margin_s = -1", "cancel_margin_s", "from 0 on"),
    ("[objective]\ndeadline_s = 0", "objective.deadline_s", "above 0"),
    ("[objective]\nenforce_deadline = 1", "enforce_deadline", "bool"),
    ("[battery]\nstart = 0.5", "battery", "lacks capacity_j"),
    ("[battery]\ncapacity_j = -1.0", "battery", "-1.0"),
    ('[thermal]\nkind = "rc"', "thermal.kind", "no kinds"),
    ("objective = 3", "objective", "[objective]"),
    ("battery = 3", "battery", "[battery]"),
    ("arrivals = 3", "arrivals", "[arrivals]"),
    ("channel = 3", "channel", "kind"),
    ('[edge_jobs]\nkind = "stream"\nmean_s = 0.1', "edge_jobs", "lacks arrivals"),
    ('[arrivals]\nkind = "trace"', "arrivals", "lacks file"),
    ('[arrivals]\nkind = "trace"\nfil = "x"', "arrivals.fil", "did you mean 'file'?"),
    ('[arrivals]\nkind = "rates"\nfile = "x"\nscal = 2', "arrivals.scal", "did you mean 'scale'?"),
    ('[edge_jobs]\nkind = "stream"\nmean_s = 0.1\narrivals = { kind = "rate" }', "edge_jobs.arrivals.kind", "did you mean 'rates'?"),
    ('[edge_jobs]\nkind = "strem"', "edge_jobs.kind", "did you mean 'stream'?"),
    ('[edge_jobs]\nkind = "stream"\nmean = 0.1', "edge_jobs.mean", "did you mean 'mean_s'?"),
    (
        '[edge_jobs]\nkind = "stream"\nmean_s = 1\narrivals = { kind = "trace", file = "x", sped = 2 }',
        "arrivals.sped",
        "did you mean 'speed'?",
    ),
    ('[slow_down]\nkind = "trase"', "slow_down.kind", "did you mean 'trace'?"),
    ('[slow_down]\nkind = "trace"\nfile = "x"\ncolum = "y"', "slow_down.colum", "did you mean 'column'?"),
    ('[slow_down]\nkind = "drifting"\nextra = 1\nspred = 1', "slow_down.spred", "did you mean 'spread'?"),
    ('[deadlines]\nkind = "choise"', "deadlines.kind", "did you mean 'choice'?"),
    ('[deadlines]\nkind = "choice"\nchoice_s = [1]', "deadlines.choice_s", "did you mean 'choices_s'?"),
    ("[deadlines]\nchoices_s = [1]", "deadlines", "lacks kind"),
    ('[deadlines]\nkind = "choice"\nchoices_s = [0.0]', "choices_s[0]", "above 0"),
    ("deadlines = 3", "deadlines", "[deadlines]"),
    ("[edge]\nbroadcast_s = 0", "broadcast_s", "above 0"),
    ("[edge]\nbroadcast = 1", "edge.broadcast", "did you mean 'broadcast_s'?"),
    ('[arrivals]\nkind = "trace"\nfile = "absent.csv"', "absent.csv", "cannot read"),
    ('plans = "absent.json"', "absent.json", "built-in name"),
    ("segments = 3", "segments", "unknown key"),
    ('base = "cold-start"\nplans = "privacy"', "segments", "90"),
    ("requests = = 3", "TOML", "line 1"),
]


@pytest.mark.parametrize(("text", "named", "mend"), FAULTS, ids=[text for text, _, _ in FAULTS])
def test_a_fault_is_told_with_file_key_value_and_mend(text, named, mend, written):
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        scenarios.make(path)
    message = str(caught.value)
    for part in (path, named, mend):
        assert part in message
    assert "\n" not in message


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml.*No such file"):
        scenarios.make(str(tmp_path / "absent.toml"))
