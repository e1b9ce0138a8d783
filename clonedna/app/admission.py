"""What is asked of a block whose files are verified already, before it is used: base, licence, consent, revocation, in this order.

Each refusal has its own code and names the field or file: ``wrong_base``, ``licence_unknown``, ``consent_missing`` (and its subclasses),
``block_revoked``.
"""

from __future__ import annotations

from functools import lru_cache

from clonedna.app.orders import spdx
from clonedna.app.parts import Parts
from clonedna.core.block import ConsentRecord, Manifest, Use
from clonedna.core.errors import ConsentMissing, DnaError, LicenceUnknown, WrongBase
from clonedna.core.model import BaseInfo

# Reading the list of licences takes a good part of a second; a server asks for each request.
_known_licence = lru_cache(maxsize=1024)(spdx)


def admit(
    parts: Parts, manifest: Manifest, consent: ConsentRecord, use: Use, *, base: BaseInfo | None, hint: str = ""
) -> None:
    """Raises why this verified block may not be used on this machine for ``use``. ``base`` is ``None`` where it is not computed with."""
    if base is not None and (unlike := manifest.unlike(base)):
        raise WrongBase(
            f"{manifest.name}@{manifest.version} {unlike}",
            hint or "give the base it was trained on",
            field="base_fingerprint",
        )
    admit_papers(parts, manifest, consent, use)
    parts.store.path(manifest.id)


def admit_papers(parts: Parts, manifest: Manifest, consent: ConsentRecord, use: Use) -> None:
    """The part of ``admit`` that looks at licence and consent alone, for a block that may not be stored yet."""
    try:
        _known_licence(manifest.license)
    except DnaError as error:
        raise LicenceUnknown(
            f"{manifest.name}@{manifest.version}: license: {error.message}",
            "ask who made it for its licence",
            field="license",
        ) from error
    if consent.mode != manifest.consent_mode:
        raise ConsentMissing(
            f"consent.json: {consent.mode!r}, but the manifest says {manifest.consent_mode!r}",
            "ask who made it", file="consent.json",
        )  # fmt: skip
    try:
        parts.consents.check(consent, use)
    except ConsentMissing as error:
        error.facts.setdefault("file", "consent.json")
        raise
