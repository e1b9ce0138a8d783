"""A handle's profile and countable facts against a GitHub of ours on loopback."""

from __future__ import annotations

from pathlib import Path

import anyio

from clonedna.app.parts import Parts
from clonedna.app.profiles import ProfileOrder, Profiles
from clonedna.app.settings import Settings
from tests.github_fake import serving
from tests.unit.sources.github_people import world


def test_a_handle_is_read_and_each_of_its_repositories_can_be_counted(tmp_path: Path) -> None:
    with serving(world(tmp_path / "work"), tmp_path / "served") as fake:
        fake.world.noreply = "users.noreply.127.0.0.1"
        parts = Parts(Settings(home=tmp_path / "home", github_url=fake.url, min_free_bytes=0))
        report = anyio.run(Profiles(parts).make, ProfileOrder(target="ada-example"))
        found = parts.source.find("ada-example")
        authors = [share.identity for share in found.repository.authors]
        facts = parts.count_code(found, authors, found.repository.parts[:1])
    assert report.github
    assert report.github.account.login == "ada-example"
    assert report.profile.languages
    assert all(item.evidence for item in report.profile.languages)
    assert facts[0].repository == found.repository.parts[0].url
    assert facts[0].commits >= 1
    assert "@" not in facts[0].model_dump_json()
