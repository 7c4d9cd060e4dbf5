"""Bundles: what was saved comes back, and whatever else lies in a file is refused with a BundleError and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.errors import BundleError
from cutlayer.profiles.plans import PlanTable
from cutlayer.runtime import bundle, bundle_archive, bundle_weights, features
from cutlayer.runtime.bundle import MANIFEST, OPTIONAL, PARTS, Golden
from cutlayer.runtime.controller import Controller, Request
from cutlayer.runtime.policy import Mlp

ALL = (*PARTS, *OPTIONAL)


# --- what was saved comes back


def test_what_was_saved_comes_back(made, file):
    got = bundle.load(file)
    assert (got.scenario, got.algorithm, got.trained) == ("tiny-scenario", "ppo", {"commit": "none", "steps": 0})
    assert (got.path, got.objective) == (made.path, made.objective)
    assert got.plans.digest() == made.plans.digest()
    assert got.golden == made.golden
    assert (got.blocks, got.ranges, got.tree, got.bayes, got.distilled) == (
        made.blocks,
        made.ranges,
        made.tree,
        made.bayes,
        made.distilled,
    )
    assert got.policy.activation == "tanh"
    for (w, b), (v, c) in zip(got.policy.layers, made.policy.layers, strict=True):
        np.testing.assert_array_equal(w, v)
        np.testing.assert_array_equal(b, c)
    for one in np.random.default_rng(1).uniform(-1, 4, (200, features.SIZE)).astype(np.float32):
        np.testing.assert_array_equal(got.policy.logits(one), made.policy.logits(one))


def test_the_resealing_of_these_tests_is_sound(data, tmp_path, resealed):
    """Else they would refuse for the wrong reason."""
    path = tmp_path / "again.cutlayer"
    path.write_bytes(resealed(data, {}))
    bundle.load(path)


def test_a_bundle_may_hold_no_more_than_a_policy(make_bundle, tmp_path):
    make_bundle().save(tmp_path / "least.cutlayer", "1.2.3")
    got = bundle.load(tmp_path / "least.cutlayer")
    assert (got.ranges, got.tree, got.bayes, got.distilled) == (None, None, None, {})
    with pytest.raises(BundleError, match=r"least.cutlayer holds no tree; export it with --tree"):
        got.form("tree", str(tmp_path / "least.cutlayer"))


def test_equal_policies_give_equal_files(made, data, tmp_path, make_whole):
    make_whole().save(tmp_path / "again.cutlayer", "1.2.3")
    assert (tmp_path / "again.cutlayer").read_bytes() == data
    bundle.load(tmp_path / "again.cutlayer").save(tmp_path / "copy.cutlayer", "1.2.3")
    assert (tmp_path / "copy.cutlayer").read_bytes() == data
    dataclasses.replace(made, policy=Mlp(made.policy.layers[:2] + made.policy.layers[2:], "relu")).save(
        tmp_path / "other.cutlayer", "1.2.3"
    )
    assert (tmp_path / "other.cutlayer").read_bytes() != data


def test_it_loads_where_there_is_no_torch(file, tmp_path):
    heavy = ["torch", "gymnasium", "simpy", "stable_baselines3", "numba", "onnxruntime", "onnx", "sklearn", "cryptography"]
    code = f"""
import json, sys
from pathlib import Path
for name in {heavy!r}:
    sys.modules[name] = None  # importing it fails, as on a device
from cutlayer.runtime import bundle, controller
loaded = bundle.load(Path({str(file)!r}))
decision = controller.Controller(loaded).decide(0.0, controller.Request())
print(json.dumps([decision.step, [name for name in {heavy!r} if sys.modules[name] is not None]]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["policy", []]


def test_the_safetensors_library_reads_the_weights(made, data, unzip):
    from safetensors.numpy import load

    tensors = load(unzip(data)["weights.safetensors"])
    assert set(tensors) == {f"layer{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    for i, (weight, bias) in enumerate(made.policy.layers):
        np.testing.assert_array_equal(tensors[f"layer{i}.weight"], weight)
        np.testing.assert_array_equal(tensors[f"layer{i}.bias"], bias)


def test_saving_leaves_one_whole_file(made, tmp_path):
    made.save(tmp_path / "new" / "policy.cutlayer", "1.2.3")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["policy.cutlayer"]
    bundle.load(tmp_path / "new" / "policy.cutlayer")


# --- what is no bundle


def test_a_missing_bundle_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(BundleError, match=r"no bundle at .*none\.cutlayer; make one with: cutlayer export"):
        bundle.load(tmp_path / "none.cutlayer")


def test_a_folder_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="is no whole bundle"):
        bundle.load(tmp_path)


@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_bundle_is_refused(refused, data, tenths):
    assert "is no whole bundle" in refused(data[: len(data) * tenths // 10])


def test_a_bundle_that_lacks_its_last_byte_is_refused(refused, data):
    refused(data[:-1])


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(100), b"PK\x05\x06" + bytes(18), b"{}", bytes(5000)])
def test_other_files_are_refused(refused, content):
    refused(content)


@pytest.mark.parametrize("name", [MANIFEST, *ALL])
def test_a_missing_part_is_named(refused, data, name, unzip, rezip):
    parts = unzip(data)
    del parts[name]
    assert f"lacks {name}" in refused(rezip(parts))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_part_with_one_byte_flipped_is_refused(refused, data, name, share, unzip, rezip):
    parts = unzip(data)
    flipped = bytearray(parts[name])
    flipped[int(share * len(flipped))] ^= 1
    message = refused(rezip(parts | {name: bytes(flipped)}))
    assert f"{name} of" in message
    assert "sha256" in message


def test_any_byte_flipped_in_the_file_is_refused_or_changes_nothing(made, data, tmp_path):
    path = tmp_path / "flipped.cutlayer"
    for at in range(0, len(data), 23):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        same_or_refused(made, path, f"bit {at % 8} of byte {at}")


# Where to put which byte: places as shares of the length.
damages = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)


def damaged(data, damage, head=None):
    changed = bytearray(data)
    for place, byte in damage:
        changed[int(place * min(len(data), head or len(data)))] = byte
    return bytes(changed)


def test_random_damage_is_refused_or_changes_nothing(made, data, tmp_path):
    path = tmp_path / "damaged.cutlayer"

    @settings(max_examples=300)
    @given(damages)
    def check(damage):
        path.write_bytes(damaged(data, damage))
        same_or_refused(made, path, "damage")

    check()


def same_or_refused(made, path, where):
    try:
        got = bundle.load(path)
    except BundleError:
        return
    except Exception as error:
        raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
    assert got.plans.digest() == made.plans.digest()
    assert (got.ranges, got.tree, got.bayes) == (made.ranges, made.tree, made.bayes)
    for (w, b), (v, c) in zip(got.policy.layers, made.policy.layers, strict=True):
        assert (w.tobytes(), b.tobytes()) == (v.tobytes(), c.tobytes())


@pytest.mark.parametrize("name", [MANIFEST, *ALL])
def test_damage_under_a_matching_hash_raises_nothing_else(data, tmp_path, name, unzip, rezip, resealed):
    """Somebody who changes a part can also state its hash: then only reading it tells."""
    path = tmp_path / "damaged.cutlayer"
    parts = unzip(data)

    @settings(max_examples=100)
    @given(damages)
    def check(damage):
        # Names and structure come first; of the numbers after them most may change.
        part = damaged(parts[name], damage, head=700)
        path.write_bytes(rezip(parts | {name: part}) if name == MANIFEST else resealed(data, {name: lambda _: part}))
        try:
            bundle.load(path)
        except BundleError as error:
            assert "\n" not in str(error)  # noqa: PT017 - harmless damage loads
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}") from error

    check()


# --- what is a bundle, but not of this cutlayer, or does not fit itself


@pytest.mark.parametrize("version", [0, 1, 3])
def test_another_version_is_refused_whatever_else_it_states(refused, data, version, rezip, resealed):
    line = f"bundle version {version}, this cutlayer reads 2; export its run again"
    assert line in refused(resealed(data, {}, bundle_version=version))
    bare = {MANIFEST: json.dumps({"bundle_version": version, "what": "else"}).encode()}
    assert line in refused(rezip(bare))


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table[:-1],
        lambda table: table[1:] + table[:1],
        lambda table: [*table[:3], table[3] | {"unit": "kilobytes"}, *table[4:]],
        lambda table: [*table[:3], table[3] | {"high": 5.0}, *table[4:]],
    ],
)
def test_other_features_are_refused(refused, data, change, resealed, as_json):
    assert "other features" in refused(resealed(data, {"features.json": as_json(change)}))


def test_other_golden_decisions_are_refused(refused, data, resealed, as_json):
    def change(golden):
        golden["plans"][17] = (golden["plans"][17] + 1) % 8

    assert "does not decide as its trainer did" in refused(resealed(data, {"golden.json": as_json(change)}))


@pytest.mark.parametrize(
    "change",
    [
        lambda golden: golden.update(observations=[], plans=[]),
        lambda golden: golden.update(plans=golden["plans"][:-1]),
        lambda golden: golden["observations"].append([0.0] * features.SIZE),
        lambda golden: golden["observations"][0].pop(),
        lambda golden: golden["observations"][0].append(0.0),
        lambda golden: golden["observations"].__setitem__(0, []),
        lambda golden: golden["observations"][0].__setitem__(0, "0"),
        lambda golden: golden["plans"].__setitem__(0, -1),
        lambda golden: golden["plans"].__setitem__(0, 10**30),
        lambda golden: golden["observations"][0].__setitem__(0, 1e300),
    ],
)
def test_golden_decisions_that_cannot_be_are_refused(refused, data, change, resealed, as_json):
    refused(resealed(data, {"golden.json": as_json(change)}))


def test_weights_of_another_policy_are_refused(refused, data, make_policy, reforged):
    assert "does not decide" in refused(reforged(data, make_policy(8, seed=9)))


def test_an_activation_of_another_policy_is_refused(refused, data, made, resealed, reforged):
    assert "does not decide" in refused(reforged(data, Mlp(made.policy.layers, "relu"), activation="relu"))
    assert "is not the graph" in refused(resealed(data, {}, activation="relu"))
    assert "activation" in refused(resealed(data, {}, activation="gelu"))


def weights(header, body=b"", length=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


ONE = tensor([8, features.SIZE], 0, 32 * features.SIZE)
BODY = bytes(32 * features.SIZE + 32)


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"\x01",
        weights({}),
        weights({}, length=2**63),
        weights({"layer0.weight": ONE}, BODY),
        weights({"layer1.weight": ONE, "layer1.bias": tensor([8], 1024, 1056)}, BODY),
        weights({"layer0.weight": ONE, "layer0.bias": tensor([], 1024, 1028)}, BODY),
        weights({"layer0.weight": tensor([8 * features.SIZE], 0, 1024), "layer0.bias": tensor([8], 1024, 1056)}, BODY),
        weights({"layer0.weight": tensor([], 0, 4), "layer0.bias": tensor([], 4, 8)}, BODY),
        weights({"layer0.weight": ONE, "layer0.bias": tensor([7], 1024, 1052)}, BODY),
        weights({"layer0.weight": ONE, "layer0.bias": tensor([8], 1024, 1060)}, BODY),
        weights({"layer0.weight": ONE, "layer0.bias": tensor([8], 1030, 1025)}, BODY),
        weights({"layer0.weight": ONE, "layer0.bias": tensor([8], -32, 0)}, BODY),
        weights({"layer0.weight": ONE, "layer0.bias": tensor([2**40], 1024, 1056)}, BODY),
        weights({"layer0.weight": ONE, "layer0.bias": tensor([-1, 8], 1024, 1056)}, BODY),
        weights({"layer0.weight": ONE, "layer0.bias": tensor([8], 1024, 1056, "F16")}, BODY),
        weights({"layer0.weight": tensor([0, features.SIZE], 0, 0), "layer0.bias": tensor([0], 0, 0)}, BODY),
        weights({"layer0.weight": ONE, "layer0.bias": tensor([8], 1024, 1056)}, b"\xff" * len(BODY)),
        weights({"layer0.weight": tensor([8, 1], 0, 32), "layer0.bias": tensor([8], 1024, 1056)}, BODY),
    ],
)
def test_weights_that_do_not_fit_are_refused(refused, data, part, resealed):
    refused(resealed(data, {"weights.safetensors": lambda _: part}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(refused, data, made, value, resealed):
    layers = [(w.copy(), b.copy()) for w, b in made.policy.layers]
    layers[1][1][3] = value
    broken = bundle_weights.pack(Mlp(layers, "tanh"))
    assert "not finite" in refused(resealed(data, {"weights.safetensors": lambda _: broken}))


def test_a_policy_for_another_number_of_plans_is_refused(refused, data, resealed, as_json):
    def change(table):
        table["plans"] = table["plans"][1:]

    assert "32 features to 8 plans, not 32 to 7" in refused(resealed(data, {"plans.json": as_json(change)}))


def without_local(table):
    table["plans"] = [plan | {"bits": 8} for plan in table["plans"]]


def with_exit(table):
    table["plans"][2]["exit"] = 7


def with_time(table):
    table["plans"][2]["device_s"] = -0.5


def with_plans(table):
    table["plans"] = []


@pytest.mark.parametrize("change", [without_local, with_exit, with_time, with_plans])
def test_a_plan_table_that_cannot_be_is_refused(refused, data, change, resealed, as_json):
    """Nothing to fall back to, an exit that the network lacks, a negative time, nothing to choose from."""
    refused(resealed(data, {"plans.json": as_json(change)}))


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("objective", "deadline_s", 0.0),
        ("objective", "deadline_s", -0.1),
        ("path", "downlink_bps", 0.0),
        ("path", "rtt_s", -0.02),
        ("objective", "deadline_s", "soon"),
    ],
)
def test_an_objective_or_a_path_without_sense_is_refused(refused, data, where, key, value, unzip, resealed):
    stated = json.loads(unzip(data)[MANIFEST])
    refused(resealed(data, {}, **{where: stated[where] | {key: value}}))


# --- sizes


def test_a_part_that_would_unpack_to_more_than_is_read_is_refused(refused, data, unzip, rezip):
    for name in (MANIFEST, *ALL):
        bomb = unzip(data) | {name: b" " * (bundle_archive.MOST_BYTES + 1)}
        message = refused(rezip(bomb))
        assert f"{name} of" in message
        assert f"would unpack to {bundle_archive.MOST_BYTES + 1} bytes" in message


def test_a_part_that_lies_about_its_size_is_refused(refused, data, unzip, rezip):
    bomb = bytearray(rezip(unzip(data) | {"golden.json": b" " * (64 << 20)}))
    entry = [match.start() for match in re.finditer(b"PK\x01\x02", bytes(bomb)) if bomb[match.start() + 46 :].startswith(b"golden.json")]
    struct.pack_into("<I", bomb, entry[0] + 24, 1000)  # uncompressed size in the central directory
    refused(bytes(bomb))


def test_what_ships_is_far_below_the_limit(data, unzip):
    assert all(len(part) < bundle_archive.MOST_BYTES / 4 for part in unzip(data).values())


# --- what is loaded works


def test_a_loaded_bundle_decides(file):
    controller = Controller(bundle.load(file))
    decision = controller.decide(0.0, Request(id=3))
    assert (decision.id, decision.step) == (3, "policy")


def test_the_format_is_that_of_the_docstring(data, made, unzip):
    parts = unzip(data)
    assert list(parts) == [MANIFEST, *ALL]
    stated = json.loads(parts[MANIFEST])
    assert stated["parts"] == {name: hashlib.sha256(parts[name]).hexdigest() for name in ALL}
    assert (stated["bundle_version"], stated["cutlayer_version"]) == (2, "1.2.3")
    assert stated["plans_sha256"] == made.plans.digest() == hashlib.sha256(parts["plans.json"]).hexdigest()
    assert PlanTable.decode(parts["plans.json"], "it").rows == made.plans.rows
    assert msgspec.json.decode(parts["golden.json"], type=Golden) == made.golden
    assert len(json.loads(parts["features.json"])) == features.SIZE
