"""The calibration of a home: what is stored survives, a card is signed and of its encoder, and fitting anew says what it is worth."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from clonedna.app.calibrating import Calibrating
from clonedna.core.block import Capability
from clonedna.core.canonical import canonical
from clonedna.core.errors import BadConfig, Corrupt, DnaError, InputError, SignatureInvalid, TooLarge
from clonedna.core.fakes import FakeEncoder
from clonedna.core.genome import Skill
from clonedna.genomes.fitting import Outcome
from tests.serving import ServerParts, add_block
from tests.unit.genomes.test_calibration import outcomes


def made(n: int, seed: int = 0, **changes: Any) -> list[Outcome]:
    """Outcomes under the fake encoder."""
    fields = {"encoder": FakeEncoder.name, "dimension": FakeEncoder.dimension} | changes
    return [one.model_copy(update=fields) for one in outcomes(n, seed)]


class Home:
    def __init__(self, path: Path) -> None:
        self.parts = ServerParts(path)
        self.parts.__dict__["encoder"] = FakeEncoder()
        self.at = Calibrating(self.parts)
        self.file = path / "calibration" / "outcomes.jsonl"

    @property
    def cards(self) -> list[Path]:
        return sorted((self.file.parent / "cards").glob("*.json"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_an_encoder_without_a_card_is_refused_with_the_next_step(home: Home) -> None:
    with pytest.raises(BadConfig, match="no calibration for the encoder letters@1") as caught:
        home.at.card()
    assert "recalibrate --lab" in caught.value.hint
    assert home.at.outcomes() == ()


def test_fewer_than_fifty_outcomes_are_refused_and_the_old_card_stays(home: Home) -> None:
    home.at.remember(made(80))
    kept = home.at.recalibrate().id
    home.file.write_bytes(b"".join(canonical(one) + b"\n" for one in made(49)))
    with pytest.raises(InputError, match="49 measured outcomes"):
        home.at.recalibrate()
    assert home.at.card().card.id == kept


def test_a_card_that_was_fitted_here_is_used_shown_and_forgotten(home: Home) -> None:
    assert home.at.remember(made(120)) == 120
    done = home.at.recalibrate()
    assert (done.kept, done.n, done.left_out) == (True, 120, 0)
    assert done.before.status == "not_available"
    assert done.after.value is not None
    shown = home.at.show()
    assert (shown.origin, shown.id, shown.outcomes, shown.usable) == ("home", done.id, 120, 120)
    found = home.at.predicted(shown.card, Skill(text="x", weight=1.0), made(1)[0].features)
    assert found.status == "predicted"
    assert found.how.startswith(f"calibration {done.id[:12]}")
    assert home.at.reset()
    assert not home.at.reset()
    with pytest.raises(BadConfig):
        home.at.card()


def test_the_old_card_is_measured_on_what_came_after_it_and_stays_where_it_errs_less(home: Home) -> None:
    home.at.remember(made(150))
    good = home.at.recalibrate()
    draw = random.Random(1)
    noise = [one.model_copy(update={"value": draw.choice([0.0, 1.0])}) for one in made(60, seed=9)]
    few = home.at.recalibrate(force=False)
    assert few.before.status == "not_available"  # nothing came after it
    path = home.file.parent / "noise.jsonl"
    path.write_bytes(b"".join(canonical(one) + b"\n" for one in noise))
    home.at.remember(made(60, seed=4))
    again = home.at.recalibrate()
    assert again.before.n == 60
    assert again.before.value is not None
    assert (again.after.value or 0) < 0.05 or not again.kept
    assert good.n == 150


def test_outcomes_are_appended_once_and_a_half_written_line_is_none(home: Home) -> None:
    some = made(60)
    assert home.at.remember(some) == 60
    assert home.at.remember([some[0].model_copy(update={"at": "later"}), some[1]]) == 0
    whole = home.file.read_bytes()
    home.file.write_bytes(whole[:-40])
    assert len(home.at.outcomes()) == 59
    assert home.at.remember(some) == 1
    assert home.file.read_bytes() == whole
    assert home.at.remember([]) == 0


def test_a_damaged_file_of_outcomes_names_the_line(home: Home, tmp_path: Path) -> None:
    home.at.remember(made(60))
    lines = home.file.read_bytes().split(b"\n")
    lines[6] = lines[6].replace(b'"value":', b'"value":9')
    home.file.write_bytes(b"\n".join(lines))
    with pytest.raises(Corrupt, match="line 7 of the stored outcomes"):
        home.at.outcomes()
    with pytest.raises(InputError, match="cannot be read"):
        home.at.recalibrate(tmp_path / "nothing.jsonl")
    large = tmp_path / "large.jsonl"
    large.write_bytes(b"\n" * 32_000_001)
    with pytest.raises(TooLarge):
        home.at.recalibrate(large)


def test_a_card_that_somebody_changed_is_never_used(home: Home) -> None:
    home.at.remember(made(80))
    home.at.recalibrate()
    (path,) = home.cards
    told = json.loads(path.read_text())
    for change in (
        {"card": told["card"] | {"bias": told["card"]["bias"] + 5}, "envelope": told["envelope"]},
        {"card": told["card"], "envelope": None},
        {"card": told["card"], "envelope": told["envelope"] | {"payload": "e30="}},
        {"card": {}},
    ):
        path.write_text(json.dumps(change))
        with pytest.raises((Corrupt, SignatureInvalid)):
            home.at.card()
    assert home.at.reset()


def test_a_card_in_another_encoders_place_is_refused(home: Home) -> None:
    home.at.remember(made(80))
    home.at.recalibrate()
    home.parts.__dict__["encoder"] = Other()
    (path,) = home.cards
    path.rename(home.at._path(Other.name))
    with pytest.raises(BadConfig, match=r"is for letters@1.*the encoder here is others@1"):
        home.at.card()


class Other(FakeEncoder):
    """Another encoder: it reads letters from the other end of the alphabet."""

    name = "others@1"


def test_after_an_encoder_swap_outcomes_are_described_anew_where_their_blocks_are_here(home: Home) -> None:
    ids = []
    for number in range(4):
        told = "abcdefghij"[number] * 9 + " sends requests"
        ids.append(
            add_block(home.parts, f"block{number}", says="ab", capability=Capability(text=told), specialization=told).id
        )
    known = [
        one.model_copy(
            update={"block": ids[i % 4], "base_fingerprint": home.parts.fake.base.fingerprint, "skill": f"requests {i}"}
        )
        for i, one in enumerate(made(80))
    ]
    gone = [one.model_copy(update={"base_fingerprint": home.parts.fake.base.fingerprint}) for one in made(10, seed=2)]
    home.at.remember([*known, *gone])
    before = home.at.recalibrate()
    assert (before.n, before.left_out) == (90, 0)
    home.parts.__dict__["encoder"] = Other()
    for name in ("meanings", "vectors"):
        home.parts.__dict__.pop(name, None)
    with pytest.raises(DnaError, match="others@1"):
        home.at.card()
    after = home.at.recalibrate()
    assert (after.n, after.left_out, after.kept) == (80, 10, True)
    assert home.at.card().card.encoder == "others@1"


def test_the_words_of_requests_lie_where_only_evaluations_lie(home: Home) -> None:
    from clonedna.app.backing import BEFORE
    from clonedna.app.usage import PLACES

    assert PLACES["calibration"] == "evaluations"
    assert "calibration" in BEFORE
