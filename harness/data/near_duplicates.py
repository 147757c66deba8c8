"""Near duplicates: MinHash signatures find candidates, the Jaccard similarity of their words decides."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness.data import duplicates
from harness.data.format import Example

if TYPE_CHECKING:
    import numpy as np
    from datasketch import MinHash

    Hashes = np.ndarray[Any, np.dtype[np.uint64]]
    Signature = np.ndarray[Any, np.dtype[np.uint32]]

NEAR = 0.8  # Jaccard similarity of the sets of word triples, from which on two rows are nearly the same
SHINGLE = 3  # words
# Two rows of similarity s are candidates with probability 1 - (1 - s ** ROWS) ** BANDS: .986 at .8, .999 at .85. The
# share of equal numbers in two signatures estimates s with a standard deviation of .035 at .8.
NUM_PERMUTATIONS = 128
BANDS, ROWS = 18, 7
_HOPELESS = 0.6  # an estimate below it is more than five standard deviations away from NEAR
MOST_LOOKED_AT = 10_000  # rows of a check; the first of the order by content are a random sample, always the same


def shingles(text: str) -> frozenset[int]:
    """Return the word triples of a text, hashed; all of its words as one if they are fewer."""
    words = duplicates.words(text).split()
    width = min(SHINGLE, len(words))
    texts = (" ".join(words[i : i + width]) for i in range(len(words) - width + 1)) if words else iter(())
    return frozenset(int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "big") for part in texts)


class NearDuplicates:
    """Looks at examples one by one, and remembers those that are like none before: some kilobytes each.

    Args:
        most: number of examples to look at; None: all.
    """

    def __init__(self, most: int | None = None) -> None:
        self._seen: list[tuple[str, Hashes, Signature]] = []
        self._alike: defaultdict[int, list[int]] = defaultdict(list)  # hash of a band -> places in `_seen`
        self._most, self.looked_at = most, 0
        self._template = _minhash()

    def look(self, example: Example) -> str | None:
        """Return the place of an earlier example that this one is nearly the same as; None if there is none."""
        import numpy as np

        if self._most is not None and self.looked_at >= self._most:
            return None
        self.looked_at += 1
        runs = np.sort(np.fromiter(shingles(f"{example.prompt} {example.completion}"), np.uint64))
        if not len(runs):
            return None
        signature = self._signature(runs)
        bands = [hash((band, signature[band * ROWS : (band + 1) * ROWS].tobytes())) for band in range(BANDS)]
        candidates = sorted({earlier for band in bands for earlier in self._alike.get(band, ())})
        twin = next((i for i in self._likely(candidates, signature) if _near(runs, self._seen[i][1])), None)
        if twin is not None:
            return self._seen[twin][0]
        for band in bands:
            self._alike[band].append(len(self._seen))
        self._seen.append((example.place, runs, signature))
        return None

    def _signature(self, runs: "Hashes") -> "Signature":
        signature = self._template.copy()
        signature.update_batch([run.tobytes() for run in runs.astype(">u8")])
        return signature.hashvalues.astype("uint32")  # type: ignore[no-any-return]  # of 32 bits, as MinHash makes them

    def _likely(self, candidates: list[int], signature: "Signature") -> Iterator[int]:
        """Yield the candidates that are not hopeless by their signatures."""
        import numpy as np

        if candidates:
            signatures = np.stack([self._seen[i][2] for i in candidates])
            estimates = (signatures == signature).mean(axis=1)
            yield from (i for i, estimate in zip(candidates, estimates, strict=True) if estimate >= _HOPELESS)


def _near(first: "Hashes", second: "Hashes") -> bool:
    import numpy as np

    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared) >= NEAR


def _minhash() -> "MinHash":
    from datasketch import MinHash

    signature: Any = MinHash(num_perm=NUM_PERMUTATIONS, seed=1)
    return signature
