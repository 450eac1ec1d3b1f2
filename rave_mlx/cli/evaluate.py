"""`rave-mlx evaluate`: how well a model reads."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rave_mlx.cli import options
from rave_mlx.cli.document_options import BatchSize

if TYPE_CHECKING:
    from rave_mlx.evaluate.failures import Failures
    from rave_mlx.evaluate.html_report import Looker
    from rave_mlx.evaluate.result import Result
    from rave_mlx.evaluate.task import Task

app = typer.Typer(
    invoke_without_command=True, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)


@app.callback()
def evaluate(
    context: typer.Context,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            metavar="NAME_OR_FILE",
            help="A published benchmark: docvqa, infovqa, chartqa, textvqa, ocrbench, ocrbench_v2, mtvqa, pope, "
            "mmstar, realworldqa, ai2d, omnidocbench, cord, and sroie, funsd from a folder. "
            "docs: generated documents; docs:SPLIT: one split of them (values, values+fonts, values+layouts, "
            "values+labels, values+phrasing, all); meaning: receipts, bills, letters, forms asked in people's words; "
            "meaning:SPLIT: one split of them (familiar, roles, phrasing, layouts, fonts, held_out); "
            "large: large generated pages; browser: pages drawn by Chromium; "
            "real:FOLDER: real receipts and forms as SROIE and FUNSD are published; "
            'FILE.pdf: headings of its pages; FILE.jsonl: {"image": path, "question": text, "answer": text or list} '
            "a line.",
        ),
    ] = "docs",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FOLDER_OR_HUB_ID",
            help="Where a benchmark's data are, laid out as published. Default: its data set on the Hub.",
        ),
    ] = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    mmproj: options.Mmproj = None,
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention",
            metavar="NAME[:PRESET][:KEY=VALUE,...]",
            help="rave: use the model's pair gates; none: leave them out; or a policy, as var:cosine, rave+var:cosine. "
            "Default: what the model's config names, else rave where there are gates.",
        ),
    ] = None,
    pages: Annotated[
        int | None,
        typer.Option(
            "--pages",
            min=1,
            help="Pages to draw, for each split or kind; documents of a folder; of a PDF, headings. Default 20. Of a "
            "benchmark, questions from its beginning; default all.",
        ),
    ] = None,
    image_tokens: options.ImageTokens = None,
    kv_bits: options.KvBits = None,
    page_cache: options.PageCache = False,
    batch_size: BatchSize = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write every answer as it comes, one JSON object a line; a run that was stopped goes on.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Write one HTML page: figures by kind, what certainties are worth, wrong answers and where the model "
            "looked.",
        ),
    ] = None,
    report_failures: Annotated[
        int, typer.Option("--report-failures", metavar="N", min=0, help="Wrong answers in the report, the surest.")
    ] = 20,
    json: Annotated[bool, typer.Option("--json", help="Figures as one JSON object.")] = False,
) -> None:
    """Measure how well a model reads: a benchmark's own score, or exact match, ANLS and character error rate.

    [bold]rave-mlx evaluate --task docs[/bold]

    [bold]rave-mlx evaluate --task docvqa --pages 200 --out docvqa.jsonl --report docvqa.html[/bold]

    Answers are greedy, several are written at a time. Tables go to stdout,
    progress to stderr.
    """
    if context.invoked_subcommand is not None:
        return
    from rave_mlx.api import load
    from rave_mlx.checkpoint.fingerprint import adapter_fingerprint, fingerprint
    from rave_mlx.evaluate.answers_file import AnswersFile
    from rave_mlx.evaluate.failures import Failures
    from rave_mlx.evaluate.output import Progress, as_json, as_tables
    from rave_mlx.evaluate.runner import answer_all
    from rave_mlx.evaluate.task import find_task
    from rave_mlx.generation.page_store import PageStore
    from rave_mlx.policies.parse import steering

    policy = None if attention is None else steering(attention)
    found = find_task(task, pages, data)
    lmm = load(model, adapter=adapter, mmproj=mmproj, kv_bits=kv_bits)
    progress, failures, results = Progress(), Failures(report_failures), []
    with ExitStack() as stack:
        answers = None
        if out is not None:
            run = {
                "task": task, "data": data, "pages": found.pages, "attention": attention, "image_tokens": image_tokens,
                "adapter": adapter_fingerprint(adapter), "model": fingerprint(lmm),
            }  # fmt: skip
            answers = stack.enter_context(AnswersFile(out, run))
            if answers.done:
                print(f"{out}: {len(answers.done)} answers are there; going on after them", file=sys.stderr)
        for result in answer_all(
            lmm,
            failures.watch(found.items),
            policy=policy,
            image_tokens=image_tokens,
            answers=answers,
            progress=progress,
            batch_size=batch_size,
            pages=PageStore.open(lmm) if page_cache else None,
        ):
            failures.add(result)
            results.append(result)
    progress.close()
    if json:
        print(as_json(results, found.breakdowns, found.columns))
    else:
        print(as_tables(results, found.breakdowns, found.measure, found.columns))
    if report is not None:
        from rave_mlx.cli.evaluate_report import looker

        settings = {
            "model": model or "built-in",
            "adapter": adapter,
            "attention": attention,
            "task": task,
            "data": data,
        }
        _write_report(report, found, results, failures, settings, looker(lmm, policy, image_tokens))


def _write_report(
    file: Path, task: Task, results: list[Result], failures: Failures, settings: dict[str, str | None], look: Looker
) -> None:
    """The page of `--report`; `settings` that were not given are left out."""
    from rave_mlx.evaluate.html_report import Report, write_report

    title = task.measure or f"{settings['task']}: exact answers"
    given = {name: str(value) for name, value in settings.items() if value is not None}
    shown = Report(title, given, results, task.breakdowns, task.columns, failures.kept, failures.count)
    write_report(shown, file, look)
    print(f"{file}: written", file=sys.stderr)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Answers of one run, as --out wrote them.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Answers of another run to the same questions.")],
    by: Annotated[str, typer.Option("--by", metavar="TAG", help="Tag of the questions to break figures down by.")] = (
        "kind"
    ),
    json: Annotated[bool, typer.Option("--json", help="Figures as one JSON object.")] = False,
) -> None:
    """Compare two runs question by question: difference, 95 % interval over pages, McNemar's exact test.

    [bold]rave-mlx evaluate compare none.jsonl rave.jsonl[/bold]
    """
    import json as formats
    from dataclasses import asdict

    from rave_mlx.evaluate.compare import as_table, by_tag, paired
    from rave_mlx.evaluate.compare import compare as compare_runs

    pairs = paired(first, second)
    whole, parts = compare_runs(pairs), by_tag(pairs, by)
    if json:
        print(formats.dumps({"all": asdict(whole), "by": {name: asdict(part) for name, part in parts.items()}}))
        return
    print(as_table(whole, parts))


@app.command()
def certainty(
    answers: Annotated[Path, typer.Argument(metavar="FILE", help="Answers of a run, as --out wrote them.")],
    json: Annotated[bool, typer.Option("--json", help="Figures as one JSON object.")] = False,
) -> None:
    """Show what certainties are worth: right answers by certainty, and the threshold for a wanted precision.

    [bold]rave-mlx evaluate certainty answers.jsonl[/bold]
    """
    import json as formats
    from dataclasses import asdict

    from rave_mlx.evaluate.compare import read_answers
    from rave_mlx.evaluate.reliability import as_table, reliability

    found = reliability(read_answers(answers))
    print(formats.dumps(asdict(found)) if json else as_table(found))


@app.command(name="kv-cache")
def kv_cache(
    bits: Annotated[int, typer.Option("--kv-bits", metavar="8|4", help="Bits of a number of keys and values.")] = 8,
    image: Annotated[
        list[str] | None, typer.Option("--image", "-i", metavar="FILE", help="A document of yours to read as well.")
    ] = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    mmproj: options.Mmproj = None,
    json: Annotated[bool, typer.Option("--json", help="Figures as one JSON object.")] = False,
) -> None:
    """Show how far answers with packed keys and values (--kv-bits) are from those with whole ones.

    [bold]rave-mlx evaluate kv-cache --kv-bits 4[/bold]

    Compared are the probabilities of the next token on a few pages that are
    drawn, and on yours.
    """
    import json as formats

    from rave_mlx.api import load
    from rave_mlx.evaluate.quantization import check_cache
    from rave_mlx.generation.prefill import token_bytes

    lmm = load(model, adapter=adapter, mmproj=mmproj)
    report = check_cache(lmm, bits, image or [])
    sizes = {"token_bytes": token_bytes(lmm, bits), "plain_token_bytes": token_bytes(lmm, None)}
    if json:
        print(formats.dumps(report.to_dict() | sizes))
        return
    print(report.text())
    print(f"  bytes of a token        {sizes['token_bytes']:,} instead of {sizes['plain_token_bytes']:,}")
