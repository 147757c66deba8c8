r"""The NeurIPS paper checklist and parts B and C of ACL's, answered where records can answer; the author does the rest.

Questions are those of the NeurIPS 2025 template and of ACL's Responsible NLP Research checklist.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.records.untrusted import escaped
from harness.report import names
from harness.report.analysis import hours
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group
from harness.report.display import GIBIBYTE, quantity, several
from harness.report.pages import notes
from harness.report.pages.protocol import UNKNOWN, attempts, devices, records, tasks, trained
from harness.report.writers.tex import breakable

Answer = Literal["Yes", "No", "NA", "Author"]
AUTHOR = "To be answered by the author: records of runs do not tell."
_WORDS = {"Yes": "[Yes]", "No": "[No]", "NA": "[N/A]", "Author": r"\textbf{[to be answered by the author]}"}
_MARKDOWN = {"NA": "N/A", "Author": "to be given by the author"}
_MACROS = "\n".join(rf"\providecommand{{\answer{name}}}[1][]{{{text} #1}}" for name, text in _WORDS.items())


@dataclass(frozen=True)
class Item:
    """A question of a checklist with its answer; Author where the author must answer."""

    title: str
    question: str
    answer: Answer = "Author"
    justification: str = AUTHOR


def to_latex(comparison: Comparison) -> str:
    """Return both checklists in the form of the NeurIPS template."""
    parts = ["% Made from records by harness.report: answers marked so are the author's.", _MACROS]
    for title, items in _checklists(comparison):
        body = [
            "\n".join(
                [
                    rf"\item \textbf{{{breakable(one.title)}}}",
                    rf"\item[] Question: {breakable(one.question)}",
                    rf"\item[] Answer: \answer{one.answer}{{}}",
                    rf"\item[] Justification: {breakable(one.justification)}",
                ]
            )
            for one in items
        ]
        parts += [rf"\section*{{{title}}}", "\\begin{enumerate}\n" + "\n\n".join(body) + "\n\\end{enumerate}"]
    return "\n\n".join(parts) + "\n"


def to_markdown(comparison: Comparison) -> str:
    """Return both checklists as Markdown."""
    parts = ["# Checklists"]
    for title, items in _checklists(comparison):
        parts.append(f"## {title}")
        parts += [
            f"{number}. **{escaped(one.title)}.** {escaped(one.question)}  \n"
            f"   **Answer: {_MARKDOWN.get(one.answer, one.answer)}.** {escaped(one.justification)}"
            for number, one in enumerate(items, 1)
        ]
    return "\n\n".join(parts) + "\n"


def _checklists(comparison: Comparison) -> list[tuple[str, list[Item]]]:
    return [("NeurIPS Paper Checklist", neurips(comparison)), ("ACL Responsible NLP Checklist (B, C)", acl(comparison))]


def neurips(comparison: Comparison) -> list[Item]:
    """Return the items of the NeurIPS checklist."""
    return [
        Item(
            "Claims",
            "Do the main claims made in the abstract and introduction accurately reflect the paper's contributions and "
            "scope?",
        ),
        Item(
            "Limitations",
            "Does the paper discuss the limitations of the work performed by the authors?",
            justification=f"{AUTHOR} From the records: {' '.join(notes.limits(comparison.groups))}",
        ),
        Item(
            "Theory assumptions and proofs",
            "For each theoretical result, does the paper provide the full set of assumptions and a complete (and "
            "correct) proof?",
        ),
        _reproducibility(comparison),
        Item(
            "Open access to data and code",
            "Does the paper provide open access to the data and code, with sufficient instructions to faithfully "
            "reproduce the main experimental results, as described in supplemental material?",
            justification=f"{AUTHOR} {_code(comparison)}",
        ),
        _details(comparison),
        _significance(comparison),
        _resources(comparison),
        Item(
            "Code of ethics",
            "Does the research conducted in the paper conform, in every respect, with the NeurIPS Code of Ethics "
            "https://neurips.cc/public/EthicsGuidelines?",
        ),
        Item(
            "Broader impacts",
            "Does the paper discuss both potential positive societal impacts and negative societal impacts of the work "
            "performed?",
        ),
        Item(
            "Safeguards",
            "Does the paper describe safeguards that have been put in place for responsible release of data or models "
            "that have a high risk for misuse (e.g., pretrained language models, image generators, or scraped "
            "datasets)?",
        ),
        _licenses(comparison),
        Item(
            "New assets",
            "Are new assets introduced in the paper well documented and is the documentation provided alongside the "
            "assets?",
        ),
        Item(
            "Crowdsourcing and research with human subjects",
            "For crowdsourcing experiments and research with human subjects, does the paper include the full text of "
            "instructions given to participants and screenshots, if applicable, as well as details about compensation "
            "(if any)?",
        ),
        Item(
            "Institutional review board (IRB) approvals or equivalent for research with human subjects",
            "Does the paper describe potential risks incurred by study participants, whether such risks were disclosed "
            "to the subjects, and whether Institutional Review Board (IRB) approvals (or an equivalent approval/review "
            "based on the requirements of your country or institution) were obtained?",
        ),
        Item(
            "Declaration of LLM usage",
            "Does the paper describe the usage of LLMs if it is an important, original, or non-standard component of "
            "the core methods in this research?",
            justification=f"{AUTHOR} The experiments fine-tune and evaluate {several(_models(comparison), 6)}.",
        ),
    ]


def acl(comparison: Comparison) -> list[Item]:
    """Return the items of ACL's checklist that are about artifacts and experiments."""
    return [
        Item(
            "B1",
            "Did you cite the creators of artifacts you used?",
            "Yes",
            "The section on the experimental setup cites models, data, tasks and software (references.bib).",
        ),
        Item(
            "B2",
            "Did you discuss the license or terms for use and / or distribution of any artifacts?",
            _licenses(comparison).answer,
            _licenses(comparison).justification,
        ),
        Item(
            "B3",
            "Did you discuss if your use of existing artifact(s) was consistent with their intended use, provided that "
            "it was specified?",
        ),
        Item(
            "B4",
            "Did you discuss the steps taken to check whether the data that was collected / used contains any "
            "information that names or uniquely identifies individual people or offensive content, and the steps taken "
            "to protect / anonymize it?",
        ),
        Item(
            "B5",
            "Did you provide documentation of the artifacts, e.g., coverage of domains, languages, and linguistic "
            "phenomena, demographic groups represented, etc.?",
        ),
        _sizes(comparison),
        _budget(comparison),
        Item(
            "C2",
            "Did you discuss the experimental setup, including hyperparameter search and best-found hyperparameter "
            "values?",
            _details(comparison).answer,
            _details(comparison).justification,
        ),
        Item(
            "C3",
            "Did you report descriptive statistics about your results (e.g., error bars around results, summary "
            "statistics from sets of experiments), and is it transparent whether you are reporting the max, mean, etc. "
            "or just a single run?",
            _significance(comparison).answer,
            _significance(comparison).justification,
        ),
        Item(
            "C4",
            "If you used existing packages (e.g., for preprocessing, for normalization, or for evaluation, such as "
            "NLTK, SpaCy, ROUGE, etc.), did you report the implementation, model, and parameter settings used?",
            "Yes" if _versions(comparison) else "No",
            f"Versions: {_versions(comparison) or UNKNOWN}; settings are in the appendix.",
        ),
    ]


def _reproducibility(comparison: Comparison) -> Item:
    command = notes.command_of(comparison.loaded)
    said = f"They were made by the command: {command}" if command else "The command is not recorded."
    return Item(
        "Experimental result reproducibility",
        "Does the paper fully disclose all the information needed to reproduce the main experimental results of the "
        "paper to the extent that it affects the main claims and/or conclusions of the paper (regardless of whether "
        "the code and data are provided or not)?",
        "Yes" if command and trained(comparison) else "Author",
        f"Models, data, every hyper-parameter, seeds, prompts, versions and machines are in the setup section and the "
        f"appendix. {said}",
    )


def _details(comparison: Comparison) -> Item:
    tuning = comparison.loaded.sweep.tuning if comparison.loaded.sweep else None
    if tuning:
        chosen = (
            f"each method was tuned over {several([names.setting(key).display.lower() for key in tuning.settings])}"
        )
        chosen += " on validation rows, and the test was read for what was selected"
    else:
        chosen = "no hyper-parameter was selected within this comparison"
    return Item(
        "Experimental setting/details",
        "Does the paper specify all the training and test details (e.g., data splits, hyperparameters, how they were "
        "chosen, type of optimizer, etc.) necessary to understand the results?",
        "Yes" if trained(comparison) else "NA",
        f"Splits, hyper-parameters and training are in the setup section and the appendix; {chosen}.",
    )


def _significance(comparison: Comparison) -> Item:
    question = (
        "Does the paper report error bars suitably and correctly defined or other appropriate information about the "
        "statistical significance of the experiments?"
    )
    title = "Experiment statistical significance"
    counts = sorted({len(group.rows) for group in comparison.groups if group.trained})
    result = next((one for one in comparison.claims if one.comparison is not None), None)
    if not counts or result is None or result.comparison is None:
        return Item(title, question, "Author", f"{AUTHOR} No two methods were compared on the same items.")
    level = f"{100 * result.comparison.level:g} %"
    if result.about_runs:
        return Item(
            title,
            question,
            "No",
            "Each method was trained with one seed. Error bars are one standard error (1-sigma) over evaluation items; "
            "they do not capture the variance over seeds, so that the tests are about these runs, not about methods.",
        )
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return Item(
        title,
        question,
        "Yes",
        f"Error bars are one standard error (1-sigma). They capture the sampling of evaluation items and the variance "
        f"over training seeds (initialization, order of the data), with {seeds} seeds per method; not the choice of "
        "training rows. Tests are paired t tests with separate degrees of freedom for items and seeds; intervals and "
        f"p-values are adjusted within each family of comparisons at a family-wise error of {level}. Assumptions: "
        "normal means, and a variance over seeds that is alike among the methods, which is checked.",
    )


def _resources(comparison: Comparison) -> Item:
    every = attempts(comparison)
    return Item(
        "Experiments compute resources",
        "For each experiment, does the paper provide sufficient information on the computer resources (type of compute "
        "workers, memory, time of execution) needed to reproduce the experiments?",
        "Yes" if every else "Author",
        _compute(comparison) if every else f"{AUTHOR} There are no records of attempts.",
    )


def _compute(comparison: Comparison) -> str:
    every = attempts(comparison)
    failed = [one for one in every if one.status != "ok"]
    total, lost = (sum(map(hours.device_seconds, part)) / hours.HOUR for part in (every, failed))
    peaks = [one.peak_memory_bytes for one in every if one.peak_memory_bytes is not None]
    memory = f"; the highest peak memory of a run is {max(peaks) / GIBIBYTE:.2f} GiB" if peaks else ""
    return (
        f"{several(devices(every), 6)}{memory}. Time of each run: appendix (compute). All {len(every):,} attempts, "
        f"tuning and {len(failed):,} failed ones included: {quantity(total)} device hours, {quantity(lost)} of them in "
        "failed ones."
    )


def _licenses(comparison: Comparison) -> Item:
    found = dict(_assets(comparison))
    unknown = [name for name, license in found.items() if not license]
    listed = "; ".join(f"{name}: {license or UNKNOWN}" for name, license in found.items())
    missing = f" Not recorded, to be added by the author: {several(unknown, 9)}." if unknown else ""
    return Item(
        "Licenses for existing assets",
        "Are the creators or original owners of assets (e.g., code, data, models), used in the paper, properly "
        "credited and are the license and terms of use explicitly mentioned and properly respected?",
        "Author" if unknown or not found else "Yes",
        f"Assets are cited in the setup section. Licenses: {listed or UNKNOWN}.{missing}",
    )


def _assets(comparison: Comparison) -> Iterable[tuple[str, str]]:
    """Return the names of models, data and tasks with their licenses; "" for one that is not recorded."""
    for record in records(comparison):
        yield names.model(record).display, str((record.config.get("model") or {}).get("license") or "")
        if record.recipe.get("data"):
            yield names.data(record).display, str((record.config.get("data") or {}).get("license") or "")
    for one in tasks(comparison):
        license = str(one.record.provenance.get("license") or "")
        yield names.task(one.task).display, "" if license == UNKNOWN else license


def _sizes(comparison: Comparison) -> Item:
    counts = [
        row.current.data for group in trained(comparison) for row in group.rows if row.current and row.current.data
    ]
    listed = dict.fromkeys(
        f"{one.train_rows:,} training, {one.validation_rows:,} validation, {one.test_rows:,} test rows"
        for one in counts
    )
    items = [f"{names.task(one.task).display}: {one.record.num_items:,} items" for one in tasks(comparison)]
    return Item(
        "B6",
        "Did you report relevant statistics like the number of examples, details of train / test / dev splits, etc. "
        "for the data that you used / created?",
        "Yes" if listed else "Author",
        f"{'; '.join([*listed, *items])}." if listed else AUTHOR,
    )


def _budget(comparison: Comparison) -> Item:
    bases: Sequence[Group] = [group for group in comparison.groups if group.first.is_base]
    prints = [group.first.current.fingerprint for group in bases if group.first.current]
    sizes = [f"{one.total_parameters:,} parameters" for one in prints if one]
    every = attempts(comparison)
    return Item(
        "C1",
        "Did you report the number of parameters in the models used, the total computational budget (e.g., GPU hours), "
        "and computing infrastructure used?",
        "Yes" if sizes and every else "Author",
        f"{several(sizes) or 'Number of parameters not recorded'}. {_compute(comparison) if every else AUTHOR}",
    )


def _models(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(names.model(record).display for record in records(comparison)))


def _versions(comparison: Comparison) -> str:
    found = {
        f"{name} {version}": None
        for one in attempts(comparison)
        for name, version in (one.provenance.get("versions") or {}).items()
        if version
    }
    return ", ".join(found)


def _code(comparison: Comparison) -> str:
    lines: dict[str, None] = {}
    for one in attempts(comparison):
        facts = one.provenance
        dirty = " with uncommitted changes" if facts.get("uncommitted_changes") else ""
        lines[f"harness {facts.get('harness') or UNKNOWN} at commit {facts.get('commit') or UNKNOWN}{dirty}"] = None
    return f"From the records: {'; '.join(lines) or UNKNOWN}."
