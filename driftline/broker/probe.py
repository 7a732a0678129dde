"""Probe a Kafka broker over a socket to find out why it rejects a client (TLS, SASL, password).

Input: the addresses and properties of a client that failed to connect. Output: `AccessDenied` with
the reason, or None if the broker would accept the client or is unreachable. The client libraries'
own errors are less precise: one library reports only that it cannot connect, and the other blames
the CA for an expired certificate.
"""

import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cryptography import x509

from driftline.config.client_properties import variable
from driftline.errors import AccessDenied, BrokerUnavailable, SettingsError

# A reachable broker accepts a client within this time. If no broker does, run the probe.
_FIRST_ATTEMPT_S = 2.0
_TIMEOUT_S = 3.0
# A broker that rejects a client's certificate sends an alert right after the TLS 1.3 handshake.
_ALERT_TIMEOUT_S = 0.5
_SASL_HANDSHAKE, _SASL_AUTHENTICATE = 17, 36
_UNSUPPORTED_MECHANISM, _NO_SASL_HERE = 33, 34
_LONGEST_ANSWER = 65_536
# OpenSSL's codes for certificate errors.
_EXPIRED, _NOT_YET_VALID, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64
_PROTOCOL = variable("security.protocol")
_FILES = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.crl.location")


def attempts(timeout_s: float) -> tuple[float, ...]:
    """Return the timeout of each connection attempt. Callers run the probe after a failed attempt.

    >>> attempts(10.0), attempts(1.0)
    ((2.0, 8.0), (1.0,))
    """
    if timeout_s <= _FIRST_ATTEMPT_S:
        return (timeout_s,)
    return (_FIRST_ATTEMPT_S, timeout_s - _FIRST_ATTEMPT_S)


def unreachable(servers: str, why: str) -> BrokerUnavailable:
    """Return the error to raise if no broker responds and the probe cannot determine why."""
    return BrokerUnavailable(
        f"no Kafka broker responds at {servers}: {why}",
        hint="check the address, and that a broker is running there (driftline broker up)",
    )


def refusal(servers: str, properties: Mapping[str, str]) -> AccessDenied | None:
    """Connect to each server as a client would.

    If no server accepts the connection, return the first rejection, or None if no server gave a
    reason. Raises SettingsError for an unusable certificate or key file.
    """
    check_files(properties)
    first: AccessDenied | None = None
    for server in servers.split(","):
        try:
            _Visit(server, properties).enter()
        except AccessDenied as error:
            first = first or error
        except (OSError, struct.error, _Unknown):
            continue  # the server is unreachable, or does not respond like Kafka
        else:
            return None
    return first


def raise_refusal(servers: str, properties: Mapping[str, str]) -> None:
    """Raise the error that `refusal` returns, if any."""
    denied = refusal(servers, properties)
    if denied is not None:
        try:
            raise denied.with_traceback(None)
        finally:
            # Otherwise, a reference cycle with this frame would keep the caller's client alive.
            del denied


def check_files(properties: Mapping[str, str]) -> None:
    """Raise SettingsError for an unusable certificate or key file."""
    for name in _FILES:
        path = properties.get(name)
        if path is None or (name, path) == ("ssl.ca.location", "probe"):
            continue  # with `probe`, librdkafka searches for a CA file itself
        try:
            if not Path(path).is_dir():
                with Path(path).open("rb"):
                    pass
        except OSError as error:
            raise _unusable(name, path, error.strerror or str(error)) from error
    if "SSL" in properties.get("security.protocol", "").upper():
        with suppress(_Unknown):
            _context(properties)


class _Unknown(Exception):
    """Raised when the probe cannot determine whether the broker rejects the client."""


class _Visit:
    """A test connection to one server, configured by the client's properties."""

    def __init__(self, server: str, properties: Mapping[str, str]) -> None:
        self._server = server
        host, _, port = server.rpartition("://")[2].rpartition(":")
        self._host, self._port = (host.strip("[]"), int(port)) if host else (port, 9092)
        self._properties = properties
        self._protocol = properties.get("security.protocol", "PLAINTEXT").upper()

    def enter(self) -> None:
        """Connect as the client would. Raises AccessDenied if the server rejects the client, and
        OSError or _Unknown if the outcome is unclear."""
        with self._connected() as plain:
            if "SSL" not in self._protocol:
                self._authenticate(plain)
                return
            with self._encrypted(plain) as encrypted:
                self._authenticate(encrypted)

    def _connected(self) -> socket.socket:
        return socket.create_connection((self._host, self._port), timeout=_TIMEOUT_S)

    # ---- TLS ------------------------------------------------------------------------------------

    def _encrypted(self, plain: socket.socket) -> ssl.SSLSocket:
        context = _context(self._properties)
        try:
            encrypted = context.wrap_socket(plain, server_hostname=self._host)
            encrypted.settimeout(_ALERT_TIMEOUT_S)
            try:
                encrypted.recv(1)
            except TimeoutError:
                encrypted.settimeout(_TIMEOUT_S)
                return encrypted
        except ssl.SSLCertVerificationError as error:
            raise self._wrong_certificate(error) from error
        except ssl.SSLError as error:
            if "ALERT" in (error.reason or ""):
                raise self._refused_by_alert(error) from error
        except ConnectionError:
            pass
        # The server closed the connection, as a listener without TLS does.
        if self._answers_plain():
            raise self._denied(
                f"does not use TLS, but {_PROTOCOL} is {self._protocol}",
                f"use the port of a TLS listener, or set {_PROTOCOL} to "
                + ("SASL_PLAINTEXT" if self._protocol == "SASL_SSL" else "PLAINTEXT"),
            )
        raise _Unknown

    def _wrong_certificate(self, error: ssl.SSLCertVerificationError) -> AccessDenied:
        shown = self._certificate()
        if shown is None:
            raise _Unknown from error
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            return self._denied(
                f"presents a certificate that is valid from {shown.not_valid_before_utc:%F %R} "
                f"to {shown.not_valid_after_utc:%F %R} UTC, but not now",
                "renew the broker's certificate; if it is valid, correct this machine's clock",
            )
        if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
            return self._denied(
                f"presents a certificate for other hosts: {', '.join(_names(shown)) or 'none'}",
                "connect to a host named in the certificate, or issue a certificate for this host",
            )
        ca = self._properties.get("ssl.ca.location")
        return self._denied(
            f"presents a certificate that is not trusted ({error.verify_message}): its issuer "
            f"is {shown.issuer.rfc4514_string()!r}",
            f"set {variable('ssl.ca.location')} to a file with the issuer's certificate; it is "
            + (f"currently {ca}" if ca else "not set"),
        )

    def _refused_by_alert(self, error: ssl.SSLError) -> AccessDenied:
        ours = self._properties.get("ssl.certificate.location")
        name = variable("ssl.certificate.location")
        return self._denied(
            f"ended the TLS handshake with {error.reason!r}: it "
            + (f"rejects the certificate {ours}" if ours else "requires a client certificate"),
            f"set {name} to a valid certificate from an authority that the broker trusts, and "
            f"{variable('ssl.key.location')} to the certificate's key",
        )

    def _certificate(self) -> x509.Certificate | None:
        """Return the server's unverified certificate, or None if the server does not use TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with (
                self._connected() as plain,
                context.wrap_socket(plain, server_hostname=self._host) as encrypted,
            ):
                shown = encrypted.getpeercert(binary_form=True)
        except OSError:
            return None
        return x509.load_der_x509_certificate(shown) if shown else None

    # ---- SASL -----------------------------------------------------------------------------------

    def _authenticate(self, connection: socket.socket) -> None:
        wants = self._protocol.startswith("SASL")
        mechanism = self._properties.get("sasl.mechanism") or self._properties.get(
            "sasl.mechanisms", ""
        )
        try:
            error, offered = _handshake(connection, mechanism if wants else "PLAIN")
        except ssl.SSLError as problem:
            raise self._refused_by_alert(problem) from problem
        except (ConnectionError, struct.error) as problem:
            if "SSL" not in self._protocol and self._certificate() is not None:
                raise self._denied(
                    f"uses TLS, but {_PROTOCOL} is {self._protocol}",
                    f"set {_PROTOCOL} to {'SASL_SSL' if wants else 'SSL or SASL_SSL'}, and "
                    f"{variable('ssl.ca.location')} to a file with the broker's CA certificate",
                ) from problem
            raise
        if not wants:
            if offered and error != _NO_SASL_HERE:
                needed = "SASL_SSL" if "SSL" in self._protocol else "SASL_PLAINTEXT"
                raise self._denied(
                    f"requires SASL ({', '.join(offered)}), but {_PROTOCOL} is {self._protocol}",
                    f"set {_PROTOCOL} to {needed}, and {variable('sasl.mechanism')}, "
                    f"{variable('sasl.username')} and {variable('sasl.password')}",
                )
            return
        if error == _NO_SASL_HERE:
            without = "SSL" if "SSL" in self._protocol else "PLAINTEXT"
            raise self._denied(
                f"does not use SASL, but {_PROTOCOL} is {self._protocol}",
                f"use the port of a SASL listener, or set {_PROTOCOL} to {without}",
            )
        if error == _UNSUPPORTED_MECHANISM:
            raise self._denied(
                f"does not support the SASL mechanism {mechanism}",
                f"set {variable('sasl.mechanism')} to a supported one: {', '.join(offered)}",
            )
        if error == 0:
            self._log_in(connection, mechanism)

    def _log_in(self, connection: socket.socket, mechanism: str) -> None:
        from kafka.net.sasl import get_sasl_mechanism

        if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
            return  # the probe does not test mechanisms that use a token or ticket
        user = self._properties.get("sasl.username", "")
        exchange = get_sasl_mechanism(mechanism)(
            host=self._host,
            security_protocol=self._protocol,
            sasl_mechanism=mechanism,
            sasl_plain_username=user,
            sasl_plain_password=self._properties.get("sasl.password", ""),
        )
        while not exchange.is_done():
            token = exchange.auth_bytes()
            answer = _ask(connection, _SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
            (error,) = struct.unpack_from(">h", answer)
            message, rest = _text(answer[2:])
            if error != 0:
                raise self._denied(
                    f"rejects the user {user!r} or its password ({mechanism}): {message}",
                    f"check {variable('sasl.username')} and {variable('sasl.password')} (or "
                    f"{variable('sasl.password')}_FILE), and that the user exists for {mechanism}",
                )
            try:
                exchange.receive(rest[4:])
            except ValueError as problem:
                raise _Unknown from problem

    # ---- helpers --------------------------------------------------------------------------------

    def _answers_plain(self) -> bool:
        try:
            with self._connected() as plain:
                _handshake(plain, "PLAIN")
        except (OSError, struct.error):
            return False
        return True

    def _denied(self, what: str, hint: str) -> AccessDenied:
        return AccessDenied(f"the broker at {self._server} {what}", hint=hint)


def _context(properties: Mapping[str, str]) -> ssl.SSLContext:
    """Create a TLS context from the properties. Raises SettingsError or _Unknown."""
    if any(name in properties for name in ("ssl.certificate.pem", "ssl.keystore.location")):
        raise _Unknown
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if properties.get("ssl.endpoint.identification.algorithm", "https").lower() in ("", "none"):
        context.check_hostname = False
    if properties.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    ca = properties.get("ssl.ca.location")
    if ca is None or ca == "probe":
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(**{"capath" if Path(ca).is_dir() else "cafile": ca})
        except OSError as error:
            raise _unusable("ssl.ca.location", ca, "it contains no PEM certificate") from error
    if pem := properties.get("ssl.ca.pem"):
        context.load_verify_locations(cadata=pem)
    if certificate := properties.get("ssl.certificate.location"):
        password = properties.get("ssl.key.password", "")
        try:
            # Without the password function, Python would prompt for a password on the terminal.
            context.load_cert_chain(
                certificate, properties.get("ssl.key.location"), lambda: password
            )
        except OSError as error:
            raise _unusable(
                "ssl.certificate.location",
                certificate,
                "it is not a PEM certificate that matches the key "
                f"({variable('ssl.key.location')}, {variable('ssl.key.password')})",
            ) from error
    return context


def _unusable(name: str, path: str, why: str) -> SettingsError:
    return SettingsError(
        f"{variable(name)} is {path!r}: {why}",
        hint="set it to a PEM file that this process may read",
    )


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = map(str, found.get_values_for_type(x509.IPAddress))
    return [*found.get_values_for_type(x509.DNSName), *addresses]


def _handshake(connection: socket.socket, mechanism: str) -> tuple[int, list[str]]:
    """Return the broker's error code for this SASL mechanism, and all mechanisms that it offers."""
    name = mechanism.encode()
    answer = _ask(connection, _SASL_HANDSHAKE, 1, struct.pack(">h", len(name)) + name)
    error, count = struct.unpack_from(">hi", answer)
    rest, offered = answer[6:], []
    for _ in range(count):
        text, rest = _text(rest)
        offered.append(text)
    return error, offered


def _ask(connection: socket.socket, api: int, version: int, body: bytes) -> bytes:
    """Send a Kafka protocol request and return the response without its header."""
    client = b"driftline"
    request = struct.pack(">hhih", api, version, 1, len(client)) + client + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (length,) = struct.unpack(">i", _read(connection, 4))
    if not 4 <= length <= _LONGEST_ANSWER:
        raise ConnectionError("the response is not from a Kafka broker")
    return _read(connection, length)[4:]


def _read(connection: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        part = connection.recv(length - len(found))
        if not part:
            raise ConnectionError("the connection was closed")
        found += part
    return found


def _text(data: bytes) -> tuple[str, bytes]:
    """Decode a Kafka protocol string. Return the string and the remaining bytes."""
    (length,) = struct.unpack_from(">h", data)
    length = max(length, 0)  # -1 means null
    return data[2 : 2 + length].decode("utf-8", "replace"), data[2 + length :]
