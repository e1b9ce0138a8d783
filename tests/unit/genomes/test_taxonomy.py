"""The taxonomy holds together, says what does not, and takes an extension of another namespace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clonedna.core.errors import BadConfig
from clonedna.genomes.taxonomy import MOST_BYTES, Node, Taxonomy, key, load_taxonomy

OWN = load_taxonomy()


def _file(folder: Path, nodes: object, **more: object) -> Path:
    path = folder / "more.json"
    path.write_text(json.dumps({"format": "dna-capabilities/1", "number": 1, "nodes": nodes, **more}))
    return path


def test_the_bundled_nodes_are_many_and_of_all_kinds() -> None:
    kinds = {one.split("/")[0] for one in OWN.nodes}
    assert kinds == {"lang", "fw", "act", "dom"}
    assert len(OWN.nodes) >= 250
    assert all(node.linguist == () or node.id.startswith("lang/") for node in OWN.nodes.values())
    assert OWN.version == load_taxonomy().version
    assert OWN.version.startswith("2-")


def test_every_spelling_leads_to_its_node() -> None:
    for node in OWN.nodes.values():
        for spelling in node.spellings:
            assert node.id in OWN.aliases[key(spelling)].nodes, spelling


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Node.js", "node-js"), ("C++", "cpp"), ("C#", "c sharp"), (".NET", "dotnet"), ("ASP.NET", "aspnet"), ("CI/CD", "ci cd"),
        ("Réact", "REACT"),
    ],
)  # fmt: skip
def test_spellings_that_differ_in_signs_alone_are_one(one: str, other: str) -> None:
    assert key(one) == key(other)


def test_distances_are_links_on_the_shortest_path() -> None:
    assert OWN.distance("fw/django", "fw/django") == 0
    assert OWN.distance("fw/django", "lang/python") == OWN.distance("lang/python", "fw/django") == 1
    assert OWN.distance("fw/django", "fw/flask") == 2
    with pytest.raises(KeyError):
        OWN.distance("fw/django", "fw/none")


def test_rare_words_weigh_more() -> None:
    assert OWN.rarity(["django"]) > OWN.rarity(["programming"]) > 0
    assert OWN.rarity([]) == 0


def test_an_extension_adds_nodes_under_its_namespace_and_changes_the_version(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        [{"id": "acme:fw/forge", "label": "Acme Forge", "aliases": ["forgejs"], "broader": ["lang/typescript"]}],
    )
    more = load_taxonomy(path)
    assert more.aliases[key("ForgeJS")].nodes == ("acme:fw/forge",)
    assert more.distance("acme:fw/forge", "lang/typescript") == 1
    assert more.version != OWN.version


NODE = {"id": "acme:fw/forge", "label": "Forge"}
BROKEN = {
    "no namespace": [{"id": "fw/forge", "label": "Forge"}],
    "a bundled spelling": [{**NODE, "aliases": ["py"]}],
    "twice": [NODE, NODE],
    "no such link": [{**NODE, "broader": ["fw/nothing-there"]}],
    "itself": [{**NODE, "related": ["acme:fw/forge"]}],
    "a circle": [{**NODE, "broader": ["acme:fw/two"]}, {"id": "acme:fw/two", "label": "Two Forge", "broader": ["acme:fw/forge"]}],
    "no letters": [{**NODE, "aliases": ["++"]}],
    "an id of another form": [{"id": "acme:../../etc", "label": "Forge"}],
    "unknown fields": [{**NODE, "colour": "red"}],
    "no nodes": [],
    "an occupation of another form": [{**NODE, "onet": ["15"]}],
}  # fmt: skip


@pytest.mark.parametrize("nodes", BROKEN.values(), ids=BROKEN.keys())
def test_what_does_not_hold_together_is_refused(tmp_path: Path, nodes: object) -> None:
    with pytest.raises(BadConfig) as refused:
        load_taxonomy(_file(tmp_path, nodes))
    assert refused.value.hint


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a":1,"a":2}', b"[" * 100_000, b"\xff", b" " * (MOST_BYTES + 1)])
def test_a_file_that_is_no_taxonomy_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(BadConfig):
        load_taxonomy(tmp_path / "x.json")
    with pytest.raises(BadConfig):
        load_taxonomy(tmp_path / "none.json")


def test_a_spelling_on_two_nodes_is_one_of_both_only_where_both_say_so() -> None:
    one, two = Node(id="fw/one", label="One", shared=("both",)), Node(id="fw/two", label="Two", shared=("both",))
    assert Taxonomy(1, [one, two]).aliases["both"].nodes == ("fw/one", "fw/two")
    with pytest.raises(BadConfig):
        Taxonomy(1, [one.model_copy(update={"shared": (), "aliases": ("both",)}), two])
