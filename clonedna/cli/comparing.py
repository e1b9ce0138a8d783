"""`dna compare`: two blocks beside each other, as tables, as one page, or as a blind vote."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clonedna.cli.blocks import On, Unsafe
from clonedna.cli.context import Json, State, print_json, printable, table, tell

if TYPE_CHECKING:
    from clonedna.app.comparing import CompareOrder
    from clonedna.app.votes import Ballot, Question, Tally
    from clonedna.core.block import Measure
    from clonedna.core.comparison import Angles, Comparison, ProbeCounts

SHOWN_ANSWERS = 3
SHOWN_LINES = 14
PEOPLE = ("person_a", "person_b")


def add_to(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    context: typer.Context,
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="A B", help="Two blocks: name, name@version, or the beginning of the id.", show_default=False
        ),
    ],
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, max=64, help="Prompts of held-out work that both answer.")
    ] = 16,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="Also ask this; may be repeated.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every draw: the same seed gives the same answers.")] = 0,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write everything as one page, too.", show_default=False)
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Choose between answers without names; votes are kept.")
    ] = False,
    with_base: Annotated[bool, typer.Option("--with-base", help="With --blind: the base's answer, too.")] = False,
    votes: Annotated[bool, typer.Option("--votes", help="Show what was voted so far.")] = False,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Compare the weights alone: no base is loaded.")
    ] = False,
    unsafe: Unsafe = False,
    on: On = None,
    as_json: Json = False,
) -> None:
    """Compare two blocks: weights, behaviour on shared code, style, and answers to the same prompts."""
    from clonedna.app.comparing import CompareOrder

    state: State = context.obj
    _refuse(references, blind=blind, with_base=with_base, votes=votes, weights_only=weights_only, html=html)
    order = CompareOrder(
        a=references[0], b=references[1], prompts=prompts, given=tuple(prompt or ()), seed=seed, on=on, unsafe=unsafe,
        weights_only=weights_only,
    )  # fmt: skip
    if votes:
        _show_votes(state, order, as_json)
    elif blind:
        _vote(state, order, with_base=with_base, as_json=as_json)
    else:
        _compare(state, order, html, as_json)


def _refuse(
    references: list[str], *, blind: bool, with_base: bool, votes: bool, weights_only: bool, html: Path | None
) -> None:
    """What does not go together. Raises ``InputError``."""
    from clonedna.core.errors import InputError

    if len(references) != 2:
        more = len(references) > 2
        raise InputError(
            f"{len(references)} blocks; two can be compared",
            f"for more: dna eval --identity {' '.join(references)}" if more else "dna compare A B; see: dna ls",
        )
    chosen = [name for name, on in (("--blind", blind), ("--votes", votes), ("--weights-only", weights_only)) if on]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)} exclude each other", "give one of them")
    if with_base and not blind:
        raise InputError("--with-base is for --blind", "a comparison shows the base's answers anyway")
    if html is not None and (blind or votes):
        raise InputError(f"{chosen[0]} writes no page", "leave --html out")
    if html is not None and html.is_dir():
        raise InputError(f"{html} is a folder", f"give a file: --html {html / 'report.html'}")


def _compare(state: State, order: CompareOrder, html: Path | None, as_json: bool) -> None:
    found = _compared(state, order, as_json)
    if as_json:
        print_json(found)
    else:
        show(found)
    if html is not None:
        from clonedna.app.comparison_page import write_page

        write_page(html, found)
        tell(f"\nwritten: {html}")


def _compared(state: State, order: CompareOrder, as_json: bool) -> Comparison:
    import anyio

    from clonedna.app.comparing import Comparing
    from clonedna.cli.progress import listener

    if state.client is not None and order.weights_only:
        return state.client.comparing.weights(order.a, order.b, unsafe=order.unsafe)
    if state.client is not None:
        return _compared_there(state, order, as_json)

    async def work() -> Comparison:
        with listener(as_json) as listen:
            try:
                return await Comparing(state.parts, listen).compare(order)
            finally:
                await state.parts.close()

    return anyio.run(work)


def _compared_there(state: State, order: CompareOrder, as_json: bool) -> Comparison:
    from clonedna.app.job_asks import CompareAsk
    from clonedna.cli import following
    from clonedna.core.comparison import Comparison

    following.refuse_base(order.on)
    ask = following.asked(
        CompareAsk,
        a=order.a,
        b=order.b,
        prompts=order.prompts,
        given=order.given,
        seed=order.seed,
        unsafe=order.unsafe,
    )
    return following.value_of(following.order(state, ask, events=as_json), Comparison)


# Tables.


def show(found: Comparison) -> None:
    """What was found, in the terminal; everything else is in ``--json`` and ``--html``."""
    a, b = f"{found.a.name}@{found.a.version}", f"{found.b.name}@{found.b.version}"
    tell("")
    rows = [
        ["person", found.a.person, found.b.person],
        ["id", found.a.id[:12], found.b.id[:12]],
        ["base", f"{found.a.base} ({found.a.base_fingerprint[:12]})", f"{found.b.base} ({found.b.base_fingerprint[:12]})"],
        ["adapter", *(f"rank {one.rank}, alpha {one.alpha:g}, {len(one.target_modules)} kinds of module" for one in (found.a, found.b))],
    ]  # fmt: skip
    table("", ["", f"A: {a}", f"B: {b}"], rows)
    for note in found.notes:
        print(f"note: {printable(note)}")
    print()
    _show_weights(found)
    if found.probe is not None:
        print()
        _show_behaviour(found, found.probe)
        print()
        _show_style(found)
        _show_answers(found, a, b)


def _show_weights(found: Comparison) -> None:
    if found.weights is None:
        print(f"weights: not compared ({printable(found.measures['weights.cosine'].how)})")
        return
    rows = [
        [
            one.name, _number(one.cosine, "+.3f"), _number(one.norm_a, ".3g"), _number(one.norm_b, ".3g"), _number(one.difference, ".3g"),
            *_angles(one.columns), *_angles(one.rows),
        ]
        for one in (found.weights.whole, *found.weights.groups)
    ]  # fmt: skip
    columns = ["", "cosine", "|A|", "|B|", "|A-B|", "written", "shared (by chance)", "read", "shared (by chance)"]
    table("weights: what the two add to the base, scale B A; mean angles of what they write and read", columns, rows)
    if found.weights.undefined:
        print(printable(found.weights.undefined))
    for which, only in (("A", found.weights.only_a), ("B", found.weights.only_b)):
        if only:
            kinds = sorted({name.rpartition(".")[2] for name in only})
            print(f"only {which} adapts {printable(', '.join(kinds))}: zero in the other ({len(only)} modules)")


def _angles(angles: Angles | None) -> list[str]:
    if angles is None:
        return ["-", "-"]
    return [f"{angles.mean:.1f}°", f"{angles.overlap:.0%} ({angles.by_chance:.0%})"]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _show_behaviour(found: Comparison, probe: ProbeCounts) -> None:
    measures = found.measures
    rows = [
        [
            words,
            *(_measure(measures[f"behaviour.{kind}{part}"], "+.2f") for kind in ("pearson", "spearman")),
            str(measures[f"behaviour.pearson{part}"].n or ""),
        ]
        for words, part in (("all", ""), ("A's hold-out", ".a"), ("B's hold-out", ".b"), ("general set", ".general"))
    ]
    table(
        "behaviour: correlation of gains",
        ["spans of", "Pearson", "Spearman", "n"],
        rows,
    )
    print()
    rows = [
        [words, *(_measure(measures[f"gain.{which}.{where}"], "+.3f") for which in ("a", "b", "difference"))]
        for words, where in (("A's hold-out", "on_a"), ("B's hold-out", "on_b"), ("general set", "general"))
    ]
    table(f"mean gains, {found.unit}, with 95 % intervals", ["spans of", "A", "B", "A - B"], rows)
    left = (("in training data", probe.trained), ("twice", probe.repeated), ("beyond the bound", probe.bounded))
    told = [f"{n} {why}" for why, n in left if n]
    if told:
        print(f"spans left out: {', '.join(told)}")


def _show_style(found: Comparison) -> None:
    measures = found.measures
    sides = [("A's answers", "a"), ("B's answers", "b"), ("the base's", "base"), ("B's base's", "base_b")]
    rows = [
        [
            words,
            *(
                _measure(measures[name], ".2f") if name in measures else ""
                for name in (f"style.{side}.{one}" for one in PEOPLE)
            ),
        ]
        for words, side in sides
        if f"style.{side}.person_b" in measures
    ]
    if any(measures[f"style.a.{person}"].value is not None for person in PEOPLE):
        table(
            "style: distance, two people: 1",
            ["", "A's person", "B's person"],
            rows,
        )
    for words, name in (
        ("distance of both blocks' answers", "style.answers"), ("distance of both people's code", "style.persons"),
        ("A is nearer to its person than B by", "style.nearer.person_a"), ("B is nearer to its person than A by", "style.nearer.person_b"),
    ):  # fmt: skip
        measure = measures[name]
        print(
            f"{words}: {_measure(measure, '.2f') if measure.value is not None else f'not available ({printable(measure.how)})'}"
        )


def _measure(measure: Measure, form: str = "+.4f") -> str:
    if measure.value is None:
        return "n/a"
    interval = f" [{measure.ci95[0]:{form}}, {measure.ci95[1]:{form}}]" if measure.ci95 else ""
    return f"{measure.value:{form}}{interval}"


def _show_answers(found: Comparison, a: str, b: str) -> None:
    for answer in found.answers[:SHOWN_ANSWERS]:
        print()
        print(f"prompt: {_short(answer.prompt)}")
        for name, said in ((a, answer.a), (b, answer.b), ("base", answer.base)):
            print(f"--- {name}")
            print(_short(said.text))
    if len(found.answers) > SHOWN_ANSWERS:
        print(f"\n{len(found.answers) - SHOWN_ANSWERS} more prompts: --html report.html, or --json")


def _short(text: str) -> str:
    lines = printable(text).strip("\n").splitlines()
    more = [f"[{len(lines) - SHOWN_LINES} more lines]"] if len(lines) > SHOWN_LINES else []
    return "\n".join(lines[:SHOWN_LINES] + more)


# Votes.


def _vote(state: State, order: CompareOrder, *, with_base: bool, as_json: bool) -> None:
    """Ask about each prompt, keep each vote at once, show the tally. With JSON, questions go out and choices come in, a line each."""
    import anyio

    from clonedna.app.comparing import Comparing
    from clonedna.cli.progress import listener
    from clonedna.core.errors import InputError

    if not as_json and not sys.stdin.isatty():
        raise InputError(
            "there is nobody to ask: standard input is no terminal",
            "run it in a terminal, or with --json, which reads one choice a line from standard input",
        )

    async def work() -> Ballot:
        with listener(as_json) as listen:
            try:
                return await Comparing(state.parts, listen).ballot(order, with_base=with_base)
            finally:
                await state.parts.close()

    ballot = anyio.run(work)
    if ballot.skipped and not as_json:
        tell(f"{ballot.skipped} prompts left out: both gave the same answer")
    given = 0
    try:
        for question in ballot.questions:
            choice = _ask_json(question) if as_json else _ask(question)
            if choice is None:
                break
            ballot.vote(question.number, choice)
            given += 1
    except KeyboardInterrupt:
        tell(f"\nvotes kept: {given}; the tally: dna compare {order.a} {order.b} --votes")
        raise
    _show_tally(ballot.tally(), order, as_json)


def _ask(question: Question) -> int | None:
    """The place that the person chose, 0 for none, ``None`` to stop."""
    tell(f"\n=== {question.number} of {question.total}: which is more like {printable(question.person)}?")
    tell(f"\n{printable(question.prompt)}")
    if question.reference:
        tell(f"\n--- what {printable(question.person)} wrote\n{printable(question.reference)}")
    for place, answer in enumerate(question.answers, 1):
        tell(f"\n--- answer {place}\n{printable(answer)}")
    places = [str(place) for place in range(len(question.answers) + 1)]
    while True:
        sys.stderr.write(f"\n{', '.join(places[1:])} = that answer, 0 = cannot tell, q = stop> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        said = line.strip().lower()
        if not line or said == "q":
            return None
        if said in places:
            return int(said)
        tell("that is no answer")


def _ask_json(question: Question) -> int | None:
    """One object a line out, one choice a line in: a number, or ``{"choice": N}``. Raises ``InputError``; ``None`` at the end of input."""
    import json

    from clonedna.core.errors import InputError

    print_json({"kind": "question", **question.model_dump(mode="json")})
    line = sys.stdin.readline()
    if not line.strip():
        return None
    try:
        said = json.loads(line[:200])
    except ValueError:
        said = None
    choice = said.get("choice") if isinstance(said, dict) else said
    if type(choice) is not int or not 0 <= choice <= len(question.answers):
        raise InputError(
            f"{line.strip()[:80]!r} is no choice",
            f"write 1 to {len(question.answers)}, or 0 for cannot tell; votes before it are kept",
        )
    return choice


def _show_votes(state: State, order: CompareOrder, as_json: bool) -> None:
    from clonedna.app.comparing import Comparing

    _show_tally(Comparing(state.parts).tally(order), order, as_json)


def _show_tally(found: Tally, order: CompareOrder, as_json: bool) -> None:
    if as_json:
        print_json({"kind": "tally", **found.model_dump(mode="json")})
        return
    rows = [
        [order.a, str(found.a_chosen)], [order.b, str(found.b_chosen)], ["base", str(found.base_chosen)],
        ["cannot tell", str(found.undecided)],
    ]  # fmt: skip
    print()
    table(f"votes: {found.votes}, on prompts: {found.prompts}", ["more like the person", "votes"], rows)
    for words, measure in (
        (f"for {order.a}, of votes for one of the two", found.for_a),
        ("for the person's own block", found.own),
    ):
        if measure.value is None:
            print(f"{words}: not available ({measure.how})")
        else:
            low, high = measure.ci95 or (0.0, 1.0)
            print(f"{words}: {measure.value:.0%} [{low:.0%}, {high:.0%}], n = {measure.n}; chance is 50 %")
    if found.damaged:
        print(f"{found.damaged} lines of the votes' file are no votes")
