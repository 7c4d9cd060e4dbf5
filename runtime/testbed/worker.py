"""The device's process in the testbed: answers trials, one JSON object a line, until stdin ends.

    {"exit": 4, "partition": 2, "bits": 8, "requests": 14, "pad_s": 0.03, "gap_s": 0.03, "deadline_s": 5.0}
    -> {"latency_s": [...], "status": [...], "late_s": [...]}

The first line it prints, {"ready": true}, says that every graph has been loaded and run.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cutlayer.errors import CutlayerError
from cutlayer.profiles import pixels
from cutlayer.runtime.split.address import Address
from cutlayer.runtime.split.device import DeviceAgent
from cutlayer.runtime.split.graphs import Graphs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One plan, so many requests of it with gaps between them; pad_s makes the device's work last that long."""

    exit: int
    partition: int
    bits: int
    requests: int
    pad_s: float
    gap_s: float
    deadline_s: float


class Measured(msgspec.Struct, frozen=True):
    """What each request took, who answered it, and by how much the device overran its padding."""

    latency_s: list[float]
    status: list[str]
    late_s: list[float]


def run(agent: DeviceAgent, images: Sequence[NDArray[np.uint8]], trial: Trial) -> Measured:
    """The requests of a trial, on the images in turn."""
    done = []
    for i in range(trial.requests):
        time.sleep(trial.gap_s)
        image = images[i % len(images)]
        done.append(agent.infer(image, trial.exit, trial.partition, trial.bits, trial.deadline_s, pad_s=trial.pad_s))
    return Measured([one.latency_s for one in done], [one.status for one in done], [one.late_s for one in done])


def main(arguments: list[str]) -> int:
    """Run as `python -m cutlayer.runtime.testbed.worker GRAPHS HOST PORT`."""
    folder, host, port = arguments
    try:
        graphs = Graphs(Path(folder))
        images = [image.transpose(1, 2, 0) for image in pixels.natural(graphs.manifest.input_shape)]
        agent = DeviceAgent(graphs, Address(host, int(port)))
        agent.warm_up()
        print('{"ready": true}', flush=True)
        for line in sys.stdin.buffer:
            measured = run(agent, images, msgspec.json.decode(line, type=Trial))
            print(msgspec.json.encode(measured).decode(), flush=True)
    except CutlayerError as error:
        sys.stderr.write(f"cutlayer testbed: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
