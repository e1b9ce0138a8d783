"""The features of style: one table. What each counts, over what, in which languages, and how it is said to a reader.

A feature is kept as three sums of what was counted (how many, sum, sum of squares), so that texts can be added and resampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clonedna.core.work import Language

Kind = Literal["share", "mean", "spread"]
PYTHON: tuple[Language, ...] = ("python",)
SCRIPT: tuple[Language, ...] = ("javascript", "typescript")
TYPED: tuple[Language, ...] = ("python", "typescript")
ALL: tuple[Language, ...] = ("python", "javascript", "typescript")
LEAST = {"share": 8, "mean": 8, "spread": 20}
"""Fewer things than this, and the feature is not available."""


@dataclass(frozen=True, slots=True)
class Feature:
    """``share``: of ``over``, those for which it holds. ``mean``, ``spread`` (standard deviation): of a number of each of ``over``.

    ``says``: for a share a sentence with ``{}`` for the per cent; else what a higher and a lower value is called. ``layout``: a formatter
    decides it.
    """

    name: str
    kind: Kind
    unit: str
    over: str
    what: str
    says: tuple[str, ...]
    languages: tuple[Language, ...] = ALL
    layout: bool = False


def _share(
    name: str, over: str, what: str, says: str, languages: tuple[Language, ...] = ALL, layout: bool = False
) -> Feature:
    return Feature(name, "share", "%", over, what, (says,), languages, layout)


def _mean(
    name: str, unit: str, over: str, what: str, more: str, fewer: str, languages: tuple[Language, ...] = ALL, layout: bool = False
) -> Feature:  # fmt: skip
    return Feature(name, "mean", unit, over, what, (more, fewer), languages, layout)


FEATURES: tuple[Feature, ...] = (
    _mean("line.length", "characters", "lines", "length of a line that is not blank, without the indentation that all lines share",
          "longer lines", "shorter lines", layout=True),
    Feature("line.spread", "spread", "characters", "lines", "standard deviation of the same",
            ("more varied line lengths", "more even line lengths"), ALL, True),
    _share("line.blank", "lines", "blank lines between the first and the last line", "blank lines: {} of lines", layout=True),
    _mean("indent.width", "characters", "texts", "smallest step of indentation; a tab counts as one",
          "wider indentation", "narrower indentation", layout=True),
    _share("bracket.trailing_comma", "brackets over several lines", "the last item is followed by a comma",
           "a trailing comma in {} of bracketed lists over several lines", layout=True),
    _share("quote.double", "strings", "double quotes, of strings in single or double ones on one line; no docstrings, no templates",
           "double quotes around {} of strings", layout=True),
    _share("semicolon", "statements", "statements that may end with a semicolon and do", "a semicolon behind {} of statements",
           SCRIPT, True),
    _share("comment.density", "lines", "lines that are not blank and hold a comment", "comments on {} of lines"),
    _share("comment.behind", "comments", "comments that stand behind code on their line", "{} of comments stand behind code"),
    _share("docstring.rate", "functions and classes", "those that begin with a docstring", "docstrings in {} of functions and classes",
           PYTHON),
    _mean("docstring.lines", "lines", "docstrings", "lines of a docstring", "longer docstrings", "shorter docstrings", PYTHON),
    _share("name.function.snake", "function names of two or more words", "snake_case, not camelCase",
           "snake_case in {} of function names"),
    _share("name.variable.snake", "variable names of two or more words", "snake_case, not camelCase",
           "snake_case in {} of variable names"),
    _share("name.class.pascal", "class names", "PascalCase", "PascalCase in {} of class names"),
    _mean("name.variable.length", "characters", "variable names", "length of a name that is bound in the text",
          "longer variable names", "shorter variable names"),
    _share("name.variable.short", "variable names", "one or two characters", "one or two letters in {} of variable names"),
    _share("name.private", "functions, methods and attributes that are set", "the name begins with an underscore or #",
           "a private name for {} of functions and attributes"),
    _mean("function.lines", "lines", "functions with a body", "lines from its first word to its end", "longer functions",
          "shorter functions"),
    _mean("function.statements", "statements", "function bodies", "statements, nested ones too, without those of inner functions",
          "more statements in a function", "fewer statements in a function"),
    _mean("function.arguments", "arguments", "functions", "arguments, without self and cls", "more arguments", "fewer arguments"),
    _share("function.defaults", "arguments", "those with a default", "a default for {} of arguments"),
    _mean("function.returns", "returns", "function bodies", "return statements", "more returns in a function",
          "fewer returns in a function"),
    _share("function.guard", "function bodies", "the first statement is an if without else that leaves (return, raise, throw)",
           "a guard clause at the head of {} of functions"),
    _share("function.try", "function bodies", "those that hold a try", "try in {} of functions"),
    _share("function.raise", "function bodies", "those that raise or throw", "{} of functions raise or throw"),
    _share("function.decorated", "functions and classes", "those with a decorator", "a decorator on {} of functions and classes",
           PYTHON),
    _share("function.async", "functions", "async ones", "{} of functions are async"),
    _share("type.arguments", "arguments", "those with a type", "type hints on {} of arguments", TYPED),
    _share("type.returns", "functions", "those with a return type", "a return type on {} of functions", TYPED),
    _mean("nesting.depth", "levels", "statements", "ifs, loops, withs, tries and matches around it in its function", "deeper nesting",
          "flatter code"),
    _share("import.from", "imports", "`from x import y`, not `import x`", "from ... import in {} of imports", PYTHON),
    _share("import.relative", "imports", "from the own package (begins with a dot)", "relative names in {} of imports"),
    _share("import.grouped", "imports with names", "several names in one import", "several names in {} of imports"),
    _share("import.require", "imports", "`require`, not `import`", "require in {} of imports", SCRIPT),
    _share("loop.comprehension", "loops and comprehensions", "comprehensions and generator expressions",
           "comprehensions for {} of loops", PYTHON),
    _share("loop.method", "loops and calls with a function", "map, filter, forEach, reduce and the like, not for and while",
           "array methods for {} of loops", SCRIPT),
    _share("string.formatted.f", "formatted strings", "f-strings, not .format or %", "f-strings for {} of formatted strings", PYTHON),
    _share("string.formatted.percent", "formatted strings", "% formatting", "% formatting for {} of formatted strings", PYTHON),
    _share("string.template", "templates and joined strings", "template strings, not +", "templates for {} of joined strings", SCRIPT),
    _share("branch.ternary", "ifs", "conditional expressions, not statements", "conditional expressions for {} of ifs"),
    _share("branch.else", "if statements", "those with an else or elif", "else or elif behind {} of ifs"),
    _share("call.keywords", "arguments of calls", "given by keyword", "{} of arguments given by keyword", PYTHON),
    _share("statement.assert", "statements", "assertions", "assertions: {} of statements", PYTHON),
    _share("statement.walrus", "statements and assignments in expressions", ":= in an expression", "walrus: {} of statements",
           PYTHON),
    _share("lambda", "functions and lambdas", "lambdas", "lambdas: {} of functions", PYTHON),
    _share("with", "statements", "with statements", "with: {} of statements", PYTHON),
    _share("function.arrow", "functions", "arrow functions", "arrow functions: {} of functions", SCRIPT),
    _share("variable.const", "declarations", "const, not let or var", "const for {} of declarations", SCRIPT),
    _share("variable.var", "declarations", "var", "var for {} of declarations", SCRIPT),
    _share("equality.strict", "comparisons", "=== and !==, not == and !=", "=== in {} of comparisons", SCRIPT),
    _share("branch.braces", "if statements", "those with braces", "braces around {} of ifs", SCRIPT),
)  # fmt: skip


def features_of(language: Language) -> tuple[Feature, ...]:
    """The table's rows for one language; none for a language that is not parsed."""
    return tuple(one for one in FEATURES if language in one.languages)
