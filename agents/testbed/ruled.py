"""The daemon with a rule of `agents.baselines` in the place of its own; everything else, from socket to ladder, is that of `cutlayerd`.

Run as `python -m cutlayer.agents.testbed.ruled SCENARIO RULE SEED PLANS SOCKET`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from cutlayer.agents import inputs
from cutlayer.agents.testbed.deciding import ruled
from cutlayer.envs import scenarios
from cutlayer.errors import CutlayerError
from cutlayer.runtime import lifelog
from cutlayer.runtime.config import DaemonConfig, TaskConfig
from cutlayer.runtime.daemon import Life
from cutlayer.runtime.notify import Notifier
from cutlayer.runtime.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence


async def _serve(service: Service) -> int:
    return await Life(service, Notifier(), lifelog.opened(service.settings.log)).run()


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    name, rule, seed, plans, path = arguments
    try:
        scenario = scenarios.make(name)
        task = TaskConfig(plans=plans, path=scenario.path, objective=scenario.objective)
        service = Service(lambda: DaemonConfig(socket=path, task=task))
        service.loaded = service.loaded._replace(controller=ruled(scenario, inputs.on_drives(scenario, "train"), rule, int(seed)))
    except CutlayerError as error:
        sys.stderr.write(f"cutlayer testbed: {error}\n")
        return 2
    return asyncio.run(_serve(service))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
