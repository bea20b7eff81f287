"""TLS for the emulator: an authority made at start, and a certificate of it for this machine's names.

The authority's private key is never written and forgotten at once: whoever trusts its certificate trusts this one emulator.
Needs the package cryptography, which google-cloud-vision's own dependencies bring.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from apibench.errors import ApibenchError

VALID = timedelta(days=30)


@dataclass(frozen=True)
class Certificate:
    """PEM: the authority's certificate, for clients; the server's certificate and its private key."""

    authority: bytes
    server: bytes
    key: bytes

    @classmethod
    def make(cls, host: str) -> Certificate:
        """For ``localhost``, 127.0.0.1, ::1 and ``host``. Raises ApibenchError where cryptography is not installed."""
        if importlib.util.find_spec("cryptography") is None:
            raise ApibenchError("emulator: TLS needs the package cryptography: pip install cryptography")
        return _make(host)

    def publish(self, path: Path) -> None:
        """Write the authority's certificate. Raises ApibenchError where that fails."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.authority)
        except OSError as error:
            raise ApibenchError(f"{path}: the CA's certificate cannot be written: {error.strerror}") from error

    def context(self) -> ssl.SSLContext:
        """For a server of HTTP/1.1."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.set_alpn_protocols(["http/1.1"])
        # The library reads keys from files only; this one is its owner's alone, and gone at once.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "server.pem"
            path.touch(mode=0o600)
            path.write_bytes(self.key + self.server)
            made.load_cert_chain(path)
        return made


def _make(host: str) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def usage(*, authority: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not authority,
            key_cert_sign=authority,
            crl_sign=authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )

    def begun(subject: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named(issuer))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))  # clocks differ
            .not_valid_after(now + VALID)
        )

    issuer = "apibench emulator, for tests only"
    signer, owner = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(signer.public_key())
    authority = (
        begun(issuer, signer.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(signer, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    addresses = {"127.0.0.1", "::1"}
    with contextlib.suppress(ValueError):
        addresses.add(str(ipaddress.ip_address(host)))
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in sorted(addresses)]
    server = (
        begun("apibench emulator", owner.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(signer, hashes.SHA256())
    )
    form = serialization.Encoding.PEM
    key = owner.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificate(authority.public_bytes(form), server.public_bytes(form), key)
