"""The simulator: engines, streams, scenarios and the Gymnasium environments.

Importing this registers them, also in a spawned worker through `gym.make("cutlayer.envs:cutlayer/Offload-v0")`:

    cutlayer/Offload-v0                one action a plan; `scenario` and `engine` are arguments
    cutlayer/OffloadMultiDiscrete-v0   the same with (exit, partition, bits) as action
    cutlayer/OffloadBox-v0             the same with a continuous action
"""

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

_ENV, _VECTOR = "cutlayer.envs.offload_env:OffloadEnv", "cutlayer.envs.gym_vector_env:OffloadVectorEnv"
_WRAPPERS = {"OffloadMultiDiscrete": "MultiDiscretePlans", "OffloadBox": "BoxPlans"}

if "cutlayer/Offload-v0" not in gym.registry:
    gym.register("cutlayer/Offload-v0", entry_point=_ENV, vector_entry_point=_VECTOR)
    for _name, _wrapper in _WRAPPERS.items():
        _spec = WrapperSpec(_wrapper, f"cutlayer.envs.wrappers:{_wrapper}", {})
        gym.register(f"cutlayer/{_name}-v0", entry_point=_ENV, additional_wrappers=(_spec,))
