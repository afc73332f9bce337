"""Decisions that rest on a query instead of a stream: a dynamic consistency boundary.

Events carry tags. A query picks events by type and tag from the whole store; a decision is made on
what it finds, and appended if nothing that matches has come since. The words, and what they mean,
are those of the specification (Sara Pellegrini and Bastian Waidelich, "Dynamic Consistency
Boundary", https://dcb.events/specification).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeVar

from eventstore.streams import MAX_ID_LENGTH, MAX_TYPE_LENGTH, check_number, check_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from eventstore.events import AnyEnvelope

Q = TypeVar("Q")

#: The length of a tag, in characters.
MAX_TAG_LENGTH: Final = MAX_ID_LENGTH
#: How many tags an event may have, and an item of a query.
MAX_TAGS: Final = 100
#: How many items a query may have: each is a lock.
MAX_ITEMS: Final = 100

_FINGERPRINT_LENGTH: Final = 16
_TOKEN: Final = re.compile(rf"[0-9a-f]{{{_FINGERPRINT_LENGTH}}}(\.\d{{1,19}})+", re.ASCII)


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return ``tags``, each once, in the order given; TypeError or ValueError for what is no tag.

    A tag is any text of 1 to 255 characters; ``"course:c1"`` is the custom.
    """
    return _check_names("tags", "tag", tags, MAX_TAG_LENGTH, MAX_TAGS)


@dataclass(frozen=True)
class QueryItem:
    """Events of one of these types that have all of these tags.

    Without types, any type matches; without tags, tags don't matter. Of several tags put the
    rarest first: its events are looked up, and the other tags looked for at them.
    """

    types: tuple[str, ...]
    tags: tuple[str, ...]

    def __init__(self, *, types: Iterable[str] = (), tags: Iterable[str] = ()) -> None:
        checked = _check_names("types", "event type", types, MAX_TYPE_LENGTH, None)
        object.__setattr__(self, "types", checked)
        object.__setattr__(self, "tags", check_tags(tags))

    def matches(self, event_type: str, tags: Collection[str]) -> bool:
        """Tell whether an event of this type with these tags is meant."""
        if self.types and event_type not in self.types:
            return False
        return all(tag in tags for tag in self.tags)


@dataclass(frozen=True)
class Query:
    """Events that match one item or more: ``Query(QueryItem(...), QueryItem(...))``.

    :meth:`all` matches every event, which a query without items doesn't say.
    """

    items: tuple[QueryItem, ...]

    def __init__(self, *items: QueryItem) -> None:
        for item in items:
            if not isinstance(item, QueryItem):
                raise TypeError(f"a query consists of QueryItem, not {type(item).__name__}")
        if not items:
            raise ValueError("a query needs an item; Query.all() matches every event")
        unique = tuple(dict.fromkeys(items))
        if len(unique) > MAX_ITEMS:
            raise ValueError(f"a query has at most {MAX_ITEMS} items, not {len(unique)}")
        object.__setattr__(self, "items", unique)

    @classmethod
    def all(cls) -> Query:
        """Return the query that matches every event of the store."""
        return cls(QueryItem())

    def matches(self, event_type: str, tags: Collection[str]) -> bool:
        """Tell whether an event of this type with these tags is meant."""
        return any(item.matches(event_type, tags) for item in self.items)

    def with_types(self, names_of: Callable[[frozenset[str]], Iterable[str]]) -> Query:
        """Return the query with each item's types replaced by what ``names_of`` says they are."""
        return Query(
            *(
                QueryItem(types=sorted(names_of(frozenset(item.types))), tags=item.tags)
                if item.types
                else item
                for item in self.items
            )
        )

    @property
    def fingerprint(self) -> str:
        """A hash of what the query means, whatever the order of its parts."""
        items = sorted([sorted(item.types), sorted(item.tags)] for item in self.items)
        return sha256(json.dumps(items).encode()).hexdigest()[:_FINGERPRINT_LENGTH]


@dataclass(frozen=True, slots=True)
class QueryToken:
    """What a decision has seen of a query's events. Opaque: only its query can use it.

    ``str(token)`` is its text, for a form or an HTTP header, which :meth:`parse` reads. The highest
    position that was seen would not do: an event with a lower one may be committed later. So it
    holds the position up to which nothing can come any more, and what was seen above that.
    """

    fingerprint: str  #: of the query
    position: int  #: every matching event up to here was seen
    seen: frozenset[int] = frozenset()  #: the positions above it that were seen

    def __str__(self) -> str:
        steps = (after - before for before, after in pairwise((self.position, *sorted(self.seen))))
        return ".".join(map(str, (self.fingerprint, self.position, *steps)))

    @classmethod
    def parse(cls, text: str) -> QueryToken:
        """Return the token that ``text`` says; ValueError if it is none."""
        if not isinstance(text, str):
            raise TypeError(f"a token's text must be a str, not {type(text).__name__}")
        if _TOKEN.fullmatch(text) is None:
            raise ValueError("this is no token; take str() of the one that read_by_query() gave")
        fingerprint, *numbers = text.split(".")
        position = last = check_number("position", int(numbers[0]))
        seen = set()
        for step in numbers[1:]:
            last = check_number("position", last + int(step))
            seen.add(last)
        return cls(fingerprint, position, frozenset(seen))


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The events that a query has found, in the order of their positions, and their token."""

    events: tuple[AnyEnvelope, ...]
    token: QueryToken  #: for :func:`no_new`, and to read on from here

    def __iter__(self) -> Iterator[AnyEnvelope]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


@dataclass(frozen=True, slots=True)
class NoNew:
    """The condition of an append: no event matches ``query`` but those that ``after`` has seen.

    Made by :func:`no_new`; the specification's *append condition*.
    """

    query: Query
    after: QueryToken


def no_new(query: Query, *, after: QueryToken | str | None = None) -> NoNew:
    """Require that no event has come that matches ``query``; for ``append(..., require=...)``.

    ``after`` is the token of the read that the decision rests on, or its text. Without one, there
    must be no matching event at all. ValueError for the token of another query.
    """
    check_query(query)
    token = QueryToken.parse(after) if isinstance(after, str) else after
    return NoNew(query, check_token(query, token))


def check_query(query: Query) -> Query:
    """Return ``query`` if it is one, else raise TypeError."""
    if not isinstance(query, Query):
        raise TypeError(
            f"query must be a Query, not {type(query).__name__}; one item alone is "
            "Query(QueryItem(...))"
        )
    return query


def check_token(query: Query, token: QueryToken | None) -> QueryToken:
    """Return ``token``, or the one that has seen nothing; ValueError if it is another query's."""
    if token is None:
        return QueryToken(query.fingerprint, 0)
    if not isinstance(token, QueryToken):
        raise TypeError(f"a token must be a QueryToken, not {type(token).__name__}")
    if token.fingerprint != query.fingerprint:
        raise ValueError(
            "this token is another query's; use the one that read_by_query() gave for this query"
        )
    return token


def _check_names(
    plural: str, name: str, values: Iterable[str], max_length: int, max_count: int | None
) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"{plural} must be a collection of str, not the str {values!r}")
    unique = tuple(dict.fromkeys(check_text(name, value, max_length) for value in values))
    if max_count is not None and len(unique) > max_count:
        raise ValueError(f"at most {max_count} {plural} are allowed, not {len(unique)}")
    return unique
