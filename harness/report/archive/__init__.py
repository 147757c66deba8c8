"""`records.zip` beside a report: the records of a sweep, from which everybody can make the same report again.

    report.json              the options of the report, and the libraries that wrote it
    versions.txt             versions of the libraries of the runs, as a lock for pip
    ro-crate-metadata.json   RO-Crate 1.1: what each member is, its size and its SHA-256
    runs/                    a runs folder: sweeps/<name>/, <recipe_id>/seed-<n>/, data/, external/

Several runs folders become `runs-1/`, `runs-2/` and so on. Nothing here needs torch.
"""

from pathlib import Path

from harness.report.writers import manifest

NAME = manifest.ARCHIVE
METADATA, OPTIONS, VERSIONS = "ro-crate-metadata.json", "report.json", "versions.txt"
MEBIBYTE = 2**20
# Bytes of a page and of an archive that a repository can hold; `harness report pack` says where one is larger.
LIMITS = {"index.html": 3 * MEBIBYTE, NAME: 10 * MEBIBYTE}


def oversized(folder: Path) -> list[str]:
    """Return a line for the page and the archive of a report's folder where they are over the limits."""
    sizes = {name: path.stat().st_size for name in LIMITS if (path := folder / name).is_file()}
    return [
        f"{folder / name}: {size / MEBIBYTE:.1f} MiB, more than the {LIMITS[name] // MEBIBYTE} MiB that a repository "
        "should hold of one report"
        for name, size in sizes.items()
        if size > LIMITS[name]
    ]
