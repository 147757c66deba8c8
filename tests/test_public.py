"""The public interface, used as a notebook or a script uses it."""

import doctest
import json
import subprocess
import sys
from pathlib import Path

import harness

ROOT = Path(__file__).parents[1]

# as people write it: no function, and no `if __name__ == "__main__"`
SCRIPT = """
import json, sys
import harness

experiments = harness.compose(*json.loads(sys.argv[1]), "method=lora,base")
records = [harness.run_experiment(experiment) for experiment in experiments]
again = harness.run_experiment(experiments[0])
frame = harness.frame(sys.argv[2])
print(json.dumps({
    "methods": [experiment.method.name for experiment in experiments],
    "statuses": [record.status for record in records],
    "attempts": len(again.attempts),
    "rows": sorted(frame["method"]),
}))
"""


def python(code, *words):
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_importing_is_cheap_and_every_name_is_documented():
    done = python("import sys, harness; print(len([name for name in sys.modules if name.startswith('harness')]))")
    assert done.stdout.strip() == "1"
    heavy = python("import sys, harness; print({'torch', 'hydra', 'pandas', 'pydantic'} & set(sys.modules))")
    assert heavy.stdout.strip() == "set()"
    assert harness.__all__ == ["__version__", "compose", "frame", "load", "run_experiment"]
    for name in harness.__all__[1:]:
        assert ">>> " in getattr(harness, name).__doc__, f"{name} has no example"


def test_the_examples_are_true():
    assert doctest.testmod(harness).attempted == 1
    assert doctest.testmod(harness).failed == 0


def test_a_script_composes_runs_and_reads(tiny_overrides, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [json.dumps(tiny_overrides), str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, str(script), *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == {"methods": ["lora", "base"], "statuses": ["ok", "ok"], "attempts": 1, "rows": ["base", "lora"]}


def test_what_does_not_fit_is_refused_before_anything_starts(tiny_overrides, tmp_path):
    code = """
import json, sys, harness
try:
    harness.run_experiment(harness.compose(*json.loads(sys.argv[1]), "target=[nosuch_proj]")[0])
except ValueError as error:
    print(error)
"""
    done = python(code, json.dumps(tiny_overrides))
    assert "nosuch_proj" in done.stdout
    assert not list(tmp_path.glob("runs/*/seed-*/record.json"))
