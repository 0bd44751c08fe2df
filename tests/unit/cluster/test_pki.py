"""Certificates that clients take, the strict ones too."""

import datetime as dt
import ssl
from pathlib import Path

from cryptography import x509

from e2e.cluster.pki import Identity, write_pki

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


def test_the_authority_says_what_its_key_is_for(tmp_path: Path) -> None:
    write_pki(tmp_path, [], now=NOW)

    authority = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage)

    assert usage.critical
    assert usage.value.key_cert_sign


def test_a_certificate_carries_its_user_group_names_and_addresses(tmp_path: Path) -> None:
    write_pki(tmp_path, [Identity("n", "system:node:n", "system:nodes", ("n",), ("10.0.0.1",))], now=NOW)

    certificate = x509.load_pem_x509_certificate((tmp_path / "n.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert certificate.subject.rfc4514_string() == "CN=system:node:n,O=system:nodes"
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc


def test_keys_are_their_owners_alone_and_fit_their_certificates(tmp_path: Path) -> None:
    write_pki(tmp_path, [Identity("admin", "admin", "system:masters")], now=NOW)

    context = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    context.load_cert_chain(tmp_path / "admin.crt", tmp_path / "admin.key")

    assert (tmp_path / "admin.key").stat().st_mode & 0o077 == 0
