"""`python -m harness.adapter merge | combine | convert | info | card`: tools for the weights of a finished run.

Exit codes: 0 done; 2 the input was wrong: one line names the fault and nothing was written; 1 any other error.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.records.untrusted import echo

TYPES = (
    "svd", "linear", "cat", "ties", "ties_svd", "dare_ties", "dare_linear", "dare_ties_svd", "dare_linear_svd",
    "magnitude_prune", "magnitude_prune_svd",
)  # fmt: skip
_PRUNING = ("ties", "dare", "magnitude")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given, more = _parser().parse_known_args(_joined(sys.argv[1:] if arguments is None else list(arguments)))
    try:
        given.rest = _more(given, more)
        work: Callable[[argparse.Namespace], None] = given.work
        work(given)
    except ValueError as error:
        echo(f"harness.adapter: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:
        echo(f"harness.adapter: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness adapter", description="Merge, combine, convert or inspect the trained weights of a run."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    merge = commands.add_parser("merge", help="merge the update into the base and write a plain model")
    merge.add_argument("run", type=Path, metavar="RUN", help="runs/<recipe_id>/seed-<n>")
    merge.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    merge.add_argument("--format", choices=("safetensors", "gguf"), default="safetensors")
    combine = commands.add_parser("combine", help="combine several adapters of one base into one")
    combine.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="two or more runs, followed by the output folder"
    )
    combine.add_argument("--weights", required=True, metavar="W,W", help="one weight per run")
    combine.add_argument(
        "--combination-type",
        choices=TYPES,
        default="svd",
        metavar="TYPE",
        help="PEFT's combination type: %(choices)s (default: svd)",
    )
    combine.add_argument("--density", type=float, default=0.5, help="density of the pruning types (default: 0.5)")
    convert = commands.add_parser("convert", help="approximate the update of any method by LoRA of a given rank")
    convert.add_argument("run", type=Path, metavar="RUN")
    convert.add_argument("out", type=Path, metavar="OUT", help="a new folder; score it with `harness evaluate`")
    convert.add_argument("--to", choices=("lora",), required=True)
    convert.add_argument("--r", type=_rank, required=True, metavar="N", help="rank of the new adapter")
    convert.add_argument(
        "--json",
        action="store_true",
        help="print one object: run, out, layers, rank, lost, lost_elsewhere, weights, and how the logits differ",
    )
    info = commands.add_parser("info", help="show what was trained and the spectrum of the update; writes update.json")
    info.add_argument("run", type=Path, metavar="RUN")
    info.add_argument("--json", action="store_true", help="print JSON, with one entry per weight")
    info.add_argument("--weights", action="store_true", dest="every_weight", help="print one line per weight")
    info.add_argument("--force", action="store_true", help="measure again, even if update.json exists")
    card = commands.add_parser("card", help="write the model card with the scores measured so far")
    card.add_argument("run", type=Path, metavar="RUN")
    works = ((merge, _merge), (combine, _combine), (convert, _convert), (info, _info), (card, _card))
    for command, work in works:
        command.set_defaults(work=work)
        if command is not card:
            command.add_argument(
                "--base",
                nargs="+",
                default=[],
                metavar="model=...",
                help="load the base model from elsewhere, for example model.source=path model.path=DIR",
            )
    return parser


def _joined(words: list[str]) -> list[str]:
    """Rewrite `--weights 0.7 0.3 OUT` as `--weights=0.7,0.3 OUT`. The first word that is no number ends the list."""
    if words[:1] != ["combine"] or "--weights" not in words:
        return words
    start = words.index("--weights") + 1
    end = start
    while end < len(words) and _is_number(words[end]):
        end += 1
    return [*words[: start - 1], f"--weights={','.join(words[start:end])}", *words[end:]]


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _more(given: argparse.Namespace, words: list[str]) -> list[Path]:
    """Return the folders that follow an option, which argparse does not assign.

    Raises:
        ValueError: other words were left over.
    """
    if words and (given.work is not _combine or any(word.startswith("-") for word in words)):
        raise ValueError(f"{' '.join(words)}: not understood; see python -m harness.adapter --help")
    return [Path(word) for word in words]


def _merge(given: argparse.Namespace) -> None:
    from harness.adapter import load

    load.check_free(given.out)
    run = load.find(given.run)
    load.check_merges(run)
    load.on_base(run, given.base)
    facts = _elsewhere("harness.adapter.merge:merge", given.run, given.base, given.out, given.format)
    echo(f"merged {run.name} into {given.out} ({given.format}, {facts['dtype']})")
    echo(_difference(facts, "the attached model's"))
    if "prompts" in facts:
        echo(f"read back, the tokenizer agrees on {facts['prompts_tokenized_alike']} of {facts['prompts']} prompts")
    if facts["quantized_base"]:
        echo(
            "note: trained beside a quantized base; merged into its dequantized weights this is another model, whose "
            "scores are those of the run with eval.weights=merged"
        )


def _combine(given: argparse.Namespace) -> None:
    from harness.adapter import load

    given_folders: list[Path] = [*given.runs, *given.rest]
    folders, out = given_folders[:-1], given_folders[-1]
    weights = _weights(given.weights, folders)
    load.check_free(out)
    for folder in folders:
        load.on_base(load.find(folder), given.base)
    pruning = given.combination_type.startswith(_PRUNING)
    if pruning and not 0 < given.density <= 1:
        raise ValueError(f"--density {given.density}: give the share of entries that stay, above 0 and up to 1")
    how = {"combination_type": given.combination_type, **({"density": given.density} if pruning else {})}
    facts = _elsewhere("harness.adapter.combine:combine", folders, weights, how, given.base, out)
    rank = f", rank {facts['rank']}" if facts["rank"] else ""
    echo(f"combined {len(folders)} adapters into {out} ({facts['combination_type']}{rank})")
    if facts["relative_distance"] is not None:
        echo(f"relative distance from the weighted sum of their updates: {facts['relative_distance']:.2g}")
    echo(_difference(facts, "those before it was written"))


def _weights(text: str, folders: Sequence[Path]) -> list[float]:
    words = [word for word in text.split(",") if word]
    if len(folders) < 2:
        raise ValueError("combine: give at least two runs, then the folder to write: combine RUN RUN --weights W W OUT")
    if len(words) != len(folders) or not all(map(_is_number, words)):
        raise ValueError(f"--weights {text or '(none)'}: {len(folders)} runs need {len(folders)} numbers")
    return [float(word) for word in words]


def _rank(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a rank, a whole number from 1 on")
    return int(text)


def _convert(given: argparse.Namespace) -> None:
    from harness.adapter import load

    load.check_free(given.out)
    run = load.find(given.run)
    load.check_merges(run)
    load.on_base(run, given.base)
    result = _elsewhere("harness.adapter.convert:convert", given.run, given.r, given.base, given.out)
    if given.json:
        echo(json.dumps(result, indent=1))
        return
    echo(f"{run.name} as LoRA of rank {result['rank']} in {given.out} ({result['layers']} layers)")
    echo(
        f"lost: {100 * result['lost']:.3g} % of the update's norm, {100 * result['lost_elsewhere']:.3g} % of it in "
        "weights that LoRA does not hold"
    )
    echo(_difference(result, "the attached model's"))


def _info(given: argparse.Namespace) -> None:
    from dataclasses import asdict

    from harness.adapter import info, load

    run = load.find(given.run)
    update = None if given.force else info.known_update(run)
    if update is None or given.base:
        if run.experiment.method.merges:
            load.on_base(run, given.base)
        update = _elsewhere("harness.adapter.update:measure", given.run, given.base)
    if given.json:
        echo(json.dumps({**info.facts(run), "update": asdict(update)}, indent=1))
    else:
        echo("\n".join(info.lines(run, update, given.every_weight)))


def _card(given: argparse.Namespace) -> None:
    from harness.adapter import load
    from harness.run import model_card as card

    load.find(given.run)
    echo(f"card: {card.write(given.run)}")


def _difference(result: dict[str, Any], whose: str) -> str:
    return (
        f"largest difference of logits from {whose}: {result['largest_difference']:.3g} (logits up to "
        f"{result['largest_logit']:.3g}; another token first at {result['positions_with_another_first_token']} of "
        f"{result['positions']} positions)"
    )


def _elsewhere(function: str, *arguments: Any) -> Any:
    """Call a function in a process that has the libraries, whose output goes to a log and not to the screen.

    Raises:
        ValueError: the input is wrong.
        RuntimeError: any other error, with its reason.
    """
    from harness.run import isolate
    from harness.run.progress import board

    board.start_bar(function.rpartition(":")[2])
    try:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log.txt"
            ended = isolate.call(function, *arguments, log=log, on_event=board, terms=isolate.REPEATABLE)
    finally:
        board.end()
    return ended.returned()


if __name__ == "__main__":
    from harness.__main__ import run_command

    run_command(main)
