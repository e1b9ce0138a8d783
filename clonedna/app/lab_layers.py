"""The layers of a lab: mints from installed packages, local-only, in the lab's own home. What is there already is not trained again.

A layer is asked for by a request in our own words, where there is one for its package: what the package says of itself is in its text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from itertools import islice
from pathlib import Path

from clonedna.app.jobs import Jobs
from clonedna.app.lab_hands import Hands, Make
from clonedna.app.lab_values import LabLayer, LabOrder
from clonedna.app.orders import order_of
from clonedna.app.papers import evaluation_of
from clonedna.app.parts import Parts
from clonedna.app.settings import Settings
from clonedna.app.workspace import write_atomic
from clonedna.core.block import MintOrder
from clonedna.core.canonical import canonical, digest
from clonedna.core.errors import DnaError, InputError, Interrupted, NotFound, Refused, Unavailable
from clonedna.core.events import Emit, Note, StageFinished
from clonedna.core.value import Value
from clonedna.core.work import Identity
from clonedna.engine.cores import cores
from clonedna.genomes.package_requests import package_requests
from clonedna.mint.papers import slug

PACKAGES = (
    "rich", "fastapi", "typer", "anyio", "black", "datasketch", "dbos", "alembic", "sqlalchemy", "pip", "uvicorn", "githubkit", "httpx2",
    "openai", "pydantic-settings", "peft", "huggingface-hub", "pypdf", "trafilatura", "jinja2", "click", "starlette", "pydantic",
    "matplotlib", "networkx",
)  # fmt: skip
"""Tried in this order: what a plain installation has, the ones first that the corpus of ``nano`` leaves out or has little of."""
LICENCES = ("BSD-3-Clause", "BSD-2-Clause", "PSF-2.0")
"""Accepted beside the settings': the layers are research on this machine, and local-only."""
RECIPE = {
    "max_holdout_pairs": 40,
    "learning_rate": 1e-3,
    "batch_tokens": 1024,
    "base_instruct_ratio": 0.0,
    "tool_use_pairs": 0,
}
KEPT = "layers"
MOST_KEPT_BYTES = 1 << 20


def at_once(base: str) -> int:
    """How many layers are made at once where nobody says: each needs a copy of the base; ``nano`` is small, and leaves a core idle."""
    return min(2, cores()) if base == "nano" else 1


class Kept(Value):
    """A layer as it was made, and the order that it was made by."""

    order: str
    layer: LabLayer


class LabLayers:
    """Makes the layers of one lab, in the home of ``parts``; ``folder`` is where it notes which are there."""

    def __init__(self, parts: Parts, folder: Path, program: str, emit: Emit) -> None:
        self.parts, self.folder, self.program, self.emit = parts, folder, program, emit
        self._jobs = Jobs(parts.settings, parts)

    def build(
        self, packages: Iterable[str], most: int, order: LabOrder, tell: Callable[[LabLayer], None]
    ) -> tuple[LabLayer, ...]:
        """Layers of ``packages`` in their order until there are ``most``, ``order.processes`` of them made at once (1: in this process);
        ``tell`` hears of each one as it is there. More at once have fewer threads each, so sums may differ in their last digits.

        A package that is not there, has too little code, whose licence is not allowed or whose layer the gate rejects is in the result,
        with the reason. Raises ``Interrupted`` and ``Unavailable`` (no room, another process): those say nothing about a package.
        """
        wanted = list(dict.fromkeys(packages))
        made = (self._one_by_one if order.processes == 1 else self._at_once)(wanted, most, order, tell)
        return tuple(made[package] for package in wanted if package in made)

    def _one_by_one(
        self, packages: Sequence[str], most: int, order: LabOrder, tell: Callable[[LabLayer], None]
    ) -> dict[str, LabLayer]:
        found: dict[str, LabLayer] = {}
        for package in packages:
            if _many(found) == most:
                break
            found[package] = self.layer(package, order)
            tell(found[package])
        return found

    def _at_once(
        self, packages: Sequence[str], most: int, order: LabOrder, tell: Callable[[LabLayer], None]
    ) -> dict[str, LabLayer]:
        found, rest, waiting = dict[str, LabLayer](), iter(packages), dict[Future[LabLayer], str]()
        with ThreadPoolExecutor(order.processes) as threads, Hands(Here.of(self, order)) as hands:
            while True:
                # Only as many as could all be needed: so the same packages are tried as one after another.
                room = min(order.processes, most - _many(found)) - len(waiting)
                for package in islice(rest, max(0, room)):
                    waiting[threads.submit(self._by_hand, package, order, hands)] = package
                if not waiting:
                    return found
                for one in wait(waiting, return_when=FIRST_COMPLETED).done:
                    found[waiting.pop(one)] = one.result()
                    tell(one.result())

    def _by_hand(self, package: str, order: LabOrder, hands: Hands) -> LabLayer:
        return self.ready(package, order) or hands.make(package, _named(package, self.emit))

    def ready(self, package: str, order: LabOrder) -> LabLayer | None:
        """What can be said of a package without work: its layer that is there, or why it can have none. ``None``: it is to be made."""
        distribution = _installed(package, self.parts.settings.packages)
        if distribution is None:
            return LabLayer(package=package, why="it is not installed")
        try:
            key = _key(self._order(package, order), distribution)
        except DnaError as error:
            return LabLayer(package=package, why=_why(error))
        before = self._kept(package)
        if before is not None and before.order == key and self._there(before.layer):
            return before.layer.model_copy(update={"kept": True})
        return None

    def layer(self, package: str, order: LabOrder) -> LabLayer:
        """One package's layer, or why there is none, made in this process. Raises as ``build``."""
        if (known := self.ready(package, order)) is not None:
            return known
        distribution, wanted = _installed(package, self.parts.settings.packages), self._order(package, order)
        assert distribution is not None
        try:
            made = self._made(package, distribution, wanted)
        except (Interrupted, Unavailable):
            raise
        except (Refused, InputError, NotFound) as error:
            made = _facts(distribution, package, self.program).model_copy(update={"why": _why(error)})
        except DnaError as error:  # a fault: told, and tried again the next time
            return _facts(distribution, package, self.program).model_copy(update={"why": _why(error)})
        write_atomic(self._place(package), canonical(Kept(order=_key(wanted, distribution), layer=made)) + b"\n")
        return made

    def _order(self, package: str, order: LabOrder) -> MintOrder:
        recipe = RECIPE | {"max_train_pairs": order.pairs, "epochs": order.epochs, "seed": order.seed}
        return order_of(
            self.parts.settings, target=f"package:{package}", authors=(Identity(name=package),), name=slug(package), base=order.base,
            consent="local-only", allow_licence=LICENCES, recipe=recipe,
        )  # fmt: skip

    def _made(self, package: str, distribution: Distribution, wanted: MintOrder) -> LabLayer:
        facts = _facts(distribution, package, self.program).model_copy(update={"began": round(time.time(), 3)})
        began = time.monotonic()
        workspace, _ = self._jobs.create(wanted)
        reference = self._jobs.run(workspace, self.emit)
        manifest = self.parts.registry.resolve(reference.id, unsafe=True)
        seconds = round(time.monotonic() - began, 3)
        if reference.status != "registered":
            why = f"rejected by the gate: {'; '.join(manifest.gate.reasons)}"[:500]
            return facts.model_copy(update={"seconds": seconds, "why": why})
        gain = evaluation_of(self.parts.store.path(reference.id)).measures.get("nll.delta")
        made = {"block": reference.id, "reference": str(reference), "gain": gain, "seconds": seconds}
        return facts.model_copy(update=made)

    def _there(self, layer: LabLayer) -> bool:
        """Whether what was made can still be used; a package that gave no layer would give none again from the same program."""
        if layer.why:
            return layer.made_by == self.program
        try:
            self.parts.registry.resolve(layer.block)
            return self.parts.store.path(layer.block).is_dir()
        except DnaError:
            return False

    def _kept(self, package: str) -> Kept | None:
        path = self._place(package)
        try:
            return Kept.model_validate_json(path.read_bytes()) if path.stat().st_size <= MOST_KEPT_BYTES else None
        except (OSError, ValueError):
            return None

    def _place(self, package: str) -> Path:
        return self.folder / KEPT / f"{slug(package)}.json"


@dataclass(frozen=True, slots=True)
class Here:
    """Gives the maker of layers in a process of its own, with its share of the threads."""

    parts: type[Parts]
    settings: Settings
    folder: Path
    program: str
    order: LabOrder

    @classmethod
    def of(cls, layers: LabLayers, order: LabOrder) -> Here:
        settings = layers.parts.settings
        threads = max(1, (settings.threads or cores()) // order.processes)
        return cls(
            type(layers.parts), settings.model_copy(update={"threads": threads}), layers.folder, layers.program, order
        )

    def __call__(self) -> Make:
        parts = self.parts(self.settings)
        return lambda package, emit: LabLayers(parts, self.folder, self.program, emit).layer(package, self.order)


def _many(found: Mapping[str, LabLayer]) -> int:
    return sum(not one.why for one in found.values())


def _named(package: str, emit: Emit) -> Emit:
    """What is told of one of several at once: sentences and ends of stages, with its name. One bar cannot show them all."""

    def listen(event: object) -> None:
        if isinstance(event, Note):
            emit(event.model_copy(update={"text": f"{package}: {event.text}"}))
        elif isinstance(event, StageFinished):
            emit(Note(text=f"{package}: {event.stage} {event.seconds:.1f} s"))

    return listen


def _key(wanted: MintOrder, distribution: Distribution) -> str:
    """What a layer is made from: its order, and the package's version."""
    return digest([wanted, distribution.version])


def _facts(distribution: Distribution, package: str, program: str) -> LabLayer:
    return LabLayer(
        package=package,
        version=distribution.version[:60],
        request=package_requests().get(_normal(package), ""),
        made_by=program,
    )


def _why(error: DnaError) -> str:
    return f"{error.code}: {error.message}"[:500]


def _said(distribution: Distribution, key: str) -> str:
    """A field of a package's metadata; empty where it is not there."""
    found = distribution.metadata.get_all(key)
    return str(found[0]) if found else ""


def _installed(package: str, folder: Path | None) -> Distribution | None:
    """The package where mints look for it."""
    wanted = _normal(package)
    return next((one for one in _distributions(folder) if _normal(_said(one, "Name")) == wanted), None)


def _distributions(folder: Path | None) -> Iterator[Distribution]:
    yield from distributions(path=[str(folder.absolute())]) if folder is not None else distributions()


def _normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).casefold()
