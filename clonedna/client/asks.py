"""What a server is asked for, as values: what the methods of a ``Client`` take."""

from __future__ import annotations

from clonedna.app.chat_values import ChatAsk, Turn
from clonedna.app.chat_values import CompareAsk as CompareChatAsk
from clonedna.app.job_asks import BenchAsk, CompareAsk, EvaluateAsk, IdentityAsk, MergeAsk, MintAsk
from clonedna.app.personas import PersonaBinding, PersonaOrder
from clonedna.app.teams import Binding, Choice, TeamOrder
from clonedna.app.tokens import PairOrder, TokenOrder
from clonedna.core.catalogue import ListQuery, SearchQuery

__all__ = [
    "BenchAsk",
    "Binding",
    "ChatAsk",
    "Choice",
    "CompareAsk",
    "CompareChatAsk",
    "EvaluateAsk",
    "IdentityAsk",
    "ListQuery",
    "MergeAsk",
    "MintAsk",
    "PairOrder",
    "PersonaBinding",
    "PersonaOrder",
    "SearchQuery",
    "TeamOrder",
    "TokenOrder",
    "Turn",
]
