"""Signatures: a device that was given a key loads what its owner signed, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cutlayer.errors import BundleError, ConfigError
from cutlayer.runtime import bundle, bundle_signing
from cutlayer.runtime.bundle import MANIFEST, SIGNATURE

# --- signatures


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Folder with key.pem and key.pub.pem of the owner, other.pem and other.pub.pem of somebody else: made as the page says."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("key", "other"):
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", f"{name}.pem"], cwd=folder, check=True)
        subprocess.run(["openssl", "pkey", "-in", f"{name}.pem", "-pubout", "-out", f"{name}.pub.pem"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def signed(made, keys):
    """A bundle signed with key.pem."""
    file = keys / "signed.cutlayer"
    made.save(file, "1.2.3", bundle_signing.private_key(keys / "key.pem"))
    return file


def test_a_signed_bundle_loads_with_its_key_and_without_one(made, signed, keys):
    for key in (bundle_signing.public_key(keys / "key.pub.pem"), None):
        assert bundle.load(signed, key).golden == made.golden


def test_openssl_verifies_the_signature(signed, keys, unzip):
    for name, part in unzip(signed.read_bytes()).items():
        (keys / name).write_bytes(part)
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pub.pem", "-rawin", "-in", MANIFEST, "-sigfile", SIGNATURE]
    subprocess.run(verify, cwd=keys, check=True, capture_output=True)


def test_a_bundle_without_a_signature_is_refused_where_a_key_is_configured(file, keys):
    with pytest.raises(
        BundleError, match=r"good.cutlayer is not signed, and a key to verify it is configured; export it with --sign KEY.pem"
    ):
        bundle.load(file, bundle_signing.public_key(keys / "key.pub.pem"))


def test_a_bundle_signed_by_somebody_else_is_refused(signed, keys):
    with pytest.raises(BundleError, match=r"the signature of .*signed.cutlayer is not by the configured key"):
        bundle.load(signed, bundle_signing.public_key(keys / "other.pub.pem"))


@pytest.fixture(scope="module")
def resigned(signed, unzip, rezip):
    """The signed bundle with its manifest or signature changed."""

    def run(change):
        parts = unzip(signed.read_bytes())
        return rezip(parts | change(parts))

    return run


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: {SIGNATURE: b""},
        lambda parts: {SIGNATURE: bytes(64)},
        lambda parts: {SIGNATURE: parts[SIGNATURE] + b"\0"},
        lambda parts: {SIGNATURE: bytes([parts[SIGNATURE][0] ^ 1]) + parts[SIGNATURE][1:]},
        lambda parts: {MANIFEST: parts[MANIFEST] + b" "},
        lambda parts: {MANIFEST: parts[MANIFEST].replace(b"tiny-scenario", b"tiny-scenarik")},
    ],
)
def test_what_was_changed_after_signing_is_refused(signed, keys, tmp_path, change, resigned):
    (tmp_path / "changed.cutlayer").write_bytes(resigned(change))
    with pytest.raises(BundleError, match="is not by the configured key"):
        bundle.load(tmp_path / "changed.cutlayer", bundle_signing.public_key(keys / "key.pub.pem"))


def test_a_changed_part_under_a_good_signature_is_refused(signed, keys, tmp_path, resigned):
    (tmp_path / "changed.cutlayer").write_bytes(resigned(lambda parts: {"tree.json": parts["tree.json"] + b" "}))
    with pytest.raises(BundleError, match="does not have the sha256"):
        bundle.load(tmp_path / "changed.cutlayer", bundle_signing.public_key(keys / "key.pub.pem"))


def encrypted(folder):
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:secret", "-out", "wrong.pem"]
    subprocess.run(command, cwd=folder, check=True)


def of_another_kind(folder):
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "wrong.pem"]
    subprocess.run(command, cwd=folder, check=True)


def nothing(folder):
    (folder / "wrong.pem").write_bytes(b"")


def absent(folder):
    pass


@pytest.mark.parametrize("make", [encrypted, of_another_kind, nothing, absent])
def test_what_is_no_private_key_is_refused_with_the_command_that_makes_one(tmp_path, make):
    make(tmp_path)
    with pytest.raises(ConfigError, match=r"wrong.pem.*; make one with: openssl genpkey -algorithm ed25519 -out .*wrong.pem"):
        bundle_signing.private_key(tmp_path / "wrong.pem")


@pytest.mark.parametrize("make", [of_another_kind, nothing, absent])
def test_what_is_no_public_key_is_refused_with_the_command_that_makes_one(tmp_path, make):
    make(tmp_path)  # a private key is none
    with pytest.raises(
        ConfigError, match=r"wrong.pem.*; make it of the private key with: openssl pkey -in KEY.pem -pubout -out .*wrong.pem"
    ):
        bundle_signing.public_key(tmp_path / "wrong.pem")


def test_without_the_library_a_configured_key_is_refused_in_one_line(keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    for read in (bundle_signing.public_key, bundle_signing.private_key):
        with pytest.raises(
            ConfigError, match=r"the cryptography library is not installed; install it with: pip install 'cutlayer\[daemon\]'"
        ):
            read(keys / "key.pub.pem")
