"""The simulator: engines, streams, scenarios and the Gymnasium environment `cutlayer/Offload-v0`.

Importing this registers the environment, also in a spawned worker through `gym.make("cutlayer.envs:cutlayer/Offload-v0")`.
"""

import gymnasium as gym

if "cutlayer/Offload-v0" not in gym.registry:
    gym.register("cutlayer/Offload-v0", entry_point="cutlayer.envs.offload_env:OffloadEnv")
