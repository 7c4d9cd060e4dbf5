"""The page on the protocol is true: its tables are the structs' layout, its bytes are what the code writes."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import pytest

from cutlayer.profiles.codecs import BITS, HEADER_BYTES, RAW_BITS
from cutlayer.runtime import brisk
from cutlayer.runtime.split import connection, edge, protocol
from cutlayer.runtime.split.protocol import FATAL, Reply, Request, Status

if TYPE_CHECKING:
    from pathlib import Path

TYPES = {"u8": "B", "u16": "H", "u32": "I", "f32": "f", "4s": "4s", "8s": "8s"}


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/protocol.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("title", "layout"), [("Request", protocol._REQUEST), ("Reply", protocol._REPLY)])
def test_offsets_and_types_are_those_of_the_header(page, title, layout):
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (?!name)", section, re.MULTILINE)[: len(re.findall(r"[BHIf]|\ds", layout.format)) + 1]
    kinds = [TYPES[kind] for _, kind in rows]
    assert struct.Struct("<" + "".join(kinds)).size == HEADER_BYTES
    assert struct.Struct("<" + "".join(kinds[:-1])).format == layout.format
    at = [struct.calcsize("<" + "".join(kinds[:i])) for i in range(len(kinds))]
    assert [int(offset) for offset, _ in rows] == at


def test_every_status_is_named_with_what_becomes_of_the_connection(page):
    rows = re.findall(r"^\| (\d) \| ([A-Z_]+) \| .* \| (hangs up|goes on) \|$", page, re.MULTILINE)
    assert rows == [(str(int(one)), one.name, "hangs up" if one in FATAL else "goes on") for one in Status]


def test_the_golden_bytes_are_what_the_code_writes(page):
    asked, answered = (bytes.fromhex(line) for line in re.findall(r"^    (4355544c[0-9a-f ]+)$", page, re.MULTILINE))
    request = Request(7, bytes(range(8)), 1000, 0xDEADBEEF, exit=2, partition=1, bits=4, lo=-0.5, scale=0.25, deadline_s=0.125)
    assert protocol.pack_request(request) == asked
    assert protocol.pack_reply(Reply(7, Status.OK, 40, 0xCAFEF00D, 2, 3, 0.5, 0.0625, 0.25, 952, 0.75)) == answered


def test_the_numbers_in_its_words_are_the_codes(page):
    assert f"{', '.join(map(str, BITS))}; {RAW_BITS} for the image" in page
    assert f"up to\n{protocol.PROBE_BYTES:,} bytes" in page
    assert f"after {connection.BACK_OFF_S:g} s" in page
    assert f"at most {connection.LONGEST_BACK_OFF_S:g} s" in page
    assert f"silent for {edge.IDLE_S:g} s" in page
    assert edge.FRAME_IDLES * edge.IDLE_S == 60
    assert f"came within {1e3 * brisk.BRISK_S:g} ms, the next one is watched for, for {1e3 * brisk.BRISK_S:g} ms at most" in page
