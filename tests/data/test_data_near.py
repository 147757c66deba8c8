"""Near duplicates: all of them are found, among all rows where a configuration leaves them out or refuses them."""

import json
from collections import Counter
from random import Random

import pytest

from harness.data.format import Example
from harness.data.near_duplicates import MOST_LOOKED_AT, NEAR, NearDuplicates, shingles
from harness.data.prepare import prepare
from harness.records.settings import DataSpec, RowsSpec


def pair(random, changed):
    """Two texts of 92 words that differ in their last words: 10 of them give a similarity of exactly .8."""
    words = [f"w{random.randrange(10**9)}" for _ in range(92)]
    return " ".join(words), " ".join(words[:-changed] + [f"v{number}" for number in range(changed)])


def similarity(first, second):
    one, other = shingles(first), shingles(second)
    return len(one & other) / len(one | other)


@pytest.mark.parametrize(("changed", "least"), [(10, 0.95), (8, 0.98), (6, 1), (4, 1), (1, 1)])
def test_rows_from_the_threshold_on_are_found_nearly_always(changed, least):
    random = Random(changed)
    found, pairs = 0, [pair(random, changed) for _ in range(100)]
    for first, second in pairs:
        assert similarity(first, second) >= NEAR
        near = NearDuplicates()
        assert near.look(Example(first, "", place="one")) is None
        found += near.look(Example(second, "", place="other")) == "one"
    assert (len(pairs), found >= least * len(pairs)) == (100, True), found


@pytest.mark.parametrize("changed", [11, 15, 40, 92])
def test_rows_below_the_threshold_are_never_called_near(changed):
    random = Random(changed)
    for first, second in (pair(random, changed) for _ in range(30)):
        assert similarity(first, second) < NEAR
        near = NearDuplicates()
        assert [near.look(Example(text, "", place=text)) for text in (first, second)] == [None, None]


def test_texts_without_words_are_near_nothing():
    near = NearDuplicates()
    assert [near.look(Example(text, "", place="x")) for text in ("", " ", "\n")] == [None] * 3


def test_every_row_is_looked_at_where_near_duplicates_are_left_out(tmp_path):
    """A check looks at a sample; what leaves rows out must not stop at its end."""
    random = Random(0)
    texts = [" ".join(f"w{random.randrange(10**9)}" for _ in range(20)) for _ in range(MOST_LOOKED_AT // 2 + 250)]
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": text, "completion": end} for text in texts for end in ("yes", "no")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = (RowsSpec(file=str(path)),)
    found = prepare(
        DataSpec(name="f", source="package", train=given, validation_fraction=0.2, on_near_duplicate="drop")
    )
    kept = Counter(example.prompt for part in (found.train, found.validation) for example in part)
    assert len(rows) == 10_500
    assert sum(number > 1 for number in kept.values()) <= 5
    assert found.removed == {"near_duplicate": len(rows) - kept.total()}
