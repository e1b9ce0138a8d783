"""Small programming tasks: does code that the block writes pass their tests? And that of the base, asked the same?

Whatever a model wrote runs in a sandbox that ``app`` lends, in a fresh workspace each, or not at all: where there is no sandbox the
measures are not available, with the reason. The bundled tasks were written for this, so no base can have trained on them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import anyio
import numpy as np

from clonedna.core.block import Measure, not_available
from clonedna.core.errors import SandboxUnavailable
from clonedna.core.events import Emit, StageProgress, silent
from clonedna.core.model import Layer, SampleRequest
from clonedna.core.sandbox import RunLimits
from clonedna.core.seams import Engine, OpenSandbox
from clonedna.evals.bootstrap import paired_gain, wilson
from clonedna.evals.tasks_files import Task, bundled_tasks

MAX_TOKENS = 256
TEMPERATURE = 0.8
AT_ONCE = 4
LIMITS = RunLimits(seconds=30, memory=512 << 20, processes=16, disk=4 << 20, files=200, output=20_000, file=1 << 20)
NAMES = ("tasks.pass_at_1", "tasks.base.pass_at_1", "tasks.gain")
_RUNNER = (
    "import sys\nword = sys.stdin.readline()\nsys.stdin.close()\n"
    "exec(compile(open('program.py', encoding='utf-8').read(), 'program.py', 'exec'), {'__name__': '__main__'})\n"
    "sys.stdout.write('\\n' + word)\n"
)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that one of ``k`` answers drawn without replacement from ``n``, of which ``correct`` are right, is right.

    Unbiased: 1 - C(n-c, k) / C(n, k), as the product 1 - prod_{i=n-c+1..n} (1 - k/i), which does not overflow (Chen et al. 2021,
    "Evaluating Large Language Models Trained on Code", section 2.1). Raises ``ValueError`` unless 1 <= k <= n and 0 <= c <= n.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass@{k} of {correct} right among {n}")
    if n - correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - correct + 1, n + 1, dtype=np.float64)))


async def passes(open_sandbox: OpenSandbox, task: Task, answer: str) -> bool:
    """Whether the tests pass on this answer, in a sandbox of its own. Raises ``SandboxUnavailable``.

    The program must end well and then say a word that was not in its files: one that leaves early has not passed.
    """
    word = secrets.token_hex(16)
    sandbox = await open_sandbox()
    try:
        sandbox.write_file("program.py", task.program(answer).encode("utf-8", "replace"))
        ran = await sandbox.exec(["python3", "-I", "-S", "-c", _RUNNER], stdin=f"{word}\n".encode(), limits=LIMITS)
    finally:
        sandbox.close()
    return ran.status == 0 and ran.stdout.endswith(f"\n{word}\n")


async def tasks(
    engine: Engine,
    adapter: str,
    open_sandbox: OpenSandbox | None,
    chosen: Sequence[Task] | None = None,
    *,
    samples: int = 1,
    seed: int = 0,
    emit: Emit = silent,
) -> dict[str, Measure]:
    """``tasks.pass_at_1`` (block), ``tasks.base.pass_at_1`` and ``tasks.gain`` (their difference, with a 95 % paired bootstrap interval
    over tasks); of more samples also ``tasks.pass_at_K`` for the larger of 5 and 10 that fits.

    One sample is greedy; more are drawn at temperature 0.8, each with its own seed, the same on both sides. Without a sandbox nothing is
    asked and nothing runs.
    """
    if open_sandbox is None:
        return dict.fromkeys(NAMES, not_available("no sandbox was lent, and code of a model runs nowhere else"))
    chosen = bundled_tasks() if chosen is None else chosen
    asked = _Asked(engine, open_sandbox, chosen, samples, seed, emit)
    try:
        tried = await open_sandbox()  # before anything is asked of a model
        tried.close()
        counts = {"": await asked.right((Layer(adapter=adapter),)), "base.": await asked.right(())}
    except SandboxUnavailable as error:
        return dict.fromkeys(NAMES, not_available(f"no sandbox, no run: {error.message}"))
    kind = "greedy answer" if samples == 1 else f"answers at temperature {TEMPERATURE}"
    found: dict[str, Measure] = {}
    for k in [k for k in (1, 5, 10) if k <= samples]:
        how = f"share of tasks solved, pass@{k} of {samples} {kind} of up to {MAX_TOKENS} tokens, tests run in the sandbox ({tried.tier})"
        shares = {side: [pass_at_k(samples, right, k) for right in counts[side]] for side in counts}
        gains = [block - base for block, base in zip(shares[""], shares["base."], strict=True)]
        found[f"tasks.pass_at_{k}"] = _measure(shares[""], f"block: {how}", seed)
        found[f"tasks.base.pass_at_{k}"] = _measure(shares["base."], f"base: {how}", seed)
        found["tasks.gain" if k == 1 else f"tasks.gain_at_{k}"] = _measure(
            gains, f"block minus base: {how}", seed, paired=True
        )
    return found


class _Asked:
    """The same tasks and seeds for both sides, and how far this is."""

    def __init__(
        self, engine: Engine, open_sandbox: OpenSandbox, chosen: Sequence[Task], samples: int, seed: int, emit: Emit
    ) -> None:
        self.engine, self.open_sandbox, self.chosen, self.samples, self.seed, self.emit = (
            engine,
            open_sandbox,
            chosen,
            samples,
            seed,
            emit,
        )
        self.done = 0
        self.failure: SandboxUnavailable | None = None

    async def right(self, layers: tuple[Layer, ...]) -> list[int]:
        """Of each task, how many answers pass. Raises ``SandboxUnavailable``."""
        found = [0] * len(self.chosen)
        turns = anyio.CapacityLimiter(AT_ONCE)

        async def ask(at: int, sample: int) -> None:
            async with turns:
                if self.failure is None:
                    found[at] += await self._answer(self.chosen[at], layers, self.seed + sample)

        async with anyio.create_task_group() as group:
            for at in range(len(self.chosen)):
                for sample in range(self.samples):
                    group.start_soon(ask, at, sample)
        if self.failure is not None:
            raise self.failure
        return found

    async def _answer(self, task: Task, layers: tuple[Layer, ...], seed: int) -> bool:
        request = SampleRequest(
            messages=(task.message(),), layers=layers, max_tokens=MAX_TOKENS, temperature=0.0 if self.samples == 1 else TEMPERATURE,
            seed=seed,
        )  # fmt: skip
        answer = "".join([chunk.text async for chunk in self.engine.sample(request)])
        try:
            passed = await passes(self.open_sandbox, task, answer)
        except SandboxUnavailable as error:  # the group would wrap it
            self.failure = error
            return False
        self.done += 1
        total = 2 * len(self.chosen) * self.samples
        self.emit(StageProgress(stage="evaluate", done=self.done, total=total, unit="answers to tasks"))
        return passed


def _measure(values: Sequence[float], how: str, seed: int, *, paired: bool = False) -> Measure:
    """A mean over tasks with its 95 % interval: Wilson's where each task is solved or not, else the percentile bootstrap (Efron 1979)."""
    each = np.asarray(values, dtype=np.float64)
    interval: tuple[float, float] | None = None
    if set(values) <= {0.0, 1.0} and not paired:
        low, high = wilson(int(each.sum()), len(each))
        interval = min(low, float(each.mean())), max(high, float(each.mean()))  # rounding must not exclude 0 or 1
    elif len(set(values)) > 1:
        _, interval = paired_gain(values, [0.0] * len(each), [1] * len(each), seed=seed)
    else:
        how += "; every task came out alike, from which no interval can be drawn"
    return Measure(value=float(each.mean()), status="measured", n=len(each), split="tasks", how=how, ci95=interval)
