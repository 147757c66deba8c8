"""The NeurIPS paper checklist and parts B and C of that of ACL, answered where records can answer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from harness.records.untrusted import escaped
from harness.report import names
from harness.report.analysis import axes
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group, count_of_seeds
from harness.report.display import GIBIBYTE, counted, lowered, quantity, several
from harness.report.pages import hyperparameters, notes
from harness.report.pages.protocol import COMMIT_DIGITS, UNKNOWN, devices
from harness.report.writers.tex import breakable
from harness.sources.packages import conf_dir

Answer = Literal["Yes", "No", "NA", "Author"]
AUTHOR = "The records of the runs do not answer this."
UNCOMMITTED = "Some runs were made with changes that no commit has: the author must say where they are."
_WORDS = {"Yes": "[Yes]", "No": "[No]", "NA": "[N/A]", "Author": r"\textbf{[to be answered by the author]}"}
_MARKDOWN = {"NA": "N/A", "Author": "to be answered by the author"}
_MACROS = "\n".join(rf"\providecommand{{\answer{name}}}[1][]{{{text} #1}}" for name, text in _WORDS.items())


Answered = tuple[Answer, str]  # with its justification
_UNANSWERED: Answered = ("Author", AUTHOR)


@dataclass(frozen=True)
class Item:
    """A question of a checklist with its answer; Author where the author must answer."""

    title: str
    question: str
    answer: Answer
    justification: str


def to_latex(comparison: Comparison) -> str:
    """Return both checklists in the form of the NeurIPS template."""
    parts = ["% Made from records by harness.report; the author answers what is marked so.", _MACROS]
    for title, items in _checklists(comparison):
        body = [
            "\n".join(
                [
                    rf"\item \textbf{{{breakable(item.title)}}}",
                    rf"\item[] Question: {breakable(item.question)}",
                    rf"\item[] Answer: \answer{item.answer}{{}}",
                    rf"\item[] Justification: {breakable(item.justification)}",
                ]
            )
            for item in items
        ]
        parts += [rf"\section*{{{title}}}", "\\begin{enumerate}\n" + "\n\n".join(body) + "\n\\end{enumerate}"]
    return "\n\n".join(parts) + "\n"


def to_markdown(comparison: Comparison) -> str:
    """Return both checklists as Markdown."""
    parts = ["# Checklists"]
    for title, items in _checklists(comparison):
        parts.append(f"## {title}")
        parts += [
            f"{number}. **{escaped(item.title)}.** {escaped(item.question)}  \n"
            f"   **Answer: {_MARKDOWN.get(item.answer, item.answer)}.** {escaped(item.justification)}"
            for number, item in enumerate(items, 1)
        ]
    return "\n\n".join(parts) + "\n"


def _checklists(comparison: Comparison) -> Iterator[tuple[str, list[Item]]]:
    """Yield each checklist of `conf/checklists.yaml` with its title; a question without a rule is the author's."""
    listed = yaml.safe_load((conf_dir() / "checklists.yaml").read_text(encoding="utf-8"))
    for title, questions in listed.items():
        answers = [_RULES[entry["answer"]](comparison) if "answer" in entry else _UNANSWERED for entry in questions]
        entries = zip(questions, answers, strict=True)
        yield title, [Item(entry["title"], entry["question"], *answer) for entry, answer in entries]


def _reproducibility(comparison: Comparison) -> Answered:
    command = notes.command_of(comparison.loaded)
    how = f"The runs were made with the command: {command}" if command else "The command is not recorded."
    where = "in the setup section and the appendix"
    text = f"Models, data, every hyper-parameter, seeds, prompts, versions and machines are {where}. {how}"
    uncommitted = any(attempt.provenance.get("uncommitted_changes") for attempt in comparison.attempts)
    text += f" {UNCOMMITTED}" if uncommitted else ""
    return "Yes" if command and comparison.trained and not uncommitted else "Author", text


def _details(comparison: Comparison) -> Answered:
    tuning = comparison.loaded.sweep.tuning if comparison.loaded.sweep else None
    chosen = "no hyper-parameter was selected within this comparison"
    if tuning:
        settings = several([lowered(names.setting(key).display) for key in tuning.settings])
        readers = hyperparameters.test_readers(comparison.loaded)
        tested = (
            "other settings were evaluated on the test sets too" if readers else "only selected settings were tested"
        )
        chosen = f"each method was tuned over {settings} on validation rows; {tested}"
    where = "Splits, hyper-parameters and training are in the setup section and the appendix"
    return "Yes" if comparison.trained else "NA", f"{where}; {chosen}."


def _significance(comparison: Comparison) -> Answered:
    seeds = count_of_seeds(group for group in comparison.groups if group.trained)
    result = next((claims for claims in comparison.claims if claims.comparison is not None), None)
    if not seeds or result is None or result.comparison is None:
        return "Author", f"{AUTHOR} No two methods were compared on the same items."
    if result.about_runs:
        return "No", (
            "Each method was trained with one seed. Error bars are one standard error (1-sigma) over evaluation items; "
            "they do not capture the variance over seeds, so that the tests are about these runs, not about methods."
        )
    varied = "(initialization, order of the data)", "; not the choice of training rows"
    if notes.resampled([group for group in comparison.groups if group.trained]):
        varied = "(initialization, order of the data, training rows drawn with replacement)", ""
    return "Yes", (
        f"Error bars are one standard error (1-sigma). They capture the sampling of evaluation items and the variance "
        f"over training seeds {varied[0]}, with {seeds} seeds per method{varied[1]}. Tests are paired t tests with "
        "separate degrees of freedom for items and seeds; intervals and p-values are adjusted within each family of "
        "comparisons at a family-wise error of "
        f"{100 * result.comparison.level:g} %. Assumptions: normal means, and a variance over seeds that is alike "
        "among the methods, which is checked."
    )


def _resources(comparison: Comparison) -> Answered:
    if not comparison.attempts:
        return "Author", f"{AUTHOR} There are no records of attempts."
    return "Yes", _compute(comparison)


def _compute(comparison: Comparison) -> str:
    every = comparison.attempts
    failed = [attempt for attempt in every if attempt.status != "ok"]
    total, lost = (sum(map(axes.device_seconds, part)) / axes.HOUR for part in (every, failed))
    peaks = [attempt.peak_memory_bytes for attempt in every if attempt.peak_memory_bytes is not None]
    memory = f"; the highest peak memory of a run is {max(peaks) / GIBIBYTE:.2f} GiB" if peaks else ""
    lost_text = f", of which {quantity(lost)} in the {len(failed):,} that failed" if failed else "; none failed"
    return (
        f"{several(devices(every), 6)}{memory}. Time of each method: appendix (compute). In total, "
        f"{counted(len(every), 'attempt')}, tuning included, took {quantity(total)} device hours{lost_text}."
    )


def _licenses(comparison: Comparison) -> Answered:
    licenses = dict(_assets(comparison))
    unknown = [name for name, license in licenses.items() if not license]
    listed = "; ".join(f"{name}: {license or UNKNOWN}" for name, license in licenses.items())
    missing = f" Not recorded, to be added by the author: {several(unknown, 9)}." if unknown else ""
    return "Author", (
        f"From the records: assets are cited in the setup section. Licenses: {listed or UNKNOWN}.{missing} Whether "
        "their terms are respected is not in the records."
    )


def _assets(comparison: Comparison) -> Iterable[tuple[str, str]]:
    """Return the names of models, data and tasks with their licenses; "" for one that is not recorded."""
    for record in comparison.records:
        if (model := names.model(record).display) != names.UNKNOWN:
            yield model, str((record.config.get("model") or {}).get("license") or "")
        if record.recipe.get("data"):
            yield names.data(record).display, str((record.config.get("data") or {}).get("license") or "")
    for contest in comparison.tasks:
        license = str(contest.record.provenance.get("license") or "")
        yield names.task(contest.task).display, "" if license == UNKNOWN else license


def _sizes(comparison: Comparison) -> Answered:
    counts = [
        row.current.data for group in comparison.trained for row in group.rows if row.current and row.current.data
    ]
    listed = dict.fromkeys(
        f"{count.train_rows:,} training, {count.validation_rows:,} validation, {count.test_rows:,} test rows"
        for count in counts
    )
    items = dict.fromkeys(
        f"{names.task(scored.task).display}: {scored.record.num_items:,} items" for scored in comparison.tasks
    )
    return ("Yes", f"{'; '.join([*listed, *items])}.") if listed else _UNANSWERED


def _budget(comparison: Comparison) -> Answered:
    bases: Sequence[Group] = [group for group in comparison.groups if group.first.is_base]
    prints = [group.first.current.fingerprint for group in bases if group.first.current]
    sizes = [f"{fingerprint.total_parameters:,} parameters" for fingerprint in prints if fingerprint]
    every = comparison.attempts
    compute = _compute(comparison) if every else AUTHOR
    return "Yes" if sizes and every else "Author", f"{several(sizes) or 'Number of parameters not recorded'}. {compute}"


def _models(comparison: Comparison) -> Answered:
    models = names.known(names.model(record).display for record in comparison.records)
    if not models:
        return _UNANSWERED
    return "Author", f"From the records: the experiments fine-tune and evaluate {several(models, 6)}."


def _packages(comparison: Comparison) -> Answered:
    versions = {
        f"{name} {version}": None
        for attempt in comparison.attempts
        for name, version in (attempt.provenance.get("versions") or {}).items()
        if version
    }
    listed = ", ".join(versions) or UNKNOWN
    return "Yes" if versions else "No", f"Versions: {listed}; settings are in the appendix."


def _code(comparison: Comparison) -> Answered:
    lines: dict[str, None] = {}
    for attempt in comparison.attempts:
        facts = attempt.provenance
        dirty = " with uncommitted changes" if facts.get("uncommitted_changes") else ""
        commit = str(facts.get("commit") or UNKNOWN)[:COMMIT_DIGITS]
        lines[f"harness {facts.get('harness') or UNKNOWN} at commit {commit}{dirty}"] = None
    return "Author", f"From the records: {'; '.join(lines) or UNKNOWN}."


def _limitations(comparison: Comparison) -> Answered:
    return "Author", f"From the records: {' '.join(notes.limits(comparison.groups, comparison.loaded.is_tuned))}"


def _cited(comparison: Comparison) -> Answered:
    return "Yes", "The section on the experimental setup cites models, data, tasks and software (references.bib)."


_RULES: dict[str, Callable[[Comparison], Answered]] = {
    "limitations": _limitations,
    "reproducibility": _reproducibility,
    "code": _code,
    "details": _details,
    "significance": _significance,
    "resources": _resources,
    "licenses": _licenses,
    "models": _models,
    "cited": _cited,
    "sizes": _sizes,
    "budget": _budget,
    "packages": _packages,
}
