"""Near duplicates: MinHash signatures find candidates, the Jaccard similarity of their words decides."""

import hashlib
from typing import TYPE_CHECKING, Any

from harness.data import duplicates
from harness.data.format import Example

if TYPE_CHECKING:
    from datasketch import MinHash

NEAR = 0.8  # Jaccard similarity of the sets of word triples, from which on two rows are nearly the same
SHINGLE = 3  # words
NUM_PERMUTATIONS = 64
MOST_LOOKED_AT = 10_000  # rows; beyond, the first of the content's order are a random sample that never changes


def shingles(text: str) -> frozenset[int]:
    """Return the word triples of a text, hashed; all of its words as one if they are fewer."""
    words = duplicates.words(text).split()
    width = min(SHINGLE, len(words))
    texts = (" ".join(words[i : i + width]) for i in range(len(words) - width + 1)) if words else iter(())
    return frozenset(int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "big") for part in texts)


class NearDuplicates:
    """Looks at examples one by one, and remembers the first `most` of them that are like none before."""

    def __init__(self, most: int = MOST_LOOKED_AT) -> None:
        from datasketch import MinHashLSH

        self._index: Any = MinHashLSH(threshold=NEAR, num_perm=NUM_PERMUTATIONS)
        self._seen: list[tuple[str, frozenset[int]]] = []
        self._most, self.looked_at = most, 0
        self._template = _minhash()

    def look(self, example: Example) -> str | None:
        """Return the place of an earlier example that this one is nearly the same as; None if there is none."""
        if self.looked_at >= self._most:
            return None
        self.looked_at += 1
        runs = shingles(f"{example.prompt} {example.completion}")
        signature = self._template.copy()
        if runs:
            signature.update_batch([value.to_bytes(8, "big") for value in runs])
        twin: tuple[str, frozenset[int]] | None = next(
            (self._seen[i] for i in sorted(self._index.query(signature)) if _near(runs, self._seen[i][1])), None
        )
        if twin is not None:
            return twin[0]
        self._index.insert(len(self._seen), signature, check_duplication=False)
        self._seen.append((example.place, runs))
        return None


def _near(first: frozenset[int], second: frozenset[int]) -> bool:
    together = len(first | second)
    return together > 0 and len(first & second) / together >= NEAR


def _minhash() -> "MinHash":
    from datasketch import MinHash

    signature: Any = MinHash(num_perm=NUM_PERMUTATIONS, seed=1)
    return signature
