"""The one GraphQL question: an account's own repositories by stars, with what the REST listing would say of them.

Field names: https://docs.github.com/en/graphql/reference/objects#repository. ``owner`` is asked for its number through its type.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from clonedna.sources.github_wire import Login, Name

BY_STARS = """
query($login: String!) {
  user(login: $login) {
    repositories(first: 100, ownerAffiliations: OWNER, privacy: PUBLIC, orderBy: {field: STARGAZERS, direction: DESC}) {
      nodes {
        databaseId name description stargazerCount forkCount diskUsage isArchived isFork isPrivate pushedAt
        licenseInfo { spdxId }
        primaryLanguage { name }
        repositoryTopics(first: 20) { nodes { topic { name } } }
        owner { login ... on User { databaseId } }
      }
    }
  }
}
"""


class _Node(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Named(_Node):
    name: str


class _Topic(_Node):
    topic: _Named


class _Topics(_Node):
    nodes: tuple[_Topic, ...] = ()


class _Licence(_Node):
    spdx_id: str | None = Field(default=None, alias="spdxId")


class _Owner(_Node):
    id: int = Field(alias="databaseId", ge=1)
    login: Login


class RepositoryNode(_Node):
    id: int = Field(alias="databaseId", ge=1)
    name: Name
    owner: _Owner
    description: str | None = None
    stars: int = Field(alias="stargazerCount")
    forks: int = Field(alias="forkCount")
    size: int = Field(default=0, alias="diskUsage")
    archived: bool = Field(alias="isArchived")
    fork: bool = Field(alias="isFork")
    private: bool = Field(alias="isPrivate")
    pushed_at: str | None = Field(default=None, alias="pushedAt")
    licence: _Licence | None = Field(default=None, alias="licenseInfo")
    language: _Named | None = Field(default=None, alias="primaryLanguage")
    topics: _Topics = Field(default=_Topics(), alias="repositoryTopics")


class _Repositories(_Node):
    nodes: tuple[RepositoryNode, ...]


class AccountNode(_Node):
    repositories: _Repositories
