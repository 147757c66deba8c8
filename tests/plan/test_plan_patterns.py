"""Names of a repeated layer as one line."""

from harness.methods.targets import grouped


def test_names_that_differ_in_their_numbers_are_one_pattern():
    names = [f"model.layers.{i}.mlp.{kind}_proj" for i in range(3) for kind in ("up", "down")]
    assert grouped([*names, "lm_head"]) == {
        "model.layers.{0..2}.mlp.up_proj": [names[0], names[2], names[4]],
        "model.layers.{0..2}.mlp.down_proj": [names[1], names[3], names[5]],
        "lm_head": ["lm_head"],
    }


def test_a_single_number_and_gaps_are_shown_as_they_are():
    assert list(grouped(["a.1.w", "a.2.w", "a.4.w", "b.7.w", "e.0.x[0]", "e.0.x[1]"])) == [
        "a.{1,2,4}.w", "b.7.w", "e.0.x[{0..1}]",
    ]  # fmt: skip
