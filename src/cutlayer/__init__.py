"""cutlayer: joint choice of exit, partition point and bit width for device-edge inference.

The four parts are imported on their own, so that a device never loads the training stack:
`cutlayer.profiles` (measured tables), `cutlayer.runtime` (what is deployed), `cutlayer.envs`
(the simulator), `cutlayer.agents` (learners, baselines, evaluation).
"""

__version__ = "0.1.0"
