"""A shipped fake for each seam: small, deterministic, honest about what it is. Tests and dry runs use these instead of mocks.

``FakeEngine`` is a real (tiny) model: a byte-bigram table whose adapters are further counts, so likelihoods fall when it is trained.
It writes and reads adapter files in the names of the PEFT format, with one tensor ``counts``.
"""

from __future__ import annotations

import base64
import json
import math
import random
import re
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clonedna.core.block import BlockRef, ConsentRecord, Envelope, Manifest, SignatureEntry, Teaching, Use
from clonedna.core.canonical import sha256
from clonedna.core.errors import (
    AdapterInvalid,
    BadReference,
    BlockNotFound,
    BlockRejected,
    ConsentMissing,
    Corrupt,
    GenomeNotFound,
    InputError,
    NoSuchAuthor,
    NotFound,
    PathRefused,
    SandboxUnavailable,
    SignatureInvalid,
    TooLarge,
)
from clonedna.core.events import Emit
from clonedna.core.genome import GENOME_PAYLOAD, GenomeManifest, Refused, SignedGenome, genome_bytes, genome_id
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
    Residency,
    SampleChunk,
    SampleRequest,
    Score,
    StepLoss,
    TokenLogprob,
)  # fmt: skip
from clonedna.core.people import Account
from clonedna.core.sandbox import MOST_FILE, Ran, RunLimits
from clonedna.core.seams import Trainer
from clonedna.core.vectors import Hit, Vectors
from clonedna.core.work import Collection as Collected
from clonedna.core.work import Found, Identity, Instruction, Repository, Span

END = 0
Counts = NDArray[np.float32]


class FakeSource:
    """Gives the collection it was made with, to the authors it was made for; all of it is newer than any other commit."""

    def __init__(self, found: Found, collection: Collected) -> None:
        self.found, self.collection = found, collection

    def find(self, target: str) -> Found:
        return self.found

    def collect(
        self, found: Found, authors: Sequence[Identity], *, licences: Sequence[str], owned_share: float,
        max_files: int, max_changes: int, emit: Emit, since: Repository | None = None,
    ) -> Collected:  # fmt: skip
        known = [share.identity for share in found.repository.authors]
        if not any(author.matches(one.name, one.email) for author in authors for one in known):
            raise NoSuchAuthor(f"no commits by {authors[0]}", "list the authors with: dna authors")
        if since is not None and since.commit == found.repository.commit:
            return self.collection.model_copy(update={"spans": (), "files_used": 0, "lines_owned": 0})
        return self.collection


class FakeTeacher:
    """Names the span; always the ``whole`` form."""

    name = "fake"

    async def write_instruction(self, span: Span) -> Instruction:
        return Instruction(form="whole", text=f"Write {span.name}.", completion_start=span.start)

    def estimate(self, spans: Sequence[Span]) -> Teaching:
        return Teaching(teacher=self.name)

    @property
    def teaching(self) -> Teaching:
        return Teaching(teacher=self.name)

    async def close(self) -> None:
        """Nothing to close."""


class FakeEngine:
    """A byte-bigram model: p(b | a) = (1 + counts[a, b]) / (256 + sum counts[a]); layers add their counts times their weight."""

    def __init__(self) -> None:
        self.base = BaseInfo(
            id="fake",
            fingerprint=sha256("fake"),
            parameters=65536,
            context=4096,
            vocabulary=256,
            dtype="float32",
            device="cpu",
            threads=1,
        )
        self._adapters: dict[str, Counts] = {}
        self._held: dict[str, tuple[str, float]] = {}

    @property
    def status(self) -> EngineStatus:
        adapters = tuple(
            Residency(
                id=name, digest=name, state="slot", rank=16, bytes=262144, owner=owner, priority=priority, pinned=priority > 0.9,
                uses=0, hits=0, loads=1, evictions=0, idle=0.0,
            )
            for name, (owner, priority) in self._held.items()
        )  # fmt: skip
        return EngineStatus(base=self.base, adapters=adapters, adapter_bytes=262144 * len(adapters))

    async def load(self, directory: Path, *, owner: str = "", priority: float = 0.5) -> AdapterInfo:
        data, counts = _counts_in(directory)
        digest = sha256(data)
        self._adapters[digest[:16]] = counts
        self._held[digest[:16]] = owner, priority
        return AdapterInfo(
            id=digest[:16], digest=digest, rank=16, alpha=32, target_modules=("q_proj",), bytes=len(data)
        )

    async def unload(self, adapter: str) -> None:
        self._adapters.pop(adapter, None)
        self._held.pop(adapter, None)

    async def sample(self, request: SampleRequest) -> AsyncIterator[SampleChunk]:
        counts = self._counts(request.layers, request.mixture)
        given = request.prompt or "".join(m.content for m in request.messages)
        prompt = (given.encode() if isinstance(given, str) else bytes(given))[: request.prompt_limit]
        draw = random.Random(request.seed)  # noqa: S311 - seeded sampling, no secret
        last, made = prompt[-1] if prompt else END, 0
        while made < request.max_tokens:
            weights = 1 + counts[last]
            last = (
                int(np.argmax(weights)) if request.temperature == 0 else draw.choices(range(256), weights.tolist())[0]
            )
            if last == END and not request.ignore_eos:
                break
            made += 1
            text = chr(last) if 31 < last < 127 or last == 10 else " "
            logprob = TokenLogprob(
                token=last, text=text, bytes=(last,), logprob=math.log(float(weights[last] / weights.sum()))
            )
            yield SampleChunk(text=text, token=last, logprob=logprob if request.logprobs else None)
        yield SampleChunk(
            finish="length" if made == request.max_tokens else "stop",
            prompt_tokens=len(prompt), completion_tokens=made, cached_tokens=0,
        )  # fmt: skip

    async def nll(
        self, examples: Sequence[Example], layers: Sequence[Layer] = (), *, mixture: Mixture | None = None
    ) -> tuple[Score, ...]:
        counts = self._counts(layers, mixture)
        return tuple(_score(counts, example) for example in examples)

    async def observe(self, examples: Sequence[Example], layers: Sequence[Layer], directory: Path) -> Observed:
        """Its one module ``counts`` reads the byte before, as a unit vector: ``C`` is the diagonal of how often each came."""
        self._counts(layers)
        before = [a for example in examples for a, _ in _bigrams(example)]
        if not before:
            raise InputError("these examples have no tokens to observe", "give examples with a completion")
        shares = np.diag(np.bincount(before, minlength=256).astype(np.float32) / np.float32(len(before)))
        header = json.dumps(
            {
                "__metadata__": {"about": json.dumps({"base_fingerprint": self.base.fingerprint, "format": "dna-covariance/1"})},
                "count": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
                "counts": {"dtype": "F32", "shape": [256, 256], "data_offsets": [8, 262152]},
            }
        ).encode()  # fmt: skip
        header += b" " * (-len(header) % 8)
        data = len(header).to_bytes(8, "little") + header + len(before).to_bytes(8, "little") + shares.tobytes()
        directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a fake may block
        (directory / "covariance.safetensors").write_bytes(data)
        return Observed(
            base_fingerprint=self.base.fingerprint, examples=len(examples), tokens=len(before), exact=1, sketched=0, error=0.0,
            bytes=len(data),
        )  # fmt: skip

    async def train(
        self, spec: LoraSpec, *, resume: Path | None = None, start: Path | None = None, beside: Beside | None = None
    ) -> Trainer:
        """Of ``beside`` it knows the guard alone: what is counted behind bytes of guarded examples counts less."""
        if resume is not None and start is not None:
            raise InputError("a training either goes on or starts from files", "give resume or start")
        trainer = FakeTrainer()
        if beside is not None:
            if beside.covariances or beside.orthogonal:
                raise InputError("the fake engine knows no energies and no angles", "give guard examples")
            for guarded in beside.guard:
                self._counts(guarded.layers)
                for a in {a for example in guarded.examples for a, _ in _bigrams(example)}:
                    trainer.rates[a] = 1 / (1 + beside.guard_weight)
        if (files := resume or start) is not None:
            trainer.counts = _counts_in(files)[1].copy()
        return trainer

    async def close(self) -> None:
        self._adapters.clear()

    def _counts(self, layers: Sequence[Layer], mixture: Mixture | None = None) -> Counts:
        """With a mixture, after each byte: the ``top_k`` adapters that saw it most often, in shares of the softmax of how often."""
        if mixture is not None:
            if layers:
                raise InputError("layers beside a mixture", "name all adapters in the mixture")
            each = np.stack([self._counts([layer]) for layer in mixture.layers])
            seen = np.stack([np.abs(self._counts([Layer(adapter=one.adapter)])).sum(1) for one in mixture.layers])
            chosen = np.argsort(np.argsort(-seen, axis=0, kind="stable"), axis=0) < mixture.top_k
            shares = np.where(chosen, np.exp(seen - seen.max(0)), 0.0)
            return ((shares / shares.sum(0))[:, :, None] * each).sum(0).astype(np.float32)
        total = np.zeros((256, 256), dtype=np.float32)
        for layer in layers:
            if layer.adapter not in self._adapters:
                raise AdapterInvalid(f"no adapter {layer.adapter!r} is loaded", "load it first")
            total = total + layer.weight * self._adapters[layer.adapter]
        return total.astype(np.float32)


def _counts_in(directory: Path) -> tuple[bytes, Counts]:
    """The file that the fake trainer saved, and the counts in it. Raises ``AdapterInvalid``."""
    try:
        data = (directory / "adapter_model.safetensors").read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        return data, np.frombuffer(data[start:], dtype=np.float32).reshape(256, 256)
    except (OSError, ValueError) as error:
        raise AdapterInvalid(
            f"not an adapter of the fake engine: {error}", "give a folder that its trainer saved"
        ) from error


class FakeTrainer:
    """Counts bigrams of completions; a step adds what was counted, times the rate."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros((256, 256), dtype=np.float32)
        self._gradient: Counts = np.zeros((256, 256), dtype=np.float32)
        self.rates: Counts = np.ones((256, 1), dtype=np.float32)

    async def forward_backward(self, batch: Sequence[Example]) -> StepLoss:
        scores = tuple(_score(self.counts, example) for example in batch)
        for example in batch:
            for a, b in _bigrams(example):
                self._gradient[a, b] += 1
        return StepLoss(loss_sum=sum(s.nll for s in scores), tokens=sum(s.tokens for s in scores), per_example=scores)

    async def optim_step(self, learning_rate: float) -> None:
        self.counts = (self.counts + 1000 * learning_rate * self.rates * self._gradient).astype(np.float32)
        self._gradient = np.zeros_like(self._gradient)

    async def nll(self, examples: Sequence[Example]) -> tuple[Score, ...]:
        return tuple(_score(self.counts, example) for example in examples)

    async def save(self, directory: Path, *, resumable: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a fake may block
        header = json.dumps({"counts": {"dtype": "F32", "shape": [256, 256], "data_offsets": [0, 262144]}}).encode()
        header += b" " * (-len(header) % 8)
        (directory / "adapter_model.safetensors").write_bytes(
            len(header).to_bytes(8, "little") + header + self.counts.tobytes()
        )
        (directory / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "base_model_name_or_path": "fake"})
        )

    async def close(self) -> None:
        """Nothing to free."""


def _bigrams(example: Example) -> list[tuple[int, int]]:
    prompt = (example.text if example.text is not None else "".join(m.content for m in example.messages)).encode()
    data = example.completion.encode() + (b"" if example.text is not None else bytes([END]))
    return list(zip((prompt[-1:] or bytes([END])) + data[:-1], data, strict=True))


def _score(counts: Counts, example: Example) -> Score:
    pairs = _bigrams(example)
    totals = 256 + counts.sum(axis=1)
    nll = -sum(math.log((1 + float(counts[a, b])) / float(totals[a])) for a, b in pairs)
    return Score(nll=nll, tokens=len(pairs), bytes=len(example.completion.encode()))


class FakeStore:
    """Knows where directories are; copies nothing."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}

    def put(self, directory: Path) -> str:
        block_id = Manifest.model_validate_json((directory / "manifest.json").read_bytes()).id
        self._paths[block_id] = directory
        return block_id

    def path(self, block_id: str) -> Path:
        if block_id not in self._paths:
            raise BlockNotFound(f"no block {block_id}", "see: dna ls")
        return self._paths[block_id]

    def refuse_revoked(self, manifest: Manifest) -> None:
        """Nothing is ever revoked here."""

    def delete(self, block_id: str) -> None:
        self._paths.pop(block_id, None)


class FakeSigner:
    """Signs with a keyed hash; trusts itself only."""

    public_key = b"f" * 32
    key_id = sha256(public_key)

    def sign(self, payload: bytes, payload_type: str) -> Envelope:
        return Envelope(
            payload=base64.b64encode(payload).decode(), payloadType=payload_type,
            signatures=(SignatureEntry(keyid=self.key_id, sig=self._mark(payload, payload_type)),),
        )  # fmt: skip

    def verify(self, envelope: Envelope, payload_type: str) -> bytes:
        payload = base64.b64decode(envelope.payload)
        if envelope.payloadType != payload_type or envelope.signatures[0].sig != self._mark(payload, payload_type):
            raise SignatureInvalid("the fake signature does not fit", "sign it again")
        return payload

    def trust(self, public_key: bytes) -> str:
        if len(public_key) != 32:
            raise InputError("a public key has 32 bytes", "give 64 hex digits")
        return sha256(public_key)

    def distrust(self, key_id: str) -> None:
        if key_id == self.key_id:
            raise InputError("this is this machine's own key", "keep it")

    def trusted(self) -> tuple[str, ...]:
        return (self.key_id,)

    def _mark(self, payload: bytes, payload_type: str) -> str:
        return sha256(self.key_id.encode() + payload_type.encode() + payload)


class FakeConsents:
    """Grants what is asked of it and keeps nothing."""

    def grant_self(self, you: Identity | None, authors: Sequence[Identity], repository: str) -> ConsentRecord:
        if you is None or not any(author.matches(you.name, you.email) for author in authors):
            raise ConsentMissing("you are not the author", "use --consent local-only")
        return self._record("self", authors, repository)

    def local_only(self, authors: Sequence[Identity], repository: str) -> ConsentRecord:
        return self._record("local-only", authors, repository)

    def granted(self, account: Account, repositories: Sequence[str], use: Use) -> ConsentRecord:
        raise ConsentMissing(f"{account.login} has not consented", f"dna consent request {account.login} --use {use}")

    def refuse_revoked(self, authors: Sequence[Identity], handle: str = "") -> None:
        """Nobody took anything back."""

    def check(self, record: ConsentRecord, use: str) -> None:
        if use not in record.uses:
            raise ConsentMissing(f"consent does not cover {use!r}", "ask the person")

    @staticmethod
    def _record(mode: str, authors: Sequence[Identity], repository: str) -> ConsentRecord:
        return ConsentRecord.model_validate(
            {
                "mode": mode,
                "status": "granted" if mode == "self" else "none", "uses": ("mint", "serve"), "repositories": (repository,),
                "subject": authors[0].name, "identity_digest": sha256(authors[0].email), "evidence": "none", "verified": False,
                "how": "fake",
            }
        )  # fmt: skip


class FakeRegistry:
    """A list in memory."""

    def __init__(self) -> None:
        self._manifests: list[Manifest] = []
        self._revoked: set[str] = set()

    def publish(self, manifest: Manifest) -> BlockRef:
        if manifest.id not in [known.id for known in self._manifests]:
            self._manifests.append(manifest)
        status = "registered" if manifest.gate.status == "accepted" else "rejected"
        return BlockRef(name=manifest.name, version=manifest.version, id=manifest.id, status=status)

    def resolve(self, reference: str, *, unsafe: bool = False) -> Manifest:
        for manifest in reversed(self._manifests):
            if reference in (
                manifest.name,
                f"{manifest.name}@{manifest.version}",
                manifest.id[: max(8, len(reference))],
            ):
                if manifest.gate.status == "rejected" and not unsafe:
                    raise BlockRejected(f"{reference} was rejected by the gate", "give its id and --unsafe")
                return manifest
        raise BlockNotFound(f"no block {reference}", "see: dna ls")

    def next_version(self, name: str) -> tuple[str, str | None]:
        known = [manifest.version for manifest in self._manifests if manifest.name == name]
        return (f"1.{len(known)}.0", known[-1]) if known else ("1.0.0", None)

    def forget(self, block_id: str) -> None:
        self._manifests = [manifest for manifest in self._manifests if manifest.id != block_id]

    def manifests(self, name: str | None = None) -> tuple[Manifest, ...]:
        return tuple(one for one in reversed(self._manifests) if name in (None, one.name))

    def revoke(self, block_id: str) -> None:
        self._manifests = [manifest for manifest in self._manifests if manifest.id != block_id]


class FakeGenomes:
    """A dict in memory."""

    def __init__(self, signer: FakeSigner | None = None) -> None:
        self._signer = signer or FakeSigner()
        self._kept: dict[str, SignedGenome] = {}

    def put(self, signed: SignedGenome) -> str:
        manifest = signed.manifest
        if (
            self._signer.verify(signed.envelope, GENOME_PAYLOAD) != genome_bytes(manifest)
            or genome_id(manifest) != manifest.id
        ):
            raise Corrupt("not the genome that was signed", "sign it again")
        if any(one.version == manifest.version and one.id != manifest.id for one in self.manifests(manifest.name)):
            raise InputError(f"{manifest.name}@{manifest.version} is another genome", "give it the next version")
        self._kept[manifest.id] = signed
        return manifest.id

    def get(self, reference: str) -> SignedGenome:
        name, at, version = reference.partition("@")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*(@[0-9.]+)?", reference):
            raise BadReference(f"{reference[:80]!r} is no genome", "write name, name@version, or 8 digits of its id")
        found = [one.id for one in self.manifests(name) if not at or one.version == version]
        found = found or [one for one in self._kept if len(reference) >= 8 and one.startswith(reference)]
        if not found:
            raise GenomeNotFound(f"no genome {reference}", "see: dna genome ls")
        return self._kept[found[0]]

    def manifests(self, name: str | None = None) -> tuple[GenomeManifest, ...]:
        found = [one.manifest for one in self._kept.values() if name in (None, one.manifest.name)]
        order = {one.id: tuple(map(int, one.version.split("."))) for one in found}
        return tuple(
            sorted(found, key=lambda one: (one.created_at if name is None else "", order[one.id]), reverse=True)
        )

    def faults(self) -> tuple[Refused, ...]:
        return ()

    def delete(self, genome_id: str) -> None:
        self._kept.pop(genome_id, None)


class FakeSandbox:
    """Files in memory, and a few commands that are answered, not run: true, false, echo, cat, sleep, yes.

    What ``python3`` would say is given to it: ``python`` hears the last word of the command line (a program, or its path) and the files.
    """

    tier = "fake"

    def __init__(self, python: Callable[[str, dict[str, bytes], bytes], Ran] | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self._python = python
        self._open = True

    async def exec(self, command: Sequence[str], *, stdin: bytes = b"", limits: RunLimits | None = None) -> Ran:
        self._refuse_closed()
        limits = limits or RunLimits()
        match list(command):
            case ["true"]:
                return Ran(status=0, seconds=0.0)
            case ["false"]:
                return Ran(status=1, seconds=0.0)
            case ["echo", *words]:
                return self._said(" ".join(words) + "\n", limits)
            case ["cat", *paths]:
                return self._said("".join(self.read_file(path).decode() for path in paths) or stdin.decode(), limits)
            case ["sleep", seconds]:
                late = float(seconds) > limits.seconds
                return Ran(status=None if late else 0, seconds=limits.seconds, stopped="time" if late else None)
            case ["yes"]:
                return self._said("y\n" * limits.output, limits)
            case ["python3", *_, program] if self._python is not None:
                return self._python(program, self.files, stdin)
            case _:
                return Ran(status=127, stderr=f"no such program: {command[0]}\n", seconds=0.0)

    def read_file(self, path: str, *, most: int = MOST_FILE) -> bytes:
        self._refuse_path(path)
        if path not in self.files:
            raise NotFound(f"there is no {path!r} in the workspace", "check the name")
        if len(self.files[path]) > most:
            raise TooLarge(f"{path!r} has more than {most} bytes", "ask for a larger bound")
        return self.files[path]

    def write_file(self, path: str, data: bytes, *, most: int = MOST_FILE) -> None:
        self._refuse_path(path)
        if len(data) > most:
            raise TooLarge(f"{path!r} would have more than {most} bytes", "write a smaller file")
        self.files[path] = data

    def close(self) -> None:
        self._open = False

    def _refuse_closed(self) -> None:
        if not self._open:
            raise NotFound("this sandbox is closed", "open another")

    def _refuse_path(self, path: str) -> None:
        self._refuse_closed()
        if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise PathRefused(f"{path!r} is no path below the workspace", "write it like 'folder/file.py'")

    @staticmethod
    def _said(text: str, limits: RunLimits) -> Ran:
        if len(text) > limits.output:
            return Ran(status=None, stdout=text[: limits.output], seconds=0.0, stopped="output")
        return Ran(status=0, stdout=text, seconds=0.0)


async def no_sandbox() -> FakeSandbox:
    """An ``OpenSandbox`` of a machine that cannot hold one."""
    raise SandboxUnavailable("bubblewrap is not installed", "make setup-system")


class FakeEncoder:
    """Counts letters: texts of the same letters are the same."""

    name = "letters@1"
    dimension = 27
    max_tokens = 1000

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for letter in text.casefold()[: self.max_tokens]:
                row[ord(letter) - 96 if "a" <= letter <= "z" else 0] += 0 if letter.isspace() else 1
            row /= max(float(np.linalg.norm(row)), 1e-9)
        return Vectors(self.name, rows)


class FakeIndex:
    """Holds its vectors in a dict."""

    def __init__(self, encoder: str, dimension: int) -> None:
        self.encoder, self.dimension = encoder, dimension
        self._rows: dict[str, Counts] = {}

    def add(self, keys: Sequence[str], vectors: Vectors) -> None:
        rows = self._checked(vectors)
        if len(keys) != len(rows) or len(set(keys)) != len(keys):
            raise InputError("keys and vectors do not fit", "give one vector for each key, each key once")
        self._rows |= dict(zip(keys, rows.copy(), strict=True))

    def remove(self, keys: Collection[str]) -> None:
        for key in keys:
            self._rows.pop(key, None)

    def keys(self) -> frozenset[str]:
        return frozenset(self._rows)

    def search(self, vectors: Vectors, most: int, *, among: Collection[str] | None = None) -> tuple[Hit, ...]:
        asked = self._checked(vectors)
        if not len(asked) or most < 1:
            return ()
        chosen = self._rows if among is None else {key: self._rows[key] for key in among if key in self._rows}
        hits = [Hit(key, float(np.mean(asked @ row))) for key, row in chosen.items()]
        return tuple(sorted(hits, key=lambda hit: (-hit.cosine, hit.key))[:most])

    def settle(self) -> str:
        return "exact"

    def _checked(self, vectors: Vectors) -> Counts:
        if vectors.encoder != self.encoder or vectors.rows.ndim != 2 or vectors.rows.shape[1] != self.dimension:
            raise InputError("vectors of another encoder", "encode everything with one encoder")
        if not np.isfinite(vectors.rows).all():
            raise InputError("vectors that are no numbers", "give finite ones")
        return vectors.rows
