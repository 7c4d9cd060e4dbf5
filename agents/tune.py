"""Search for a recipe with Optuna: each trial is one training (or one set of a priced rule's parameters), scored on validation episodes.

    DIR/study.db          Optuna's own storage (SQLite); the same call again goes on to the number of trials asked for
    DIR/best.toml         the best trial: of a learner a grid for `cutlayer sweep` that trains it with five seeds, of a rule its numbers
    DIR/rule.json         of a rule: its whole parameters, as `runtime.priced.Parameters`
    DIR/run.json          what makes it repeatable; how many trials and decisions were spent
    DIR/trials/N/         the run folder of a learner's trial

The score is the best mean reward on `episodes.VALIDATION`; held-out episodes are never played. Trial 0 is the recipe as it is, so the best
one is no worse than it there. A trial that lags behind the median of the others at the same point is given up. Searches are compared by
what they spend: a learner's trial learns from `steps` decisions, a rule's plays the validation episodes once.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import optuna

from cutlayer.agents import runs as manifests
from cutlayer.agents import train
from cutlayer.agents.bayes import fit, tuning
from cutlayer.agents.episodes import TUNING, VALIDATION
from cutlayer.agents.learners import LEARNERS
from cutlayer.agents.tune_spaces import SPACES, Space, point_of
from cutlayer.errors import ConfigError, nearest
from cutlayer.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cutlayer.envs.spec import Scenario

RULES: tuple[tuning.Kind, ...] = ("belief-greedy", "bayes-greedy")
STORAGE, BEST, RULE, RUN, TRIALS = "study.db", "best.toml", "rule.json", "run.json", "trials"
BEST_SEEDS = range(5)  # as the benchmark's learners
EARLY = 10  # validation episodes after which a rule's trial may be given up: as `bayes.tuning.FIRST`
STARTUP = 5  # trials before any is given up: Optuna's default
SEED = 0  # of every training of a search: what differs between trials is the recipe


class Subject(Protocol):
    """What is searched for, on one scenario."""

    @property
    def decisions(self) -> int:
        """That a trial takes, given up or not."""
        ...

    def first(self) -> dict[str, Any]:
        """The parameters of trial 0."""
        ...

    def score(self, trial: optuna.Trial, folder: Path) -> float:
        """Mean reward on validation episodes.

        Raises:
            optuna.TrialPruned: the trial is given up.
        """
        ...

    def best(self, params: dict[str, Any], out: Path) -> str:
        """The text of `best.toml`."""
        ...


@dataclass(frozen=True, slots=True)
class Learner:
    """A learner's recipe; see `tune_spaces.SPACES` for what is searched."""

    scenario: Scenario
    given: str  # the scenario as the user named it
    algorithm: str
    steps: int | None

    @property
    def recipe(self) -> Any:
        """The learner's own."""
        recipe = LEARNERS[self.algorithm].recipe(self.scenario.name)
        return recipe if self.steps is None else dataclasses.replace(recipe, steps=self.steps)

    @property
    def decisions(self) -> int:
        """See `Subject`."""
        return int(self.recipe.steps)

    @property
    def space(self) -> Space:
        """What is searched."""
        return SPACES[self.algorithm]

    def first(self) -> dict[str, Any]:
        """See `Subject`."""
        return point_of(self.space, self.recipe)

    def score(self, trial: optuna.Trial, folder: Path) -> float:
        """See `Subject`."""
        changes = {name: axis.suggest(trial, name) for name, axis in self.space.items()}
        report = functools.partial(_between, trial, folder / train.CURVE)
        recipe = dataclasses.replace(self.recipe, **changes)
        found = train.train(self.scenario, self.algorithm, SEED, folder, recipe=recipe, report=report)
        return float(found["best"]["reward_mean"])

    def best(self, params: dict[str, Any], out: Path) -> str:
        """See `Subject`."""
        del out
        named = {name: axis.value(params[name]) for name, axis in self.space.items()}
        lines = [f"# The best recipe for {self.algorithm} on {self.given}; train and judge it with: cutlayer sweep THIS -o DIR", "[fixed]"]
        lines += [f"algo = {_toml(self.algorithm)}", f"scenario = {_toml(self.given)}", "block = 0", f"steps = {self.decisions}", ""]
        lines += ["[fixed.learner]", *(f"{name} = {_toml(value)}" for name, value in named.items()), ""]
        return "\n".join([*lines, "[grid]", f"seed = {list(BEST_SEEDS)}", ""])


def _between(trial: optuna.Trial, curve: Path, _share: float) -> None:
    """Tell Optuna of the newest look at the validation episodes, and end the training where it lags behind."""
    if not curve.exists():
        return
    looks = curve.read_text(encoding="utf-8").splitlines()[1:]
    told = trial.storage.get_trial(trial._trial_id).intermediate_values  # noqa: SLF001 - Optuna has no public name for it
    if looks and len(looks) not in told:
        trial.report(max(float(look.split(",")[2]) for look in looks), len(looks))
        if trial.should_prune():
            raise optuna.TrialPruned


@dataclass(frozen=True)
class Rule:
    """A priced rule's numbers beside what is fitted on tuning episodes; searched on the scales of `bayes.tuning`."""

    scenario: Scenario
    kind: tuning.Kind

    @property
    def decisions(self) -> int:
        """See `Subject`."""
        return len(VALIDATION) * self.scenario.requests

    @functools.cached_property
    def fitted(self) -> Any:
        """What is fitted, not searched."""
        return fit.parameters(self.scenario, TUNING)

    @functools.cached_property
    def axes(self) -> dict[str, tuning.Axis]:
        """What is searched."""
        return (tuning.bayes_axes if self.kind == "bayes-greedy" else tuning.belief_axes)(self.fitted, self.scenario)

    @functools.cached_property
    def played(self) -> Any:
        """The validation episodes, compiled."""
        from cutlayer.agents.bayes.compiled import Compiled
        from cutlayer.envs.batch import Bank

        return Compiled(self.scenario, Bank.draw(self.scenario, VALIDATION))

    def first(self) -> dict[str, Any]:
        """See `Subject`."""
        return {name: axis.start for name, axis in self.axes.items()}

    def parameters(self, places: dict[str, float]) -> Any:
        """Of the rule at a point of the search."""
        build = tuning.bayes if self.kind == "bayes-greedy" else tuning.belief
        return build(self.fitted, self.scenario, {name: axis.value(places[name]) for name, axis in self.axes.items()})

    def score(self, trial: optuna.Trial, folder: Path) -> float:
        """See `Subject`."""
        import numpy as np

        del folder
        parameters = self.parameters({name: trial.suggest_float(name, 0.0, 1.0) for name in self.axes})
        early = self.played.play(parameters, np.arange(EARLY))
        trial.report(float(early.mean()), 1)
        if trial.should_prune():
            raise optuna.TrialPruned
        late = self.played.play(parameters, np.arange(EARLY, len(VALIDATION)))
        return float(np.concatenate([early, late]).mean())

    def best(self, params: dict[str, Any], out: Path) -> str:
        """See `Subject`."""
        write_atomic(out / RULE, msgspec.json.format(msgspec.json.encode(self.parameters(params)), indent=1) + b"\n")
        lines = [f"{name} = {axis.value(params[name])!r}" for name, axis in self.axes.items()]
        return "\n".join(
            [f"# The best numbers of {self.kind} on {self.scenario.name}; all of its parameters: {RULE}", f"[{self.kind}]", *lines, ""]
        )


def _toml(value: Any) -> str:
    """A number, text or list of numbers as TOML; JSON writes these alike."""
    return msgspec.json.encode(value).decode()


def subject(scenario: Scenario, given: str, learner: str, steps: int | None) -> Subject:
    """What is searched for, by name.

    Raises:
        ConfigError: nothing is to be searched of it.
    """
    if learner in RULES:
        if steps is not None:
            raise ConfigError(
                f"--steps means nothing to {learner}, whose trials play the validation episodes; give --trials or --decisions"
            )
        return Rule(scenario, "bayes-greedy" if learner == "bayes-greedy" else "belief-greedy")
    if learner not in SPACES:
        known = (*SPACES, *RULES)
        raise ConfigError(f"cannot tune {learner!r}; {nearest(learner, known)}known: {', '.join(known)}")
    return Learner(scenario, given, learner, steps)


@dataclass(frozen=True, slots=True)
class Share:
    """What one process does of a search: so many trials, with a sampler of its own seed."""

    of: Subject
    out: Path
    study: str
    trials: int
    seed: int


def open_study(out: Path, name: str, seed: int) -> optuna.Study:
    """The study that `out` holds, or a new one.

    Raises:
        ConfigError: it holds another.
    """
    out.mkdir(parents=True, exist_ok=True)
    # Optuna's own output would mix with the command's.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{out / STORAGE}"
    held = [one.study_name for one in optuna.get_all_study_summaries(storage)] if (out / STORAGE).exists() else []
    if held and held != [name]:
        raise ConfigError(f"{out} holds a search for {held[0]}, not for {name}; give another folder with -o")
    return optuna.create_study(
        storage=storage, study_name=name, load_if_exists=True, direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed), pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
    )  # fmt: skip


def work(share: Share, report: Callable[[float], None] = lambda _share: None) -> None:
    """Do a share of a search; several processes do so on one study."""
    study = open_study(share.out, share.study, share.seed)

    def objective(trial: optuna.Trial) -> float:
        folder = share.out / TRIALS / str(trial.number)
        if folder.exists():  # of a search before this one, whose study was removed
            shutil.rmtree(folder)
        return share.of.score(trial, folder)

    def tell(study: optuna.Study, _trial: optuna.trial.FrozenTrial) -> None:
        report(len(ended(study)))

    study.optimize(objective, n_trials=share.trials, callbacks=[tell])


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that came to their end or were given up; one that was cut off counts for nothing."""
    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED))


def conclude(scenario: Scenario, of: Subject, study: optuna.Study, out: Path, learner: str) -> dict[str, Any]:
    """Write what was found, and return it."""
    best, trials = study.best_trial, ended(study)
    complete = [one for one in trials if one.state == optuna.trial.TrialState.COMPLETE]
    write_atomic(out / BEST, of.best(best.params, out).encode())
    seeds: dict[str, object] = {"training": SEED, "validation": [VALIDATION.start, VALIDATION.stop]}
    first = next((one.value for one in complete if one.number == 0), None)
    content = manifests.manifest(
        scenario, seeds, learner=learner, trials=len(trials), given_up=len(trials) - len(complete), decisions=len(trials) * of.decisions,
        best={"trial": best.number, "reward_mean": best.value, "params": best.params}, first_reward_mean=first,
    )  # fmt: skip
    manifests.write(out, RUN, content)
    return content
