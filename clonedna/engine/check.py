"""The fresh-process check: does a saved adapter, loaded by PEFT on a plainly loaded base, give the engine's own logits?

``python -m clonedna.engine.check BASE ADAPTER_DIRECTORY PROBE`` reads a probe (a safetensors file that ``LocalEngine.write_probe``
made) and prints one JSON line. ``check_peft`` writes the probe, runs that in a process of its own, and says what came of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from clonedna.core.block import Check
from clonedna.core.errors import DnaError, TimedOut, Unavailable
from clonedna.core.model import Example, Layer

if TYPE_CHECKING:
    from clonedna.engine.local import LocalEngine

# Of logits, which are up to some tens: float32 sums in another order (threads, batches) differ by a few 1e-5, a wrong adapter by far more.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.15, "float16": 0.05, "nf4": 0.15}
TIMEOUT = 600.0


async def check_peft(engine: LocalEngine, directory: Path, probes: Sequence[Example], base_reference: str) -> Check:
    """True only when PEFT's logits are within 1e-4 of the engine's (fp32; ``TOLERANCE`` for other bases) and differ from the bare base's.

    ``base_reference`` is what the engine was opened with. ``None`` when nothing could be compared, with the reason in ``how``. What says
    something about this machine alone is no finding about the adapter: raises ``TimedOut`` when the fresh process does not answer in
    ``TIMEOUT`` seconds, ``Unavailable`` when it cannot be started or is killed (SIGKILL, SIGTERM).
    """
    if not probes:
        return Check(value=None, how="no examples to compare on")
    adapter = await engine.load(directory)
    with tempfile.TemporaryDirectory(prefix="dna-check-") as folder:
        probe = Path(folder) / "probe.safetensors"
        positions = await engine.write_probe(probes, (Layer(adapter=adapter.id),), probe)
        command = [sys.executable, "-m", "clonedna.engine.check", base_reference, str(directory), str(probe)]
        command += [engine.base.dtype, str(engine.base.threads)]
        try:
            with anyio.fail_after(TIMEOUT):
                done = await anyio.run_process(command, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        except TimeoutError:
            raise TimedOut(
                f"loading the adapter in a fresh process took longer than {TIMEOUT:g} s", "try again when the machine is less busy"
            ) from None  # fmt: skip
        except OSError as error:
            raise Unavailable(
                f"no fresh process could be started to load the adapter ({error.strerror})", "free memory, then try again"
            ) from None  # fmt: skip
    if done.returncode in (-signal.SIGKILL, -signal.SIGTERM):  # any other signal may be the files' own doing
        raise Unavailable(
            f"the fresh process that loads the adapter was killed by signal {-done.returncode}", "free memory, then try again"
        )  # fmt: skip
    try:
        report = json.loads(done.stdout.decode().strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        return Check(value=None, how=f"the fresh process failed with status {done.returncode}: {last[:200]}")
    return _verdict(report, positions, TOLERANCE[engine.base.dtype])


def _verdict(report: dict[str, Any], positions: int, tolerance: float) -> Check:
    if "unable" in report:
        return Check(value=None, how=f"the fresh process could not compare: {report['unable'][:200]}")
    if "error" in report:
        return Check(value=False, how=f"PEFT could not load it in a fresh process: {report['error'][:200]}")
    difference, versions = float(report["max_abs_difference"]), report["versions"]
    how = (
        f"fresh process, peft {versions['peft']}, transformers {versions['transformers']}, torch {versions['torch']}: "
        f"largest difference of logits from the engine's {difference:.2g} (limit {tolerance:.2g}) over {positions} positions; "
        f"{'changes' if report['changes_logits'] else 'does not change'} the base's logits"
    )
    return Check(value=difference <= tolerance and bool(report["changes_logits"]), how=how)


def compare(
    base_reference: str, directory: Path, probe: Path, *, dtype: str = "float32", threads: int = 1
) -> dict[str, Any]:
    """In the fresh process: the base by transformers, the adapter by PEFT, nothing of the engine's own forward pass.

    ``max_abs_difference`` is over all probed logits; ``changes_logits`` whether any differs from the bare base's.
    """
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file

    from clonedna.engine.bases import resolve_base, weight_options

    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tensors = load_file(probe)
    _, path = resolve_base(base_reference)
    options = weight_options(dtype, "float32", "cpu")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(path, **options)
    names = sorted(name.removeprefix("ids.") for name in tensors if name.startswith("ids."))

    def logits(model: Any) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [
                model(input_ids=tensors[f"ids.{name}"][None]).logits[0, -len(tensors[f"logits.{name}"]) :].float()
                for name in names
            ]

    bare = logits(model.eval())
    try:
        tuned = logits(peft.PeftModel.from_pretrained(model, str(directory)).eval())
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    differences = [float((got - tensors[f"logits.{name}"]).abs().max()) for got, name in zip(tuned, names, strict=True)]
    return {
        "max_abs_difference": max(differences),
        "changes_logits": any(not torch.equal(a, b) for a, b in zip(bare, tuned, strict=True)),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }


def main(arguments: Sequence[str]) -> int:
    """``BASE ADAPTER_DIRECTORY PROBE [DTYPE [THREADS]]`` -> exit status; one JSON line on stdout."""
    if not 3 <= len(arguments) <= 5:
        print("usage: python -m clonedna.engine.check BASE ADAPTER_DIRECTORY PROBE [DTYPE [THREADS]]", file=sys.stderr)
        return 2
    base, directory, probe, dtype, threads = (*arguments, *("float32", "1")[len(arguments) - 3 :])
    try:
        report = compare(base, Path(directory), Path(probe), dtype=dtype, threads=int(threads))
    except DnaError as error:
        report = {"unable": error.message}
    print(json.dumps(report, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
