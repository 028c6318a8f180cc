"""The command ``fieldguide VERB …``: one file per verb, each imported only when it runs.

Every mistake a user can make is one line on stderr and exit code 2. Nothing here imports torch before a verb needs it.
"""

import os
import signal
import sys
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from fieldguide import __version__
from fieldguide.cli.terminal import plain_text_everywhere, say_error
from fieldguide.errors import FieldguideError, unknown

VERBS = {
    "demo": "Train a small network on real scans of digits and write its report (about a minute).",
    "models": "List the architectures, their sizes and their key ideas.",
    "info": "One architecture: parameters, FLOPs, memory, layers, paper.",
    "train": "Train a network on your data and leave a complete run folder; --resume RUN continues one.",
    "eval": "Measure a trained run on its test part or on other data.",
    "predict": "Ask a trained run: classes of images or texts, translations, values of a table.",
    "generate": "Let a trained network write: fieldguide generate RUN --prompt TEXT --stream.",
    "doctor": "Say what is wrong with a training: doctor run SCRIPT.py, doctor check RUN.",
    "profile": "Measure a network on this machine: time, memory, layers, and which limit binds.",
    "tune": "Find the fastest settings on this machine that keep a network's answers.",
    "export": "Write a trained network as ONNX or torch.export, compared with the original first.",
    "look": "Look into a network (look cam RUN IMAGE, filters, maps, attention) or ahead (look schedule, rate).",
    "report": "Draw a run's figures and report.html again.",
    "watch": "Follow a training on a live page that only this machine can open.",
    "compare": "Set runs beside each other: recipes, results, curves.",
    "lookup": 'Look a pattern up: fieldguide lookup mask "Causal() & Window(64)".',
    "check": "Describe this machine and installation, ready to paste into a bug report.",
}
INTERRUPTED = 130
TERMINATED = 143


def build_app() -> App:
    """All verbs by name and one-line help; their modules are imported when they are called."""
    app = App(
        name="fieldguide",
        help="A runnable field guide to neural networks: look a pattern up, train a network, read its report.",
        help_epilogue="First steps: `fieldguide demo`, then `fieldguide train resnet_mini --data FOLDER`.",
        version=__version__,
        version_flags=["--version"],
        help_format="plaintext",
    )
    for place, (verb, summary) in enumerate(VERBS.items()):
        if verb in ("doctor", "look", "lookup"):  # they have verbs of their own
            app.command(f"fieldguide.cli.{verb}:app", name=verb, help=summary, sort_key=place)
        else:
            app.command(f"fieldguide.cli.{verb}:{verb}", name=verb, help=summary, sort_key=place, help_epilogue="")
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and exit with its code: 0 done, 2 bad input, 130 interrupted, 143 terminated, 1 a defect."""
    plain_text_everywhere()
    observed = sys.argv[1:2] == ["doctor"]  # a script under observation dies as it would alone
    if not observed and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
            raise unknown("verb", arguments[0], VERBS)
        result = build_app()(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as mistake:
        say_error(_sentence(mistake))
        return 2
    except FieldguideError as mistake:
        say_error(str(mistake))
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our pipe has gone, as in `fieldguide models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as problem:
        say_error(f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem))
        return 2
    except Exception as defect:
        if _memory_ran_out(defect):
            say_error("out of memory: use smaller inputs, a smaller batch or model, or another device (--device)")
            return 2
        if os.environ.get("FIELDGUIDE_DEBUG") == "1":
            raise
        say_error(
            f"a defect of fieldguide, not of your input: {type(defect).__name__}: {defect}; "
            "please report it with the output of `fieldguide check` (FIELDGUIDE_DEBUG=1 shows where it happened)"
        )
        return 1
    return result if isinstance(result, int) else 0


def _memory_ran_out(problem: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(problem, MemoryError)
    from fieldguide.train.failures import is_out_of_memory

    return is_out_of_memory(problem)


def _terminate(number: int, frame: object) -> None:
    """As Ctrl-C: whatever is half done is cleared away on the way out."""
    raise SystemExit(TERMINATED)


def _sentence(mistake: CycloptsError) -> str:
    text = " ".join(str(mistake).split())
    return text[:1].lower() + text[1:].rstrip(".")
