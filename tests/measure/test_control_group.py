"""Kills, limits and throttling as the kernel reports them, wherever it keeps the files."""

from pathlib import Path

import pytest

from harness.measure import control_group

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


V1 = "9:memory:/slurm/uid_0/job_1/step_0\n4:cpu,cpuacct:/slurm\n0::/"
V1_JOB = {"memory.limit_in_bytes": 1000, "memory.usage_in_bytes": 700, "memory.stat": "cache 1\ntotal_cache 100\n"}
V1_SHARED = {**V1_JOB, "memory.stat": "cache 1\nshmem 1\ntotal_cache 100\ntotal_shmem 60\n"}
V1_NONE = {"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 700, "memory.stat": ""}
V2_JOB = {"memory.max": 1000, "memory.current": 700, "memory.stat": "anon 600\nfile 100\n"}
V2_SHARED = {**V2_JOB, "memory.stat": "anon 600\nfile 100\nshmem 60\n"}
LIMITS = {
    "version 2": ("0::/a/job", {"a/job": V2_JOB}, 400),
    "version 2, the limit is of the group above": (
        "0::/a/job", {"a": V2_JOB, "a/job": {**V2_JOB, "memory.max": "max"}}, 400,
    ),
    "version 2, both have one": ("0::/a/job", {"a": {**V2_JOB, "memory.max": 800}, "a/job": V2_JOB}, 200),
    "version 2 in a container": ("0::/docker/abc", {".": V2_JOB}, 400),
    "version 2, with shared memory": ("0::/a/job", {"a/job": V2_SHARED}, 340),
    "version 1, with shared memory": (V1, {"memory/slurm/uid_0/job_1/step_0": V1_SHARED}, 340),
    "version 2 without a limit": ("0::/a", {"a": {**V2_JOB, "memory.max": "max"}}, None),
    "version 1": (V1, {"memory/slurm/uid_0/job_1/step_0": V1_JOB}, 400),
    "version 1, the limit is of the job": (
        V1, {"memory/slurm/uid_0/job_1": V1_JOB, "memory/slurm/uid_0/job_1/step_0": V1_NONE}, 400,
    ),
    "version 1 with a path of the host": (V1, {"memory": V1_JOB}, 400),
    "version 1 without a limit": (V1, {"memory/slurm/uid_0/job_1/step_0": V1_NONE}, None),
    "no control groups": ("", {}, None),
}  # fmt: skip
THROTTLED = {
    "version 2": ("0::/a/job", {"a/job/cpu.stat": "usage_usec 5\nthrottled_usec 1500000\n"}, 1.5),
    "version 1": (V1, {"cpu,cpuacct/slurm/cpu.stat": "nr_throttled 3\nthrottled_time 2500000000\n"}, 2.5),
    "version 1, linked by its name": (V1, {"cpu/slurm/cpu.stat": "throttled_time 2500000000\n"}, 2.5),
    "without a limit": ("0::/a", {"a/cpu.stat": "usage_usec 5\n"}, None),
    "no control groups": ("", {}, None),
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Write what a kernel shows: lines of /proc/self/cgroup, and files below /sys/fs/cgroup."""

    def made(groups, files):
        (tmp_path / "cgroup").write_text(groups + "\n")
        (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 9\n")
        for name, text in files.items():
            file = tmp_path / "mounted" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        monkeypatch.setattr(control_group, "_GROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(control_group, "_MOUNTED", tmp_path / "mounted")
        monkeypatch.setattr(control_group, "_VMSTAT", tmp_path / "vmstat")

    return made


@pytest.mark.parametrize("name", MACHINES)
def test_kills_are_counted(machine, name):
    groups, files, expected = MACHINES[name]
    machine(groups, files)
    assert control_group.out_of_memory_kills() == expected


@pytest.mark.parametrize("name", LIMITS)
def test_the_memory_that_is_left_is_that_of_the_tightest_group(machine, name):
    groups, folders, expected = LIMITS[name]
    machine(groups, {f"{folder}/{file}": text for folder, held in folders.items() for file, text in held.items()})
    assert control_group.memory_left() == expected


@pytest.mark.parametrize("name", THROTTLED)
def test_time_that_a_limit_took_is_in_seconds(machine, name):
    groups, files, expected = THROTTLED[name]
    machine(groups, files)
    assert control_group.throttled_seconds() == expected


def test_one_place_reads_the_control_groups():
    sources = Path(control_group.__file__).parents[1].rglob("*.py")
    readers = {path.name for path in sources if "self/cgroup" in path.read_text() or "fs/cgroup" in path.read_text()}
    assert readers == {"control_group.py"}


def test_a_kernel_that_counts_nothing_says_none(monkeypatch):
    for name in ("_GROUPS", "_MOUNTED", "_VMSTAT"):
        monkeypatch.setattr(control_group, name, Path("/nosuch"))
    assert control_group.out_of_memory_kills() == 0
