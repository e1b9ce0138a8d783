"""Facts of one person's code: their own import lines, their own commits, the same answer each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedna.core.errors import NoSuchAuthor
from clonedna.core.work import Found, Identity
from clonedna.sources.git import GitSource
from clonedna.sources.languages import entry_of
from clonedna.sources.reading_code import count_code, imports, subjects_of
from tests.repos import ADA, BOB, MIT, RepoBuilder

ADA_ID = Identity.parse(ADA)


def names(path: str, source: str) -> list[str]:
    entry = entry_of(path)
    assert entry
    return [name for name, _ in imports(source.encode(), entry)]


def test_imports_are_named_by_their_package() -> None:
    code = 'import os, numpy.linalg as la\nfrom attrs.x import y\nfrom . import z\nfrom .a import b\ntry:\n    import orjson\nexcept: pass\ns = "import fake"\n'
    assert names("a.py", code) == ["numpy", "os", "attrs", "orjson"]
    code = 'import a from "left-pad/x";\nexport { b } from "@scope/pkg/deep";\nconst c = require("fs"), d = require("./own");\nimport("lazy");\nrequire(x);'
    assert names("a.ts", code) == ["left-pad", "@scope/pkg", ".", "fs", "lazy"]


@pytest.fixture
def found(tmp_path: Path) -> Found:
    repo = RepoBuilder(tmp_path / "repo")
    repo.commit(
        ADA,
        "feat: read tables",
        {
            "LICENSE": MIT,
            "own.py": "x = 1\n",
            "a.py": "import os\nimport numpy\nimport own\n\n\ndef f():\n    return numpy\n",
        },
    )
    repo.commit(
        BOB,
        "add flask",
        {
            "a.py": "import os\nimport flask\nimport numpy\nimport own\n\n\ndef f():\n    return numpy, flask\n",
            "b.py": "import django\n",
        },
    )
    repo.commit(
        ADA,
        "fix: an empty table, for ada.real@mail-host.io",
        {"vendor/c.py": "import tornado\n", "d.js": 'import "react";\n'},
    )
    return GitSource(cache=tmp_path / "cache").find(str(repo.path))


def test_only_the_person_s_own_import_lines_count(found: Found) -> None:
    facts = count_code(found, [ADA_ID], timeout=60)
    assert [one.name for one in facts.dependencies] == ["numpy", "react"]
    proof = facts.dependencies[0].evidence[0]
    assert (proof.path, proof.line, proof.quote, proof.commit) == ("a.py", 3, "import numpy", found.repository.commit)
    assert facts.commits == 2
    assert set(facts.languages) == {"Python", "JavaScript"}
    assert facts.languages["JavaScript"] == len('import "react";\n')
    assert {one.theme: one.count for one in facts.themes} == {"fixing": 1, "new features": 1}
    assert (facts.rhythm.commits, facts.rhythm.peak_hour_utc) == (2, 11)


def test_the_same_commit_gives_the_same_facts_without_addresses(found: Found) -> None:
    facts = count_code(found, [ADA_ID], timeout=60)
    assert facts == count_code(found, [ADA_ID], timeout=60)
    assert "@" not in facts.model_dump_json()
    assert all("mail-host" not in said for _, said in subjects_of(found, [ADA_ID], timeout=60))


def test_a_bound_on_files_is_told(found: Found) -> None:
    facts = count_code(found, [ADA_ID], timeout=60, max_blamed=1)
    assert (facts.importing, facts.blamed, len(facts.dependencies)) == (2, 1, 1)


def test_nobody_of_that_name_is_an_error(found: Found) -> None:
    with pytest.raises(NoSuchAuthor):
        count_code(found, [Identity(name="Nobody")], timeout=60)
