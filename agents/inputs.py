"""Real inputs where they are at hand: uplink traces and labelled images, found in one folder, never shipped.

The folder is named by `CUTLAYER_DATA`, else `../shared/data` beside the working folder. What was used is said by name;
what is missing is replaced by generated input and said so, never silently.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutlayer.agents.drives import DRIVES
from cutlayer.envs import scenarios
from cutlayer.envs.channels import Channel, replay
from cutlayer.profiles import images

if TYPE_CHECKING:
    from cutlayer.envs.spec import Scenario
    from cutlayer.profiles.images import ImageSet

# Whole drives on either side: no drive is seen both in training and in testing. LTE drives in 100 ms bins, 5G-NSA in 3 s.
TRAIN_TRACES = ("trace_lte_mahimahi/dev/ATT-LTE-driving.csv", "trace_5g_mtu_ul/dev/Data5G_171221.csv")
TEST_TRACES = (
    "trace_lte_mahimahi/dev/ATT-LTE-driving-2016.csv",
    "trace_lte_mahimahi/dev/Verizon-LTE-short.csv",
    "trace_5g_mtu_ul/dev/Data5G_151221.csv",
)
IMAGES = "cifar10_jpegq75/test_public.npz"


@dataclass(frozen=True, slots=True)
class Inputs:
    """Channels to train and to test on, images or None, and what each of them is, in words."""

    train_channel: Channel
    test_channel: Channel
    traces: str
    images: ImageSet | None
    images_source: str


def folder() -> Path:
    """Where real inputs would lie."""
    return Path(os.environ.get("CUTLAYER_DATA", "../shared/data"))


def find(image_count: int) -> Inputs:
    """Real traces and at most `image_count` real images where they are at hand, else generated ones."""
    data = folder()
    train, test = ([data / name for name in names] for names in (TRAIN_TRACES, TEST_TRACES))
    if all(path.exists() for path in (*train, *test)):
        train_channel: Channel = replay(train)
        test_channel: Channel = replay(test)
        names = ", ".join(path.stem for path in test)
        traces = f"real: tested on {names}; trained on {', '.join(path.stem for path in train)}"
    else:
        train_channel = test_channel = scenarios.camera().channel
        traces = f"generated: log-normal with outages, fitted to an LTE and a 5G-NSA uplink drive (no traces under {data})"
    if (data / IMAGES).exists():
        found = images.load(data / IMAGES, image_count)
        return Inputs(train_channel, test_channel, traces, found, f"real: {len(found)} of {found.source}")
    return Inputs(train_channel, test_channel, traces, None, f"generated: smooth random fields without meaning (no images under {data})")


def on_drives(scenario: Scenario, side: Literal["train", "test", "elsewhere"]) -> Scenario:
    """A trace-driven scenario on the measured drives of one side where they are at hand, with their names in `inputs`; any other as it is.

    No drive is on two sides; which is where stands in `agents.drives`.
    """
    if scenario.name not in DRIVES:
        return scenario
    paths = [folder() / name for name in getattr(DRIVES[scenario.name], side)]
    if not all(path.exists() for path in paths):
        return scenario
    channel = replay(paths)
    return dataclasses.replace(scenario, channel=channel, inputs=f"real: {', '.join(channel.names)}")
