"""Which licence an installed package is under: what its metadata states, and what its licence files say. Unknown is refused.

The same order of truth as for a repository (``clonedna.sources.licences``), with the metadata in the platform's place:
``License-Expression`` (PEP 639), else the trove classifiers, else a ``License`` field that is an SPDX id. Where metadata and text name
different licences none is known; a classifier that can mean several (``BSD License``) only has to fit the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import Distribution

from clonedna.core.work import Licence
from clonedna.sources.licences import agreed, is_licence_name, licence_of_texts, names_of

BY = "the metadata"
MAX_FIELD = 100
_PLACE = re.compile(r"[^/]+\.dist-info/(?:licen[cs]es/)?([^/]+)")
_BSD = frozenset(("BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "0BSD"))
CLASSIFIERS = {
    "MIT License": frozenset(("MIT",)),
    "MIT No Attribution License (MIT-0)": frozenset(("MIT-0",)),
    "Apache Software License": frozenset(("Apache-2.0",)),
    "BSD License": _BSD,
    "ISC License (ISCL)": frozenset(("ISC",)),
    "The Unlicense (Unlicense)": frozenset(("Unlicense",)),
    "Python Software Foundation License": frozenset(("PSF-2.0", "Python-2.0")),
    "Mozilla Public License 2.0 (MPL 2.0)": frozenset(("MPL-2.0",)),
    "zlib/libpng License": frozenset(("Zlib",)),
}
FIELDS = {
    "mit": "MIT", "mit license": "MIT", "the mit license": "MIT", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0", "apache-2": "Apache-2.0", "isc license": "ISC", "bsd 3-clause": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause", "3-clause bsd license": "BSD-3-Clause", "bsd 2-clause license": "BSD-2-Clause",
}  # fmt: skip


def is_licence_path(path: str) -> bool:
    """Whether a path in RECORD is that of a licence file of the package's own."""
    match = _PLACE.fullmatch(path)
    return match is not None and is_licence_name(match[1])


def package_licence(distribution: Distribution, texts: Mapping[str, str]) -> Licence:
    """``texts``: path -> text of its licence files. ``spdx`` is ``None`` when none is known, and ``how`` says why."""
    files = licence_of_texts(sorted((path.rpartition("/")[2], text) for path, text in texts.items()))
    if expression := _field(distribution, "License-Expression"):
        return agreed(expression, files, BY)
    last = [
        one.rpartition(" :: ")[2]
        for one in distribution.metadata.get_all("Classifier") or ()
        if one.startswith("License :: ")
    ]
    stated = [name for name in last if name != "OSI Approved"]
    unknown = next((name for name in stated if name not in CLASSIFIERS), None)
    if unknown is not None:
        return Licence(spdx=None, how=f"{BY} says {unknown[:MAX_FIELD]}")
    for name in stated:
        fitting = CLASSIFIERS[name]
        if files.spdx is not None and not fitting & names_of(files.spdx):
            return Licence(spdx=None, how=f"{BY} says {name}, {files.how} says {files.spdx}")
    only = [next(iter(fitting)) for name in stated if len(fitting := CLASSIFIERS[name]) == 1]
    if only:
        return agreed(" AND ".join(dict.fromkeys(only)), files, BY)
    field = _field(distribution, "License")
    return agreed(FIELDS.get(field.casefold(), field if len(field) <= MAX_FIELD else ""), files, BY)


def _field(distribution: Distribution, name: str) -> str:
    """A field of the metadata on one line; empty when it is not there."""
    return " ".join(next(iter(distribution.metadata.get_all(name) or ()), "").split())
