"""The contract tests against a real vLLM: makes a small base, serves it on loopback, runs the tests, always stops the server.

`make test-vllm`. Arguments go on to pytest. Without a server these tests are not there: pytest alone never runs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.unit.engine import small  # noqa: E402
from tools.vllm_server import NotStarted, serve  # noqa: E402

LIMIT = 900.0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="test-vllm-") as scratch:
        # vLLM's attention on a CPU wants heads of at least 32.
        base = small.make_base(Path(scratch) / "small", hidden_size=128, intermediate_size=224)
        try:
            with serve(base, threads=2, max_loras=4, nice=10) as server:
                print(f"vLLM after {server.started:.0f} s, {server.memory() >> 20} MiB", file=sys.stderr)
                environment = os.environ | {"TEST_VLLM_URL": server.url, "TEST_VLLM_BASE": str(base)}
                tests = ["tests/contract/test_engine.py", "tests/vllm/test_vllm.py", "-k", "vllm", "-q", *sys.argv[1:]]
                ended = subprocess.run(
                    [sys.executable, "-m", "pytest", *tests], cwd=ROOT, env=environment, timeout=LIMIT, check=False
                )
                if ended.returncode:
                    print(server.log.read_text("utf-8", "replace")[-3000:], file=sys.stderr)
                return ended.returncode
        except NotStarted as error:
            print(error, file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
