"""A minted block's `profile.md` tells what was counted of the person's work, with a stranger's text inert."""

from __future__ import annotations

from pathlib import Path

from clonedna.app.jobs import Jobs
from tests.parts import FakeParts, order


def test_counted_facts_stand_in_the_block_s_profile(tmp_path: Path) -> None:
    parts = FakeParts(tmp_path)
    jobs = Jobs(parts.settings, parts)
    workspace, _ = jobs.create(order())
    reference = jobs.run(workspace, lambda event: None)
    manifest = parts.registry.resolve(str(reference))
    text = (parts.store.path(manifest.id) / "profile.md").read_text("utf-8")
    assert "Commits per week: 1.5 (n = 3, 2026-01-01 to 2026-01-15)" in text
    assert "Languages by bytes of these files: Python 1200" in text
    assert "\\<b\\>Example" in text
    assert "<b>" not in text.replace("\\<b\\>", "")
