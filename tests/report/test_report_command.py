"""The command, the terminal and the mirror: what a user sees, and that nothing heavy is needed for it."""

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import matplotlib.image
import pytest
from rich.console import Console

from harness.report.__main__ import main
from harness.report.analysis.comparison import Comparison
from harness.report.data.load import load
from harness.report.writers.flat import columns
from harness.report.writers.mirrors import Mirror, log_comparison
from harness.report.writers.terminal import show
from tests.report.conftest import BASE, HOSTILE, LOOKS, LORA, add_evaluation, add_run

ROOT = Path(__file__).parents[2]


def test_a_report_needs_no_torch(tree, tmp_path):
    script = (
        "import sys; from harness.report.__main__ import main\n"
        f"code = main([{str(tree)!r}, '--sweep', 'methods', '--out', {str(tmp_path / 'out')!r}, '--terminal'])\n"
        "heavy = {'torch', 'transformers', 'peft', 'hydra', 'omegaconf', 'lm_eval', 'wandb', 'tensorboard'}\n"
        "sys.exit(code or ' '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'out' / 'report.md'}"


def test_a_table_needs_no_plotting(tree):
    script = (
        "import sys; from harness.report.__main__ import main\n"
        f"code = main([{str(tree)!r}, '--csv', '-'])\n"
        "heavy = {'matplotlib', 'scipy', 'pyarrow', 'rich', 'numpy', 'torch'}\n"
        "sys.exit(code or ' '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("label,method,model,data,learning_rate,method.r,")


def test_without_a_name_every_sweep_is_made(tree, tmp_path, capsys):
    assert main([str(tree), "--reports-dir", str(tmp_path)]) == 0
    assert [path.parent.name for path in tmp_path.glob("*/report.md")] == ["methods"]
    assert capsys.readouterr().out == f"report: {tmp_path / 'methods' / 'report.md'}\n"


def test_without_sweeps_all_runs_are_one_report(runs, tmp_path, capsys):
    add_run(runs, LORA)
    assert main([str(runs), "--reports-dir", str(tmp_path / "reports")]) == 0
    assert len(list(tmp_path.glob("reports/runs-*/report.md"))) == 1


def test_a_damaged_sweep_does_not_hide_the_others(tree, tmp_path, capsys):
    runs = tmp_path / "runs"
    shutil.copytree(tree, runs)
    broken = runs / "sweeps" / "broken" / "sweep.json"
    broken.parent.mkdir()
    broken.write_text("{")
    assert main([str(runs), "--reports-dir", str(tmp_path / "reports")]) == 2
    assert str(broken) in capsys.readouterr().err
    assert [path.parent.name for path in tmp_path.glob("reports/*/report.md")] == ["methods"]
    assert main([str(runs), "--out", str(tmp_path / "one")]) == 2
    assert "add --sweep, one of broken, methods" in capsys.readouterr().err


def test_csv_goes_to_a_file(tree, tmp_path):
    assert main([str(tree), "--sweep", "methods", "--csv", str(tmp_path / "table.csv")]) == 0
    assert len((tmp_path / "table.csv").read_text().splitlines()) > 9
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tree}/nowhere"], "no such runs folder"),
        (["{empty}"], "no readable records"),
        (["{tree}", "--sweep", "metods"], "no sweep 'metods' below .*: there is methods"),
        (["{tree}", "--sweep", "../methods"], "no sweep"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tree, tmp_path, arguments, message):
    given = [argument.format(tree=tree, empty=tmp_path) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "harness.report", *given], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert re.search(message, done.stderr)


def test_an_unknown_argument_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--nonsense"])
    assert ended.value.code == 2


def test_the_terminal_shows_every_row_within_100_columns(tree):
    text = io.StringIO()
    show(
        Comparison(load([tree], "methods")),
        Path("reports/methods/report.md"),
        Console(file=text, width=100, force_terminal=False),
    )
    lines = text.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 100
    assert "\x1b" not in text.getvalue()
    names = ("Base model", "LoRA (lr=3e-4)", "DoRA", "(IA)\u00b3", "Full", "LoRA (lr=0.3)", "QLoRA", "VeRA")
    assert [name for name in names if not any(line.startswith(name) for line in lines)] == []
    for status in ("oom Full fine-tuning", "failed LoRA (lr=0.3)", "skipped QLoRA", "missing VeRA"):
        assert sum(line.startswith(f"{status}, seed 0: ") for line in lines) == 1
    assert lines[-1] == "report: reports/methods/report.md"
    assert HOSTILE.splitlines()[0] in " ".join(text.getvalue().split())


def test_a_comparison_is_really_logged_offline(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    comparison = Comparison(load([tree], "methods"))
    report = tmp_path / "report"
    (report / "figures").mkdir(parents=True)
    (report / "report.md").write_text("# report\n")
    matplotlib.image.imsave(report / "figures" / "overview.png", [[0.0, 1.0]])
    below = tmp_path / "below"
    assert log_comparison(comparison, "methods", report, Mirror(mode="offline", folder=below)) == "sweep-methods"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "report"]
    paths = below.rglob("media/table/*.table.json")
    found = {path.name.rpartition("_0_")[0]: json.loads(path.read_text()) for path in paths}
    assert sorted(found) == ["against_base", "against_best", "comparison", "methods"]
    table = found["comparison"]
    assert tuple(table["columns"]) == columns(comparison.loaded.rows)
    oom = dict(zip(table["columns"], table["data"][5], strict=True))
    lora = dict(zip(table["columns"], table["data"][1], strict=True))
    assert (oom["status"], oom["test_loss"], oom["trainable_parameters"]) == ("oom", None, None)
    assert lora["trainable_parameters"] == 4_884_480
    assert isinstance(lora["arc_easy/acc"], float)
    means = {line[0]: dict(zip(found["methods"]["columns"], line, strict=True)) for line in found["methods"]["data"]}
    assert means["full"]["arc_easy/acc"] is None
    assert means["dora"]["arc_easy/acc_vs_base"] == pytest.approx(0.1267, abs=1e-4)
    assert means["dora"]["peak_memory_bytes"] == 1650 * 2**20
    assert (len(found["against_base"]["data"]), len(found["against_best"]["data"])) == (3, 2)
    first = dict(zip(found["against_base"]["columns"], found["against_base"]["data"][0], strict=True))
    assert (first["method"], first["against"], first["verdict"]) == ("dora", "base", "no verdict")
    assert first["difference_low"] < first["difference"] < first["difference_high"]
    assert len(list(below.rglob("media/images/figures/overview_*.png"))) == 1
    assert len(list(below.rglob("run-sweep-methods.wandb"))) == 1


def test_settings_of_several_types_are_logged_as_text(runs, tmp_path, monkeypatch):
    """W&B refuses a table with a column of words and switches, and nothing of the comparison was logged."""
    monkeypatch.chdir(tmp_path)
    add_evaluation(add_run(runs, BASE), BASE, LOOKS[2])
    for place, value in enumerate(("gaussian", True, 8)):
        kind = dataclasses.replace(LORA, lr=1e-4 * (place + 1), settings={"init": value})
        add_evaluation(add_run(runs, kind), kind, LOOKS[2])
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.md").write_text("# report\n")
    below = tmp_path / "below"
    log_comparison(Comparison(load([runs])), "mixed", report, Mirror(mode="offline", folder=below))
    [path] = below.rglob("media/table/comparison_0_*.table.json")
    table = json.loads(path.read_text())
    place = table["columns"].index("method.init")
    assert [line[place] for line in table["data"]] == [None, "gaussian", "true", "8"]


def test_a_report_is_logged_once_to_one_place_and_again_once_it_has_changed(tree, tmp_path, monkeypatch):
    begun = []

    class Run:
        summary: ClassVar[dict] = {}
        log = log_artifact = finish = lambda self, *given: None

    monkeypatch.setattr("wandb.init", lambda **given: begun.append(given["project"]) or Run())
    comparison, report = Comparison(load([tree], "methods")), tmp_path / "report"
    mirror = Mirror(mode="offline", folder=tmp_path)
    report.mkdir()

    def logged(inputs, mirror):
        (report / "manifest.json").write_text(json.dumps({"inputs": inputs}))
        assert log_comparison(comparison, "methods", report, mirror) == "sweep-methods"
        return len(begun)

    assert [logged("one", mirror), logged("one", mirror), logged("two", mirror), logged("two", mirror)] == [1, 1, 2, 2]
    assert logged("two", dataclasses.replace(mirror, project="elsewhere")) == 3
    (tmp_path / "wandb" / "logged.json").write_text("[")
    assert logged("two", mirror) == 4
    assert begun == ["harness", "harness", "elsewhere", "harness"]


@pytest.mark.parametrize("number", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize(
    "words",
    [
        ("runs", "--margin"),
        ("runs", "--price"),
        ("pack", "methods", "--margin"),
        ("pack", "methods", "--price"),
        ("import-lm-eval", "logs", "--margin"),
    ],
    ids=" ".join,
)
def test_a_margin_and_a_price_are_positive_numbers(words, number, capsys):
    """Zero was taken for no option, and a margin below zero was written into records that no report could read."""
    with pytest.raises(SystemExit) as ended:
        main([*words[:-1], f"{words[-1]}={number}"])
    assert ended.value.code == 2
    assert f"'{number}' is not a number above zero" in capsys.readouterr().err
