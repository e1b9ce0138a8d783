"""A grammar is tried in a process of its own before the engine's compiles it.

What a stranger sends may be made to take minutes, gigabytes or the whole stack, and native code cannot be interrupted. So it is compiled
first where it may die: ``python -m clonedna.engine.grammar_trial`` reads one JSON line with the vocabulary's special tokens, then one
grammar a line, and answers each with a line. It has less CPU time, memory and stack than a thread of the engine; a grammar that ends it
is refused. Its vocabulary is the special tokens and the 256 bytes: enough for all that depends on the grammar alone.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from clonedna.core.errors import InputError, Overloaded, Unavailable

CPU_SECONDS = 1.0
MEMORY = 384 << 20
STACK = 1536 << 10
PATIENCE = 15.0
HINT = "make the schema, regex or grammar smaller or simpler; see docs/structured-output.md"


def limits() -> LLParserLimits:
    """The same here and there: short errors, and no lexeme run over the whole vocabulary beforehand."""
    return LLParserLimits(verbose_errors=False, precompute_large_lexemes=False)


class Trials:
    """The process, started when first needed and again after it died. Thread-safe; one grammar at a time.

    ``special``: id and text of each special token; ``size``: of the vocabulary; ``end``: one of the special tokens.
    """

    def __init__(self, special: Mapping[int, str], size: int, end: int) -> None:
        self._told = json.dumps({"special": {str(i): text for i, text in special.items()}, "size": size, "end": end})
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._last: weakref.finalize[[subprocess.Popen[bytes]], Trials] | None = None

    def run(self, grammar: str) -> float:
        """CPU seconds that it took. Raises ``InputError`` for a grammar that asks too much (an invalid one is no matter of a trial),
        ``Overloaded`` when others were tried for ``PATIENCE`` seconds, ``Unavailable`` when there is no such process."""
        if not self._lock.acquire(timeout=PATIENCE):
            raise Overloaded("too many grammars wait to be compiled", "ask again in a few seconds", retry_after=5)
        try:
            return self._ask(json.dumps(grammar).encode() + b"\n")
        finally:
            self._lock.release()

    def _ask(self, line: bytes) -> float:
        process = self._process if self._process is not None and self._process.poll() is None else self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = b""
        finally:
            watch.cancel()
        if not answer:
            _end(process)
            raise InputError(
                f"compiling this would take more than {CPU_SECONDS:g} s, {MEMORY >> 20} MiB, or is nested too deeply",
                HINT,
            )
        return float(json.loads(answer))

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "clonedna.engine.grammar_trial"]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            self._process = process
            if self._last is not None:
                self._last.detach()
            self._last = weakref.finalize(self, _end, process)
            process.stdin.write(self._told.encode() + b"\n")
            process.stdin.flush()
            if not process.stdout.readline():
                raise OSError("it ended at once")
        except OSError as error:
            raise Unavailable(
                f"the process that tries grammars cannot be started ({error})", "see the system's limits on processes"
            ) from error
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not yet written to it
                pipe.close()


class _Vocabulary:
    """What ``LLTokenizer`` wants of a tokenizer: the special tokens where they are, the 256 bytes after them, the rest never used."""

    bos_token_id = None
    is_tokenizer_wrapper = True

    def __init__(self, told: dict[str, Any]) -> None:
        special = {int(i): str(text).encode() for i, text in told["special"].items()}
        self.eos_token_id = int(told["end"])
        free = [i for i in range(int(told["size"]) + 256) if i not in special]
        self._of = dict(enumerate(free[:256]))
        kept = {i: bytes([byte]) for byte, i in self._of.items()} | special
        self.tokens = [kept.get(i, b"<unused %d>" % i) for i in range(max(int(told["size"]), max(kept) + 1))]
        self.special_token_ids = [i for i in range(len(self.tokens)) if i in special or i not in kept]

    def __call__(self, text: bytes | str) -> list[int]:
        return [self._of[byte] for byte in (text.encode() if isinstance(text, str) else text)]


def _serve() -> None:
    """In the process: tokens, then grammars, until the engine is gone."""
    source, answers = sys.stdin.buffer, sys.stdout
    tokenizer = LLTokenizer(_Vocabulary(json.loads(source.readline())))  # type: ignore[arg-type]
    _bound_memory()
    answers.write("ready\n")
    answers.flush()
    for line in source:
        begun = time.process_time()
        _bound_time(CPU_SECONDS)
        matcher = LLMatcher(tokenizer, json.loads(line), log_level=0, limits=limits())
        if not matcher.is_error():
            matcher.compute_bitmask()
        del matcher
        _bound_time(0.0)
        answers.write(f"{time.process_time() - begun}\n")
        answers.flush()


if sys.platform == "win32":  # no such limits: patience alone bounds a trial

    def _bound_memory() -> None: ...

    def _bound_time(seconds: float) -> None: ...

else:
    import resource
    import signal

    def _bound_memory() -> None:
        """``MEMORY`` beyond what the process has now."""
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        except OSError:
            used = 1 << 30
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def _bound_time(seconds: float) -> None:
        """The process ends when it has used so much more CPU time (``SIGPROF`` is not caught); 0 lifts the bound."""
        signal.setitimer(signal.ITIMER_PROF, seconds)


def main() -> int:
    threading.stack_size(STACK)
    work = threading.Thread(target=_serve, daemon=True)
    work.start()
    work.join()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
