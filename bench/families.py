"""Which public packages stand for which author: families of packages that are mostly one author's, for sweeps and identity runs.

    python -m bench.families            # fetch all of them into .bench/families, and count their spans

A family is called after one of its packages, never after a person. Versions are exact, licences are what `clonedna` itself finds in
their metadata and files (another one stops the script), and none of the packages is in nano's corpus (checked, too). Nothing of them is
committed but this list. ``choosing`` families are the ones that recipes were chosen on; the others were only ever reported on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from bench.common import CACHE, ROOT, say
from clonedna.core.events import silent
from clonedna.core.work import Collection
from clonedna.sources.licences import allowed
from clonedna.sources.package import PackageSource

FOLDER = CACHE / "families"
CORPUS = ROOT / "clonedna" / "bases" / "nano" / "corpus.json"
LICENCES = ("MIT", "Apache-2.0", "BSD-3-Clause")


@dataclass(frozen=True, slots=True)
class Family:
    """``packages``: name -> exact version. ``licences``: each is under one of these."""

    packages: dict[str, str]
    licences: tuple[str, ...]
    choosing: bool


FAMILIES: dict[str, Family] = {
    "attrs": Family(
        {
            "argon2-cffi": "25.1.0", "attrs": "26.1.0", "environ-config": "26.1.0", "pem": "23.1.0", "service-identity": "26.1.0",
            "stamina": "26.1.0", "structlog": "26.1.0", "svcs": "26.2.0",
        }, ("MIT", "Apache-2.0"), choosing=True,
    ),
    "pre-commit": Family(
        {
            "add-trailing-comma": "4.0.0", "all-repos": "1.33.0", "babi": "1.8.0", "cfgv": "3.5.0", "identify": "2.6.20",
            "pre-commit": "4.7.0", "pyupgrade": "3.22.0", "reorder-python-imports": "3.19.0", "tokenize-rt": "6.2.0",
        }, ("MIT",), choosing=True,
    ),
    "python-socketio": Family(
        {
            "flask-httpauth": "4.8.1", "flask-migrate": "4.1.0", "flask-socketio": "5.7.0", "microdot": "2.7.0",
            "python-engineio": "4.15.1", "python-socketio": "5.18.1", "simple-websocket": "1.1.0",
        }, ("MIT",), choosing=True,
    ),
    "plumbum": Family({"construct": "2.10.70", "plumbum": "2.0.2", "rpyc": "6.0.2"}, ("MIT",), choosing=True),
    "sqlite-utils": Family(
        {
            "datasette": "0.65.5", "files-to-prompt": "0.6", "llm": "0.36", "s3-credentials": "0.17", "shot-scraper": "1.12",
            "sqlite-utils": "4.2.1", "symbex": "2.0",
        }, ("Apache-2.0",), choosing=False,
    ),
    "click": Family(
        {"click": "8.5.1", "flask": "3.1.3", "itsdangerous": "2.2.0", "jinja2": "3.1.6", "werkzeug": "3.1.9"},
        ("BSD-3-Clause",), choosing=False,
    ),
    "httpx": Family(
        {"httpcore": "1.0.9", "httpx": "0.28.1", "starlette": "1.10.0", "uvicorn": "0.54.0"}, ("BSD-3-Clause",), choosing=False
    ),
    "tomlkit": Family(
        {"cleo": "2.1.0", "crashtest": "0.4.1", "pendulum": "3.3.0", "tomlkit": "0.15.2"}, ("MIT",), choosing=False
    ),
}  # fmt: skip


def fetch(name: str) -> None:
    """Install a family's wheels into its folder, without what they need and without compiling, unless it is there."""
    folder, family = FOLDER / name, FAMILIES[name]
    if folder.is_dir():
        return
    pins = [f"{package}=={version}" for package, version in family.packages.items()]
    scratch = folder.with_name(f"{name}.new")
    command = [
        "install",
        "-q",
        "--no-deps",
        "--no-compile",
        "--only-binary=:all:",
        "--upgrade",
        "--target",
        str(scratch),
        *pins,
    ]
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *command], check=True, stdout=sys.stderr
    )
    scratch.rename(folder)


def collected(name: str) -> Collection:
    """All usable spans of a family, as ``dna mint package:a,b,c`` would collect them. Raises ``SystemExit`` for another version."""
    fetch(name)
    family, source = FAMILIES[name], PackageSource(folder=FOLDER / name)
    found = source.find("package:" + ",".join(family.packages))
    there = {part.name: part.url.rpartition("@")[2] for part in found.repository.parts}
    if there != family.packages:
        raise SystemExit(f"{FOLDER / name} holds {there}: remove it, and it is fetched again")
    return source.collect(
        found, [found.repository.authors[0].identity], licences=LICENCES, owned_share=0.8, max_files=20_000, max_changes=0, emit=silent
    )  # fmt: skip


def refuse_corpus() -> None:
    """None of the packages may be among those that nano was trained on. Raises ``SystemExit``."""
    known = {row["name"] for row in json.loads(CORPUS.read_bytes())["packages"]}
    inside = sorted(known & {package for family in FAMILIES.values() for package in family.packages})
    if inside:
        raise SystemExit(f"nano was trained on {', '.join(inside)}")


def main() -> None:
    refuse_corpus()
    for name, family in FAMILIES.items():
        collection = collected(name)
        licences = sorted({span.licence for span in collection.spans})
        say(f"{name}: {len(collection.spans)} spans of {len(family.packages)} packages under {', '.join(licences)}")
        if not all(allowed(one, family.licences) for one in licences):
            raise SystemExit(f"{name} is not under {', '.join(family.licences)}")


if __name__ == "__main__":
    main()
