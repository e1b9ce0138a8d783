"""Blocks to a server and from it: progress, ranges that go on, and every check on both sides.

What leaves is decided here by ``app.sharing`` before anything is sent, and there again; what comes is verified here before it is stored.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

from clonedna.app.keys import OfferedKeys, OfferedLog
from clonedna.app.parts import factory
from clonedna.app.pulls import Pull, pulling
from clonedna.app.revoking import Effects
from clonedna.app.sharing import Offer, Sharing, Taken, digest_of
from clonedna.app.workspace import require_space
from clonedna.client.blocks import REGISTRY, segment
from clonedna.client.wire import Wire
from clonedna.core.block import BlockRef
from clonedna.core.errors import (
    BadAnswer,
    BadRange,
    BlockUntrusted,
    DnaError,
    NoSpace,
    NotFound,
    Overloaded,
    Refused,
    Unauthorised,
    Unavailable,
)

AGAIN = 4
CHUNK = 1 << 18
LONGEST_PAUSE = 30.0
Progress = Callable[[int, int], None]


def _quiet(_done: int, _total: int) -> None:
    """Nobody watches."""


class RemoteTransfer:
    """A server as the other side of a push or a pull."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def keys(self) -> OfferedKeys:
        """Whom the server believes, and its own identity."""
        return self._wire.get("/api/v1/keys", OfferedKeys)

    def key_log(self, key_id: str) -> OfferedLog:
        """The key log of the identity that has this key. Nobody has to believe it. Raises ``NotFound``."""
        return self._wire.get(f"/api/v1/keys/{segment(key_id)}", OfferedLog)

    def revoke(self, reference: str) -> Effects:
        """Revoke a block there, and what was made from it. Raises as ``Revoking.block``."""
        return self._wire.delete(f"{REGISTRY}/{segment(reference)}", Effects)

    def push(self, sharing: Sharing, reference: str, progress: Progress = _quiet) -> Taken:
        """Send a block; nothing is sent of one that is there already, or that may not be shared. ``progress``: bytes done, and in all.

        Raises what ``Sharing.offer`` raises here and ``Sharing.take`` there, ``TooLarge``, ``Unauthorised``, ``Unavailable``.
        """
        offer = sharing.offer(reference)
        if self._is_there(offer):
            m = offer.manifest
            return Taken(block=BlockRef(name=m.name, version=m.version, id=m.id, status="registered"), new=False)
        sharing.holding.note(offer.manifest.id, "pushed", self._wire.url)
        try:
            return self._send(offer, progress)
        except BlockUntrusted as error:
            identity = sharing.signer_of(offer)
            raise type(error)(
                error.message,
                f"who runs {self._wire.url} has to trust who signed it: give them the file of: dna keys log {identity} --out signer.keys; "
                f"they run: dna keys trust signer.keys --fingerprint {identity}", **error.facts,
            ) from None  # fmt: skip

    def _is_there(self, offer: Offer) -> bool:
        """Whether the server has exactly these bytes. One that does not say so gets them."""
        path = f"{REGISTRY}/{offer.manifest.id}/download"
        try:
            with self._wire.stream("GET", path, headers={"Range": "bytes=0-0"}) as answer:
                return answer.headers.get("etag") == offer.etag
        except Unauthorised:
            raise
        except (NotFound, Refused):
            return False

    def _send(self, offer: Offer, progress: Progress) -> Taken:
        said = base64.b64encode(bytes.fromhex(digest_of(offer))).decode()
        headers = {
            "Content-Type": "application/octet-stream", "Content-Length": str(offer.size), "Content-Digest": f"sha-256=:{said}:",
        }  # fmt: skip
        with self._wire.stream("POST", REGISTRY, headers=headers, content=_pieces(offer, progress)) as answer:
            data = answer.read()
            try:
                return Taken(block=BlockRef.model_validate_json(data), new=answer.status_code == 201)
            except ValueError:
                raise BadAnswer(
                    f"{self._wire.url} did not say what it took", "is it a server of this program?"
                ) from None

    def pull(self, sharing: Sharing, reference: str, progress: Progress = _quiet) -> Taken:
        """Fetch a block, verify it, store it. What was fetched before it broke off is kept, and gone on with.

        Raises the server's refusals, what ``Sharing.take`` raises, ``BlockUntrusted`` with the commands that lead on, ``JobBusy``,
        ``NoSpace``, ``Unavailable``, ``BadAnswer``.
        """
        home = sharing.parts.settings.home
        with pulling(home, self._wire.url, reference) as pull:
            self._fetch(pull, sharing, reference, progress)
            try:
                taken = sharing.take(pull.path, expected=reference)
            except BlockUntrusted as error:  # what came is whole: it is looked at again when the key is believed
                raise self._untrusted(error) from None
            except Unavailable:
                raise
            except DnaError:
                pull.forget()
                raise
            pull.forget()
        return taken

    def _untrusted(self, error: BlockUntrusted) -> BlockUntrusted:
        key = error.facts.get("key")
        if type(error) is not BlockUntrusted or not isinstance(key, str):
            return error
        return BlockUntrusted(
            error.message,
            f"dna --server {self._wire.url} keys fetch {key} --out signer.keys; compare the fingerprint with its owner; then: "
            "dna keys trust signer.keys --fingerprint FINGERPRINT, and pull again", **error.facts,
        )  # fmt: skip

    def _fetch(self, pull: Pull, sharing: Sharing, reference: str, progress: Progress) -> None:
        """All of it, in as many requests as it takes; those without a new byte are bounded."""
        turn = 0
        while True:
            before = pull.have
            try:
                self._get(pull, sharing, reference, progress)
                return
            except BadRange:
                pull.start("", 0)
                turn += 1
                if turn > AGAIN:
                    raise
            except NoSpace:
                raise
            except Unavailable as error:
                turn = turn + 1 if pull.have <= before else 0
                if turn > AGAIN:
                    raise
                self._wire.pause(_pause(error, turn))

    def _get(self, pull: Pull, sharing: Sharing, reference: str, progress: Progress) -> None:
        headers = {"Accept": "application/octet-stream", "Accept-Encoding": "identity"}
        # Of a whole file its last byte is asked for: the answer says whether it is still the same.
        place = min(pull.have, pull.size - 1) if pull.tag and pull.have else 0
        if place:
            headers |= {"Range": f"bytes={place}-", "If-Range": pull.tag}
        with self._wire.stream("GET", f"{REGISTRY}/{segment(reference)}/download", headers=headers) as answer:
            tag, told = answer.headers.get("etag", ""), answer.headers.get("content-range", "")
            goes_on = (
                answer.status_code == 206 and tag == pull.tag and told == f"bytes {place}-{pull.size - 1}/{pull.size}"
            )
            if not goes_on:
                if answer.status_code != 200:
                    raise BadAnswer(f"{self._wire.url} answered with other bytes than were asked for", "pull again")
                place, size = 0, self._size(answer.headers.get("content-length", ""))
                require_space(sharing.parts.settings.home, sharing.parts.settings.min_free_bytes + 2 * size)
                pull.start(tag, size)
            for piece in answer.iter_bytes(CHUNK):
                pull.write(place, piece)
                place += len(piece)
                progress(place, pull.size)
        if place != pull.size:
            raise Unavailable(f"the connection to {self._wire.url} broke", "pull again: it goes on")

    def _size(self, said: str) -> int:
        most = factory("archive", "most")()
        size = int(said) if said.isascii() and said.isdigit() and len(said) < 19 else 0
        if not 0 < size <= most:
            raise BadAnswer(
                f"{self._wire.url} announced {said[:20]!r} bytes; a block has at most {most}", "ask its owner"
            )
        return size


def _pieces(offer: Offer, progress: Progress) -> Iterator[bytes]:
    with offer.open() as opened:
        place = 0
        while piece := opened.read(place, CHUNK):
            yield piece
            place += len(piece)
            progress(place, offer.size)


def _pause(error: DnaError, turn: int) -> float:
    after = error.facts.get("retry_after") if isinstance(error, Overloaded) else None
    return min(float(after) if isinstance(after, int | float) else 0.2 * 2**turn, LONGEST_PAUSE)
