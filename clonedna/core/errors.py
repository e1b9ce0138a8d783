"""The one tree of errors.

Every error that a person may meet has a stable ``code``, says what failed and with which value, and carries a ``hint``:
the next step. Faces map the class to an exit status (``exit_code``) or an HTTP status (``http_status``); nobody matches on text.

    DnaError
    ├── InputError            2 / 400   the request itself cannot be carried out as given
    │   ├── NotARepository, NoSuchAuthor, AuthorNeeded, UnknownBase, BadConfig, BadReference
    │   ├── MethodNotAllowed (405), TooSlow (408), TooLarge (413), BadRange (416), DocumentEncrypted
    ├── NotFound              3 / 404   it does not exist here
    │   └── BlockNotFound, GenomeNotFound, JobNotFound
    ├── Refused               4 / 403   it could be done, but may not
    │   ├── Unauthorised (401), AddressRefused, PathRefused
    │   ├── ConsentMissing
    │   │   └── ConsentInvalid, ConsentRevoked
    │   ├── LicenceUnknown, LicenceNotAllowed, TooFewSpans, BlockRejected, BlockRevoked, WrongBase, KeyLocked, KeyLogOlder
    │   ├── GenomeEmpty, PlanStale (409)
    │   └── BlockUntrusted
    │       └── BlockUnsigned, GenomeUnsigned, KeyWeak, KeyCompromised
    ├── Corrupt               5 / 422   what was read is not what was written
    │   └── BlockCorrupt, DocumentBroken, SignatureInvalid, KeyLogInvalid, AdapterInvalid, BadAnswer
    ├── Unavailable           6 / 503   something this needs is missing or full
    │   └── NoSpace, NoMemory, GitFailed, FetchFailed, TimedOut, JobBusy, SandboxUnavailable,
    │       Overloaded (429)
    ├── Interrupted         130 / 499   somebody stopped it; nothing is half-written
    │   └── Cancelled
    └── Internal             70 / 500   a fault of ours
"""

from __future__ import annotations

import json


class DnaError(Exception):
    """Root of the tree.

    ``message``: what failed, with which value. ``hint``: what to do next. ``facts``: JSON values for machines (``--json``).
    """

    code = "internal"
    exit_code = 70
    http_status = 500

    def __init__(self, message: str, hint: str = "", **facts: str | int | float | bool | list[str] | None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts

    def as_json(self) -> dict[str, object]:
        """``{"error": {"code", "message", "hint", ...facts}}``: the shape that every face prints."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint, **self.facts}}


class InputError(DnaError):
    code, exit_code, http_status = "bad_input", 2, 400


class NotARepository(InputError):
    code = "not_a_repository"


class NoSuchAuthor(InputError):
    code = "no_such_author"


class AuthorNeeded(InputError):
    code = "author_needed"


class UnknownBase(InputError):
    code = "unknown_base"


class BadConfig(InputError):
    code = "bad_config"


class BadReference(InputError):
    """A block or job name that cannot be a name."""

    code = "bad_reference"


class MethodNotAllowed(InputError):
    """A route of the server that is there, but not for this HTTP method."""

    code, http_status = "method_not_allowed", 405


class TooSlow(InputError):
    """A request whose body did not come in time."""

    code, http_status = "too_slow", 408


class TooLarge(InputError):
    """A request or a file larger than the settings allow."""

    code, http_status = "too_large", 413


class BadRange(InputError):
    """Bytes of a file were asked for that it does not have."""

    code, http_status = "bad_range", 416


class DocumentEncrypted(InputError):
    """A document that only a password opens."""

    code = "document_encrypted"


class NotFound(DnaError):
    code, exit_code, http_status = "not_found", 3, 404


class BlockNotFound(NotFound):
    code = "block_not_found"


class GenomeNotFound(NotFound):
    code = "genome_not_found"


class JobNotFound(NotFound):
    code = "job_not_found"


class Refused(DnaError):
    code, exit_code, http_status = "refused", 4, 403


class Unauthorised(Refused):
    """No key was given, or not the server's."""

    code, http_status = "unauthorised", 401


class AddressRefused(Refused):
    """An address on the web that is not asked: private, not http, with a password, redirected to such a one."""

    code = "address_refused"


class PathRefused(Refused):
    """A path in a sandbox that leads out of it, through a link, or to what is no plain file."""

    code = "path_refused"


class LicenceUnknown(Refused):
    code = "licence_unknown"


class LicenceNotAllowed(Refused):
    code = "licence_not_allowed"


class ConsentMissing(Refused):
    code = "consent_missing"


class ConsentInvalid(ConsentMissing):
    """A statement of consent, or its evidence, that does not hold; ``facts["fault"]`` is a stable word for why."""

    code = "consent_invalid"


class ConsentRevoked(ConsentMissing):
    """The person took the consent back."""

    code = "consent_revoked"


class TooFewSpans(Refused):
    code = "too_few_spans"


class BlockRejected(Refused):
    """The gate rejected this block; it is kept, and never served by name."""

    code = "block_rejected"


class BlockUntrusted(Refused):
    """Signed by a key that this machine does not trust; its subclasses are the other reasons why nobody vouches for it."""

    code = "block_untrusted"


class BlockUnsigned(BlockUntrusted):
    code = "block_unsigned"


class GenomeUnsigned(BlockUntrusted):
    code = "genome_unsigned"


class KeyWeak(BlockUntrusted):
    """A public key that others than its owner could sign for, or that is no point of the curve."""

    code = "key_weak"


class KeyCompromised(BlockUntrusted):
    """Signed by a key that its owner gave up as compromised, and not known here before."""

    code = "key_compromised"


class KeyLocked(Refused):
    """A private key that is protected, and no passphrase or the wrong one."""

    code = "key_locked"


class KeyLogOlder(Refused):
    """A key log that is older than the one seen here, or tells another story."""

    code = "key_log_older"


class BlockRevoked(Refused):
    code = "block_revoked"


class WrongBase(Refused):
    code = "wrong_base"


class GenomeEmpty(Refused):
    """A genome without a layer: nothing here fits what is wanted, and nothing could be trained for it."""

    code = "genome_empty"


class PlanStale(Refused):
    """A plan that was made of another home than this one is by now; ``facts["changed"]`` names what differs."""

    code, http_status = "plan_stale", 409


class Corrupt(DnaError):
    code, exit_code, http_status = "corrupt", 5, 422


class BlockCorrupt(Corrupt):
    """A file of the block is not the file that was signed; ``facts["file"]`` names it."""

    code = "block_corrupt"


class DocumentBroken(Corrupt):
    """A page or file of a person that is not what its kind says, or was made to break its reader."""

    code = "document_broken"


class SignatureInvalid(Corrupt):
    code = "signature_invalid"


class KeyLogInvalid(Corrupt):
    """A key log whose entries do not follow from each other, or a trust record that is damaged."""

    code = "key_log_invalid"


class AdapterInvalid(Corrupt):
    """Adapter files that are well-formed but cannot be an adapter of this base (shapes, modules, unsupported options)."""

    code = "adapter_invalid"


class BadAnswer(Corrupt):
    """A model's answer that is not what was asked for; ``facts["why"]`` is a stable word. It is dropped, nothing of it is used."""

    code = "bad_answer"


class Unavailable(DnaError):
    code, exit_code, http_status = "unavailable", 6, 503


class NoSpace(Unavailable):
    code = "no_space"


class NoMemory(Unavailable):
    code = "no_memory"


class GitFailed(Unavailable):
    code = "git_failed"


class FetchFailed(Unavailable):
    """A web page that did not come: no such host, no connection, or an HTTP status that says so."""

    code = "fetch_failed"


class TimedOut(Unavailable):
    code = "timed_out"


class JobBusy(Unavailable):
    """The job is being worked on by another process."""

    code = "job_busy"


class SandboxUnavailable(Unavailable):
    """Nothing here can hold code that a model or a stranger wrote, so it is not run."""

    code = "sandbox_unavailable"


class Overloaded(Unavailable):
    """More was asked for than may wait; ``facts["retry_after"]`` says after how many seconds it is worth asking again."""

    code, http_status = "overloaded", 429


class Interrupted(DnaError):
    code, exit_code, http_status = "interrupted", 130, 499


class Cancelled(Interrupted):
    code = "cancelled"


class Internal(DnaError):
    """A fault of ours that somebody should report."""

    code = "internal"


def not_a_block(reference: str) -> BadReference:
    """What cannot be the name of a block."""
    return BadReference(
        f"{reference[:80]!r} is not a block", "write name, name@version, or at least 8 digits of its id"
    )


def not_a_genome(reference: str) -> BadReference:
    """What cannot be the name of a genome."""
    return BadReference(f"{reference[:80]!r} is no genome", "write name, name@version, or at least 8 digits of its id")


def error_of(data: bytes) -> DnaError | None:
    """The error that ``as_json`` wrote, of the same class; ``None`` for anything else. A code that is not known here is ``Unavailable``,
    with the code in its message."""
    try:
        told = json.loads(data)["error"]
        code, message, hint = told["code"], told["message"], told["hint"]
        facts = {key: value for key, value in told.items() if key not in ("code", "message", "hint")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not all(isinstance(text, str) for text in (code, message, hint)):
        return None
    kind = _by_code().get(code)
    return Unavailable(f"{message} ({code})", hint, **facts) if kind is None else kind(message, hint, **facts)


def _by_code() -> dict[str, type[DnaError]]:
    """Each class of the tree by its code."""
    found: dict[str, type[DnaError]] = {}
    waiting: list[type[DnaError]] = [DnaError]
    while waiting:
        kind = waiting.pop()
        found[kind.code] = kind
        waiting += kind.__subclasses__()
    return found
