"""The seams: what each storey may ask of the parts below it, on one page.

Values in, values out. A method is ``async`` where the part may be remote, plain where it is disk or arithmetic. Each seam has a
shipped fake (``clonedna.core.fakes``) and one contract test that every part must pass (``tests/contract``).
All methods raise ``clonedna.core.errors.DnaError`` only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from clonedna.core.block import BlockRef, ConsentRecord, Envelope, Manifest, Teaching, Use
from clonedna.core.events import Emit
from clonedna.core.genome import GenomeManifest, Refused, SignedGenome
from clonedna.core.interference import Observed
from clonedna.core.model import (
    AdapterInfo,
    BaseInfo,
    Beside,
    EngineStatus,
    Example,
    Layer,
    LoraSpec,
    Mixture,
    SampleChunk,
    SampleRequest,
    Score,
    StepLoss,
)
from clonedna.core.people import Account
from clonedna.core.sandbox import MOST_FILE, Ran, RunLimits
from clonedna.core.vectors import Hit, Vectors
from clonedna.core.work import Collection as Collected
from clonedna.core.work import Found, Identity, Instruction, Repository, Span


class Source(Protocol):
    """The public record. Nothing leaves without URL, commit, path, lines, author and licence."""

    def find(self, target: str) -> Found:
        """The repository at ``target`` (path or URL), its licence, and its authors by share. Raises NotARepository, GitFailed."""
        ...

    def collect(
        self,
        found: Found,
        authors: Sequence[Identity],
        *,
        licences: Sequence[str],
        owned_share: float,
        max_files: int,
        max_changes: int,
        emit: Emit,
        since: Repository | None = None,
    ) -> Collected:
        """The spans that ``authors`` wrote, with every refusal. Raises NoSuchAuthor, LicenceUnknown, LicenceNotAllowed, GitFailed.

        ``since``: the same as it was read earlier; then only what they wrote in commits that its own commit does not know. Raises
        InputError when that commit is not in the history that is read now.
        """
        ...


class Teacher(Protocol):
    """Writes the task for real work; never the work."""

    name: str

    async def write_instruction(self, span: Span) -> Instruction:
        """The instruction for this span, and where in the span the completion starts.

        Raises BadAnswer (this span has none), Unavailable (ask again later), BadConfig or Unauthorised (no span will have one).
        """
        ...

    def estimate(self, spans: Sequence[Span]) -> Teaching:
        """What asking about these spans will take; nothing is asked. ``cached`` are those that need no call."""
        ...

    @property
    def teaching(self) -> Teaching:
        """What was asked so far."""
        ...

    async def close(self) -> None:
        """Close connections; asking again afterwards is not possible."""
        ...


class Trainer(Protocol):
    """One adapter being trained inside an engine. Base weights are never written."""

    async def forward_backward(self, batch: Sequence[Example]) -> StepLoss:
        """Add this batch's gradient (of the mean over its completion tokens) to this adapter's; other trainers are untouched."""
        ...

    async def optim_step(self, learning_rate: float) -> None:
        """Clip, one AdamW step, gradient back to zero."""
        ...

    async def nll(self, examples: Sequence[Example]) -> tuple[Score, ...]:
        """Likelihoods under the adapter as it is now (for validation)."""
        ...

    async def save(self, directory: Path, *, resumable: bool = False) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors`` (PEFT format, fp32) into ``directory``, atomically each.

        ``resumable`` writes the optimiser's state beside them, so that ``Engine.train(spec, resume=directory)`` goes on from here.
        """
        ...

    async def close(self) -> None:
        """Free the slot and the optimiser's state."""
        ...


class Engine(Protocol):
    """One base model in memory. An adapter is an argument of a request, never a state of the model."""

    base: BaseInfo

    @property
    def status(self) -> EngineStatus:
        """What is loaded, waiting, running and cached at this moment."""
        ...

    async def load(self, directory: Path, *, owner: str = "", priority: float = 0.5) -> AdapterInfo:
        """Load PEFT files. Loading the same files twice gives the same id. Raises AdapterInvalid, WrongBase, NoMemory.

        The files must stay where they are: an adapter that had to make room is read again when it is next asked for. ``owner``
        (whose quota it counts on) and ``priority`` (0 to 1; above 0.9 it is never evicted) of the last load hold.
        """
        ...

    async def unload(self, adapter: str) -> None:
        """Forget an adapter; requests that use it finish first. Unknown ids are ignored."""
        ...

    def sample(self, request: SampleRequest) -> AsyncIterator[SampleChunk]:
        """Stream a completion; closing the iterator cancels it. Raises Overloaded when too many wait, NotFound for a layer not loaded."""
        ...

    async def nll(
        self, examples: Sequence[Example], layers: Sequence[Layer] = (), *, mixture: Mixture | None = None
    ) -> tuple[Score, ...]:
        """Likelihood of each completion through these layers or this mixture (neither = the base).

        Examples longer than the context are cut at its end. Raises InputError for both, or where mixtures are not offered.
        """
        ...

    async def observe(self, examples: Sequence[Example], layers: Sequence[Layer], directory: Path) -> Observed:
        """Write second moments of what every module reads over these examples through these layers (none = the base) into ``directory``.

        ``covariance.safetensors``: ``count`` (tokens) and for each module ``NAME`` ``[in, in]`` fp32 or a sketch of it. The same again
        gives the same bytes. Raises InputError for nothing to observe, NoSpace, Unavailable where modules are out of sight.
        """
        ...

    async def train(
        self, spec: LoraSpec, *, resume: Path | None = None, start: Path | None = None, beside: Beside | None = None
    ) -> Trainer:
        """A new adapter to train, with its own optimiser state; or one that goes on from what ``save(resumable=True)`` wrote.

        ``start``: the new one's first weights are those of these PEFT files, its optimiser is fresh. ``beside``: which others it shall
        leave be; the same must be given again to go on. Raises AdapterInvalid when files have another shape than ``spec``, InputError
        when both are given, NotFound for a layer of ``beside`` that is not loaded.
        """
        ...

    async def close(self) -> None: ...


class Store(Protocol):
    """Block directories, content-addressed by the manifest's id. A block never changes once put."""

    def put(self, directory: Path) -> str:
        """Verify, copy (hashing while copying), fsync, rename into place; gives the id. Again changes nothing.

        Raises BlockCorrupt, NoSpace.
        """
        ...

    def path(self, block_id: str) -> Path:
        """Where a block's files are. Raises BlockNotFound."""
        ...

    def refuse_revoked(self, manifest: Manifest) -> None:
        """Raises BlockRevoked when this block, or one that it was made from, has a tombstone, whether it is stored or not."""
        ...

    def delete(self, block_id: str) -> None:
        """Remove a block's files; unknown ids are ignored."""
        ...


class Registry(Protocol):
    """Names for blocks. Files are the truth: the catalogue can be rebuilt from the store."""

    def publish(self, manifest: Manifest) -> BlockRef:
        """Make a stored block resolvable. The same manifest twice changes nothing; a name@version with another id is refused."""
        ...

    def resolve(self, reference: str, *, unsafe: bool = False) -> Manifest:
        """``name`` (newest accepted version), ``name@version``, or at least 8 hex digits of the id.

        Raises BlockNotFound, BadReference, BlockRevoked, BlockRejected. ``unsafe`` lets a rejected block pass, by digits only.
        """
        ...

    def next_version(self, name: str) -> tuple[str, str | None]:
        """What the next block of this name is called, and the version before it, if there is one."""
        ...

    def forget(self, block_id: str) -> None:
        """Take a block out of the catalogue; unknown ids are ignored."""
        ...

    def manifests(self, name: str | None = None) -> tuple[Manifest, ...]:
        """All, or those of one name, newest first, rejected ones among them."""
        ...

    def revoke(self, block_id: str) -> None:
        """Never resolve this block again."""
        ...


class Encoder(Protocol):
    """Texts as vectors. ``name``: the model and its revision; ``dimension`` of its vectors; ``max_tokens`` of a text that it reads."""

    name: str
    dimension: int
    max_tokens: int

    def encode(self, texts: Sequence[str]) -> Vectors:
        """A row of length 1 for each text (zeros where nothing could be read); what is longer than ``max_tokens`` is cut."""
        ...


class Index(Protocol):
    """Vectors of one encoder under keys: a cache, made again from texts when it is lost. Raises InputError for another encoder's."""

    encoder: str
    dimension: int

    def add(self, keys: Sequence[str], vectors: Vectors) -> None:
        """Keep a row for each key, in place of one that it has. Raises NoSpace."""
        ...

    def remove(self, keys: Collection[str]) -> None:
        """Take them out; the next search sees it. Unknown keys are ignored."""
        ...

    def keys(self) -> frozenset[str]:
        """All that are in it."""
        ...

    def search(self, vectors: Vectors, most: int, *, among: Collection[str] | None = None) -> tuple[Hit, ...]:
        """The nearest first, by the mean of the cosines with all rows of ``vectors``; of equals, by key. ``among``: only these."""
        ...

    def settle(self) -> str:
        """Make now what makes searches of very many quick, where there is such a thing; says how they are searched from now on."""
        ...


class Genomes(Protocol):
    """Signed genomes by name and version; a genome never changes once put. Files are the truth."""

    def put(self, signed: SignedGenome) -> str:
        """Keep it; gives the id. Again changes nothing. Raises InputError for a name@version that has another id, NoSpace."""
        ...

    def get(self, reference: str) -> SignedGenome:
        """``name`` (newest version), ``name@version``, or at least 8 hex digits of the id. Raises GenomeNotFound, BadReference, Corrupt."""
        ...

    def manifests(self, name: str | None = None) -> tuple[GenomeManifest, ...]:
        """All, or those of one name, newest first; those that cannot be read are in ``faults``."""
        ...

    def faults(self) -> tuple[Refused, ...]:
        """What is kept and is no sound, signed genome, with the code of what is wrong."""
        ...

    def delete(self, genome_id: str) -> None:
        """Remove one; unknown ids are ignored."""
        ...


class Signer(Protocol):
    """Ed25519 keys of this machine and those it trusts."""

    @property
    def key_id(self) -> str: ...

    def sign(self, payload: bytes, payload_type: str) -> Envelope: ...

    @property
    def public_key(self) -> bytes:
        """This machine's public key, 32 raw bytes: what another machine trusts."""
        ...

    def trust(self, public_key: bytes) -> str:
        """Believe this key from now on; gives its id. Raises InputError for what is no sound key."""
        ...

    def distrust(self, key_id: str) -> None:
        """Believe it no longer. Raises NotFound, and InputError for this machine's own."""
        ...

    def trusted(self) -> tuple[str, ...]:
        """Ids of the keys that are believed, sorted."""
        ...

    def verify(self, envelope: Envelope, payload_type: str) -> bytes:
        """The payload, when a trusted key signed it. Raises SignatureInvalid, BlockUntrusted."""
        ...


class Consents(Protocol):
    """Consent records: a state machine, separate from the licence."""

    def grant_self(self, you: Identity | None, authors: Sequence[Identity], repository: str) -> ConsentRecord:
        """A self-asserted record: this machine's git identity is among ``authors``. Raises ConsentMissing otherwise."""
        ...

    def local_only(self, authors: Sequence[Identity], repository: str) -> ConsentRecord:
        """Research on this machine: needs no consent, can never be shared."""
        ...

    def granted(self, account: Account, repositories: Sequence[str], use: Use) -> ConsentRecord:
        """The record under which ``use`` of this account's ``repositories`` (``owner/name``) is allowed now: of those that are covered.

        Raises ConsentMissing with the next command, ConsentRevoked, ConsentInvalid, Unavailable.
        """
        ...

    def refuse_revoked(self, authors: Sequence[Identity], handle: str = "") -> None:
        """Raises ConsentRevoked when one of them, or the account called ``handle``, took everything back."""
        ...

    def check(self, record: ConsentRecord, use: str) -> None:
        """Raises ConsentMissing when ``record`` does not cover ``use`` (mint, serve, share)."""
        ...


class Sandbox(Protocol):
    """A workspace of files, and the only place where code that a model or a stranger wrote may run. What it says is data.

    ``tier``: which kind of confinement passed its self-test here.
    """

    tier: str

    async def exec(self, command: Sequence[str], *, stdin: bytes = b"", limits: RunLimits | None = None) -> Ran:
        """Run ``command`` in the workspace; all its processes have ended when this returns, is cancelled, or its asker dies.

        Raises SandboxUnavailable (nothing ran); NotFound once it is closed. A program that is not there ends with status 127.
        """
        ...

    def read_file(self, path: str, *, most: int = MOST_FILE) -> bytes:
        """A plain file of the workspace. Raises NotFound, PathRefused (outside, a link, no plain file), TooLarge (over ``most`` bytes)."""
        ...

    def write_file(self, path: str, data: bytes, *, most: int = MOST_FILE) -> None:
        """Put a file into the workspace, with the folders on the way. Raises PathRefused, TooLarge."""
        ...

    def close(self) -> None:
        """Remove the workspace. Again changes nothing."""
        ...


OpenSandbox = Callable[[], Awaitable[Sandbox]]
"""A sandbox with an empty workspace. Raises SandboxUnavailable, with what is missing, where this machine cannot hold one."""
