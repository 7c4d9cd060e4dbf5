"""Ways to an edge: what is parsed, what is refused, and split inference through a Unix socket and through TLS by real processes."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from cutlayer import cli
from cutlayer.errors import ConfigError
from cutlayer.runtime.split import authority, protocol
from cutlayer.runtime.split import edge as edge_module
from cutlayer.runtime.split.address import Address, Certificates, connect, listen
from cutlayer.runtime.split.device import DeviceAgent
from cutlayer.runtime.split.edge import EdgeServer
from cutlayer.runtime.split.protocol import Kind, Request, Shapes

DEADLINE_S = 5.0
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return authority.make(tmp_path_factory.mktemp("ours"), ["127.0.0.1"], NOW)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    return authority.make(tmp_path_factory.mktemp("theirs"), ["127.0.0.1"], NOW)


def options(own: Certificates):
    return "--tls-certificate", str(own.certificate), "--tls-key", str(own.key), "--tls-authority", str(own.authority)


def answered(graphs, address, image, tls=None):
    with contextlib.closing(DeviceAgent(graphs, address, tls=tls)) as device:
        return [device.infer(image, 4, 2, bits, DEADLINE_S) for bits in (8, 32)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7400", Address("127.0.0.1", 7400)),
        ("[::1]:7400", Address("::1", 7400)),
        ("edge.example:0", Address("edge.example", 0)),
        ("unix:/run/edge.sock", Address(path=Path("/run/edge.sock"))),
    ],
)
def test_an_address_is_a_host_and_port_or_a_path(text, expected):
    assert Address.parse(text) == expected


@pytest.mark.parametrize("text", ["", "7400", ":7400", "host:", "host:seven", "host:65536", "unix:", "host:-1"])
def test_anything_else_is_refused_by_name(text):
    with pytest.raises(ConfigError, match="neither HOST:PORT nor unix:PATH"):
        Address.parse(text)


def test_a_unix_socket_serves_and_is_gone_afterwards(opened, graphs_folder, start_edge, image, tmp_path):
    path = tmp_path / "edge.sock"
    with start_edge(graphs_folder, "--unix", str(path)) as edge:
        assert edge.address == Address(path=path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert [one.status for one in answered(opened, edge.address, image)] == ["edge", "edge"]
        edge.process.terminate()
        assert edge.process.wait(10) == 0
    assert not path.exists()


def test_a_socket_file_of_a_dead_process_is_taken_over_and_of_a_living_one_is_not(tmp_path):
    path = tmp_path / "edge.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with (
        contextlib.closing(listen(Address(path=path), tls=False, insecure=False)),
        pytest.raises(ConfigError, match="stop what listens there"),
    ):
        listen(Address(path=path), tls=False, insecure=False)


def test_a_file_that_is_no_socket_is_not_touched(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("keep me")
    with pytest.raises(ConfigError, match="cannot listen on unix:"):
        listen(Address(path=path), tls=False, insecure=False)
    assert path.read_text() == "keep me"


def test_other_machines_are_let_in_with_tls_or_where_somebody_says_so():
    everywhere = Address("0.0.0.0")  # noqa: S104 - that it is refused is the point
    with pytest.raises(ConfigError, match=r"--tls-certificate.*--insecure"):
        listen(everywhere, tls=False, insecure=False)
    for allowed in ({"tls": True, "insecure": False}, {"tls": False, "insecure": True}):
        listen(everywhere, **allowed).close()


def test_split_inference_through_tls_equals_that_without(opened, graphs_folder, start_edge, image, certificates, edge):
    with start_edge(graphs_folder, *options(certificates["edge"])) as secured:
        through = answered(opened, secured.address, image, certificates["device"].client())
    plain = answered(opened, edge.address, image)
    assert [one.status for one in through] == ["edge", "edge"]
    for a, b in zip(through, plain, strict=True):
        assert (a.logits == b.logits).all()


def test_whoever_shows_no_certificate_of_the_authority_is_hung_up_on(opened, graphs_folder, start_edge, image, certificates, strangers):
    with start_edge(graphs_folder, *options(certificates["edge"])) as secured:
        assert {one.status for one in answered(opened, secured.address, image)} == {"fallback"}, "without TLS"
        bare = ssl.create_default_context(cafile=certificates["edge"].authority)
        assert {one.status for one in answered(opened, secured.address, image, bare)} == {"fallback"}, "without a certificate"
        foreign = Certificates(strangers["device"].certificate, strangers["device"].key, certificates["device"].authority)
        got = answered(opened, secured.address, image, foreign.client())
        assert {one.status for one in got} == {"fallback"}, "with a certificate of another authority"
        assert [one.status for one in answered(opened, secured.address, image, certificates["device"].client())] == ["edge", "edge"]


def test_a_device_does_not_speak_to_an_edge_of_another_authority_or_name(opened, graphs_folder, start_edge, image, certificates, strangers):
    with start_edge(graphs_folder, *options(strangers["edge"])) as foreign:
        got = answered(opened, foreign.address, image, certificates["device"].client())
        assert {one.status for one in got} == {"fallback"}
        assert "certificate verify failed" in got[0].reason
    with start_edge(graphs_folder, *options(certificates["edge"])) as secured:
        elsewhere = Address("localhost", secured.address.port)  # not among the names in the certificate
        got = answered(opened, elsewhere, image, certificates["device"].client())
        assert "Hostname mismatch" in got[0].reason


def test_an_edge_survives_a_device_that_says_nothing(graphs_folder, start_edge, opened, image, certificates):
    with start_edge(graphs_folder, *options(certificates["edge"]), "--idle-s", "0.2") as secured:
        with connect(secured.address, DEADLINE_S) as silent:
            assert silent.recv(1) == b""
        assert answered(opened, secured.address, image, certificates["device"].client())[0].status == "edge"


@pytest.mark.parametrize("secured", [False, True])
def test_a_device_may_be_silent_between_frames_for_longer_than_within_one(certificates, secured):
    """The edge looks up each time that its patience within a frame has passed, and goes on waiting."""
    shapes = Shapes(b"8 bytes!", (1,), ((3, 2, 2), (4,)), 2)
    tls = certificates["edge"].server() if secured else None
    with EdgeServer(SimpleNamespace(shapes=shapes), tls=tls, idle_s=0.02) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        with connect(server.address, DEADLINE_S, certificates["device"].client() if secured else None) as peer:
            for sequence in (1, 2):
                peer.settimeout(DEADLINE_S)
                peer.sendall(protocol.pack_request(Request(sequence, shapes.model, 0, 0, kind=Kind.PROBE)))
                assert protocol.parse_reply(peer.recv(48)).sequence == sequence
                peer.settimeout(0.1)
                with pytest.raises(TimeoutError):  # it neither says anything nor hangs up
                    peer.recv(1)
        server.stop()
        thread.join()


def test_certificates_are_whole_private_and_verify_by_openssl(tmp_path, capsys):
    folder = tmp_path / "certificates"
    assert cli.main(["testbed", "certificates", "-o", str(folder), "--host", "edge.example", "--host", "10.0.0.2"]) == 0
    assert "next: cutlayer-edge --tls-certificate" in capsys.readouterr().out
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    if openssl := shutil.which("openssl"):
        command = [openssl, "verify", "-CAfile", "authority.pem", "-verify_ip", "10.0.0.2", "edge.pem"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.stdout == "edge.pem: OK\n", done.stderr
    assert cli.main(["testbed", "certificates", "-o", str(folder)]) == 2
    assert "authority.pem exists; give an empty folder" in capsys.readouterr().err


def test_tls_options_come_together_and_are_certificates(tmp_path, capsys, graphs_folder, certificates):
    own = certificates["edge"]

    def said(*words):
        assert edge_module.main(["--graphs", str(graphs_folder), *map(str, words)]) == 2
        return capsys.readouterr().err

    assert "--tls-key is missing" in said("--tls-certificate", own.certificate, "--tls-authority", own.authority)
    assert "no such file" in said(*options(Certificates(own.certificate, tmp_path / "nowhere", own.authority)))
    assert "are no certificate with its key" in said(*options(Certificates(own.authority, own.key, own.authority)))
