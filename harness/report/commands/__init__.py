"""What `python -m harness.report` does beside writing reports: one module per command, each with a `main`."""

COMMANDS = {
    "recommend": "which method to use, for limits in memory and time and a tolerance in quality",
    "power": "what a number of items and seeds could show, before the runs",
    "import-peft": "PEFT's published result files as external records",
}
