"""The file of a trace: bounded whatever comes, whole lines, a head in front of every file."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.runtime.tracefile import TraceFile

HEAD = b"head\n"


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 60), max_size=60), together=st.integers(1, 7))
def test_it_holds_the_last_lines_in_so_many_bytes(tmp_path_factory, sizes, together):
    folder = tmp_path_factory.mktemp("t")
    file = TraceFile(folder / "d.trace", 100, HEAD)
    lines = [b"%d:" % i + b"x" * size + b"\n" for i, size in enumerate(sizes)]
    for i in range(0, len(lines), together):
        file.write(b"".join(lines[i : i + together]))
    found = []
    for path in (file.before, file.path):
        if path.exists():
            head, *rest = path.read_bytes().splitlines(keepends=True)
            assert head == HEAD
            assert path.stat().st_size <= 50
            found += [line for line in rest if line != HEAD]
    fitting = [line for line in lines if len(HEAD) + len(line) <= 50]
    assert found == fitting[len(fitting) - len(found) :]
    assert not fitting or found, "the last line is there"


def test_a_restart_goes_on_in_the_same_file(tmp_path):
    TraceFile(tmp_path / "d.trace", 1000, HEAD).write(b"a\n")
    TraceFile(tmp_path / "d.trace", 1000, HEAD).write(b"b\n")
    assert (tmp_path / "d.trace").read_bytes() == HEAD + b"a\n" + HEAD + b"b\n"
    assert not (tmp_path / "d.trace.1").exists()


@pytest.mark.parametrize("left", [b"other head\na\n", HEAD + b"cut sho"])
def test_what_it_cannot_go_on_in_becomes_the_file_before(tmp_path, left):
    (tmp_path / "d.trace").write_bytes(left)
    TraceFile(tmp_path / "d.trace", 1000, HEAD).write(b"b\n")
    assert (tmp_path / "d.trace").read_bytes() == HEAD + b"b\n"
    assert (tmp_path / "d.trace.1").read_bytes() == left


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write the trace .*missing.*writable trace_path"):
        TraceFile(tmp_path / "missing/d.trace", 1000, HEAD)
