"""The command `cutlayer export`: write what a device needs of a trained policy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import command, natural, positive, progress_bar, show

if TYPE_CHECKING:
    import argparse


def export_run(options: argparse.Namespace) -> None:
    """`cutlayer export`."""
    from cutlayer import __version__
    from cutlayer.agents import c_export, distil, export, inputs
    from cutlayer.agents.bayes import tuning
    from cutlayer.envs import scenarios
    from cutlayer.runtime import bundle_signing

    # First: what is wrong should cost no time.
    key = options.sign and bundle_signing.private_key(options.sign)
    recipe = distil.Recipe(leaves=options.leaves, seed=options.seed)
    if options.tree:
        distil.classifier()
    made, scenario = export.make(options.run, options.scenario and scenarios.make(options.scenario))
    training = inputs.on_drives(scenario, "train")
    if options.bayes:
        made = dataclasses.replace(made, bayes=tuning.tuned(training, options.seed, "bayes-greedy").parameters)
    if options.tree:
        made = distil.with_tree(made, training, recipe, progress_bar("distil a tree"))
    made.save(options.out, __version__, key)
    result: dict[str, Any] = {
        "bundle": str(options.out),
        "bytes": options.out.stat().st_size,
        "scenario": made.scenario,
        "algorithm": made.algorithm,
        "signed": key is not None,
    }
    lines = [f"wrote {options.out}, {result['bytes']} bytes{', signed' if key else ''}; next: cutlayerd --bundle {options.out}"]
    if made.distilled:
        result["tree"] = made.distilled
        lines.append(_of_tree(made.distilled))
    if options.c:
        result["c"] = [str(file) for file in c_export.write(made, options.c)]
        lines.append(f"wrote {' and '.join(result['c'])}")
    show(options, result, "\n".join(lines))


def _of_tree(found: dict[str, Any]) -> str:
    low, high = found["reward_loss_low"], found["reward_loss_high"]
    return (
        f"tree of {found['leaves']} leaves, {found['depth']} questions deep: decides {found['fidelity']:.1%} as the network and loses "
        f"{found['reward_loss']:.4f} ({low:.4f} to {high:.4f}) of its mean reward {found['reward_network']:.4f} on validation episodes"
    )


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    one = command(commands, "export", export_run, "write the bundle of a trained policy", "cutlayer export runs/mine -o policy.cutlayer")
    one.add_argument("run", type=Path, metavar="RUN")
    one.add_argument("--scenario", metavar="S", help="the scenario that it was trained on; needed where that was a file")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")
    one.add_argument("--sign", type=Path, metavar="KEY.pem", help="Ed25519 key to sign with (openssl genpkey -algorithm ed25519)")
    one.add_argument("--bayes", action="store_true", help="add the Bayes filter's rule, fitted and tuned in 5 to 30 s, as the fallback")
    one.add_argument("--tree", action="store_true", help="add a decision tree distilled from the network, and what it loses")
    one.add_argument("--leaves", type=positive, default=256, help="of the tree at most")
    one.add_argument("--seed", type=natural, default=0, help="of the tree's training episodes and of the tuning")
    one.add_argument("--c", type=Path, metavar="DIR", help="write the policy as C99 too, a header and a source")
