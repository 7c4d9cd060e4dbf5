"""From points of a grid to runs: worlds built, policies and recipes checked, each run named by the hash of all that it is made from.

What is wrong with a grid is told here, before anything takes time. A run's name holds the digests of its world and of a policy's file, not
their names: the same run is found again whatever grid asks for it. The code is not in it but by the version of cutlayer; the commit that
made a run stands in its `run.json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from cutlayer import __version__
from cutlayer.agents import inputs, policies, resumable, shipped
from cutlayer.agents.benchmark import Size
from cutlayer.agents.episodes import HELD_OUT
from cutlayer.agents.learners import LEARNERS
from cutlayer.agents.sweep.grid import LEARNER, OWN, PLAN_FACTOR
from cutlayer.agents.train import MODEL
from cutlayer.agents.worlds import World
from cutlayer.envs import scenarios
from cutlayer.envs.scenarios import files
from cutlayer.envs.spec import Scenario
from cutlayer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutlayer.agents.sweep.grid import Grid
    from cutlayer.envs.simulation import EngineName
    from cutlayer.profiles.plans import PlanTable

EPISODES = 40  # as `cutlayer evaluate`
# Columns of the plan table whose numbers may be multiplied; the others are counts, names or shares.
FACTORS = ("device_s", "encode_s", "decode_s", "edge_s", "device_j", "fallback_s", "fallback_j", "swap_s")


@dataclass(frozen=True, slots=True)
class Block(Size):
    """Held-out episodes from `first` on."""

    first: int = HELD_OUT

    @property
    def seeds(self) -> range:
        """The episodes."""
        return range(self.first, self.first + self.episodes)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one run needs, wherever it runs; `world` is a pickled `worlds.World`, `fields` what the grid told it.

    recipe and steps are None unless `policy` is a learner, which is trained first.
    """

    key: str
    fields: dict[str, Any]
    world: bytes
    world_sha256: str
    policy: str
    recipe: Any
    seed: int
    size: Block
    engine: EngineName
    scored: bool


@dataclass(frozen=True, slots=True)
class _Built:
    """A world as runs need it."""

    world: World
    pickled: bytes
    sha256: str


def runs(grid: Grid) -> list[Run]:
    """All runs of a grid, in its order.

    Raises:
        ConfigError: a key or a value of it is wrong, or two of its runs are the same.
    """
    worlds: dict[str, _Built] = {}
    identities: dict[tuple[str, str], str] = {}
    found: dict[str, Run] = {}
    for point in grid.points():
        of_world = {key: value for key, value in point.items() if key == "scenario" or not (key in OWN or key.startswith(LEARNER))}
        name = repr(sorted(of_world.items()))
        if name not in worlds:
            worlds[name] = _world(grid.file, of_world)
        run = _run(grid.file, point, worlds[name], identities)
        if run.key in found:
            raise ConfigError(f"{grid.file}: {_told(point)} and {_told(found[run.key].fields)} are the same run; leave one of them out")
        found[run.key] = run
    return list(found.values())


def _told(point: dict[str, Any]) -> str:
    return "(" + ", ".join(f"{key} = {value!r}" for key, value in point.items()) + ")"


def _run(file: Path, point: dict[str, Any], built: _Built, identities: dict[tuple[str, str], str]) -> Run:
    policy = _policy(file, point, built.world)
    recipe = _recipe(file, point, policy, built.world)
    if (policy, built.world.name) not in identities:
        identities[policy, built.world.name] = _identity(policy, built.world)
    seed, episodes = point.get("seed", 0), point.get("episodes", EPISODES)
    size = Block(episodes, None if recipe is None else recipe.steps, HELD_OUT + point.get("block", seed) * episodes)
    engine, scored = point.get("engine", "kernel"), point.get("scored", False)
    of = [
        __version__, built.sha256, identities[policy, built.world.name], recipe, seed, size.first, episodes, engine, scored,
    ]  # fmt: skip
    return Run(resumable.digest(of)[:16], point, built.pickled, built.sha256, policy, recipe, seed, size, engine, scored)


def _policy(file: Path, point: dict[str, Any], world: World) -> str:
    """A rule, a learner, or the whole path of a bundle or run folder."""
    if ("policy" in point) == ("algo" in point):
        raise ConfigError(
            f"{file}: {_told(point)} has {'both policy and algo' if 'policy' in point else 'neither policy nor algo'}; give one"
        )
    if "algo" in point:
        name: str = point["algo"]
        if name not in LEARNERS:
            raise ConfigError(f"{file}: algo = {name!r}: {nearest(name, LEARNERS)}known: {', '.join(LEARNERS)}")
        return name
    name = point["policy"]
    if name == policies.BEST_LEARNED:
        _at(file, lambda: shipped.find(world.training.name))
    if name in policies.names() or name in LEARNERS:
        return name
    path = (file.parent / name).resolve()
    if not path.exists():
        known = [*policies.names(), *LEARNERS]
        raise ConfigError(f"{file}: policy = {name!r}: {nearest(name, known)}give a bundle, a run folder or one of: {', '.join(known)}")
    return str(path)


def _identity(policy: str, world: World) -> str:
    """A name says what it is; of a file its content does."""
    if policy == policies.BEST_LEARNED:
        return hashlib.sha256(shipped.find(world.training.name).read_bytes()).hexdigest()
    if policy in policies.names() or policy in LEARNERS:
        return policy
    path = Path(policy)
    file = path / MODEL if path.is_dir() else path
    if not file.exists():
        raise ConfigError(f"{path} is no run folder (it has no {MODEL}); make one with: cutlayer train -o {path}")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _recipe(file: Path, point: dict[str, Any], policy: str, world: World) -> Any:
    """The learner's recipe with what the grid changes; None where nothing is learned."""
    changes = {key: value for key, value in point.items() if key.startswith(LEARNER)}
    if policy not in LEARNERS:
        idle = next(iter([*changes, *(["steps"] if "steps" in point else [])]), None)
        if idle is not None:
            raise ConfigError(f"{file}: {idle} means nothing to {policy}, which is not trained; sweep it in a grid of learners only")
        return None
    recipe = LEARNERS[policy].recipe(world.training.name)
    hints = get_type_hints(type(recipe))
    made = {}
    for key, value in changes.items():
        name = key.removeprefix(LEARNER)
        if name not in hints:
            raise ConfigError(
                f"{file}: unknown key {key!r}; {nearest(name, hints)}{policy} has: {', '.join(LEARNER + one for one in hints)}"
            )
        try:
            made[name] = msgspec.convert(value, hints[name])
        except msgspec.ValidationError as error:
            raise ConfigError(f"{file}: {key} = {value!r}: {error}; give a value of that type") from error
    if "steps" in point:
        made["steps"] = point["steps"]
    return dataclasses.replace(recipe, **made)


def _world(file: Path, fields: dict[str, Any]) -> _Built:
    """The scenario with what the grid changes of it: judged on test drives, all else on training drives, where it has drives."""
    name = fields.get("scenario", "camera")
    given = _at(file, lambda: scenarios.make(str(file.parent / name) if name.endswith(".toml") else name))
    changes = {key: value for key, value in fields.items() if key != "scenario"}
    said = "".join(f" {key}={_short(value)}" for key, value in changes.items())
    judged, training = (_changed(file, inputs.on_drives(given, side), changes, said) for side in ("test", "train"))
    world = World(given.name + said, judged, training, training)
    # What is said of the inputs is no part of them.
    return _Built(world, pickle.dumps(world), resumable.digest([dataclasses.replace(one, inputs="") for one in (judged, training)]))


def _short(value: Any) -> str:
    """A number as it is, anything longer by its digest."""
    text = str(value)
    return text if len(text) <= 24 else hashlib.sha256(text.encode()).hexdigest()[:8]  # our choice: a name stays readable


def _at(file: Path, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _changed(file: Path, start: Scenario, changes: dict[str, Any], said: str) -> Scenario:
    """The scenario with other fields, read as a scenario file's are; it keeps its name, by which recipes and bundles are found."""
    if not changes:
        return start
    nested: dict[str, Any] = {}
    for key, value in changes.items():
        if not key.startswith(PLAN_FACTOR):
            _put(file, nested, key, value)
    place = files.Place(file)
    plans = start.plans if "plans" not in nested else files.read_plans(place.under("plans"), nested.pop("plans"))
    known = [field.name for field in dataclasses.fields(Scenario) if field.name not in {*files.LEFT_OUT, "name"}]
    known += ["plans", *OWN, LEARNER[:-1], PLAN_FACTOR[:-1]]
    made: dict[str, Any] = {key: files.read_field(place, start, key, value, known) for key, value in nested.items()}
    made["plans"] = _multiplied(file, plans, changes)
    made["inputs"] = f"{start.inputs}; changed:{said}"
    return _at(file, lambda: dataclasses.replace(start, **made))  # type: ignore[no-any-return]  # `_at` is any


def _put(file: Path, nested: dict[str, Any], key: str, value: Any) -> None:
    """A dotted key as entries of nested tables."""
    *tables, last = key.split(".")
    for table in tables:
        nested = nested.setdefault(table, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"{file}: {key} is a part of {table}, which is given whole; give one of them")
    if last in nested:
        raise ConfigError(f"{file}: {key} is given whole and in parts; give one of them")
    nested[last] = value


def _multiplied(file: Path, plans: PlanTable, changes: dict[str, Any]) -> PlanTable:
    """The plan table with the columns that `plan_factor` names multiplied."""
    factors = {}
    for key, value in changes.items():
        if key.startswith(PLAN_FACTOR):
            column = key.removeprefix(PLAN_FACTOR)
            if column not in FACTORS:
                raise ConfigError(
                    f"{file}: unknown key {key!r}; {nearest(column, FACTORS)}known: {', '.join(PLAN_FACTOR + one for one in FACTORS)}"
                )
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise ConfigError(f"{file}: {key} = {value!r}: give a factor above 0")
            factors[column] = value
    if not factors:
        return plans
    rows = tuple(
        msgspec.structs.replace(row, **{name: times * getattr(row, name) for name, times in factors.items()}) for row in plans.rows
    )
    return dataclasses.replace(plans, rows=rows)
