"""The page on the daemon is true: its messages are answered, its clients run, its tables are the code's."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import jsonschema
import msgspec
import pytest

from cutlayer.agents.bench_decision import random_bundle
from cutlayer.envs import scenarios
from cutlayer.runtime import config, daemon, http, listening, service
from cutlayer.runtime.config import DaemonConfig
from cutlayer.runtime.messages import Decision
from cutlayer.runtime.service import Service, Session

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 30.0  # far beyond what anything here takes, also on a busy machine


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/daemon.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script(root: Path):
    spec = importlib.util.spec_from_file_location("daemon_figures", root / "docs/figures/daemon.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    random_bundle(scenarios.make("camera")).save(folder / "policy.cutlayer", "0")
    return folder


def blocks(page, language):
    """(name, text) of the page's blocks in a language."""
    return re.findall(rf"<!-- ([\w ]+) -->\n```{language}\n(.*?)```", page, re.DOTALL)


def examples(page):
    return [line for name, text in blocks(page, "json") if name not in ("decided", "ok") for line in text.splitlines()]


def test_every_message_of_the_page_is_answered(page, folder):
    read = lambda: DaemonConfig(bundle=str(folder / "policy.cutlayer"))  # noqa: E731 - as the daemon has it
    answers = Service(read, clock=lambda: 5.0)
    session, seen = Session(operator=True), set()
    for line in examples(page):
        operation = json.loads(line)["op"]
        seen.add(operation)
        reply = msgspec.json.decode(answers.answer(line.encode(), session))
        if operation == "rollback":
            assert "nothing decided before" in reply["error"]
        else:
            assert "error" not in reply, (line, reply)
    kinds = service.Message.__args__
    assert seen == {kind.__struct_config__.tag for kind in kinds}


def test_the_answers_of_the_page_have_the_codes_fields(page):
    (decided,) = (text for name, text in blocks(page, "json") if name == "decided")
    assert tuple(json.loads(decided)) == Decision.__struct_fields__
    msgspec.json.decode(decided, type=Decision)
    (ok,) = (text for name, text in blocks(page, "json") if name == "ok")
    assert ok.strip().encode() == service.OK


def test_the_schema_is_drawn_and_takes_the_examples(page, script, root):
    data = (root / "docs/daemon.schema.json").read_bytes()
    assert data == script.schema(), "run: python docs/figures/daemon.py"
    schema = json.loads(data)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for line in examples(page):
        validator.validate(json.loads(line))
    for wrong in ({"op": "decide", "deadline": 1}, {"op": "report", "plan": 1}, {"op": "stop"}):
        assert not validator.is_valid(wrong)


def test_the_table_of_settings_is_drawn(page, script):
    assert page == script.drawn(page), "run: python docs/figures/daemon.py"
    assert page.count("\n| `") >= len(config.rows())


def test_the_task_of_the_page_is_one(page, tmp_path):
    (text,) = (text for name, text in blocks(page, "toml") if name == "task")
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    assert config.load(tmp_path / "c.toml").task.path.rtt_s == 0.05


def test_exit_codes_and_numbers_are_the_codes(page):
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]
    assert codes == [daemon.STOPPED, daemon.REFUSED, daemon.FORCED]
    assert f"Of a flood of lines {listening.TURN} are answered" in page
    fixed = page.split("bundle that comes in as")[1].split("need a restart")[0]
    assert all(f"`{name}`" in fixed for name in service.FIXED if not name.startswith("trace"))


def test_its_paths_are_served(page, folder):
    read = lambda: DaemonConfig(bundle=str(folder / "policy.cutlayer"))  # noqa: E731 - as the daemon has it
    served = {route.resource.canonical for route in http._application(Service(read)).router.routes()}
    assert set(re.findall(r"^\| `(/[\w/]*)` \|", page, re.MULTILINE)) == served


@pytest.fixture(scope="module")
def serving(folder):
    """A daemon in the folder, as the page starts it."""
    command = [sys.executable, "-m", "cutlayer.runtime.daemon", "--bundle", "policy.cutlayer", "--socket", "cutlayerd.sock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder) as process:
        try:
            assert [json.loads(process.stdout.readline())["event"] for _ in range(2)] == ["start", "ready"]
            yield folder
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()


def test_the_client_in_python_runs(page, serving):
    ((_, code),) = blocks(page, "python")
    assert len(code.splitlines()) <= 30
    done = subprocess.run([sys.executable, "-c", code], cwd=serving, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def test_the_client_in_c_runs(page, serving):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    ((_, code),) = blocks(page, "c")
    (serving / "client.c").write_text(code, encoding="utf-8")
    subprocess.run([compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", "-o", "client", "client.c"], cwd=serving, check=True)
    done = subprocess.run(["./client"], cwd=serving, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert re.fullmatch(r"plan \d+\n", done.stdout), done
