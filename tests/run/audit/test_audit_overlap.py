"""Planted overlaps of training rows with evaluation items are found, and nothing else is."""

import pytest

from harness.data.format import Example
from harness.data.near_duplicates import NearDuplicates
from harness.run.audit import overlap

ITEM = "a farmer has {n} sheep in the north field and {n} more behind the old barn how many has he in all"


def words(*numbers):
    return " ".join(f"w{number}" for number in numbers)


def rows(*texts):
    return [Example(text, "", place=f"train.jsonl:{line}") for line, text in enumerate(texts, start=1)]


def found(items, *texts):
    [one] = overlap.overlaps({"task": numbered(items)}, rows(*texts), lambda seen: None)
    return one


def numbered(items):
    return {f"leaf:{number}": item for number, item in enumerate(items)}


def test_a_run_of_thirteen_words_is_found_and_one_of_twelve_is_not():
    item = words(*range(20))
    run = words(*range(4, 17))
    assert len(run.split()) == overlap.NGRAM == 13
    planted = found([item, words(*range(50, 80))], f"before {words(*range(90, 99))} {run} after", words(*range(4, 16)))
    assert (planted.items, planted.items_found, planted.train_rows_found) == (2, 1, 1)
    assert planted.examples == ("item 0 in train.jsonl:1",)
    assert found([item], words(*range(4, 16)), words(*range(16, 3, -1))).items_found == 0


def test_case_and_punctuation_do_not_hide_an_item():
    item = ITEM.format(n=7)
    assert found([item], "Q: " + item.upper().replace(" ", ", ") + "?!").items_found == 1


def test_text_without_spaces_is_compared_by_its_signs():
    item = "\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341\u767e\u5343\u842c\u5104\u5146"
    assert found([item], f"\u95ee{item}\u7b54").items_found == 1
    assert found([item], item[:12] + "\u95ee" + item[12:]).items_found == 0
    near = NearDuplicates()
    alike = [
        Example(item + "\u5b50\u4e11\u5bc5\u536f\u8fb0\u5df3\u5348\u672a" + end, "\u662f", place=end)
        for end in ("\u7532", "\u4e59")
    ]
    assert [near.look(one) for one in alike] == [None, "\u7532"]


def test_a_run_across_two_rows_or_two_batches_is_none(monkeypatch):
    item = words(*range(13))
    halves = [words(*range(7)), words(*range(7, 13))]
    assert found([item], *halves).items_found == 0
    monkeypatch.setattr(overlap, "_BATCH", 1)
    seen = []
    [one] = overlap.overlaps({"task": numbered([item])}, rows(*halves, item), seen.append)
    assert one.examples == ("item 0 in train.jsonl:3",)
    assert seen == [1, 2, 3]


def test_a_run_across_prompt_and_answer_is_found():
    item = words(*range(13))
    row = Example(words(*range(9)), " " + words(*range(9, 13)), place="train.jsonl:1")
    [one] = overlap.overlaps({"task": numbered([item])}, [row], lambda seen: None)
    assert one.items_found == 1


@pytest.mark.parametrize(("size", "items_found"), [(4, 0), (5, 1), (12, 1)])
def test_a_short_item_is_found_whole_and_a_shorter_one_is_counted_apart(size, items_found):
    item = words(*range(size))
    one = found([item], f"so {item} then", words(*range(size - 1)))
    assert (one.items_found, one.train_rows_found) == (items_found, items_found)
    assert one.items_without_words == (size < overlap.SHORTEST)


def test_the_frame_of_all_items_is_no_overlap():
    frame = "answer the following question about plants as briefly as you can and give reasons"
    items = [f"{frame} {words(n, n + 1, n + 2, n + 3, n + 4)} answer" for n in range(0, 500, 10)]
    one = found(items, f"{frame} and more", f"what is {words(100, 101, 102, 103, 104)} then")
    assert (one.items_found, one.examples) == (1, ("item 10 in train.jsonl:2",))
    assert one.found_ids == ("leaf:10",)


def test_a_passage_that_many_items_share_is_no_overlap_and_one_of_few_is():
    passage = words(*range(1000, 1020))
    shared = [f"{words(n)} {passage} {words(n, n + 1)}" for n in range(40)]
    assert found(shared, passage).items_found == 0
    few = [*shared[:3], *(words(*range(n, n + 20)) for n in range(2000, 2400, 20))]
    assert found(few, passage).items_found == 3


def test_equal_items_are_not_taken_for_a_frame():
    item = words(*range(20))
    assert found([item, item], item).items_found == 2


def test_each_set_has_its_own_count():
    first, second, third = (words(*range(n, n + 15)) for n in (0, 100, 200))
    sets = {"one": [first, second], "two": [second], "none": [third], "empty": []}
    sets = {name: numbered(items) for name, items in sets.items()}
    by_name = {one.name: one for one in overlap.overlaps(sets, rows(first, second, second, "x"), lambda seen: None)}
    assert {name: (one.items_found, one.train_rows_found) for name, one in by_name.items()} == {
        "one": (2, 3), "two": (1, 2), "none": (0, 0), "empty": (0, 0),
    }  # fmt: skip
    assert {name: one.found_ids for name, one in by_name.items()} == {
        "one": ("leaf:0", "leaf:1"), "two": ("leaf:0",), "none": (), "empty": (),
    }  # fmt: skip
    assert by_name["one"].reason == ""
    assert overlap.unseen("five", "no rows").reason == "no rows"


def test_rows_without_words_are_passed_over():
    assert found([words(*range(13))], "", "?!", words(*range(13))).examples == ("item 0 in train.jsonl:3",)
    assert found([], words(*range(13))).items == 0
