"""HTTPS by a certificate and its key, which may be replaced while the server runs."""

import datetime
import json
import signal
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.serving import Served, served
from serve.__main__ import main
from serve.errors import ServeError
from serve.http import tls
from tests import tiny_onnx


def certify(folder: Path, password: bytes | None = None) -> tls.Files:
    """A key, and a certificate of its own for localhost."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = tls.Files(folder / "certificate.pem", folder / "key.pem")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    hidden = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
    return files


@pytest.fixture
def files(tmp_path: Path) -> tls.Files:
    return certify(tmp_path / "files")


@pytest.fixture
def server(tmp_path: Path, files: tls.Files) -> Iterator[Served]:
    student = tiny_onnx.write(tmp_path / "student.onnx")
    options = ("--tls-certificate", files.certificate, "--tls-key", files.key, "--max-connections", "30")
    with served(student, *options) as running:
        yield running


def health(server: Served, certificate: Path) -> int:
    context = ssl.create_default_context(cafile=str(certificate))
    url = f"https://localhost:{server.port}/v2/health/live"
    with urllib.request.urlopen(url, timeout=20, context=context) as answer:
        status: int = answer.status
        return status


@pytest.mark.slow
def test_clients_that_trust_the_certificate_are_answered_and_a_new_one_is_taken(
    server: Served, files: tls.Files, tmp_path: Path
) -> None:
    assert health(server, files.certificate) == 200
    with socket.create_connection(("127.0.0.1", server.port), 20) as plain:
        plain.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")
    other = certify(tmp_path / "other")
    other.certificate.replace(files.certificate)
    other.key.replace(files.key)
    server.process.send_signal(signal.SIGHUP)
    end = time.monotonic() + 20
    while "read again" not in server.errors():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert health(server, files.certificate) == 200
    assert server.stop() == 0
    assert [json.loads(line)["level"] for line in server.errors().splitlines()] == ["info"]


@pytest.mark.slow
def test_clients_that_never_shake_hands_shut_nobody_out(server: Served, files: tls.Files) -> None:
    with ExitStack() as stack:
        for number in range(200):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 20))
            if number % 2:
                client.sendall(b"\x16\x03\x01")
        assert health(server, files.certificate) == 200


def test_files_that_cannot_be_used_are_refused(files: tls.Files, tmp_path: Path) -> None:
    other, hidden = certify(tmp_path / "other"), certify(tmp_path / "hidden", b"word")
    missing = tmp_path / "none.pem"
    context = tls.context(files)
    for certificate, key, said in (
        (missing, files.key, "No such file"),
        (files.certificate, other.key, "cannot be used"),
        (files.key, files.certificate, "cannot be used"),
        (hidden.certificate, hidden.key, "the key is encrypted"),
    ):
        with pytest.raises(ServeError, match=said):
            tls.load(context, tls.Files(certificate, key))


def test_a_certificate_needs_its_key(tmp_path: Path, files: tls.Files, capsys: pytest.CaptureFixture[str]) -> None:
    student = tiny_onnx.write(tmp_path / "student.onnx")
    assert main(["run", str(student), "--port", "0", "--tls-certificate", str(files.certificate)]) == 1
    assert "belong together; give both." in capsys.readouterr().err
