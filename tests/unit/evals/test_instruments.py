"""Single instruments on made-up answers: what counts as a call, as a domain, as a repetition, as reproduced; intervals over files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anyio
import numpy as np
import pytest

from clonedna.core.block import DriftReport, EvalSpan, Evaluation, Measure, ModuleDrift, not_available
from clonedna.core.fakes import FakeEngine
from clonedna.core.model import SampleChunk, SampleRequest
from clonedna.core.work import Instruction, Pair
from clonedna.evals.again import readings
from clonedna.evals.bootstrap import paired_gain, paired_share, wilson
from clonedna.evals.domains import domain_accuracy, domain_gains, domains_of
from clonedna.evals.drift import drift_measures
from clonedna.evals.memorisation import hopeless, repeats
from clonedna.evals.tool_calls import call_prompts, offered, parses, tool_calls
from clonedna.mint.instruct import make_pair
from tests.values import REPOSITORY, span

CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call>'


class Answering(FakeEngine):
    """Says what it was given, a character a token; with an adapter something else."""

    def __init__(self, bare: str, tuned: str) -> None:
        super().__init__()
        self.bare, self.tuned, self.sampled = bare, tuned, 0

    async def sample(self, request: SampleRequest) -> AsyncIterator[SampleChunk]:
        for i, letter in enumerate(self.tuned if request.layers else self.bare):
            self.sampled += 1
            yield SampleChunk(text=letter, token=i)
        yield SampleChunk(finish="stop")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CALL, True),
        (CALL + "\n" + CALL, True),
        ("\n" + CALL + "\n", True),
        ("I will look. " + CALL, False),
        (CALL.removesuffix("</tool_call>"), False),
        (CALL.replace('"x"}}', '"x"'), False),
        (CALL.replace('"x"}}', '"x"}'), True),  # the server's reader takes it for a call, too
        (CALL.replace("search", "delete"), False),
        (CALL.replace('{"query": "x"}', '"x"'), False),
        (CALL.replace('{"query": "x"}', "[1]"), False),
        ("", False),
        ("There is nothing to call.", False),
    ],
)
def test_what_is_a_call(text: str, said: bool) -> None:
    assert parses(text, frozenset(("search", "read_file"))) is said


def test_every_bundled_prompt_offers_the_tool_that_its_answer_calls() -> None:
    assert len(call_prompts()) == 15
    assert all(parses(one.completion, offered(one)) for one in call_prompts())


def test_calls_that_were_forgotten_are_counted_and_words_are_not_sampled_to_their_end() -> None:
    engine = Answering(bare=CALL, tuned="Let me think about that for a long time.")
    prompts = [one for one in call_prompts() if "search" in offered(one)]
    found = anyio.run(lambda: tool_calls(engine, "any", prompts))
    assert found["tool_calls.base"].value == 1.0
    assert found["tool_calls.adapter"].value == 0.0
    assert found["tool_calls.fall"].ci95 == (1.0, 1.0)
    assert engine.sampled == len(prompts) * (len(CALL) + 1)


def test_fifty_tokens_in_a_row_are_a_repetition_and_forty_nine_are_none() -> None:
    corpus = "".join(f"w{i} " for i in range(100))
    words = [f"w{i} " for i in range(20, 84)]
    assert repeats(words, corpus)
    for at, said in ((13, True), (14, False), (49, False), (50, True)):
        assert repeats([*words[:at], "! ", *words[at + 1 :]], corpus) is said
    assert not repeats([*words[:14], "! ", *words[15:49], "! ", *words[50:]], corpus)
    assert not repeats(words[:49], corpus)


def test_a_continuation_is_given_up_only_when_no_run_can_come() -> None:
    corpus = "".join(f"w{i} " for i in range(100))
    words = [f"w{i} " for i in range(20, 84)]
    for wrong in range(64):
        said = [*words[:wrong], "! ", *words[wrong + 1 :]]
        given_up = any(hopeless(said[:n], corpus) for n in range(1, 65))
        assert not (given_up and repeats(said, corpus))
        assert given_up == (14 <= wrong < 50)


def pair(number: int, path: str, text: str = "", language: str = "python") -> Pair:
    one = span(number, path=path, language=language)
    one = one.model_copy(update={"text": text or one.text})
    made = Instruction(form="whole", text="t", completion_start=one.start)
    return make_pair(one, made, "holdout", REPOSITORY, "Ada", "test")


def test_domains_are_facts_of_a_span() -> None:
    code = "import os.path\nfrom json import loads\nfrom . import near\n\ndef f():\n    import re\n"
    assert domains_of(pair(1, "src/tool/deep/a.py", code)) == (
        ("language", "python"), ("folder", "src/tool"), ("library", "json"), ("library", "os"), ("library", "re"),
    )  # fmt: skip
    script = "import x from '@scope/kit/part';\nconst y = require(\"fs\");\nimport './style.css';\n"
    assert domains_of(pair(1, "a.ts", script, "typescript")) == (
        ("language", "typescript"), ("folder", "."), ("library", "@scope/kit"), ("library", "fs"),
    )  # fmt: skip


def test_a_domain_passes_when_its_own_interval_lies_above_zero() -> None:
    pairs = [pair(i, f"good/{i}.py") for i in range(6)] + [pair(i, f"bad/{i}.py") for i in range(6, 12)]
    pairs += [pair(i, f"few/{i}.py") for i in range(12, 16)]
    spans = [
        EvalSpan(
            pair=p.id, tokens=10, bytes=40, base=20.0 + i % 3, adapter=15.0 if "good/" in p.provenance.path else 21.0
        )
        for i, p in enumerate(pairs)
    ]
    gains = {one.name: one for one in domain_gains(pairs, spans)}
    assert set(gains) == {"python", "good", "bad"}
    assert gains["good"].passes
    assert not gains["bad"].passes
    share = domain_accuracy(tuple(gains.values()))
    assert share.n == 3
    assert share.value == sum(one.passes for one in gains.values()) / 3
    assert domain_accuracy(()).status == "not_available"


def test_spans_of_one_file_are_no_independent_witnesses() -> None:
    draw = np.random.default_rng(0)
    files = [f"{i // 8}" for i in range(48)]
    of_file = draw.normal(0.1, 0.5, size=6)
    base = [float(of_file[int(name)] * 10) for name in files]
    zeros, tokens = [0.0] * 48, [10] * 48
    gain, apart = paired_gain(base, zeros, tokens)
    same, together = paired_gain(base, zeros, tokens, clusters=files)
    assert gain == same
    assert together[1] - together[0] > 1.5 * (apart[1] - apart[0])
    assert paired_gain(base, zeros, tokens, clusters=["a", "b"] * 24)[1] == apart
    with pytest.raises(ValueError, match="clusters"):
        paired_gain(base, zeros, tokens, clusters=["a"])


def test_shares_have_intervals() -> None:
    assert wilson(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)  # Wilson 1927
    assert wilson(5, 50) == pytest.approx((0.0435, 0.2136), abs=1e-4)
    assert paired_share([True] * 4, [False] * 4) == (1.0, (1.0, 1.0))
    excess, (low, _) = paired_share([True] + [False] * 99, [False] * 100)
    assert (excess, low) == (0.01, 0.0)


def test_the_modules_that_moved_most_and_least_are_named() -> None:
    modules = tuple(ModuleDrift(module=f"layers.{i}", norm=i, relative=i / 10) for i in (2.0, 1.0, 3.0))
    found = drift_measures(DriftReport(modules=modules, norm=3.7, relative=0.2))
    assert found["layer_drift"].value == 0.2
    assert "highest in layers.3.0, lowest in layers.1.0" in found["layer_drift"].how
    hidden = tuple(one.model_copy(update={"relative": None}) for one in modules)
    unseen = drift_measures(DriftReport(modules=hidden, norm=3.7, relative=None))
    assert unseen["layer_drift"].status == "not_available"
    assert unseen["layer_drift.norm"].value == 3.7
    assert {one.status for one in drift_measures(None).values()} == {"not_available"}


def stored(**values: float | None) -> Evaluation:
    return Evaluation(
        measures={
            name.replace("__", "."): not_available("none")
            if value is None
            else Measure(value=value, status="measured", n=50, how="test")
            for name, value in values.items()
        }
    )


@pytest.mark.parametrize(
    ("name", "drift", "within"),
    [
        ("nll__base", 5e-4, True), ("nll__base", 2e-3, False), ("memorisation__rate", 0.04, True),
        ("memorisation__rate", 0.06, False), ("leakage", 0.02, False), ("leakage", 0.0, True), ("style__capture", 0.04, True),
        ("style__capture", 0.06, False),
    ],
)  # fmt: skip
def test_each_measure_has_its_tolerance(name: str, drift: float, within: bool) -> None:
    (one,) = readings(stored(**{name: 0.5}), stored(**{name: 0.5 + drift}))
    assert one.within is within
    assert one.drift == pytest.approx(drift)


def test_what_cannot_be_compared_says_why() -> None:
    before = stored(
        latency_overhead_ms=1.0, final_loss=2.0, maturity=0.9, nll__base=1.0, forgetting=0.1, style__capture=None
    )
    after = stored(latency_overhead_ms=9.0, maturity=0.1, nll__base=1.01, style__capture=0.5)
    found = {one.name: one for one in readings(before, after)}
    assert {name for name, one in found.items() if one.within is not None} == {"nll.base"}
    assert all(one.why for name, one in found.items() if name != "nll.base")
    half = {one.name: one for one in readings(before, after, same_dtype=False)}
    assert half["nll.base"].within is True
    other = stored(nll__base=1.0).measures["nll.base"].model_copy(update={"n": 68})
    (changed,) = readings(stored(nll__base=1.0), Evaluation(measures={"nll.base": other}))
    assert changed.within is None
    assert "50 then, 68 now" in changed.why
    assert json.loads(changed.model_dump_json())["why"] == changed.why
