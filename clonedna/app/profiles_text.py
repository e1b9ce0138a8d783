"""A profile as Markdown and as lines for a terminal. Every text of a stranger is escaped; nothing is added to what the report says."""

from __future__ import annotations

from collections.abc import Sequence

from clonedna.core.people import CommitTheme, GithubProfile, Rhythm
from clonedna.core.profile import CodeFacts, Evidence, Item, LanguageItem, ProfileReport
from clonedna.mint.papers import escape

HOW = {"stated": "stated", "counted": "counted", "read": "read by the teacher"}
SHOWN = 40


def profile_markdown(report: ProfileReport) -> str:
    """``profile.md`` of a report: each item with its evidence."""
    profile = report.profile
    name = profile.name.text if profile.name else "A profile"
    lines = [
        f"# {escape(name)}", "", "Every line names the words or files that prove it. Nothing here is a judgement of a person.", "",
    ]  # fmt: skip
    for title, item in (
        ("GitHub", report.handle), ("Location", profile.location), ("Bio", profile.bio), ("Description", profile.description),
    ):  # fmt: skip
        if item is not None:
            lines.append(f"- {title}: {_item(item)}")
    lines += _section("Languages", [_language(one) for one in profile.languages])
    lines += _section("Skills", [_item(one) for one in profile.skills])
    lines += _section("Soft skills, as the person says", [_item(one) for one in profile.soft_skills])
    if report.code is not None:
        lines += ["", "## Code", "", code_markdown(report.code)]
    if report.github is not None:
        lines += ["", "## GitHub", "", _github(report.github)]
    lines += ["", "## How this was made", "", *_made(report)]
    return "\n".join(lines) + "\n"


def code_markdown(facts: CodeFacts) -> str:
    """The countable facts of one person's work in one repository, as a list."""
    lines = [
        f"- Repository: {escape(facts.repository)} at commit `{facts.commit}`",
        f"- Commits by {escape(facts.author)}: {facts.commits}; files touched by them that are there still: {facts.files}",
    ]
    if facts.languages:
        sizes = ", ".join(f"{escape(name)} {size}" for name, size in facts.languages.items())
        lines.append(f"- Languages by bytes of these files: {sizes}")
    lines += _rhythm(facts.rhythm)
    lines += _themes(facts.themes)
    for one in facts.dependencies[:SHOWN]:
        files = f"{one.files} file{'' if one.files == 1 else 's'}"
        lines.append(f"- Imports {escape(one.name)} ({escape(one.language)}) in {files}: {_evidence(one.evidence[0])}")
    if len(facts.dependencies) > SHOWN:
        lines.append(f"- Imports {len(facts.dependencies) - SHOWN} more packages")
    if facts.blamed < facts.importing:
        lines.append(f"- Imports were looked for in {facts.blamed} of {facts.importing} files")
    return "\n".join(lines)


def _github(github: GithubProfile) -> str:
    lines = [f"- Account: {escape(github.url)}, id {github.account.id}"]
    lines += [
        f"- Repository {escape(one.name)}: {one.stars} stars, licence {escape(one.licence or 'none found')}"
        for one in github.repositories
    ]
    if github.languages:
        sizes = ", ".join(f"{escape(name)} {size}" for name, size in github.languages.items())
        lines.append(f"- Languages by bytes, as GitHub counts them: {sizes}")
    return "\n".join([*lines, *_rhythm(github.rhythm), *_themes(github.themes)])


def _rhythm(rhythm: Rhythm) -> list[str]:
    if rhythm.commits_per_week is None or rhythm.peak_hour_utc is None:
        return ["- Commits per week: not available (no commits with a date)"]
    over = f"n = {rhythm.commits}, {rhythm.since[:10]} to {rhythm.until[:10]}"
    return [
        f"- Commits per week: {rhythm.commits_per_week:g} ({over})",
        f"- Hour of the day (UTC) with most commits: {rhythm.peak_hour_utc} (n = {rhythm.commits})",
    ]


def _themes(themes: Sequence[CommitTheme]) -> list[str]:
    named = ", ".join(f"{escape(one.theme)} {one.count}" for one in themes)
    return [f"- Commits by what their subjects begin with: {named} (of {themes[0].n})"] if themes else []


def _section(title: str, entries: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {entry}" for entry in entries)] if entries else []


def _language(item: LanguageItem) -> str:
    size = f", {item.bytes} bytes" if item.bytes is not None else ""
    return f"{_item(item)}{size}"


def _item(item: Item) -> str:
    return f"{escape(item.text)} ({HOW[item.how]}: {_evidence(item.evidence[0])})"


def _evidence(one: Evidence) -> str:
    place = escape(one.url)
    if one.path:
        place += f", {escape(one.path)}"
    if one.line is not None:
        place += f" line {one.line}"
    if one.commit:
        place += f", commit `{one.commit[:12]}`"
    quote = " ".join(one.quote.split())
    return f"{place}, “{escape(quote[:160])}{'…' if len(quote) > 160 else ''}”" if quote else place


def _made(report: ProfileReport) -> list[str]:
    lines = [f"- Read: {escape(', '.join(report.sources))}", f"- At: {report.made_at}"]
    if report.left_out:
        left = ", ".join(f"{reason} {n}" for reason, n in sorted(report.left_out.items()))
        lines.append(f"- Left out: {escape(left)}")
    if report.second is None:
        lines.append("- No teacher model read these texts: counted and stated facts only")
    else:
        dropped = ", ".join(f"{reason} {n}" for reason, n in report.second.dropped.items()) or "none"
        lines.append(
            f"- Second pass: {escape(report.second.teacher)} read {report.second.materials} texts; statements kept "
            f"{report.second.kept}, dropped: {escape(dropped)}"
        )
    return lines
