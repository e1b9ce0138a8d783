"""The shelf with a reader of our own: many threads, little room."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from clonedna.core.errors import AdapterInvalid, InputError, NoMemory, NotFound, Overloaded
from clonedna.core.model import AdapterInfo, Layer
from clonedna.engine.adapters import Adapter
from clonedna.engine.shelf import Shelf

MIB = 1 << 20


class Disk:
    """Adapters of 1 MiB, or of what the directory's name says; its content can change. ``gate`` holds readers up."""

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()
        self.content: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.gone: list[str] = []

    def read(self, directory: Path) -> Adapter:
        assert self.gate.wait(10)
        name = directory.name
        self.reads[name] += 1
        digest = sha256(f"{name} {self.content.get(name)}".encode()).hexdigest()
        size = int(name.partition("-")[2] or 1) * MIB
        info = AdapterInfo(id=digest[:16], digest=digest, rank=4, alpha=8, target_modules=("q_proj",), bytes=size)
        return Adapter(info, 2.0, {})


def shelf_of(disk: Disk, mib: int) -> Shelf:
    return Shelf(disk.read, mib * MIB, disk.gone.append)


def layer(info: AdapterInfo, weight: float = 1.0) -> Layer:
    return Layer(adapter=info.id, weight=weight)


def states(shelf: Shelf) -> dict[str, str]:
    return {one.id: one.state for one in shelf.residencies(set())}


def test_what_makes_room_is_read_again_when_it_is_asked_for() -> None:
    disk = Disk()
    shelf = shelf_of(disk, 2)
    a, b, c = (shelf.put(Path(name), "", 0.5) for name in "abc")
    assert states(shelf) == {a.id: "disk", b.id: "memory", c.id: "memory"}
    assert disk.gone == [a.id]
    lease = shelf.lease([layer(a, 0.5)])
    assert lease.parts[0][0].info == a
    assert lease.key == ((a.id, 0.5),)
    assert disk.reads["a"] == 2
    assert (shelf.loads, shelf.evictions, shelf.hits) == (4, 2, 0)
    lease.release()
    lease.release()
    assert [one.uses for one in shelf.residencies(set())] == [0, 0, 0]


def test_many_that_ask_at_once_read_it_once() -> None:
    disk = Disk()
    shelf = shelf_of(disk, 1)
    a = shelf.put(Path("a"), "", 0.5)
    shelf.put(Path("b"), "", 0.5)
    disk.gate.clear()
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(shelf.lease, [layer(a)]) for _ in range(16)]
        time.sleep(0.05)
        disk.gate.set()
        leases = [one.result(10) for one in asked]
    assert disk.reads["a"] == 2
    assert len({id(lease.parts[0][0]) for lease in leases}) == 1
    assert next(one.uses for one in shelf.residencies(set()) if one.id == a.id) == 16
    for lease in leases:
        lease.release()


def test_files_that_changed_since_are_refused_and_nothing_stays_leased() -> None:
    disk = Disk()
    shelf = shelf_of(disk, 1)
    a = shelf.put(Path("a"), "", 0.5)
    disk.content["a"] = "other"
    shelf.lease([layer(a)]).release()  # still in memory: what was loaded
    b = shelf.put(Path("b"), "", 0.5)
    with pytest.raises(AdapterInvalid, match="changed"):
        shelf.lease([layer(b), layer(a)])
    assert [one.uses for one in shelf.residencies(set())] == [0, 0]
    changed = shelf.put(Path("a"), "", 0.5)
    assert changed.id != a.id
    assert shelf.lease([layer(changed)]).parts[0][0].info == changed


def test_what_is_leased_stays_and_who_finds_no_room_is_told_when_to_ask_again() -> None:
    disk = Disk()
    shelf = shelf_of(disk, 2)
    a, b = (shelf.put(Path(name), "", 0.5) for name in "ab")
    lease = shelf.lease([layer(a), layer(b)])
    with pytest.raises(Overloaded) as refused:
        shelf.put(Path("c"), "", 0.5)
    assert refused.value.facts["retry_after"] == 1
    lease.release()
    shelf.put(Path("c"), "", 0.5)
    with pytest.raises(NoMemory, match="3 MiB"):
        shelf.put(Path("d-3"), "", 0.5)


def test_one_that_is_removed_serves_those_who_hold_it_and_nobody_else() -> None:
    disk = Disk()
    shelf = shelf_of(disk, 2)
    a = shelf.put(Path("a"), "", 0.5)
    lease = shelf.lease([layer(a)])
    shelf.remove(a.id)
    shelf.remove(a.id)
    assert disk.gone == [a.id]
    assert lease.parts[0][0].info == a
    with pytest.raises(NotFound):
        shelf.lease([layer(a)])
    again = shelf.put(Path("a"), "", 0.5)
    assert again == a
    lease.release()
    assert [one.uses for one in shelf.residencies(set())] == [0]


def test_one_that_is_removed_while_it_is_read_is_not_known_afterwards() -> None:
    disk = Disk()
    shelf = shelf_of(disk, 1)
    a = shelf.put(Path("a"), "", 0.5)
    shelf.put(Path("b"), "", 0.5)
    disk.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(shelf.lease, [layer(a)])
        time.sleep(0.02)
        shelf.remove(a.id)
        disk.gate.set()
        asked.result(10).release()
    assert a.id not in states(shelf)


def test_the_last_owner_and_priority_hold_and_weights_of_one_adapter_add_up() -> None:
    disk = Disk()
    shelf = shelf_of(disk, 2)
    a = shelf.put(Path("a"), "ada", 0.5)
    shelf.put(Path("a"), "grace", 0.95)
    (known,) = shelf.residencies({a.id})
    assert (known.owner, known.priority, known.pinned, known.state, known.loads) == ("grace", 0.95, True, "slot", 1)
    shelf.put(Path("b"), "", 0.5)
    assert shelf.put(Path("c"), "", 0.5)
    assert states(shelf)[a.id] == "memory"  # pinned
    assert shelf.lease([layer(a, 0.25), layer(a, 0.5)]).key == ((a.id, 0.75),)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(InputError):
            shelf.lease([layer(a, wrong)])
    with pytest.raises(InputError):
        shelf.put(Path("a"), "", 1.5)


def test_under_many_threads_nothing_in_use_leaves_and_the_budget_holds() -> None:
    disk = Disk()
    shelf = shelf_of(disk, 6)
    infos = [shelf.put(Path(f"a{i}-{1 + i % 3}"), "ab"[i % 2], 0.1 * (i % 9)) for i in range(10)]
    failures: list[BaseException] = []

    def client(seed: int) -> None:
        draw = random.Random(seed)
        try:
            for _ in range(150):
                chosen = draw.sample(infos, draw.randint(1, 2))
                try:
                    if draw.random() < 0.05:
                        shelf.put(Path(f"b{seed}"), "", 0.2)
                    lease = shelf.lease([layer(one) for one in chosen])
                except Overloaded:
                    continue
                assert {a.info.id for a, _ in lease.parts} == {one.id for one in chosen}
                in_memory = states(shelf)
                assert all(in_memory.get(one.id) != "disk" for one in chosen)
                size = sum(one.bytes for one in shelf.residencies(set()) if one.state == "memory")
                assert size <= 6 * MIB
                lease.release()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures, failures
    assert not any(one.uses for one in shelf.residencies(set()))
    assert shelf.evictions > 0
    assert shelf.lease([layer(infos[0])])
