"""Layout of requests for the forward passes: rows, clusters of rows with a shared prefix, and batches of rows.

Plain Python over token ids. The choices of an item share its context in one row. Items share the beginning of their
contexts (few-shot examples, a passage, a chat template) in a cluster. A batch stays within a budget of tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]

# A prefix costs its own forward pass, and batches end where a cluster does. Sharing has to save more than that.
_WORTH_SHARING = 512  # tokens saved by a cluster
_LONG_ENOUGH = 16  # tokens of the prefix
_PADDING = 1 / 32  # of a batch; more of it ends the batch, if the batch is large enough to be worth another pass
_LEAST = 128  # tokens of such a batch at least, or a sixteenth of its budget if that is more
_READ_AT_ONCE = 2048  # positions of a batch whose logits are read: each is a row of the vocabulary's width


@dataclass(frozen=True)
class Request:
    """A continuation to score after a context; both are token ids and neither is empty."""

    context: Tokens
    continuation: Tokens


@dataclass(frozen=True)
class Row:
    """One context with continuations behind it; `positions` are the requests' positions in the caller's list."""

    context: Tokens
    continuations: tuple[Tokens, ...]
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.context) + self.num_read - 1

    @property
    def num_read(self) -> int:
        """Number of positions whose logits are read: the context's last, and all but the last of each continuation."""
        return 1 + sum(len(continuation) - 1 for continuation in self.continuations)


@dataclass(frozen=True)
class Cluster:
    """Rows that begin with one prefix, which their contexts do not repeat."""

    prefix: Tokens
    rows: tuple[Row, ...]

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are computed, without padding."""
        return len(self.prefix) + sum(map(len, self.rows))


def rows_of(requests: Sequence[Request], shared: bool) -> list[Row]:
    """Return one row per context with every continuation behind it.

    Without sharing, return one row per request. Continuations of one token are the exception: only the logits at the
    end of their context are read, so that one row serves all of them.
    """
    groups = defaultdict(list)
    for position, request in enumerate(requests):
        apart = () if shared or len(request.continuation) == 1 else (position,)
        groups[request.context, apart].append(position)
    return [Row(c, tuple(requests[p].continuation for p in ps), tuple(ps)) for (c, _), ps in groups.items()]


def clusters_of(rows: Sequence[Row]) -> list[Cluster]:
    """Return clusters of rows with a shared prefix that is worth a pass, then one cluster of all other rows.

    Rows are sorted by their contexts, so that rows that begin alike are neighbors. A neighbor joins a cluster as
    long as the cluster saves no fewer tokens with it than without.
    """
    clusters: list[Cluster] = []
    alone: list[Row] = []
    for members, length in _runs(sorted(rows, key=lambda row: row.context)):
        if length >= _LONG_ENOUGH and (len(members) - 1) * length >= _WORTH_SHARING:
            cut = [Row(row.context[length:], row.continuations, row.positions) for row in members]
            clusters.append(Cluster(members[0].context[:length], tuple(cut)))
        else:
            alone += members
    return [*clusters, Cluster((), tuple(alone))] if alone else clusters


def _runs(ordered: list[Row]) -> Iterator[tuple[list[Row], int]]:
    """Yield runs of neighbors with the length of their common prefix, which leaves each context at least one token."""
    members: list[Row] = []
    length = 0
    for row in ordered:
        room = len(row.context) - 1
        both = min(length, room, _num_common(members[-1].context, row.context)) if members else room
        if members and (both < _LONG_ENOUGH or len(members) * both < (len(members) - 1) * length):
            yield members, length
            members, both = [], room
        members.append(row)
        length = both
    if members:
        yield members, length


def _num_common(a: Tokens, b: Tokens) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((place for place, (token, other) in pairs if token != other), min(len(a), len(b)))


def batches(cluster: Cluster, batch_tokens: int) -> Iterator[list[Row]]:
    """Yield batches of rows of similar length, longest first, each with as many rows as fit.

    A batch of n rows holds n times the prefix and its longest row: `batch_tokens` at most, unless one row alone has
    more. The number of logits that are read is bounded too. A batch ends earlier where shorter rows would fill it with
    padding.
    """
    batch: list[Row] = []
    num_tokens = num_read = 0
    for row in sorted(cluster.rows, key=len, reverse=True):
        longest, number = len(batch[0]) if batch else len(row), len(batch) + 1
        full = number * (len(cluster.prefix) + longest) > batch_tokens or num_read + row.num_read > _READ_AT_ONCE
        padding = number * longest - num_tokens - len(row)
        loose = padding > _PADDING * number * longest and number * longest > max(_LEAST, batch_tokens // 16)
        if batch and (full or loose):
            yield batch
            batch, num_tokens, num_read = [], 0, 0
        batch.append(row)
        num_tokens, num_read = num_tokens + len(row), num_read + row.num_read
    if batch:
        yield batch
