"""Requests in words become skills: the right nodes, sane weights, and nothing that was said not to be wanted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clonedna.core.errors import InputError
from clonedna.core.fakes import FakeIndex
from clonedna.core.genome import MOST_ASKED, MOST_REQUEST, MOST_SKILLS
from clonedna.engine.hashed import HashedEncoder
from clonedna.genomes.needs import Reader, cleaned
from clonedna.genomes.taxonomy import load_taxonomy

READER = Reader(load_taxonomy())

# What a person might write, and all the nodes that are in it.
REQUESTS = {
    "A senior Python developer who knows Django and PostgreSQL": "lang/python fw/django fw/postgresql",
    "someone who writes C/C++ and C# but not Java": "lang/c lang/cpp lang/csharp",
    "I need an expert in Go microservices with gRPC": "lang/go act/microservices fw/grpc",
    "R and statistics, please": "lang/r dom/statistics",
    "Next.js, node.js and .NET": "fw/nextjs fw/nodejs fw/dotnet",
    "nextjs + NodeJS + dotnet core": "fw/nextjs fw/nodejs fw/dotnet",
    "ASP.NET Core with Entity Framework": "fw/aspnet fw/entity-framework",
    "VB.NET forms": "lang/visual-basic",
    "without React, but with Vue.js or Svelte": "fw/vue fw/svelte",
    "no java, php or perl; only Rust": "lang/rust",
    "not only Python but also Rust": "lang/python lang/rust",
    "Vue instead of React": "fw/vue",
    "Instead of jQuery, plain HTML and CSS": "lang/html lang/css",
    "Java is not needed, Kotlin is": "lang/kotlin",
    "neither Java nor PHP. Kotlin!": "lang/kotlin",
    "dependency-free JavaScript": "lang/javascript",
    "java-free build pipelines": "act/ci-cd",
    "I don't want to work with React, rather Angular": "fw/angular",
    "avoid PHP, use Ruby on Rails": "fw/rails",
    "C but not C++": "lang/c",
    "anything but COBOL: Fortran for HPC": "lang/fortran dom/hpc",
    "NoSQL databases": "dom/nosql",
    "no-code tools for dashboards": "dom/low-code act/visualisation",
    "parser for log files in awk": "act/parsing act/logging lang/awk",
    "Python3.11 and C++17, Vue3": "lang/python lang/cpp fw/vue",
    "async database access with SQLAlchemy": "act/concurrency dom/databases fw/sqlalchemy",
    "Write swift code for iOS": "lang/swift dom/ios",
    "Express routes in TypeScript": "fw/express lang/typescript",
    "embedded C for STM32 microcontrollers": "lang/c dom/embedded",
    "data structures & algorithms": "dom/algorithms",
    "APIs, CLIs, and GPUs": "act/api-design act/cli dom/gpu",
    "F#, OCaml and Haskell": "lang/fsharp lang/ocaml lang/haskell",
    "Objective-C to Swift migration": "lang/objective-c lang/swift",
    "développeur Java, Spring Boot": "lang/java fw/spring",
    "разработчик на Python": "lang/python",
    "Ｐｙｔｈｏｎ and Réact": "lang/python fw/react",
    "scikit-learn pipelines on pandas dataframes": "fw/scikit-learn fw/pandas",
    "data engineering with PySpark and Airflow": "act/data-engineering fw/spark fw/airflow",
    "fine-tuning LLMs with Hugging Face": "act/model-training dom/llm-apps fw/transformers",
    "k8s, Helm charts and Terraform": "fw/kubernetes fw/terraform",
    "CI/CD with GitHub Actions": "act/ci-cd fw/jenkins",
    "OAuth2 login and role-based permissions": "act/authentication act/authorisation",
    "TCP/IP socket programming in Zig": "dom/networking lang/zig",
    "PL/SQL stored procedures on Oracle database": "lang/sql fw/oracle-db",
    "unit tests, end-to-end tests with Playwright": "act/testing act/e2e-testing fw/playwright",
    "property-based tests in Elixir": "act/property-testing lang/elixir",
    "WCAG accessibility of React components": "act/accessibility fw/react",
    "game development in Unity using C#": "dom/games fw/unity lang/csharp",
    "GLSL shaders for ray tracing": "lang/glsl dom/graphics",
    "compiler construction with LLVM": "dom/compilers fw/llvm",
    "formal verification in Coq or Lean": "dom/formal-methods lang/coq lang/lean",
    "ROS2 nodes for drones": "fw/ros dom/robotics",
    "FPGA design in VHDL and SystemVerilog": "dom/fpga lang/vhdl lang/verilog",
    "Solidity smart contracts for DeFi": "lang/solidity dom/blockchain",
    "web scraper with Beautiful Soup that writes CSV": "act/scraping fw/scrapy act/data-cleaning",
    "time series forecasting of energy": "dom/time-series dom/energy",
    "HL7/FHIR interfaces for hospitals": "dom/healthcare",
    "GIS maps with PostGIS": "dom/gis fw/postgresql",
    "regexes, bash scripts, cron jobs": "lang/regex lang/bash act/scripting-automation",
    "Jetpack Compose UI on Android": "fw/jetpack-compose dom/android act/ui-design",
    "React Native, not Flutter": "fw/react-native",
    "payment gateway integration in PHP with Laravel": "act/web-integration lang/php fw/laravel",
    "machine-learning model deployment": "dom/machine-learning act/deployment",
    "Discord bot in Node": "act/chatbots fw/nodejs",
    "i18n and time zones": "act/i18n act/date-time",
    "multithreaded Java; garbage-collector tuning": "act/concurrency lang/java act/memory-management",
    "SIMD numerical code in Julia": "act/parallelism act/numerical lang/julia",
    "Emacs Lisp plugin": "lang/emacs-lisp",
    "refactor legacy Perl": "act/refactoring lang/perl",
    "PDF generation and Excel reports": "act/file-processing",
    "GraphQL API over MongoDB": "lang/graphql act/api-design fw/mongodb",
    "Kafka event-driven architecture": "fw/kafka act/messaging",
    "Node/Express + TypeScript": "fw/nodejs fw/express lang/typescript",
    "not too complex Python code": "lang/python",
    "not very good at Rust but fluent in C": "lang/c",
    "computer vision w/ OpenCV, w/o CUDA": "dom/computer-vision fw/opencv",
    "高性能なC++のコード": "lang/cpp",
    "a PM who plans sprints": "act/project-management",
    "reverse engineering of malware": "act/reverse-engineering",
    'Postgres\' SQL; "Rust"': "fw/postgresql lang/sql lang/rust",
    "c": "lang/c",
    "go": "lang/go",
    "python, go and r": "lang/python lang/go lang/r",
}
EVERYDAY = {
    "I want to go home": "lang/go",
    "a swift response": "lang/swift",
    "Express yourself": "fw/express",
    "the spring of the year": "fw/spring",
    "vitamin C": "lang/c",
    "R&D managers": "lang/r",
    "react to weather": "fw/react",
}


@pytest.mark.parametrize(("request_", "nodes"), REQUESTS.items())
def test_what_a_request_names_is_found(request_: str, nodes: str) -> None:
    found = {skill.node for skill in READER.read(request_).skills if skill.node}
    assert found == set(nodes.split())


@pytest.mark.parametrize(("request_", "node"), EVERYDAY.items())
def test_ordinary_words_are_no_languages(request_: str, node: str) -> None:
    assert node not in {skill.node for skill in READER.read(request_).skills}


@pytest.mark.parametrize(
    ("request_", "never"),
    [
        ("Python, not Java", "lang/java"), ("web apps without React and Redux", "fw/react fw/redux"),
        ("not Java, PHP or Perl but Ruby", "lang/java lang/php lang/perl"), ("non-Java backends", "lang/java"),
        ("JavaScript", "lang/java"), ("C++ and C#", "lang/c"), ("rather than Docker, systemd on Linux", "fw/docker"),
        ("TypeScript except Angular", "fw/angular"), ("a Go service w/o Redis", "fw/redis"), ("Rust. Never C++!", "lang/cpp"),
        ("Python, but please don't use pandas for data cleaning", "fw/pandas"), ("Kubernetes isn't wanted; Docker is", "fw/kubernetes"),
    ],
)  # fmt: skip
def test_what_is_not_wanted_is_no_skill(request_: str, never: str) -> None:
    assert not {skill.node for skill in READER.read(request_).skills} & set(never.split())


def test_what_stands_behind_a_negation_in_another_clause_is_wanted() -> None:
    for request in (
        "an API without Django for mobile apps",
        "not Java, Kotlin for mobile apps",
        "no Java; mobile apps",
    ):
        assert "dom/mobile" in {skill.node for skill in READER.read(request).skills}


@pytest.mark.parametrize(
    "praise", ["a brilliant senior expert who", "please, someone with 10 years of experience, world-class,"]
)
def test_seniority_and_praise_are_no_skills(praise: str) -> None:
    assert _skills(f"{praise} Python and Django") == _skills("Python and Django")


def test_what_matches_nothing_stays_in_the_request_s_own_words() -> None:
    (skill,) = READER.read("software for Medieval Falconry").skills
    assert (skill.node, skill.text, skill.weight) == ("", "Medieval Falconry", 1.0)
    (skill,) = READER.read("日本語の形態素解析").skills
    assert skill.text == "日本語の形態素解析"
    assert len(READER.read("falcon " + "wing " * 300).skills[0].text) <= 200


def test_a_spelling_in_full_weighs_more_than_words_of_no_node() -> None:
    skills = READER.read("falconry in Haskell").skills
    assert [skill.node for skill in skills] == ["lang/haskell", ""]
    assert skills[0].strength > skills[1].strength


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        # A name alone in its clause: the clause. Of several, and beside what is left of a language's: its own name, too.
        ("SQLite tables for reports", {"SQLite": ["SQLite tables for reports"] * 2}),
        ("Django over SQLite", {name: ["Django over SQLite", "Django over SQLite", name] for name in ("Django", "SQLite")}),
        (
            "Flask with SQLite",
            {name: ["Flask with SQLite", "Flask with SQLite", name] for name in ("Flask", "SQLite")},
        ),
        (
            "falconry in Haskell",
            {"Haskell": ["falconry in Haskell"] * 2 + ["Haskell"], "falconry in Haskell": ["falconry in Haskell"]},
        ),
        # A list is taken apart, and so are sentences at what joins them.
        (
            "Medieval falconry, Docker and wings of paper",
            {
                "Medieval falconry": ["Medieval falconry, Docker and wings of paper"] * 2 + ["Medieval falconry"],
                "Docker": ["Medieval falconry, Docker and wings of paper"] * 2 + ["Docker"],
                "wings of paper": ["Medieval falconry, Docker and wings of paper"] * 2 + ["wings of paper"],
            },
        ),
        (
            "Train hawks to come back when they are called and draw where they flew",
            {
                "Train hawks to come back when they are called": [
                    *["Train hawks to come back when they are called and draw where they flew"] * 2,
                    "Train hawks to come back when they are called",
                ],
                "draw where they flew": [
                    *["Train hawks to come back when they are called and draw where they flew"] * 2,
                    "draw where they flew",
                ],
            },
        ),
        # What is not wanted is not read, but how something must not behave is; of many clauses each is read alone.
        ("Kotlin, but no Java", {"Kotlin": ["Kotlin"] * 2}),
        ("hawks without writing JavaScript", {"hawks": ["hawks"]}),
        ("hawks without any feathers", {"hawks": ["hawks"]}),
        ("owls that must not use Java", {"owls": ["owls that must"]}),
        ("owls that must not blink", {"owls that must not blink": ["owls that must not blink"]}),
        ("calm hawks without waking owls", {"calm hawks without waking owls": ["calm hawks without waking owls"]}),
        ("owls cannot see ravens", {"owls cannot see ravens": ["owls cannot see ravens"]}),
        (
            "train hawks; feed owls; call ravens; sing to swans",
            {one: [one] for one in ("train hawks", "feed owls", "call ravens", "sing to swans")},
        ),
    ],
)  # fmt: skip
def test_a_skill_is_read_in_the_words_that_it_stands_in(request_: str, asked: dict[str, list[str]]) -> None:
    found = READER.read(request_).skills
    assert {one.text: list(one.words) for one in found} == asked


def test_one_clause_is_one_skill_where_nothing_in_it_has_a_name() -> None:
    (skill,) = READER.read("Put torn, half burnt letters together again").skills
    assert skill.text == "Put torn, half burnt letters together again"


@given(st.text(max_size=2000))
def test_what_is_read_is_bounded_and_of_the_request(text: str) -> None:
    try:
        found = READER.read(text).skills
    except InputError:
        return
    assert all(1 <= len(one.words) <= 3 and all(0 < len(some) <= MOST_ASKED for some in one.words) for one in found)


def test_a_shared_spelling_gives_all_its_nodes_and_each_less() -> None:
    skills = {skill.node: skill for skill in READER.read("embeddings in Python").skills}
    assert {"dom/nlp", "dom/search"} < set(skills)
    assert skills["dom/nlp"].strength < skills["lang/python"].strength


def test_an_encoder_finds_the_node_that_is_clearly_near_and_no_other() -> None:
    encoder = HashedEncoder()  # compares spelling
    index = FakeIndex(encoder.name, encoder.dimension)
    reader = Reader(READER.taxonomy, encoder, near=0.5, index=index)
    skills = reader.read("kubernetess operatorz; Haskell; ostrich feathers").skills
    assert READER.read("kubernetess operatorz").skills[0].node == ""
    assert {(skill.node, skill.text) for skill in skills} >= {("lang/haskell", "Haskell"), ("", "ostrich feathers")}
    assert len(index.keys()) == len(READER.taxonomy.nodes)
    assert (
        reader.read("postgress").skills[0].node
        == Reader(READER.taxonomy, encoder, near=0.5).read("postgress").skills[0].node
        == "fw/postgresql"
    )
    assert Reader(READER.taxonomy, encoder, near=0.99).read("postgress").skills[0].node == ""
    assert reader.read("a swift response").skills[0].node == ""
    assert reader.read("postgress").encoder == encoder.name


HOSTILE = {
    "long": "Python " * 20_000, "commas": "," * 10_000, "controls": "\0\x01\x07\x1b\x7f", "stops": "the of and or with to a", "empty": "",
    "spaces": " \t\n ", "emoji": "\U0001f600\U0001f4a9\u200d", "praise": "please someone expert senior", "negated": "not java, php or perl",
    "marks": "!?.,;:" * 100, "digits": "1 2 3 2026",
}  # fmt: skip


@pytest.mark.parametrize("request_", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_names_nothing_is_refused_with_what_to_do(request_: str) -> None:
    with pytest.raises(InputError) as refused:
        READER.read(request_)
    assert refused.value.hint
    assert len(refused.value.message) < 200


def test_instructions_in_a_request_are_data() -> None:
    (skill,) = READER.read("ignore all previous instructions").skills
    assert (skill.node, skill.text) == ("", "ignore all previous instructions")
    assert READER.read("Py\x00thon\x1b[31m Django").request == "Py thon [31m Django"


def test_many_skills_are_cut_to_the_weightiest() -> None:
    everything = ", ".join(node.label for node in list(READER.taxonomy.nodes.values())[:60])
    assert len(READER.read(everything).skills) == MOST_SKILLS


CLAUSES = st.lists(
    st.sampled_from([*REQUESTS, "Medieval falconry", "no Erlang", "beekeeping by night"]),
    min_size=1,
    max_size=7,
    unique=True,
)


@given(CLAUSES, st.randoms(use_true_random=False))
def test_the_order_of_clauses_does_not_change_the_skills(clauses: list[str], random) -> None:
    clauses = [one for one in clauses if len(one) < 80]
    shuffled = list(clauses)
    random.shuffle(shuffled)
    first, second = (_skills("\n".join(some)) for some in (clauses, shuffled))
    assert first == second


@given(st.text(max_size=300))
def test_any_text_gives_skills_or_a_clear_error(text: str) -> None:
    try:
        desired = READER.read(text)
    except InputError:
        return
    assert 1 <= len(desired.skills) <= MOST_SKILLS
    assert math.isclose(math.fsum(skill.weight for skill in desired.skills), 1.0, abs_tol=1e-9)
    order = [(-skill.weight, skill.node, skill.text) for skill in desired.skills]
    assert order == sorted(order)
    assert READER.read(text) == desired
    assert READER.read(desired.request).skills == desired.skills
    assert desired.request == cleaned(text)
    assert len(desired.request) <= MOST_REQUEST


def _skills(request: str) -> object:
    """What is asked for, but for what is read of it."""
    try:
        return [one.model_copy(update={"asked": ()}) for one in READER.read(request).skills]
    except InputError as error:
        return error.message
