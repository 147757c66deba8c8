"""Files that are cut off or hold garbage: named, set aside, and the next start goes on."""

import pytest
from faults_kept import Kept, content, records, runs_of

DAMAGES = {
    "empty": lambda whole: b"",
    "cut off": lambda whole: whole[: len(whole) // 2],
    "garbage": lambda _: b"\x00\xff{" * 40,
}
FILES = ("record.json", "evaluations/*.json", "evaluations/*.parquet", "claim-*.json", "weights_from.txt")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_set_aside_and_the_run_is_whole_again(driver, plan, name, damage):
    path = plan(2)
    assert driver.play(path)[0][0] == 0
    expected = content(runs_of(path))
    run = next(folder for folder, one in records(runs_of(path)).items() if one.method == "lora")
    victim = max(run.glob(name))
    broken = DAMAGES[damage](victim.read_bytes())
    victim.write_bytes(broken)
    assert driver.play(path)[0][0] == 0
    assert content(runs_of(path)) == expected
    kept = Kept(runs_of(path))
    kept.check()
    kept.whole()
    said = (runs_of(path).parent / "said.txt").read_text()
    if (name.endswith(".json") and "claim" not in name) or name.endswith(".parquet"):
        assert victim.with_name(f"{victim.name}.damaged").read_bytes() == broken
        assert f"{victim}: " in said and f"it is set aside as {victim.name}.damaged" in said
