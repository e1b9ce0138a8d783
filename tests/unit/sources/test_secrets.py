"""One fixture for each current key format. They are put together here at run time, so that no scanner takes this file for a leak."""

from __future__ import annotations

import base64
import json
import random
import string
from pathlib import Path

import pytest

from clonedna.core.work import Identity
from clonedna.sources.git import GitSource
from clonedna.sources.secrets import secret_in
from clonedna.trust.tokens import new_id, new_token
from tests.repos import ADA, MIT, RepoBuilder

LETTERS = string.ascii_letters + string.digits


def drawn(length: int, alphabet: str = LETTERS, seed: int = 7) -> str:
    """Random characters, the same each time; one of each kind that the alphabet has."""
    draw = random.Random(seed)
    made = "".join(draw.choice(alphabet) for _ in range(length - 3))
    return made + "".join(next((c for c in kind if c in alphabet), alphabet[0]) for kind in ("Q", "q", "7"))


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


UPPER = string.ascii_uppercase + "234567"
DASHES = "-" * 5
FORMATS = {
    "AWS access key": "AKIA" + drawn(16, UPPER),
    "AWS temporary key": "ASIA" + drawn(16, UPPER),
    "AWS secret key": 'aws_secret_access_key = "' + drawn(20) + "/" + drawn(19, seed=8) + '"',
    **{f"GitHub {kind}": kind + "_" + drawn(36) for kind in ("ghp", "gho", "ghu", "ghs", "ghr")},
    "GitHub fine-grained": "github_pat_" + drawn(22) + "_" + drawn(59),
    "OpenAI project": "sk-proj-" + drawn(48, LETTERS + "_-") + "T3Blbk" + "FJ" + drawn(48, LETTERS + "_-", 8),
    "OpenAI service account": "sk-svcacct-" + drawn(58, LETTERS + "_-"),
    "OpenAI older": "sk-" + drawn(20) + "T3Blbk" + "FJ" + drawn(20, seed=8),
    "xAI": "xai-" + drawn(80),
    "Anthropic": "sk-ant-" + "api03-" + drawn(93, LETTERS + "_-") + "AA",
    **{f"Slack {kind}": kind + "-" + "2" * 12 + "-" + "3" * 12 + "-" + drawn(24) for kind in ("xoxb", "xoxp", "xoxa", "xoxs")},
    "Slack app": "xapp-1-" + "A" + drawn(10, UPPER) + "-" + "4" * 13 + "-" + drawn(64, "0123456789abcdef"),
    "Google API": "AIza" + drawn(35, LETTERS + "_-"),
    "our own": new_token(new_id()),
    "RSA key": DASHES + "BEGIN RSA PRIVATE KEY" + DASHES,
    "PEM key": DASHES + "BEGIN PRIVATE KEY" + DASHES,
    "encrypted PEM key": DASHES + "BEGIN ENCRYPTED PRIVATE KEY" + DASHES,
    "OpenSSH key": DASHES + "BEGIN OPENSSH PRIVATE KEY" + DASHES,
    "PGP key": DASHES + "BEGIN PGP PRIVATE KEY BLOCK" + DASHES,
    "JWT": ".".join((encoded({"alg": "HS256", "typ": "JWT"}), encoded({"sub": "1", "iat": 1_700_000_000}), drawn(43))),
}  # fmt: skip
PLACES = {
    "value": lambda secret: f"KEY = {secret!r}\n",
    "comment": lambda secret: f"x = 1  # was {secret} before\n",
    "docstring": lambda secret: f'def f():\n    """Call it with {secret}."""\n',
    "header": lambda secret: f'headers = {{"Authorization": "Bearer {secret}"}}\n',
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_secret_is_found_wherever_it_stands_and_only_its_kind_is_told(kind: str, place: str) -> None:
    found = secret_in("import os\n\n" + PLACES[place](FORMATS[kind]) + "y = 2\n")
    assert found
    assert FORMATS[kind] not in found


@pytest.mark.parametrize(
    "text",
    [
        "commit = '" + "0123456789abcdef" * 2 + "01234567'\n",  # a SHA-1 has the length of an AWS secret
        "task-force = 1\nsk-learn = 2\nxai-tools = 3\n",
        "ghp_ = 1\ngithub_pattern = 2\n",
        "dnat_ = 1\nname = 'dnat_0123456789ab_short'\n",
        "AKIA = 'a prefix'\nAIza = 'another'\n",
        "# BEGIN PUBLIC KEY\n",
        "eyJust = 'no token'\n",
    ],
)
def test_what_looks_a_little_like_one_is_none(text: str) -> None:
    assert secret_in(text) is None


CODE = "def f(items):\n    total = 0\n    for item in items:\n        total += item.size\n    return total\n"


def test_no_planted_secret_or_address_leaves_the_sources(tmp_path: Path) -> None:
    """Each format once in a file of its own, beside code that would do: none of those files gives a span, each is named with a kind."""
    repo = RepoBuilder(tmp_path / "repo")
    address = "robin" + "@" + "company.io"
    leaking = {f"leak_{i}.py": f"# {secret}\n{CODE}" for i, secret in enumerate(FORMATS.values())}
    repo.commit(
        ADA, f"add clients for {address} with {FORMATS['xAI']}",
        {"LICENSE": MIT, "clean.py": CODE.replace("f(", "clean("), **leaking,
         f"{FORMATS['GitHub ghp']}.py": CODE, f"by_{address}.py": CODE, "mail.py": CODE.replace("total = 0", f"total = 0  # ask {address}")},
    )  # fmt: skip
    events: list[object] = []
    source = GitSource(cache=tmp_path / "cache")
    found = source.collect(
        source.find(str(repo.path)), [Identity.parse(ADA)], licences=["MIT"], owned_share=0.8, max_files=100, max_changes=100,
        emit=events.append,
    )  # fmt: skip
    assert [span.path for span in found.spans] == ["clean.py"]
    reasons = {refusal.path: refusal.reason for refusal in found.refusals}
    assert {path for path, reason in reasons.items() if reason == "secret"} >= set(leaking)
    assert reasons["mail.py"] == "email"
    assert sum(path.startswith("(path withheld") for path in reasons) == 2
    told = found.model_dump_json() + repr(events)
    assert address not in told
    assert not [kind for kind, secret in FORMATS.items() if secret in told]
