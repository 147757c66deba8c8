"""Commands of `python -m harness.report` besides writing reports: one module per command, each with a `main`."""

COMMANDS = {
    "answer": "the answer of a report in three lines, or as JSON",
    "recommend": "which method to use, for limits in memory and time and a tolerance in quality",
    "power": "what a number of items and seeds could show, before the runs",
    "aa": "an A/A test: how often seeds of one method, named as two, are called different",
    "look": "whether every comparison, or every claim, of a sweep has a verdict",
    "export": "runs with their scores in the schema of Every Eval Ever",
    "import-lm-eval": "a comparison of models by the logs that lm_eval --log_samples wrote",
    "pack": "a report with records.zip, from which everybody can make it again",
    "verify": "a report, made again from its records.zip and compared",
    "import-peft": "PEFT's published result files as external records",
}
