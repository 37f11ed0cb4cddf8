"""The command line: a subcommand a stage, in pipeline order; options become a config, the stage's `run` does the work.

Stages are imported when they run, so that `stillroom --help` takes a fraction of a second.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from stillroom import __version__
from stillroom.errors import ConfigError, StillroomError, printable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="From noisy image-text pairs to a strong zero-shot vision-language model.",
)

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="Tars (path, glob, braces, URL), a table or a folder; join by ::")
]
Out = Annotated[Path, typer.Option("--out", help="Output folder; an unfinished one of the same run is gone on with.")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file with the stage's options.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="One option, key=value; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
# Said here, because nothing of a stage is imported before it runs.
RECIPES = (
    "cheng_rn50_declutr, diht_vitb16, diht_vitb32, diht_vitl14, diht_vitl14_336, finetune, lite_minilm, "
    "otter_rn50_declutr, student_minilm"
)
Keep = Annotated[Path | None, typer.Option("--keep", help="Output of 'stillroom filter': use only kept pairs.")]


def say(line: str) -> None:
    """Print a line of the result on standard output."""
    typer.echo(line)


def show(table: Any) -> None:
    """Print a rich table; where no terminal says how wide, as wide as it needs."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        widest = console.measure(table, options=console.options.update(max_width=1000)).maximum
        console = Console(width=max(widest, 80))
    console.print(table)


@app.command()
def check(
    data: Data,
    config: Config = None,
    settings: Settings = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one a core.")] = 0,
    decode: Annotated[bool, typer.Option("--decode/--no-decode", help="Decode every picture.")] = True,
    as_json: Json = False,
) -> None:
    """Say what is in DATA and what is broken, before hours are spent."""
    from stillroom.config_io import load_config
    from stillroom.data.check import report_lines, run
    from stillroom.data.config import CheckConfig
    from stillroom.parallel import available_cores

    options = load_config(CheckConfig, path=config, settings=settings or ())
    report = run(data, options.data, workers=workers or available_cores(), decode=decode)
    say(json.dumps(report, indent=2, ensure_ascii=False) if as_json else "\n".join(report_lines(report)))


@app.command("filter")
def filter_(
    out: Out,
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="As for check; not needed with --reuse.")] = None,
    config: Config = None,
    settings: Settings = None,
    reuse: Annotated[
        Path | None, typer.Option("--reuse", help="Earlier output: change its thresholds, measure only what they need.")
    ] = None,
    measure_all: Annotated[bool, typer.Option("--measure-all", help="Ask every rule about every pair.")] = False,
    write_shards: Annotated[bool, typer.Option("--write-shards", help="Write the kept pairs as tars, too.")] = False,
    backend: Annotated[str | None, typer.Option("--backend", help="local (processes) or ray.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first pair that cannot be used.")] = False,
) -> None:
    """Give every pair a CAT verdict with its reasons; write the kept ids and a report."""
    from stillroom.config_io import load_config
    from stillroom.data.source import open_data
    from stillroom.filter.config import FilterConfig
    from stillroom.filter.reuse import changed_config, open_earlier
    from stillroom.filter.run import run
    from stillroom.filter.summary import summary_lines
    from stillroom.filter.write_shards import write_kept_shards
    from stillroom.parallel import available_cores
    from stillroom.report.filter_page import write_filter_page

    flags = {"measure_all": measure_all, "strict": strict}
    options = [*(settings or ()), *(f"{name}=true" for name, given in flags.items() if given)]
    options += [] if backend is None else [f"backend={backend}"]
    earlier = None if reuse is None else open_earlier(reuse)
    if earlier is not None:
        data, chosen = data or earlier.data, changed_config(earlier, path=config, settings=options)
    elif data is not None:
        chosen = load_config(FilterConfig, path=config, settings=options)
    else:
        raise ConfigError("give DATA to filter, or --reuse with an earlier output")
    summary = run(data, chosen, out, reuse=earlier)
    say("\n".join(summary_lines(summary)))
    if write_shards:
        workers, pairs = chosen.workers or available_cores(), chosen.pairs_per_shard
        written = write_kept_shards(open_data(data, chosen.data), out, out / "kept", pairs=pairs, workers=workers)
        say(f"kept pairs: {out / 'kept'} ({written['pairs']:,} in {written['shards']:,} tars)")
    say(f"verdicts: {out}, report: {write_filter_page(out)}")


@app.command()
def concepts(
    data: Data,
    out: Out,
    keep: Keep = None,
    config: Config = None,
    settings: Settings = None,
    reuse: Annotated[
        Path | None, typer.Option("--reuse", help="Earlier output: use its parse and features where they are the same.")
    ] = None,
) -> None:
    """Learn the captions' concepts on a frozen teacher; write top-k pseudo-labels and a report."""
    from stillroom.concepts.config import ConceptsConfig
    from stillroom.concepts.run import describe, run
    from stillroom.config_io import load_config
    from stillroom.report.concepts_page import write_concepts_page

    options = load_config(ConceptsConfig, path=config, settings=settings or ())
    summary = run(data, options, out, keep=keep, reuse=reuse)
    say(describe(summary))
    say(f"pseudo-labels: {out}, report: {write_concepts_page(out)}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help=f"A TOML file, or one of: {RECIPES}.")],
    out: Annotated[Path | None, typer.Option("--out", help="Output folder; needed but with --dry-run.")] = None,
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="As for filter; the recipe's otherwise.")] = None,
    keep: Keep = None,
    pseudo_labels: Annotated[Path | None, typer.Option("--concepts", help="Output of 'stillroom concepts'.")] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print recipe, sizes and estimates; train nothing.")
    ] = False,
) -> None:
    """Train a dual encoder, in one process or under torchrun."""
    from stillroom.evaluate.during_training import make_scorer
    from stillroom.train.estimate import estimate_lines
    from stillroom.train.recipes import load_recipe
    from stillroom.train.run import run

    options = load_recipe(recipe, settings or ())
    if dry_run:
        say("\n".join(estimate_lines(data, options, keep=keep, concepts=pseudo_labels)))
        return
    if out is None:
        raise ConfigError("give --out, a folder for the model")
    scorer = make_scorer(options.evaluation, options.data)
    summary = run(data, options, out, keep=keep, concepts=pseudo_labels, resume=resume, scorer=scorer)
    if summary:
        say(f"{summary['pairs']:,} pairs, {summary['samples']:,} samples in {summary['steps']:,} steps")
        say(f"model: {out}")


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, a checkpoint, diht_vitb32_224px or ARCH/TAG.")
    ],
    out: Out,
    tasks: Annotated[
        str, typer.Option(help="Task names, data set folders or pairs as in DATA, joined by commas; all otherwise.")
    ] = "",
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Score a model on zero-shot classification and retrieval."""
    from stillroom.config_io import load_config
    from stillroom.evaluate.compare import compare_folders
    from stillroom.evaluate.config import EvaluateConfig
    from stillroom.evaluate.run import run

    chosen = [f"tasks={json.dumps([name.strip() for name in tasks.split(',')], ensure_ascii=False)}"] if tasks else []
    run(model, load_config(EvaluateConfig, path=config, settings=[*chosen, *(settings or ())]), out)
    show(compare_folders([out]))
    say(f"results: {out}")


@app.command()
def probe(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, a checkpoint, diht_vitb32_224px or ARCH/TAG.")
    ],
    task: Annotated[str, typer.Option(help="A classification task or data set folder.")],
    out: Out,
    config: Config = None,
    settings: Settings = None,
) -> None:
    """Draw a few-shot curve that starts at the zero-shot score."""
    from stillroom.config_io import load_config
    from stillroom.probe.config import ProbeConfig
    from stillroom.probe.run import run

    run(model, task, load_config(ProbeConfig, path=config, settings=settings or ()), out)
    say(f"curve: {out}")


@app.command()
def tasks(as_json: Json = False) -> None:
    """List the tasks that evaluate and probe know by name."""
    from stillroom.evaluate.tasks import list_tasks

    entries = [entry for task in list_tasks() for entry in task.entries()]
    if as_json:
        say(json.dumps(entries, indent=2))
        return
    from rich.table import Table

    columns = ("name", "suite", "kind", "metric", "size", "classes", "chance", "title")
    table = Table(
        *columns, title="tasks; each direction of a retrieval task is its own; --json has licence and source too"
    )
    for entry in entries:
        table.add_row(*("" if entry[column] is None else str(entry[column]) for column in columns))
    show(table)


@app.command()
def compare(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="Output folders of 'stillroom evaluate', or published:NAME."),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Write the plot here (.svg or .png).")] = None,
) -> None:
    """Set evaluations side by side."""
    from stillroom.evaluate.compare import compare_folders

    show(compare_folders(results, out))
    if out is not None:
        say(f"plot: {out}")


@app.command()
def demo(
    out: Out = Path("demo"),
    tiny: Annotated[bool, typer.Option("--tiny", help="A few hundred pairs, in a minute.")] = False,
    examples: Annotated[Path | None, typer.Option(help="Folder of the bundled data; the checkout's otherwise.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every stage.")] = 0,
) -> None:
    """Run the whole pipeline on the bundled data, on a CPU, and write a report."""
    from stillroom.demo import run

    result = run(out, tiny=tiny, examples=examples, seed=seed)
    show(result.table)
    say(f"report: {result.report}")


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what a user can mend is one line on standard error and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("stillroom").setLevel(logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding lacks is spelled out: file names and captions may hold anything.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command: Any = typer.main.get_command(app)
    try:
        status = command.main(args=arguments, prog_name="stillroom", standalone_mode=False)
    except KeyboardInterrupt:
        _fail(_stopped(arguments), 130)
    except (StillroomError, OSError) as error:
        _fail(" ".join(str(error).split()), 2)
    except Exception as error:
        # Typer carries its own copy of click, newer or older ones do not: tell its usage errors by what they can do.
        if type(error).__name__ == "Abort":
            _fail(_stopped(arguments), 130)
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(error.format_message() + "\n")
            sys.exit(2)
        _fail(" ".join(error.format_message().split()), 2)
    if status == 130:  # newer versions of typer make this of Ctrl-C themselves
        _fail(_stopped(arguments), 130)
    sys.exit(status if isinstance(status, int) else 0)


def _stopped(arguments: Sequence[str] | None) -> str:
    command = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    if command == "train":
        return "stopped; with --resume the same command goes on from the last checkpoint"
    return "stopped" if command in ("check", "compare", "tasks") else "stopped; the same command goes on from here"


def _fail(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"stillroom: {printable(message)}\n")
    sys.exit(status)
