"""The calibration of this home: which card predicts, what probes measured, and fitting a new card from that.

    calibration/outcomes.jsonl     what probes measured, one a line, appended by plans
               /cards/<name>.json  the signed card of an encoder, in use before the one that the program brings

A card is used only with the encoder that it was fitted for, and one of this home only while its signature holds. Outcomes keep the words of
requests: they stay in the home.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clonedna.app.given import read_given
from clonedna.app.parts import Parts
from clonedna.app.workspace import held, space_errors, write_atomic
from clonedna.core.block import Measure, not_available
from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.errors import BadConfig, Corrupt, DnaError, Unavailable
from clonedna.core.genome import Features, Similarity, Skill
from clonedna.core.value import Value
from clonedna.genomes.calibration import (
    CARD_PAYLOAD,
    LEAST_OUTCOMES,
    Card,
    SignedCard,
    bundled,
    predict,
    read_card,
    read_signed,
)

if TYPE_CHECKING:
    from clonedna.genomes.fitting import Outcome

FOLDER = "calibration"
MOST_FILE = 32_000_000
WAIT = 10.0
UNSEEN = 20


class Shown(Value):
    """The card that predicts here. ``origin``: fitted in this home, or brought by the program. ``outcomes``: stored here, and how many of
    them are of this encoder."""

    id: str
    origin: Literal["home", "bundled"]
    card: Card
    outcomes: int
    usable: int
    needed: int = LEAST_OUTCOMES


class Recalibrated(Value):
    """``before``: the calibration error of the card that was in use, on outcomes that it was not fitted from; ``after``: that of the new
    one, on domains that each of its fits had not seen.

    ``kept``: whether the new card is in use now. One that errs more stays out unless it is asked for. Where the old one cannot be measured
    on what it has not seen, the new one is taken.
    """

    before: Measure
    after: Measure
    n: int
    left_out: int
    kept: bool
    id: str
    why: str


class Calibrating:
    """Use cases over one home's calibration; blocking."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._folder = parts.settings.home / FOLDER

    # Reading and predicting.

    def card(self) -> SignedCard:
        """The card for the encoder of the settings: of this home, else the one that the program brings.

        Raises ``BadConfig`` where there is none for this encoder, ``Corrupt``, ``SignatureInvalid``, ``BlockUntrusted``.
        """
        encoder = self.parts.encoder
        path = self._path(encoder.name)
        if path.is_file():
            return self._verified(path, encoder.name, encoder.dimension)
        card = bundled().get(encoder.name)
        if card is None or card.dimension != encoder.dimension:
            raise BadConfig(
                f"there is no calibration for the encoder {encoder.name} ({encoder.dimension} numbers)",
                "fit one from the bundled lab: dna genome recalibrate --lab; or set encoder back: minilm, hashed",
                encoder=encoder.name,
            )  # fmt: skip
        return SignedCard(card=card)

    def show(self) -> Shown:
        """What predicts here, and from how much. Raises as ``card``."""
        signed, stored = self.card(), self.outcomes()
        usable = sum(one.encoder == signed.card.encoder for one in stored)
        return Shown(
            id=signed.card.id, origin="bundled" if signed.envelope is None else "home", card=signed.card, outcomes=len(stored),
            usable=usable,
        )  # fmt: skip

    def predicted(self, card: Card, skill: Skill, features: Features) -> Similarity:
        """s* by ``card``, for the encoder of the settings. Raises ``BadConfig`` for another encoder's card."""
        encoder = self.parts.encoder
        return predict(card, encoder.name, encoder.dimension, features, domain=domain_of(skill.node))

    # What was measured.

    def outcomes(self) -> tuple[Outcome, ...]:
        """All that are stored. A last line that a killed process left half is none. Raises ``Corrupt``, ``InputError`` (not to be read)."""
        path = self._folder / "outcomes.jsonl"
        if not path.exists():
            return ()
        data = read_given(path, MOST_FILE, "move it away")
        return _outcomes(data[: data.rfind(b"\n") + 1], "the stored outcomes")

    def remember(self, found: Sequence[Outcome]) -> int:
        """Append what is not stored yet; gives how many. Raises ``Unavailable`` while another process keeps writing, ``NoSpace``."""
        if not found:
            return 0
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "outcomes.jsonl"
        with held(self._folder / ".lock", wait=WAIT) as free, space_errors(path):
            if not free:
                raise Unavailable("another process is writing outcomes", "try again in a moment")
            known = {_key(one) for one in self.outcomes()}
            new = [one for one in {_key(one): one for one in found}.items() if one[0] not in known]
            before = path.read_bytes() if path.is_file() else b""
            if len(before) > MOST_FILE - 1_000_000:
                return 0  # as many as are ever read: they are enough to fit from
            with path.open("ab") as file:
                if before and not before.endswith(b"\n"):  # the last writer was killed inside a line
                    file.truncate(before.rfind(b"\n") + 1)
                file.write(b"".join(canonical(one) + b"\n" for _, one in new))
                file.flush()
                os.fsync(file.fileno())
        return len(new)

    # Fitting anew.

    def recalibrate(self, given: Path | None = None, *, lab: bool = False, force: bool = False) -> Recalibrated:
        """Fit a card for the encoder of the settings, and use it if it errs no more than the old one.

        From the stored outcomes, those of a file, or (``lab``) those of the bundled lab under this encoder. Those of the base that most are
        of count. What another encoder described is described anew by this one where its block is here, and left out where it is not. Raises
        ``InputError`` for fewer than 50 that can be used, ``Corrupt``, ``KeyLocked``, ``NoSpace``.
        """
        from clonedna.genomes.fitting import fit

        whose, found, base = self._gathered(given, lab=lab)
        most = Counter(one.base_fingerprint for one in found).most_common(1)
        mine = self._described(tuple(one for one in found if one.base_fingerprint == most[0][0]) if most else ())
        how = f"from {len(mine)} outcomes of {whose}, measured by probes on exemplars"
        fitted = fit(mine, base=base, how=how)
        before, after = self._before(mine, stored=given is None and not lab, seen=lab), fitted.card.ece
        better = before.value is None or (after.value is not None and after.value <= before.value)
        if better or force:
            self._keep(fitted.card)
        why = "as asked"
        if not force:
            why = "the old card errs less, and stays" if not better else "the old card could not be compared"
            why = "it errs no more than the old one" if better and before.value is not None else why
        return Recalibrated(
            before=before, after=after, n=len(mine), left_out=len(found) - len(mine), kept=better or force, id=fitted.card.id, why=why
        )  # fmt: skip

    def _gathered(self, given: Path | None, *, lab: bool) -> tuple[str, tuple[Outcome, ...], str]:
        """Whose outcomes, the outcomes, and the base's name."""
        if lab:
            from clonedna.genomes.lab import bundled_lab, outcomes_of

            made = bundled_lab()
            asked = [one for queried in (False, True) for one in outcomes_of(made, self.parts.encoder, queried=queried)]
            return "the bundled lab", tuple(one.outcome for one in asked), made.base
        if given is None:
            return "this home", self.outcomes(), self.parts.settings.base
        data = read_given(given, MOST_FILE, "give a JSONL file of outcomes")
        return "a file", _outcomes(_with_end(data), given.name), self.parts.settings.base

    def _described(self, found: Sequence[Outcome]) -> tuple[Outcome, ...]:
        """All with features of the encoder of the settings; what another one described is looked for among the blocks that are here."""
        from clonedna.genomes.features import POOL, features_of

        encoder = self.parts.encoder
        here = (encoder.name, encoder.dimension)
        theirs = [one for one in found if (one.encoder, one.dimension) != here]
        if not theirs:
            return tuple(found)
        texts = self.parts.lines.meanings()
        base = theirs[0].base_fingerprint
        allowed = [one.id for one in self.parts.lines.accepted() if one.base_fingerprint == base]
        asked = sorted({one.asked or (one.skill,) for one in theirs if one.block in texts})
        rows = self.parts.meanings.nearest(asked, POOL, among=allowed) if asked and allowed else ()
        rarity = self.parts.rarity
        told = {some: features_of(some, row, rarity) for some, row in zip(asked, rows, strict=False)}
        made: list[Outcome] = []
        for one in found:
            if (one.encoder, one.dimension) == here:
                made.append(one)
            elif (features := told.get(one.asked or (one.skill,), {}).get(one.block)) is not None:
                made.append(one.model_copy(update={"features": features, "encoder": here[0], "dimension": here[1]}))
        return tuple(made)

    def reset(self) -> bool:
        """Forget this home's card for the encoder of the settings; gives whether there was one. Outcomes stay."""
        path = self._path(self.parts.encoder.name)
        there = path.is_file()
        path.unlink(missing_ok=True)
        return there

    def _before(self, mine: Sequence[Outcome], *, stored: bool, seen: bool) -> Measure:
        """The old card's error on what it was not fitted from: all for the program's, what was stored after it for one of this home.

        ``seen``: the old one may have been fitted from all of it.
        """
        from clonedna.genomes.fitting import held_out_error

        try:
            old = self.card()
        except DnaError as error:
            return not_available(error.message)
        unseen = mine[old.card.n :] if stored else ()
        if old.envelope is None and not seen:
            unseen = mine
        if len(unseen) < UNSEEN:
            return not_available(
                f"{len(unseen)} outcomes are surely new to the card that was in use; {UNSEEN} are needed"
            )
        return Measure(
            value=round(held_out_error(old.card, unseen), 9), status="measured", n=len(unseen), split="outcomes that it had not seen",
            how="expected calibration error, ten equal bins, of the card that was in use",
        )  # fmt: skip

    def _keep(self, card: Card) -> None:
        envelope = self.parts.signer.sign(canonical(card), CARD_PAYLOAD)
        write_atomic(self._path(card.encoder), canonical(SignedCard(card=card, envelope=envelope)))

    def _path(self, encoder: str) -> Path:
        return self._folder / "cards" / f"{sha256(encoder)[:16]}.json"

    def _verified(self, path: Path, encoder: str, dimension: int) -> SignedCard:
        signed = read_signed(read_given(path, MOST_FILE, "remove it: dna genome recalibrate --reset"))
        if signed.envelope is None:
            raise Corrupt(
                "the calibration card of this home is not signed", "remove it: dna genome recalibrate --reset"
            )
        payload = self.parts.signer.verify(signed.envelope, CARD_PAYLOAD)
        if read_card(payload) != signed.card:
            raise Corrupt(
                "the calibration card is not the one that was signed", "remove it: dna genome recalibrate --reset"
            )
        if (signed.card.encoder, signed.card.dimension) != (encoder, dimension):
            raise BadConfig(
                f"the calibration card is for {signed.card.encoder}, and the encoder here is {encoder}",
                "remove it: dna genome recalibrate --reset; then fit another: dna genome recalibrate", encoder=encoder,
            )  # fmt: skip
        return signed


def domain_of(node: str) -> str:
    """What offsets are kept for: the node itself; free text has none."""
    return node


def _key(one: Outcome) -> str:
    return sha256(canonical(one.model_copy(update={"at": ""})))


def _with_end(data: bytes) -> bytes:
    return data if data.endswith(b"\n") else data + b"\n"


def _outcomes(data: bytes, name: str) -> tuple[Outcome, ...]:
    """Raises ``Corrupt`` naming the line."""
    from clonedna.genomes.fitting import MOST_OUTCOMES, Outcome

    lines = [line for line in data.split(b"\n") if line.strip()]
    found: list[Outcome] = []
    for number, line in enumerate(lines[-MOST_OUTCOMES:], max(1, len(lines) - MOST_OUTCOMES + 1)):
        try:
            found.append(Outcome.model_validate(strict_json(line)))
        except (ValueError, RecursionError) as error:
            raise Corrupt(
                f"line {number} of {name} is no outcome", "take the line out, or move the file away"
            ) from error
    return tuple(found)
