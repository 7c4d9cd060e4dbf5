"""JSON Schema of every kind of table, for programs in other languages: generated from the structs, kept in `docs/schema/`.

A schema says which keys there are and of which type; that a duration is positive, finite and under an hour, and that parts fit
each other, is checked when a table is read (`cutlayer.profiles.load`). Older versions of a table are read too, but only
this one has a schema. A test holds the files in `docs/schema/` to what is generated here.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from cutlayer.files import write_atomic
from cutlayer.profiles import builtin, graphs, plans
from cutlayer.profiles.schema import SCHEMA_VERSION, AccuracyTable, ImportedTable, ModelProfile

if TYPE_CHECKING:
    from pathlib import Path

DIALECT = "https://json-schema.org/draft/2020-12/schema"  # what msgspec writes

# Every kind of JSON file that the profile layer writes, by the name of its schema: (struct, key of its version, versions that are read).
KINDS: dict[str, tuple[type, str, tuple[int, ...]]] = {
    "model-profile": (ModelProfile, "schema_version", (SCHEMA_VERSION,)),
    "accuracy": (AccuracyTable, "schema_version", (SCHEMA_VERSION,)),
    "jpeg": (builtin.JpegTable, "schema_version", (SCHEMA_VERSION,)),
    "imported": (ImportedTable, "schema_version", (SCHEMA_VERSION,)),
    "plan-table": (plans._File, "format", plans.FORMATS),  # noqa: SLF001 - what `PlanTable.encode` writes; nobody else needs it
    "graphs": (graphs.Manifest, "schema_version", (graphs.SCHEMA_VERSION,)),
}


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of every kind, by name."""
    return {name: _schema(name) for name in KINDS}


def _schema(name: str) -> dict[str, Any]:
    kind, version, known = KINDS[name]
    made = msgspec.json.schema(kind)
    parts = made.pop("$defs")
    for part in parts.values():
        if "description" in part:
            part["description"] = inspect.cleandoc(part["description"])
    top = parts.pop(made["$ref"].rsplit("/", 1)[-1])
    top["properties"][version] = {"enum": list(known)}
    return {"$schema": DIALECT, **top, "title": name, "$defs": parts}


def write(folder: Path) -> list[Path]:
    """Write all of them into `folder`, one file each; returns the files."""
    files = []
    for name, schema in schemas().items():
        files.append(folder / f"{name}.json")
        write_atomic(files[-1], msgspec.json.format(msgspec.json.encode(schema), indent=1) + b"\n")
    return files
