"""Differences between two programs, by the facts that records, registrations and sweeps hold of them."""

from collections.abc import Mapping
from typing import Any

_FACTS = ("harness", "commit", "uncommitted_changes")
_DIGEST = "program"
Change = tuple[str, Any, Any]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return (fact or library, before, after) of each change that can move a score.

    Another commit of the same code, as that of a registration or of a report, is none. Two states of one commit, or of
    two packages without one, differ by the digest of their code.
    """
    before, after = old.get(_DIGEST), new.get(_DIGEST)
    facts = () if before == after is not None else _FACTS
    pairs = [(key, old.get(key), new.get(key)) for key in facts]
    libraries = [dict(of.get("versions") or {}) for of in (old, new)]
    pairs += [(name, *(of.get(name) for of in libraries)) for name in libraries[0].keys() | libraries[1].keys()]
    moved = sorted((pair for pair in pairs if pair[1] != pair[2]), key=lambda pair: pair[0])
    if facts and None not in (before, after) and not any(name in _FACTS for name, _, _ in moved):
        moved.append(("code", before, after))
    return moved
