"""Small whole blocks of made-up people, for the tests of store and registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clonedna.core.block import (
    Candidate,
    Capability,
    Check,
    ConsentRecord,
    EvalSummary,
    GateVerdict,
    Lineage,
    Manifest,
    Recipe,
    Share,
    not_available,
)
from clonedna.core.canonical import canonical, sha256
from clonedna.core.seams import Signer
from clonedna.store.blocks import block_id, file_table, pack, sign_block


def weights(data: bytes = b"\0" * 16, **header: Any) -> bytes:
    """A safetensors file of one F32 vector that holds ``data``; ``header`` replaces the whole header."""
    named = header or {"lora_A.weight": {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}}
    raw = json.dumps(named).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + data


def contents(data: bytes = b"\0" * 16, note: str = "") -> dict[str, bytes]:
    """Every file of a block but manifest and signature."""
    consent = ConsentRecord(
        mode="local-only", status="none", uses=("mint", "serve"), repositories=("local:abacus",), subject="Ada Example",
        identity_digest=sha256("ada@example.org"), evidence="none", verified=False, how="a test",
    )  # fmt: skip
    return {
        "adapter_config.json": b'{"peft_type": "LORA", "r": 1}',
        "adapter_model.safetensors": weights(data),
        "README.md": f"# Ada\n{note}".encode(),
        "consent.json": canonical(consent),
        "eval.json": b'{"measures": {}}',
        "pairs.jsonl": b'{"id": "1"}\n{"id": "2"}\n',
        "profile.md": b"Ada writes Python.\n",
        "sources.json": b"{}",
    }


def manifest(files: dict[str, Any], key_id: str, **changes: Any) -> Manifest:
    """A manifest over ``files`` by ``key_id``."""
    nothing = not_available("a test")
    made = Manifest(
        id=block_id(files), name="ada", version="1.0.0", created_at="2026-01-02T03:04:05Z", created_by=key_id,
        candidate=Candidate(handle="ada", name="Ada Example", consent_verified=False), consent_mode="local-only",
        specialization="python", capability=Capability(text="python"), base_model="nano", base_fingerprint="f" * 64,
        rank=1, alpha=2.0, target_modules=("q_proj",), recipe=Recipe(), lineage=Lineage(), gate=GateVerdict(status="accepted"),
        files=files, license="MIT", share=Share(license="MIT"),
        eval_summary=EvalSummary(
            final_loss=nothing, best_loss=nothing, style_consistency=nothing, domain_accuracy=nothing, latency_overhead_ms=nothing,
            perplexity_reduction_ratio=nothing, nll_delta=nothing, identity_gain=nothing, forgetting=nothing,
            memorisation_rate=nothing, teacher_model="own-words",
        ),
        vllm_compatible=Check(value=None, how="a test"), peft_compatible=Check(value=None, how="a test"),
        training_pairs=2, candidate_pairs=2, base_instruct_pairs=0, tool_use_pairs=0, num_epochs=1,
    )  # fmt: skip
    return made.model_copy(update=changes)


def rejected(*reasons: str) -> GateVerdict:
    return GateVerdict(status="rejected", reasons=reasons or ("no gain",))


def write_block(directory: Path, signer: Signer, files: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
    """A packed and signed block in ``directory``; ``note`` makes its files, and so its id, its own."""
    directory.mkdir(parents=True)
    for name, data in (files or contents(note=str(changes.pop("note", "")))).items():
        (directory / name).write_bytes(data)
    made = manifest(file_table(directory), signer.key_id, **changes)
    pack(directory, made)
    sign_block(directory, signer)
    return made
