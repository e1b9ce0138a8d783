"""Whether a person said what a statement says: SSH signatures against the keys published for the account, and places only it can write.

Nothing here believes a name: keys and owners come from ``Accounts`` under the account's number. A signature of a kind that this
machine cannot check is ``not_verified``, which is an error and never a yes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from clonedna.core.errors import TimedOut
from clonedna.core.people import Account
from clonedna.core.value import Value
from clonedna.trust.keys import is_weak
from clonedna.trust.statements import NAMESPACE, invalid

KEY_TYPES = (
    "ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)  # fmt: skip
FALLBACK_TYPES = ("ssh-ed25519", "ssh-rsa")
MAX_SIGNATURE = 16 * 1024
SECONDS = 20.0
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_ARMOUR = re.compile(
    rb"\s*-----BEGIN SSH SIGNATURE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END SSH SIGNATURE-----\s*", re.ASCII
)  # fmt: skip
_SIGN = "sign it with the command that was shown with it"


class Signers(Value):
    """Public keys (``type base64``, no comment) that a host lists for the account with this principal."""

    principal: str
    keys: tuple[str, ...]


class Checked(Value):
    """What was checked and how: goes into the record. ``key`` is the fingerprint that ssh-keygen prints."""

    kind: Literal["ssh", "profile-file", "minter"]
    how: str
    key: str = ""


class Accounts(Protocol):
    """What a host publishes about accounts of persons. All raise ``Unavailable`` when it cannot be asked."""

    host: str

    def by_login(self, login: str) -> Account | None: ...
    def by_id(self, account_id: int) -> Account | None: ...
    def keys(self, login: str) -> tuple[str, ...]: ...

    def written_by(self, account: Account, where: str) -> bytes:
        """The file at ``where`` (the web address of one at a commit in the profile repository, or of a gist).

        Raises ``ConsentInvalid`` for a place that others than the account can write.
        """
        ...


def sound_key(line: str) -> str | None:
    """``type base64`` of a published key; ``None`` for a type we do not take, a damaged one, or a weak one (RFC 4253, 6.6; RFC 8709)."""
    parts = line.split()
    if len(parts) < 2 or parts[0] not in KEY_TYPES or not _BASE64.fullmatch(parts[1]) or "\n" in line.strip():
        return None
    try:
        blob = base64.b64decode(parts[1], validate=True)
        kind, rest = _string(blob)
        raw, _ = _string(rest)
    except (binascii.Error, ValueError):
        return None
    if kind != parts[0].encode():
        return None
    if parts[0] == "ssh-ed25519" and is_weak(raw):
        return None
    if parts[0] == "ssh-rsa" and int.from_bytes(_string(_string(rest)[1])[0], "big").bit_length() < 2048:
        return None
    return f"{parts[0]} {base64.b64encode(blob).decode()}"


class Said(Protocol):
    """What a person signs: whose it is, and its exact bytes."""

    @property
    def login(self) -> str: ...
    @property
    def account_id(self) -> int: ...
    @property
    def principal(self) -> str: ...
    def data(self) -> bytes: ...


def verify_ssh(
    statement: Said, signature: bytes, signers: Signers, *, tool: str | None = "", namespace: str = NAMESPACE
) -> Checked:
    """Check an armoured SSH signature (OpenSSH's PROTOCOL.sshsig) over the statement's exact bytes, made for ``namespace``.

    ``tool``: the ssh-keygen to use, ``""`` for the one on the path, ``None`` for none: then only Ed25519 and RSA can be checked, with
    the library sshsig. Raises ``ConsentInvalid`` (``malformed_signature``, ``wrong_namespace``, ``wrong_principal``, ``no_keys``,
    ``wrong_key``, ``bad_signature``, ``not_verified``), ``TimedOut``.
    """
    blob, named = _unpacked(signature)
    if named != namespace.encode():
        shown = named[:40].decode("ascii", "replace")
        raise invalid("wrong_namespace", f"signed for {shown!r}, not for {namespace!r}", f"sign with -n {namespace}")
    if signers.principal != statement.principal:
        raise invalid(
            "wrong_principal",
            f"these are the keys of {signers.principal}, and the statement is by {statement.principal}",
        )
    if not signers.keys:
        raise invalid(
            "no_keys", f"no SSH key is published for {statement.login}", "add one to the account as a signing key, then try again"
        )  # fmt: skip
    key = _named(blob)
    if key is None or key not in signers.keys:
        raise invalid(
            "wrong_key", f"the key that signed is not published for {statement.login} (account {statement.account_id})",
            "sign with a key of the account, or add this one to it as a signing key",
        )  # fmt: skip
    if tool == "":
        tool = shutil.which("ssh-keygen")
    if tool:
        how = _by_tool(tool, statement, signature, signers, namespace)
    else:
        how = _by_library(statement, signature, key, namespace)
    return Checked(kind="ssh", key=fingerprint(key), how=how)


def fingerprint(key: str) -> str:
    """``SHA256:...`` of a key line, as ssh-keygen prints it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def allowed_signers(signers: Signers, namespace: str = NAMESPACE) -> str:
    """The file for ``ssh-keygen -Y verify -f`` (ssh-keygen(1), ALLOWED SIGNERS): one principal, one namespace, no authorities."""
    return "".join(f'{signers.principal} namespaces="{namespace}" {key}\n' for key in signers.keys)


def _by_tool(tool: str, statement: Said, signature: bytes, signers: Signers, namespace: str) -> str:
    with tempfile.TemporaryDirectory(prefix="consent-") as folder:
        allowed, armoured = Path(folder) / "allowed_signers", Path(folder) / "statement.sig"
        allowed.write_text(allowed_signers(signers, namespace))
        armoured.write_bytes(signature)
        command = [
            tool,
            "-Y",
            "verify",
            "-f",
            str(allowed),
            "-I",
            statement.principal,
            "-n",
            namespace,
            "-s",
            str(armoured),
        ]
        try:
            done = subprocess.run(
                command, input=statement.data(), capture_output=True, timeout=SECONDS, check=False, env={"LC_ALL": "C"}
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TimedOut(f"ssh-keygen took longer than {SECONDS:.0f} s", "try again") from None
        except OSError as error:
            raise invalid("not_verified", f"ssh-keygen cannot be run: {error.strerror}", "install OpenSSH") from None
    if done.returncode != 0:
        raise invalid("bad_signature", "the signature does not fit this statement", _SIGN)
    return "ssh-keygen -Y verify"


def _by_library(statement: Said, signature: bytes, key: str, namespace: str) -> str:
    import sshsig

    kind = key.split()[0]
    if kind not in FALLBACK_TYPES:
        raise invalid("not_verified", f"a signature by {kind} cannot be checked without ssh-keygen", "install OpenSSH")
    try:
        sshsig.verify(statement.data(), signature, [sshsig.PublicKey.from_openssh_str(key)], namespace)
    except sshsig.InvalidSignature:
        raise invalid("bad_signature", "the signature does not fit this statement", _SIGN) from None
    except NotImplementedError:
        raise invalid("not_verified", "the library sshsig cannot check this signature", "install OpenSSH") from None
    except Exception as error:  # a stranger's bytes in somebody else's parser: whatever it raises is no yes
        raise invalid("malformed_signature", f"the signature cannot be read ({type(error).__name__})", _SIGN) from None
    return "library sshsig (no ssh-keygen here)"


def _unpacked(signature: bytes) -> tuple[bytes, bytes]:
    """Public key and namespace of an armoured signature. Raises ``ConsentInvalid`` (malformed_signature)."""
    match = _ARMOUR.fullmatch(signature) if len(signature) <= MAX_SIGNATURE else None
    try:
        if match is None:
            raise ValueError("no armour")
        raw = base64.b64decode(re.sub(rb"[\r\n]", b"", match[1]), validate=True)
        if raw[:6] != b"SSHSIG" or raw[6:10] != b"\0\0\0\1":
            raise ValueError("no signature of version 1")
        key, rest = _string(raw[10:])
        namespace, _ = _string(rest)
    except (binascii.Error, ValueError):
        raise invalid(
            "malformed_signature", "this is no SSH signature", "give the .sig file that ssh-keygen wrote"
        ) from None
    return key, namespace


def _string(data: bytes) -> tuple[bytes, bytes]:
    """An SSH string (RFC 4251, 5) and what comes behind it. Raises ``ValueError``."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 + length:
        raise ValueError("cut short")
    return data[4 : 4 + length], data[4 + length :]


def _named(blob: bytes) -> str | None:
    try:
        kind, _ = _string(blob)
    except ValueError:
        return None
    return f"{kind.decode('ascii', 'replace')} {base64.b64encode(blob).decode()}"


def sound_keys(lines: Sequence[str]) -> tuple[str, ...]:
    """The sound keys among published lines, sorted, each once."""
    return tuple(sorted({key for line in lines if (key := sound_key(line)) is not None}))
