"""Names of models that become settings: what a folder or an adapter's configuration says is text, and is no command."""

from pathlib import Path

import pytest

from harness.config.compose import experiments
from harness.run import adapters_asked, foreign, model_asked

FOLDERS = (
    "it's", 'say "x"', "a,b", "a=b", "${x}", "\\${x}", "${oc.env:HOME}", "back\\", "[a]", "{a:b}", "1.0", "1e5", "null",
    "true", "a b", "caf\u00e9", "$(ls)", "~x", "x:y", "'quoted'",
)  # fmt: skip
HUB_IDS = ("owner/name", "owner/1.0", "123/456", "owner/null", "owner/1e5", "owner/true", "owner/nan")
NO_NAMES = (7, 1.5, True, ["owner/name"], {"a": 1}, "owner/name\n", "x" * 5000, "a\0b", "nowhere/at/all", "${x}/y")
REVISIONS = ("main", "v1.0", "1.0", "123", "1e5", "null", "refs/pr/1", "0" * 40)
NO_REVISIONS = (7, 1.0, True, ["main"], {"a": 1}, "main,dev", "${oc.env:HOME}", "a b", "'x", "main\n", "x,model.path=/")


def model_of(words):
    [(_, experiment)] = experiments(["method=base", *words])
    return experiment.model


def adapter_for(base, revision=None):
    return foreign.Adapter(
        Path("there"), "mine", None, "mine", {"base_model_name_or_path": base, "revision": revision}, {}
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_any_name_is_that_folder(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    for words in (
        model_asked.words(str(tmp_path / name)),
        adapters_asked.base_words(adapter_for(str(tmp_path / name)), None),
    ):
        model = model_of(words)
        assert (model.source, model.path) == ("path", str(tmp_path / name))


def test_an_id_on_the_hub_is_text():
    models = [model_of(model_asked.words(name)) for name in HUB_IDS]
    assert [model.hub_id for model in models] == [*HUB_IDS]
    assert [model.name for model in models] == [name.partition("/")[2] for name in HUB_IDS]


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_is_text(revision):
    assert model_of(adapters_asked.base_words(adapter_for("owner/name", revision), None)).revision == revision


@pytest.mark.parametrize("base", NO_NAMES, ids=lambda base: str(base)[:20])
def test_a_base_that_is_no_name_of_one_is_refused(base):
    with pytest.raises(ValueError, match=r"(?s)^mine: its .* give it: --base MODEL"):
        adapters_asked.base_words(adapter_for(base), None)


@pytest.mark.parametrize("revision", NO_REVISIONS, ids=str)
def test_what_an_adapter_names_as_a_revision_is_never_obeyed(revision):
    """A variable of the environment would have been sent to the Hub, as the revision that is asked for."""
    with pytest.raises(ValueError, match=r"mine: its configuration names the revision .* no branch, tag or commit"):
        adapters_asked.base_words(adapter_for("owner/name", revision), None)
