"""The kernel's own counts of processes killed for lack of memory, wherever it keeps them."""

from pathlib import Path

import pytest

from harness.measure import kernel_kills

# lines of /proc/self/cgroup, and the files that the kernel shows below /sys/fs/cgroup
MACHINES = {
    "version 2": ("0::/user.slice/job", {"user.slice/job/memory.events": "low 0\noom 1\noom_kill 3\n"}, 3),
    "version 2 in a container": ("0::/", {"memory.events": "oom 1\noom_kill 4\n"}, 4),
    "version 1": (
        "12:cpuset:/\n9:memory:/slurm/uid_0/job_1/step_0\n0::/",
        {"memory/slurm/uid_0/job_1/step_0/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"},
        5,
    ),
    "version 1 with a path of the host": (
        "4:cpu,memory:/docker/abc\n0::/system.slice",
        {"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 6\n"},
        6,
    ),
    "version 1 before Linux 4.13": (
        "9:memory:/job", {"memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, 9,
    ),
    "the root group": ("0::/", {}, 9),
    "no control groups": ("", {}, 9),
}  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES)
def test_kills_are_counted(machine, tmp_path, monkeypatch):
    groups, files, expected = MACHINES[machine]
    (tmp_path / "cgroup").write_text(groups + "\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 9\n")
    for name, text in files.items():
        file = tmp_path / "mounted" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(kernel_kills, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(kernel_kills, "_MOUNTED", tmp_path / "mounted")
    monkeypatch.setattr(kernel_kills, "_VMSTAT", tmp_path / "vmstat")
    assert kernel_kills.out_of_memory_kills() == expected


def test_a_kernel_that_counts_nothing_says_none(monkeypatch):
    for name in ("_GROUPS", "_MOUNTED", "_VMSTAT"):
        monkeypatch.setattr(kernel_kills, name, Path("/nosuch"))
    assert kernel_kills.out_of_memory_kills() == 0
