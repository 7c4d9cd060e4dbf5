"""Where an edge listens and how it is reached: loopback, a Unix socket, or another machine behind TLS.

127.0.0.1:7400     this machine
unix:/run/edge     this machine, by the rights of a file
10.0.0.2:7400      another machine: only with mutual certificates (`Certificates`), or where somebody says `insecure`
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from cutlayer.errors import ConfigError

UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class Address:
    """A host and port, or the path of a Unix socket where `path` is given."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        return f"{UNIX}{self.path}" if self.path is not None else f"{self.host}:{self.port}"

    @staticmethod
    def parse(text: str) -> Address:
        """HOST:PORT or unix:PATH.

        Raises:
            ConfigError: it is neither.
        """
        if text.startswith(UNIX) and len(text) > len(UNIX):
            return Address(path=Path(text.removeprefix(UNIX)))
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"edge {text!r} is neither HOST:PORT nor unix:PATH; give what cutlayer-edge printed when it was ready")
        return Address(host.strip("[]"), int(port))


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files of one side: its own certificate and key, and the authority that signed the other side's."""

    certificate: Path
    key: Path
    authority: Path

    def server(self) -> ssl.SSLContext:
        """For the edge: no device without a certificate of the authority."""
        return self._filled(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def client(self) -> ssl.SSLContext:
        """For the device: no edge without a certificate of the authority for the name or address that was asked for."""
        return self._filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _filled(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        for path in (self.certificate, self.key, self.authority):
            if not path.is_file():
                raise ConfigError(f"{path}: no such file; give PEM files of a certificate, its key and the authority")
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.authority)
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise ConfigError(
                f"{self.certificate}, {self.key} and {self.authority} are no certificate with its key and authority: {reason}"
            ) from error
        return context


def connect(address: Address, timeout_s: float, tls: ssl.SSLContext | None = None) -> socket.socket:
    """A connection to `address`, tuned for small transfers; raises OSError (TLS's errors are such) where there is none."""
    peer: socket.socket
    if address.path is not None:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            peer.settimeout(timeout_s)
            peer.connect(str(address.path))
        except OSError:
            peer.close()
            raise
        return peer
    peer = socket.create_connection((address.host, address.port), timeout=timeout_s)
    try:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_CONGESTION"):  # bbr adds 11-21 % to small transfers; the link's model was fitted to cubic
            with contextlib.suppress(OSError):
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        # The handshake shares the time limit of the connection.
        return tls.wrap_socket(peer, server_hostname=address.host) if tls is not None else peer
    except BaseException:  # also an interrupt must not leave the socket open; it goes on
        peer.close()
        raise


def listen(address: Address, *, tls: bool, insecure: bool) -> socket.socket:
    """A listener that does not block.

    Raises:
        ConfigError: the address is in use, unknown, or other machines could reach it and it has neither TLS nor `insecure`.
    """
    if address.path is not None:
        return _listen_unix(address.path)
    try:
        family, kind, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"no address {address.host!r} ({error.strerror}); give 127.0.0.1 or an address of this machine") from error
    if not (tls or insecure) and not ipaddress.ip_address(str(where[0]).partition("%")[0]).is_loopback:
        raise ConfigError(
            f"--host {address.host}: other machines reach it, and frames are neither encrypted nor signed; "
            "give --tls-certificate, --tls-key and --tls-authority, or add --insecure if so meant"
        )
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restarted edge gets its port back at once
        listener.bind(where)
        listener.listen()
        listener.setblocking(False)  # `serve` waits for it together with the wish to stop
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {address.port} on {address.host} is in use; stop what listens there, or give --port 0 for any free one"
            ) from error
        raise ConfigError(f"cannot listen on {address}: {error.strerror}; choose another --host or --port") from error
    return listener


def _listen_unix(path: Path) -> socket.socket:
    """A socket file for this user and group; one that a dead process left is taken away, one that answers is not."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)  # 0660 from the first moment on
    try:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {UNIX}{path}: {error.strerror}; choose another path, or stop what listens there") from error
    finally:
        os.umask(before)
    return listener
