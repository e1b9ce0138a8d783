"""docs/serving.md and operations.md keep up with the server: routes, figures, settings and refused fields."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI

from clonedna.app.service import Service
from clonedna.app.serving import Serving
from clonedna.app.settings import Settings
from clonedna.server import fine_tuning
from clonedna.server.api import application
from clonedna.server.asks import REFUSED
from clonedna.server.main import create_app
from tests.serving import ServerParts

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "serving.md").read_text("utf-8")
OPERATIONS = (DOCS / "operations.md").read_text("utf-8")
SETTINGS = {
    "host",
    "port",
    "api_key",
    "admin_key",
    "max_body_bytes",
    "max_requests",
    "max_choices",
    "request_timeout",
    "drain_seconds",
}


@pytest.fixture
def parts(tmp_path: Path) -> ServerParts:
    return ServerParts(tmp_path)


def rows(heading: str, page: str = PAGE) -> list[str]:
    """The first cells of the table under a heading."""
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line.split("|")[1] for line in section.splitlines() if line.startswith("|")][2:]


def test_every_route_is_there(parts: ServerParts) -> None:
    tuning = fine_tuning.router(Service(parts, "fake").tuning)
    app: FastAPI = create_app(Serving(parts, "fake"), parts.settings, routers=[tuning])
    there = {
        f"{method.upper()} {path.replace(':path', '')}" for path, methods in app.openapi()["paths"].items() for method in methods
    }  # fmt: skip
    assert {row.strip(" `") for row in rows("Routes")} == there | {"GET /openapi.json"}


def test_every_figure_is_there(parts: ServerParts) -> None:
    families = application(Service(parts, "fake")).metrics.registry.collect()
    names = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert {name for row in rows("Metrics", OPERATIONS) for name in re.findall(r"`([^`]+)`", row)} == names


def test_every_setting_is_there_with_its_default() -> None:
    named = {row.strip(" `") for row in rows("Limits")}
    assert named == SETTINGS <= set(Settings.model_fields)
    for name in ("port", "max_body_bytes", "max_requests", "max_choices", "request_timeout", "drain_seconds"):
        assert re.search(
            rf"\| `{name}` \| {Settings.model_fields[name].default:g}".replace("4.1943e+06", "4194304"), PAGE
        ), name


def test_every_refused_field_is_there() -> None:
    words = PAGE.partition("that would change the answer:")[2].partition("; and so are")[0]
    assert re.findall(r"`(\w+)`", words) == sorted(REFUSED)
