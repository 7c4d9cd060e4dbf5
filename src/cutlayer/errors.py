"""The exceptions a user of cutlayer meets.

    CutlayerError           everything below; the commands print it as one line and exit with 2
    +-- ConfigError         a file, option or name the operator gave is wrong
    |   +-- ProfileError    a profile, accuracy table or plan table is wrong
    |   +-- BundleError     an exported policy is wrong
    +-- PeerError           the other side of a socket broke the protocol or went away

A message names the value, the place and the mend, in this order.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'? ` where one of the known names is near, else nothing: a part of a message."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}? " if near else ""


class CutlayerError(Exception):
    """Base of all errors that cutlayer raises on purpose."""


class ConfigError(CutlayerError):
    """What the operator gave is wrong; the message says how to mend it."""


class ProfileError(ConfigError):
    """A table of measurements is missing, malformed or implausible."""


class BundleError(ConfigError):
    """An exported policy is truncated, tampered with or of another version."""


class PeerError(CutlayerError):
    """The peer sent what the protocol forbids, or went away."""
