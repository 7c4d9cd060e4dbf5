"""A certificate authority for a test bed: its own certificate, and one each for an edge and a device. Needs `cryptography`.

Not for a fleet: one key signs both, lies in the same folder, and every certificate ends after `DAYS`.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cutlayer.errors import ConfigError
from cutlayer.runtime.split.address import Certificates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAYS = 365  # our choice: a test bed that lives longer makes new ones


def make(folder: Path, hosts: Sequence[str], now: dt.datetime) -> dict[str, Certificates]:
    """Write authority.pem, edge.pem, edge.key, device.pem and device.key into `folder`; what each side is given.

    `hosts` are the names and addresses that devices may find the edge by.

    Raises:
        ConfigError: a file of that name is there already: another authority's certificates would no longer fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("authority.pem", "edge.pem", "edge.key", "device.pem", "device.key")
    for name in names:
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} exists; give an empty folder, so that no certificate outlives its authority")
    signing = ec.generate_private_key(ec.SECP256R1())
    issuer = _name("cutlayer test authority")
    authority = _builder(issuer, issuer, signing.public_key(), now)
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    _write(folder / "authority.pem", authority.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    for who in ("edge", "device"):
        key = ec.generate_private_key(ec.SECP256R1())
        one = _builder(_name(who), issuer, key.public_key(), now)
        one = one.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if who == "edge":
            one = one.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        _write(folder / f"{who}.pem", one.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        _write(folder / f"{who}.key", key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return {who: Certificates(folder / f"{who}.pem", folder / f"{who}.key", folder / "authority.pem") for who in ("edge", "device")}


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(x509.random_serial_number())
    # An hour back: the other machine's clock may be behind.
    return made.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(days=DAYS))


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
