"""Blocks to the Hugging Face hub and from it. The same rules as between machines: only what may be shared leaves, all is verified before
it is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clonedna.app.parts import Parts, factory
from clonedna.app.sharing import Sharing, Taken
from clonedna.app.staging import staging
from clonedna.app.workspace import require_space
from clonedna.core.value import Value

if TYPE_CHECKING:
    from clonedna.store.hub import HubRepositories


class HubPushed(Value):
    """``revision``: the commit, to pull exactly this: ``repository@revision``."""

    block: str
    id: str
    repository: str
    revision: str
    public: bool


class Hub:
    """Use cases over the hub of the settings (``hub_url``, ``hub_token``)."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self._sharing = parts, Sharing(parts)

    def push(self, reference: str, repository: str, *, public: bool = False) -> HubPushed:
        """Commit a block to a repository, private unless ``public``. Raises what ``Sharing.offer`` and ``HubRepositories.put`` raise."""
        offer = self._sharing.offer(reference)
        m, path = offer.manifest, self.parts.store.path(offer.manifest.id)
        hub = self._hub()
        self._sharing.holding.note(m.id, "hub", f"{self.parts.settings.hub_url} {repository}")
        revision = hub.put(path, repository, public=public, message=f"{m.name}@{m.version} {m.id}")
        return HubPushed(
            block=f"{m.name}@{m.version}", id=m.id, repository=repository, revision=revision, public=public
        )

    def pull(self, repository: str, revision: str = "main") -> Taken:
        """Take the block in a repository. Raises what ``HubRepositories.get`` and ``Sharing.take`` raise, ``NoSpace``."""
        home = self.parts.settings.home
        require_space(home, self.parts.settings.min_free_bytes)
        with staging(home) as folder:
            self._hub().get(repository, revision, folder / "block")
            return self._sharing.take_folder(folder / "block")

    def _hub(self) -> HubRepositories:
        settings = self.parts.settings
        token = settings.hub_token.get_secret_value() if settings.hub_token else ""
        return factory("hub", "huggingface")(settings.hub_url, token)
