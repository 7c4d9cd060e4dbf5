"""Who made a bundle: an Ed25519 signature over its manifest, which in turn holds the sha256 of every other part.

Keys are PEM files without a passphrase, made by:

    openssl genpkey -algorithm ed25519 -out key.pem              stays with who exports
    openssl pkey -in key.pem -pubout -out key.pub.pem            goes to every device

The cryptography library is an extra: a device that asks for no signature does without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutlayer.errors import BundleError, ConfigError

if TYPE_CHECKING:
    import pathlib

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

INSTALL = "the cryptography library is not installed; install it with: pip install 'cutlayer[daemon]'"


def private_key(file: pathlib.Path) -> Ed25519PrivateKey:
    """The key that signs.

    Raises:
        ConfigError: there is none in the file.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ModuleNotFoundError as error:
        raise ConfigError(f"cannot sign with {file}: {INSTALL}") from error
    mend = f"make one with: openssl genpkey -algorithm ed25519 -out {file}"
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"cannot read the private key {file}: {error.strerror}; {mend}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it asks for a passphrase
        raise ConfigError(f"{file} is no private key in PEM without a passphrase; {mend}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{file} is a private key, but not an Ed25519 one; {mend}")
    return key


def public_key(file: pathlib.Path) -> Ed25519PublicKey:
    """The key that verifies.

    Raises:
        ConfigError: there is none in the file.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ModuleNotFoundError as error:
        raise ConfigError(f"cannot verify with {file}: {INSTALL}") from error
    mend = f"make it of the private key with: openssl pkey -in KEY.pem -pubout -out {file}"
    try:
        key = load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the public key {file}: {error.strerror}; {mend}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file} is no public key in PEM; {mend}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{file} is a public key, but not an Ed25519 one; {mend}")
    return key


def verify(manifest: bytes, signature: bytes | None, key: Ed25519PublicKey, where: pathlib.Path) -> None:
    """Hold a bundle's manifest to its signature.

    Raises:
        BundleError: there is no signature, or it is by another key or of another manifest.
    """
    from cryptography.exceptions import InvalidSignature

    if signature is None:
        raise BundleError(f"{where} is not signed, and a key to verify it is configured; export it with --sign KEY.pem")
    try:
        key.verify(signature, manifest)
    except InvalidSignature as error:
        raise BundleError(f"the signature of {where} is not by the configured key; copy it again, or have it signed anew") from error
