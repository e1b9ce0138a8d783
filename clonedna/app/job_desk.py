"""Where jobs are ordered and asked about: what every face offers of them, for this machine's home. A server's also starts them.

Promises: an order that was taken is a directory before it is answered, so it outlives the client, the connection and the server. The
same ``Idempotency-Key`` with the same ask gives the same job for ``KEY_SECONDS``, however often and however many at once it is sent; with
another ask it is refused. What was kept of keys is ``jobs/keys/<sha256>.json``: no key stands there.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from pydantic import ValidationError

from clonedna.app.background import Background
from clonedna.app.job_asks import Ask, Asks, Made
from clonedna.app.job_values import (
    ENDED,
    EventPage,
    JobEvent,
    JobPage,
    JobResult,
    JobView,
    Kind,
    Status,
)
from clonedna.app.job_work import VALUE
from clonedna.app.jobs import Jobs
from clonedna.app.workspace import Tail, Workspace, write_atomic
from clonedna.core.canonical import canonical, digest, sha256, strict_json
from clonedna.core.errors import Corrupt, InputError, NotFound
from clonedna.core.value import Value

KEY_SECONDS = 24 * 3600
FORGET_SECONDS = 600.0
KEY = re.compile(r"^[\x21-\x7e]{1,255}$")
PAGE = 50
MOST_PAGE = 200
MOST_EVENTS = 1000
STILL = (*ENDED, "interrupted")  # nothing more is told by itself


class _KeptKey(Value):
    """What is kept of a key: the digest of what was asked with it, the job that it became, and when (seconds since 1970)."""

    ask: str
    job: str
    at: float


class JobDesk:
    """The use cases around jobs over one home. They block: call them from worker threads."""

    def __init__(self, jobs: Jobs, asks: Asks | None = None, background: Background | None = None) -> None:
        """``asks`` and ``background``: a server's; without them nothing can be ordered here, and nothing goes on by itself."""
        self.jobs, self._asks, self._background = jobs, asks, background
        self._keys = jobs.directory / "keys"
        self._next_forgetting = 0.0

    # Ordered.

    def start(self, ask: Ask, *, key: str | None = None, owner: str = "", paths: bool = False) -> tuple[JobView, bool]:
        """The job for ``ask``, and whether it is a new one. ``key``: the client's idempotency key, its own by ``owner``.

        ``paths``: as ``Asks.made`` has it. Raises what that raises, ``InputError`` (a key that is none, or was used for another ask),
        ``Overloaded`` when too many wait, ``NoSpace``.
        """
        if key is not None and not KEY.match(key):
            raise InputError(
                "the Idempotency-Key is no key", "send 1 to 255 printable ASCII characters without spaces", param="key"
            )
        kept = None if key is None else self._keys / f"{digest([owner, key])}.json"
        wanted = digest(ask)
        if kept is not None and (before := self._before(kept, wanted)) is not None:
            return self.jobs.view(before), False
        if self._asks is None:
            raise InputError("nothing can be ordered here", "use dna mint, eval, compare or merge")
        made = self._asks.made(ask, paths=paths)
        with self.jobs.creating():
            if kept is not None and (before := self._before(kept, wanted)) is not None:
                return self.jobs.view(before), False
            workspace = self._put(made, kept, wanted)
        if self._background is not None:
            self._background.look()
        return self.jobs.view(workspace), True

    def _put(self, made: Made, kept: Path | None, wanted: str) -> Workspace:
        """The new job; its key is written first, so a kill between the two leaves a key without a job, which is worth nothing."""
        self.jobs.refuse_full()
        job_id = self.jobs.next_id(made.order.kind)
        if kept is not None:
            self._forget_old_keys()
            write_atomic(kept, canonical(_KeptKey(ask=wanted, job=job_id, at=time.time())))
        return self.jobs.put(made.order, files=made.files, queued=made.queued, job_id=job_id)

    def _before(self, kept: Path, wanted: str) -> Workspace | None:
        """The job that this key became. Raises ``InputError`` when that was another ask."""
        found = _read_key(kept)
        if found is None or time.time() - found.at > KEY_SECONDS:
            return None
        workspace = Workspace(self.jobs.directory / found.job)
        if not workspace.exists("order.json"):
            return None
        if found.ask != wanted:
            raise InputError(
                f"this Idempotency-Key was used for another order: job {found.job}",
                "use a new key for a new order", param="key", job=found.job,
            )  # fmt: skip
        return workspace

    def _forget_old_keys(self) -> None:
        """Every now and then, so that ordering does not cost more with each key that was ever used."""
        if time.monotonic() < self._next_forgetting:
            return
        self._next_forgetting = time.monotonic() + FORGET_SECONDS
        for path in self._keys.glob("*.json"):
            if time.time() - path.stat().st_mtime > KEY_SECONDS:
                path.unlink(missing_ok=True)

    # Asked about.

    def list(
        self, *, after: str | None = None, limit: int = PAGE, status: Status | None = None, kind: Kind | None = None
    ) -> JobPage:
        """At most ``limit`` jobs behind the one called ``after``, newest first, of a ``status`` or ``kind``. Raises ``NotFound``."""
        found = self.jobs.workspaces()
        if after is not None:
            places = [i for i, one in enumerate(found) if one.id == after]
            if not places:
                raise NotFound(f"no job is called {after[:80]!r}", "give the next of a page", param="after")
            found = found[places[0] + 1 :]
        page: list[Workspace] = []
        for workspace in found:
            if kind is not None and not workspace.id.startswith(f"{kind}-"):
                continue
            if status is not None and self.jobs.status(workspace) != status:
                continue
            if len(page) == limit:
                return JobPage(jobs=tuple(map(self.jobs.view, page)), next=page[-1].id)
            page.append(workspace)
        return JobPage(jobs=tuple(map(self.jobs.view, page)))

    def get(self, job_id: str) -> JobView:
        """One job, by its id or a beginning of it. Raises ``JobNotFound``."""
        return self.jobs.view(self.jobs.find(job_id))

    def events(self, job_id: str, *, after: int = -1, limit: int = MOST_EVENTS) -> EventPage:
        """At most ``limit`` lines of a job's log behind offset ``after``. Raises ``JobNotFound``."""
        workspace = self.jobs.find(job_id)
        status = self.jobs.status(workspace)  # before the lines are read: what comes between the two is then not lost
        found = [JobEvent(offset=offset, at=at, event=event) for offset, at, event in workspace.events(after + 1)]
        return EventPage(
            events=tuple(found[:limit]), status=status, ended=status in STILL and len(found) <= limit
        )  # fmt: skip

    def watch(self, job_id: str, *, after: int = -1) -> Watching:
        """To be asked again and again for what a job said since. Raises ``JobNotFound``."""
        return Watching(self.jobs, self.jobs.find(job_id), after)

    def result(self, job_id: str) -> JobResult:
        """What a job that ended well gives. Raises ``JobNotFound``, ``NotFound`` while there is nothing, ``Corrupt``."""
        workspace = self.jobs.find(job_id)
        result, order = self.jobs.result(workspace), self.jobs.ordered(workspace).order
        if result is None or not result.well:
            status = self.jobs.status(workspace)
            why = f": {result.error.code}: {result.error.message}" if result and result.error else ""
            raise NotFound(
                f"job {workspace.id} has no result: it is {status}{why}", f"follow it with: dna jobs follow {workspace.id}",
                status=status,
            )  # fmt: skip
        value = _value(workspace, result.value) if result.value else None
        return JobResult(job=workspace.id, kind=order.kind, block=result.block, value=value)

    # Stopped, and gone on with.

    def cancel(self, job_id: str) -> JobView:
        """Have a job stop at its next step, or not begin; of one that has ended nothing changes. Raises ``JobNotFound``, ``NoSpace``."""
        workspace = self.jobs.find(job_id)
        if self.jobs.status(workspace) not in ENDED:
            self.jobs.cancel(workspace)
        return self.jobs.view(workspace)

    def resume(self, job_id: str) -> JobView:
        """Have a job go on that was cancelled, failed or was left; of one that runs, waits or is finished nothing changes.

        Raises ``JobNotFound``, ``InputError`` for one that no server or worker may carry out, ``JobBusy``, ``NoSpace``.
        """
        workspace = self.jobs.find(job_id)
        if self.jobs.status(workspace) in ("finished", "running", "queued"):
            return self.jobs.view(workspace)
        if not workspace.exists("queued.json"):
            raise InputError(
                f"job {workspace.id} was begun by a command on the server's machine",
                "go on with it there: dna jobs resume",
            )
        self.jobs.again(workspace)
        if self._background is not None:
            self._background.look()
        return self.jobs.view(workspace)


class Watching:
    """A job that somebody watches; each look reads only what came since the last."""

    def __init__(self, jobs: Jobs, workspace: Workspace, after: int) -> None:
        self.id = workspace.id
        self._jobs, self._workspace = jobs, workspace
        self._tail: Tail = workspace.tail(after)

    def look(self) -> tuple[list[JobEvent], JobView | None]:
        """What the job said since, and the job itself once it says nothing more by itself."""
        status = self._jobs.status(self._workspace)
        told = [JobEvent(offset=offset, at=at, event=event) for offset, at, event in self._tail.read()]
        return told, self._jobs.view(self._workspace) if status in STILL else None


def _read_key(path: Path) -> _KeptKey | None:
    try:
        return _KeptKey.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _value(workspace: Workspace, expected: str) -> dict[str, object]:
    try:
        data = (workspace.directory / VALUE).read_bytes()
    except OSError as error:
        raise Corrupt(f"the result of job {workspace.id} cannot be read: {error.strerror}", "order it again") from error
    if sha256(data) != expected:
        raise Corrupt(f"the result of job {workspace.id} was changed", "order it again")
    return strict_json(data)
