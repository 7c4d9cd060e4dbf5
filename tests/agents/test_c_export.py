"""The generated C99 compiles anywhere without a warning, needs no library, and decides as the network does."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import re
import shutil
import subprocess

import numpy as np
import pytest

from cutlayer.agents import agreement, c_export
from cutlayer.agents.agreement import Exact
from cutlayer.envs import scenarios
from cutlayer.errors import BundleError
from cutlayer.profiles.cost import Path, deadline
from cutlayer.runtime import features
from cutlayer.runtime.bundle import Bundle, Golden
from cutlayer.runtime.features import Blocks
from cutlayer.runtime.policy import Mlp

MANY = 100_000  # the number
GCC = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on PATH")


def random_policy(sizes, activation="tanh", scale=1.5):
    rng = np.random.default_rng(0)
    return Mlp([(rng.normal(0, scale / a**0.5, (b, a)), rng.normal(0, 0.1, b)) for a, b in itertools.pairwise(sizes)], activation)


@pytest.fixture(scope="module")
def make_bundle():
    """A bundle of a random network for the built-in plan table."""
    plans = scenarios.plan_table()

    def make(activation="tanh", blocks=features.BASE, hidden=(64, 64)):
        policy = random_policy((features.size(blocks), *hidden, len(plans)), activation)
        observations = agreement.observations(policy.inputs, 32)
        golden = Golden(observations.tolist(), agreement.plans(policy, observations).tolist())
        return Bundle("camera", "none", plans, Path(rtt_s=0.02), deadline(0.1), policy, golden, {}, blocks)

    return make


def compiled(bundle, folder, *flags):
    """The library's function, from observations (n, features) to plans (n,)."""
    c_export.write(bundle, folder)
    subprocess.run([*GCC, *flags, "-shared", "-fPIC", "-o", "policy.so", c_export.SOURCE], cwd=folder, check=True)
    choose = ctypes.CDLL(str(folder / "policy.so")).cutlayer_choose
    choose.argtypes, choose.restype = [ctypes.c_void_p], ctypes.c_int

    def plans(observations):
        rows = np.ascontiguousarray(observations, np.float32)
        return np.array([choose(rows.ctypes.data + i * rows.strides[0]) for i in range(len(rows))])

    return plans


@pytest.mark.parametrize(("activation", "optimised", "many"), [("tanh", "-O3", MANY), ("relu", "-O2", 20_000)])
def test_it_decides_as_numpy_on_100_000_observations(make_bundle, tmp_path, activation, optimised, many):
    bundle = make_bundle(activation)
    choose = compiled(bundle, tmp_path, optimised)
    observations = agreement.observations(bundle.policy.inputs, many)
    expected = agreement.plans(bundle.policy, observations)
    found = Exact(bundle.policy, observations).compare(expected, choose(observations))
    assert (found.observations, found.differ) == (many, 0)
    assert found.differ_close < 1e-4 * many
    assert found.gap < 1e-4
    assert len(np.unique(expected)) > 30, "the comparison is of many plans"


@pytest.mark.parametrize("blocks", [features.BASE, Blocks(deadline=True, units=3, broadcast=True)])
@pytest.mark.parametrize("hidden", [(), (5,), (9, 17, 3)])
def test_any_shape_and_any_features_will_do(make_bundle, tmp_path, blocks, hidden):
    bundle = make_bundle("tanh", blocks, hidden)
    observations = agreement.observations(bundle.policy.inputs, 500)
    found = Exact(bundle.policy, observations).compare(
        agreement.plans(bundle.policy, observations), compiled(bundle, tmp_path, "-O1")(observations)
    )
    assert found.differ == 0
    header = (tmp_path / c_export.HEADER).read_text()
    assert all(re.search(rf"\* +{i}  {feature.name} ", header) for i, feature in enumerate(features.table(blocks)))


def test_tanh_is_as_exact_as_it_says(make_bundle, tmp_path):
    """The generated function itself, compiled with a way in."""
    c_export.write(make_bundle(), tmp_path)
    source = (tmp_path / c_export.SOURCE).read_text()
    (tmp_path / "tanh.c").write_text(
        source + "\nvoid apply(float *x, long n);\nvoid apply(float *x, long n) { while (n--) { *x = activation(*x); x++; } }\n"
    )
    subprocess.run([*GCC, "-O2", "-shared", "-fPIC", "-o", "tanh.so", "tanh.c"], cwd=tmp_path, check=True)
    exact = np.concatenate([np.linspace(-50, 50, 400_001), np.geomspace(1e-45, 1, 10_000), [0.0, -0.0, 3e38, -3e38]]).astype(np.float32)
    got = exact.copy()
    ctypes.CDLL(str(tmp_path / "tanh.so")).apply(ctypes.c_void_p(got.ctypes.data), ctypes.c_long(len(got)))
    off = np.abs(got - np.tanh(exact.astype(np.float64)))
    assert off.max() < 3e-7 < agreement.TANH_ERROR
    assert (np.abs(got) <= 1).all()
    np.testing.assert_array_equal(got[-2:], [1.0, -1.0])


def test_the_self_test_passes_and_finds_a_changed_weight_or_golden_decision(make_bundle, tmp_path):
    bundle = make_bundle()
    wrong = dataclasses.replace(
        bundle, golden=Golden(bundle.golden.observations, [(bundle.golden.plans[0] + 1) % 95, *bundle.golden.plans[1:]])
    )
    layers = [(w.copy(), b.copy()) for w, b in bundle.policy.layers]
    layers[0][0][:] *= 0.5
    other = dataclasses.replace(bundle, policy=Mlp(layers, "tanh"))
    for made, code in ((bundle, 0), (wrong, 1), (other, 1)):
        c_export.write(made, tmp_path)
        subprocess.run([*GCC, "-DCUTLAYER_SELF_TEST", "-o", "self-test", c_export.SOURCE], cwd=tmp_path, check=True)
        assert subprocess.run([tmp_path / "self-test"], check=False).returncode == code


def test_it_needs_no_library(make_bundle, tmp_path):
    """Linked with nothing at all, it leaves no name open, and it allocates nothing."""
    c_export.write(make_bundle(), tmp_path)
    subprocess.run([*GCC, "-O2", "-ffreestanding", "-c", c_export.SOURCE, "-o", "policy.o"], cwd=tmp_path, check=True)
    told = subprocess.run(["nm", "--undefined-only", "policy.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert set(told.split()) <= {"U", "memcpy", "memset", "memmove", "memcmp"}, "gcc itself asks every environment for these four"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 4.0001, -1.0001, 1e30])
def test_an_observation_out_of_range_is_no_question(make_bundle, tmp_path, value):
    bundle = make_bundle(hidden=(5,))
    choose = compiled(bundle, tmp_path, "-O2")
    rows = np.zeros((bundle.policy.inputs + 1, bundle.policy.inputs), np.float32)
    np.fill_diagonal(rows, value)
    got = choose(rows)
    assert (got[:-1] == -1).all()
    assert got[-1] >= 0


PRINTS = """\
#include <stdio.h>
#include "cutlayer_policy.h"
int main(void)
{
    int i;

    for (i = 0; i < CUTLAYER_PLANS; i++) {
        const struct cutlayer_plan *plan = &cutlayer_plans[i];
        printf("%d %d %d %ld %s %s\\n", plan->exit, plan->partition, plan->bits, plan->payload_bytes, plan->codec, plan->name);
    }
    return 0;
}
"""


def test_the_table_of_plans_is_there(make_bundle, tmp_path):
    bundle = make_bundle(hidden=(5,))
    c_export.write(bundle, tmp_path)
    (tmp_path / "main.c").write_text(PRINTS)
    subprocess.run([*GCC, "-o", "plans", "main.c", c_export.SOURCE], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "plans"], check=True, capture_output=True, text=True).stdout.splitlines()
    table = bundle.plans
    assert printed == [
        f"{row.exit} {row.partition} {row.bits} {row.payload_bytes} {row.codec} {table.name(i)}" for i, row in enumerate(table.rows)
    ]


def test_names_cannot_break_out_of_strings_and_comments(make_bundle, tmp_path):
    """A bundle's names are its maker's."""
    bundle = make_bundle(hidden=(5,))
    evil = dataclasses.replace(bundle.plans, model='*/ int main(void) { return 1; } /*\n"\\', device="??/\n#error no")
    c_export.write(dataclasses.replace(bundle, plans=evil, scenario='"*/\n#error', algorithm="\\\n"), tmp_path)
    subprocess.run([*GCC, "-c", c_export.SOURCE, "-o", "policy.o"], cwd=tmp_path, check=True)


def test_the_same_bundle_gives_the_same_files(make_bundle, tmp_path):
    for name in ("one", "two"):
        c_export.write(make_bundle(), tmp_path / name)
    for file in (c_export.HEADER, c_export.SOURCE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_weights_that_could_overflow_are_refused(make_bundle, tmp_path):
    bundle = make_bundle("relu", hidden=(5,))
    layers = [(w * np.float32(1e20), b) for w, b in bundle.policy.layers]
    with pytest.raises(BundleError, match=r"a sum in the policy may reach .*, more than a float32 holds; train it anew"):
        c_export.write(dataclasses.replace(bundle, policy=Mlp(layers, "relu")), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.5, 0.1, 1e-45, 3.4028234663852886e38, 1e-38])
def test_a_literal_is_the_very_number(value):
    exact = float(np.float32(value))
    literal = c_export._float(exact)
    assert literal.endswith("f")
    assert float.fromhex(literal[:-1]).hex() == exact.hex()
