"""Whether a text holds a secret, and of which kind. The secret itself is never kept, returned or logged.

Used from `detect-secrets` are the detectors that match one vendor's fixed format; they are called directly on the text, so none of them
can ask a network whether what it found is valid. Left out are its entropy detectors (hashes, test vectors and identifiers in code set
them off), its keyword detector (any ``password = "..."`` in a test does) and its address detector (public IP addresses are no secrets).
Ours below know formats that it does not, and literals with high entropy only where they are bound to a name that says secret.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import cache

from detect_secrets.plugins.artifactory import ArtifactoryDetector
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector

KNOWN = (
    ArtifactoryDetector, AWSKeyDetector, AzureStorageKeyDetector, DiscordBotTokenDetector, GitHubTokenDetector, GitLabTokenDetector,
    JwtTokenDetector, MailchimpDetector, NpmDetector, PrivateKeyDetector, PypiTokenDetector, SendGridDetector, SlackDetector,
    SquareOAuthDetector, StripeDetector, TelegramBotTokenDetector, TwilioKeyDetector,
)  # fmt: skip
# Kind -> what must stand in the text for the pattern to match (quick to look for), and the pattern.
FORMATS: dict[str, tuple[tuple[str, ...], str]] = {
    "AWS access key": (("AKIA", "ASIA", "ABIA", "ACCA"), r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b"),
    # 40 characters of base64, in both cases (a SHA-1 has one), behind a name that says AWS and secret or key.
    "AWS secret key": (
        ("aws", "AWS", "Aws"),
        r"(?:aws|AWS|Aws)[^\n]{0,40}?(?i:secret|key)[^\n]{0,20}?[\"'=:\s]"
        r"(?=[A-Za-z0-9/+]{0,39}[A-Z])(?=[A-Za-z0-9/+]{0,39}[a-z])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
    ),
    "Anthropic key": (("sk-ant-",), r"\bsk-ant-[A-Za-z0-9_-]{20,}"),
    "OpenAI key": (("sk-",), r"\bsk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{32,})"),
    "xAI key": (("xai-",), r"\bxai-[A-Za-z0-9]{20,}"),
    "GitHub token": (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[opusr]_[A-Za-z0-9]{36}"),
    "GitHub fine-grained token": (("github_pat_",), r"\bgithub_pat_[A-Za-z0-9_]{22,}"),
    "Google API key": (("AIza",), r"\bAIza[0-9A-Za-z_-]{35}"),
    "Google OAuth secret": (("GOCSPX-",), r"\bGOCSPX-[A-Za-z0-9_-]{20,}"),
    "Hugging Face token": (("hf_",), r"\bhf_[A-Za-z0-9]{30,}"),
    "Clone.dna token": (("dnat_",), r"\bdnat_[0-9a-f]{12}_[0-9A-Za-z]{49}\b"),  # trust/tokens.py makes them
    "npm token": (("npm_",), r"\bnpm_[A-Za-z0-9]{36}"),
    "Slack token": (("xox", "xapp-"), r"\bxox[abceoprs]-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{10,}"),
    "DigitalOcean token": (("_v1_",), r"\bdo[opr]_v1_[a-f0-9]{64}"),
    "Private key": (
        ("PRIVATE KEY", "AGE-SECRET-KEY-1"),
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\bAGE-SECRET-KEY-1[A-Z0-9]{20,}",
    ),
    "Password in a URL": (
        ("://",),
        r"\b[a-z][a-z0-9+]{1,20}://[^\s:/@'\"{}<>$%]{1,100}:(?![^\s@]{0,100}(?:pass|secret|pw|xxx|\*))[^\s:/@'\"{}<>$%]{6,100}"
        r"@(?!localhost|127\.|example|[\w.]{0,100}\.example)[\w-]+\.[\w.-]+",
    ),
}
_ASSIGNED = re.compile(
    r"""(?:secret|token|passw(?:or)?d|api_?key|access_?key|private_?key|auth_?key)["']?\]?\s*[:=]{1,2}\s*["']([^\s"']{16,200})["']""",
    re.IGNORECASE,
)
_ENOUGH_BITS = 3.7
_PLACEHOLDER = re.compile(
    r"example|sample|test|dummy|fake|placeholder|change|your|x{4}|[{}<>$%()/:]|\.\.", re.IGNORECASE
)


@cache
def _detectors() -> tuple[RegexBasedDetector, ...]:
    return tuple(kind() for kind in KNOWN)


@cache
def _formats() -> dict[str, re.Pattern[str]]:
    return {kind: re.compile(pattern) for kind, (_, pattern) in FORMATS.items()}


def secret_in(text: str) -> str | None:
    """The kind of a secret in the text, or ``None``."""
    for kind, (needed, _) in FORMATS.items():
        if any(word in text for word in needed) and _formats()[kind].search(text):
            return kind
    for detector in _detectors():
        if next(iter(detector.analyze_string(text)), None) is not None:
            return str(detector.secret_type)
    return "Secret in a literal" if any(_looks_secret(value) for value in _ASSIGNED.findall(text)) else None


def _looks_secret(value: str) -> bool:
    """A literal of letters and digits with at least 3.7 bits a character that does not say it is a placeholder."""
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return mixed and not _PLACEHOLDER.search(value) and bits(value) >= _ENOUGH_BITS


def bits(text: str) -> float:
    """Shannon entropy of the characters of ``text``, in bits a character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
