"""One block of a server in detail: what ``app.details``, ``app.lineage`` and the quick part of ``app.comparing`` do on this machine."""

from __future__ import annotations

from clonedna.app.details import Card, FileTable, Measured
from clonedna.app.lineage import LineageGraph
from clonedna.app.verdicts import Verdict
from clonedna.app.versions_diff import VersionDiff
from clonedna.client.blocks import REGISTRY, segment
from clonedna.client.wire import Wire
from clonedna.core.comparison import Comparison


class RemoteDetails:
    """Use cases over a server's registry. What is not open to the key that is used is left out, and the answer says so."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def files(self, reference: str) -> FileTable:
        """The block's own table."""
        return self._wire.get(_at(reference, "files"), FileTable)

    def card(self, reference: str) -> Card:
        """The block's README: text of strangers."""
        return self._wire.get(_at(reference, "card"), Card)

    def verify(self, reference: str) -> Verdict:
        """What the server checked just now, and what the block may be used for there."""
        return self._wire.get(_at(reference, "verify"), Verdict)

    def measured(self, reference: str) -> Measured:
        """Its evaluation, and those that were made on the server since."""
        return self._wire.get(_at(reference, "evaluations"), Measured)

    def diff(self, a: str, b: str) -> VersionDiff:
        """What changed from ``a`` to ``b``."""
        return self._wire.get(f"{REGISTRY}/diff/{segment(a)}/{segment(b)}", VersionDiff)


class RemoteLineages:
    """Who was made from whom, by the server's catalogue."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def of(self, reference: str) -> LineageGraph:
        """Parents and their parents, what was made from it and from that."""
        return self._wire.get(_at(reference, "lineage"), LineageGraph)


class RemoteComparing:
    """The comparison that is answered at once."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def weights(self, a: str, b: str, *, unsafe: bool = False) -> Comparison:
        """The weights of two blocks. Raises ``TooLarge`` and ``Overloaded`` besides what the server finds wrong with the blocks."""
        return self._wire.get(f"{REGISTRY}/compare/{segment(a)}/{segment(b)}", Comparison, query={"unsafe": unsafe})


def _at(reference: str, what: str) -> str:
    return f"{REGISTRY}/{segment(reference)}/{what}"
