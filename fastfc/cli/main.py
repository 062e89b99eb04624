"""The command `fastfc`: demo, train, predict, compare, warmup, doctor."""

import argparse
import codecs
import contextlib
import os
import subprocess
import sys
from pathlib import Path

from fastfc._version import __version__
from fastfc.benchmark.compare import ODD, SHAPES, TARGETS, TASKS, compare, compare_networks
from fastfc.benchmark.instructions import supported
from fastfc.benchmark.worker import LAYOUTS, NETWORK_PACKAGES, PACKAGES, Shape, environment, installed
from fastfc.cli.demo_datasets import RUNS, real_run
from fastfc.extras import extra
from fastfc.kernels.runtime.portable import levels
from fastfc.kernels.runtime.threads import cores
from fastfc.kernels.simd.isa import host_isa
from fastfc.ranks import SHARDS, is_said_elsewhere, ranks_of, world
from fastfc.tabular.columns import KINDS


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def whole_number(lowest):
    def parse(text):
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {lowest}")
        return int(text)

    return parse


def thread_count(text):
    threads = whole_number(1)(text)
    if threads > cores():
        raise argparse.ArgumentTypeError(f"{threads} is more than the {cores()} cores this process may use")
    return threads


def shapes(text):
    try:
        return ODD if text == "odd" else [Shape.parse(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(error) from None


def peer(text):
    if text not in installed(NETWORK_PACKAGES):
        there = ", ".join(installed(NETWORK_PACKAGES))
        raise argparse.ArgumentTypeError(f"{text!r} is not installed; there are {there}")
    return text


def sizes(text):
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of widths such as 64,64")
    return found


def positive(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def instruction_sets(text):
    names = text.split(",")
    for name in names:
        if name not in levels():
            raise argparse.ArgumentTypeError(
                f"{name!r} is not an instruction set here; there are {', '.join(levels())}"
            )
    return names


def why_not(path):
    """Why a file can't be written; empty if it can."""
    if path.is_dir():
        return "it is a folder"
    if path.exists():
        return "" if os.access(path, os.W_OK) else "it is write-protected"
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r}"
    return "" if os.access(path.parent, os.W_OK) else f"the folder {str(path.parent)!r} is write-protected"


def output_file(*suffixes):
    def parse(text):
        path = Path(text)
        if suffixes and path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
        reason = why_not(path)
        if reason:
            raise argparse.ArgumentTypeError(f"cannot write {text!r}: {reason}")
        return path

    return parse


def drawn(what, *suffixes):
    def parse(text):
        try:
            extra("matplotlib", "plot", what)
        except ImportError as error:
            raise argparse.ArgumentTypeError(error) from None
        return output_file(*suffixes)(text)

    return parse


picture, page = drawn("a picture", ".png", ".svg", ".pdf"), drawn("a report", ".html")


def kinds(text):
    """Kinds of columns by name, from text:zip,number:price; a name without a kind has the one before it."""
    found, kind = {}, None
    for part in text.split(","):
        before, colon, name = part.partition(":")
        if colon and before in KINDS:
            kind = before
        else:
            name = part
        if kind is None or not name:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not like text:zip,number:price; kinds are {', '.join(KINDS)}"
            )
        found[name] = kind
    return found


def character(text):
    text = {"tab": "\t", "\\t": "\t", "space": " ", "spaces": " "}.get(text, text)
    if len(text) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one character, tab or space")
    return text


def add_reading(command):
    """Options that say how a file is read."""
    command.add_argument("--delimiter", type=character, metavar="C", help="between cells: a character, tab or space")
    command.add_argument("--no-header", dest="header", action="store_false", help="the first line is a row")
    command.add_argument(
        "--encoding", metavar="NAME", help="of a CSV file, such as latin-1 (UTF-8, or as its first bytes say)"
    )


def add_train(commands):
    train = commands.add_parser("train", help="train a network that predicts a column of a table")
    train.add_argument(
        "data", help="CSV (also .gz, .bz2, .xz, .zst), Parquet or Arrow; - reads CSV from standard input"
    )
    train.add_argument("--target", required=True, metavar="NAME", help="the column to predict")
    train.add_argument(
        "--out", type=output_file(".safetensors"), metavar="FILE", help="write the network: .safetensors"
    )
    train.add_argument("--plot", type=picture, metavar="FILE", help="write a picture: .png, .svg or .pdf")
    train.add_argument("--report", type=page, metavar="FILE", help="write a page of all that was found: .html")
    train.add_argument("--task", choices=["classification", "regression"], help="what to do (told by the target)")
    train.add_argument(
        "--as",
        dest="kinds",
        type=kinds,
        default={},
        metavar="KIND:NAME,…",
        help="what columns hold: text:zip,number:price,date:when,ignore:id (found out)",
    )
    train.add_argument("--exclude", nargs="+", default=[], metavar="NAME", help="columns not to predict by")
    train.add_argument(
        "--categories", nargs="+", default=[], metavar="NAME", help="columns of numbers that stand for categories"
    )
    add_reading(train)
    train.add_argument("--decimal", choices=[".", ","], help="mark in numbers (found out)")
    train.add_argument("--thousands", choices=[",", ".", " ", "'"], help="mark in numbers (found out)")
    train.add_argument(
        "--network",
        choices=["realmlp", "mlp"],
        default="realmlp",
        help="RealMLP, or a plain perceptron, which is smaller and faster and mostly not as good (realmlp)",
    )
    train.add_argument("--quick", action="store_true", help="end when the validation does not improve any more")
    train.add_argument(
        "--n-ens", type=whole_number(1), default=1, metavar="N", help="the mean of so many networks is better (1)"
    )
    train.add_argument(
        "--hidden", type=sizes, metavar="64,64", help="widths of the hidden layers (of the preset; of mlp 64,64)"
    )
    train.add_argument("--epochs", type=whole_number(1), help="at most this many passes over the data (of mlp 300)")
    train.add_argument("--batch-size", type=whole_number(1), help="samples for an update (of the preset; of mlp 32)")
    train.add_argument("--lr", type=positive, help="learning rate of AdamW (of mlp 0.002)")
    train.add_argument("--seed", type=whole_number(0), default=0, help="which rows are held out, start and order (0)")


def add_predict(commands):
    predict = commands.add_parser("predict", help="what a network of fastfc train says of each row of a table")
    predict.add_argument("model", type=Path, help="what fastfc train --out wrote")
    predict.add_argument(
        "data", help="a table with the columns of the training in any order; - reads CSV from standard input"
    )
    predict.add_argument("--out", type=output_file(".csv"), metavar="FILE", help="write a CSV file (to the terminal)")
    predict.add_argument(
        "--keep", nargs="*", metavar="NAME", help="columns to write beside the prediction (all, if none is named)"
    )
    predict.add_argument("--proba", action="store_true", help="the probability of each class too")
    predict.add_argument(
        "--skip-bad", action="store_true", help="leave rows with a bad cell empty, instead of stopping"
    )
    add_reading(predict)


def parser():
    top = Parser(prog="fastfc", description="Fully connected networks as fast as the processor allows.")
    top.add_argument("--version", action="version", version=f"fastfc {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for add in (add_demo, add_train, add_predict, add_compare, add_warmup):
        add(commands)
    commands.add_parser("doctor", help="what fastfc finds on this machine")
    return top


def add_demo(commands):
    demo = commands.add_parser("demo", help="train a digit classifier, with NumPy and with fastfc; or on other data")
    demo.add_argument(
        "--data", choices=RUNS, help="train a network that suits these data, and say how good it is on unseen samples"
    )
    demo.add_argument("--epochs", type=whole_number(1), help="passes over the data (30; with --data what suits them)")
    demo.add_argument("--seed", type=whole_number(0), default=0, help="start and order of the samples (0)")
    demo.add_argument("--plot", type=picture, metavar="FILE", help="write a picture: .png, .svg or .pdf")


def add_compare(commands):
    compare = commands.add_parser("compare", help="time kernels and networks against other libraries")
    compare.add_argument(
        "--peers",
        type=peer,
        nargs="*",
        metavar="NAME",
        help=f"against these of {', '.join(PACKAGES)} (all), and on the shapes that fastfc has targets for; "
        f"with --networks also {', '.join(name for name in NETWORK_PACKAGES if name not in PACKAGES)}",
    )
    what = compare.add_mutually_exclusive_group()
    what.add_argument("--networks", action="store_true", help="networks instead of kernels")
    what.add_argument(
        "--shapes",
        type=shapes,
        nargs="+",
        metavar="NxIxO",
        help=f"rows x inputs x outputs, as in 256x64x10, and a layout: 256x64x10:{' or :'.join([*LAYOUTS][1:])}; "
        "odd: a list of unusual ones",
    )
    compare.add_argument("--threads", type=thread_count, default=1, help="threads and cores (1)")
    compare.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="of all arrays")
    compare.add_argument(
        "--isa",
        choices=supported(),
        help="every library is made to use this instruction set, and says so where it can",
    )
    compare.add_argument("--json", type=output_file(), metavar="FILE", help="write the measurements as JSON")
    about = "write a picture, .png, .svg or .pdf: bars of the ratios, and a roofline"
    compare.add_argument("--plot", type=picture, metavar="FILE", help=about)


def add_warmup(commands):
    warmup = commands.add_parser("warmup", help="compile all kernels ahead, into the cache, for this processor")
    warmup.add_argument(
        "--dtype", choices=["float32", "float64"], nargs="+", default=["float32", "float64"], help="for these (both)"
    )
    warmup.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for other machines: into a folder that FASTFC_KERNELS names there"
    )
    warmup.add_argument(
        "--isa",
        type=instruction_sets,
        metavar="avx2,avx512",
        help=f"with --out: for these of {', '.join(levels())} (this processor's)",
    )


def parse(arguments):
    top = parser()
    args = top.parse_args(arguments)
    if args.command == "compare" and not args.networks:
        for name in set(args.peers or []) - PACKAGES.keys():
            top.error(f"{name} is compared only with --networks")
    if args.command == "warmup" and args.isa and not args.out:
        top.error("--isa is for other machines: it needs --out FOLDER")
    return args


def train_on_ranks(train, options):
    """`fastfc train`, together with the other processes that mpiexec started: only one of them writes."""
    ranks = ranks_of(world(), "same", SHARDS, "fastfc train")
    if ranks is None or ranks.size == 1:
        train(**options)
        return
    if options["data"] == "-":
        raise ValueError("standard input comes to one rank only; give a file")
    with contextlib.ExitStack() as stack:
        if not ranks.main:
            options |= dict.fromkeys(("out", "plot", "report"))
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        with ranks.together("fastfc train"):
            train(**options, comm=ranks.comm)


def table_command(command, **options):
    from fastfc.tabular.predict import predict
    from fastfc.tabular.train import train

    try:
        if command == "train":
            train_on_ranks(train, options)
        else:
            predict(**options)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        if is_said_elsewhere(error):
            return 2
        if isinstance(error, RuntimeError):
            raise
        print(f"fastfc {command}: {error}", file=sys.stderr)
        return 2
    return 0


def run(args):
    if args.command == "doctor":
        from fastfc.cli.doctor import doctor

        return doctor()
    if args.command in ("train", "predict"):
        return table_command(**{name: value for name, value in vars(args).items() if name != "arguments"})
    if args.command == "warmup":
        from fastfc.cli.warmup import warmup, warmup_for_others

        return (
            warmup_for_others(args.out, args.isa or [host_isa().name], args.dtype) if args.out else warmup(args.dtype)
        )
    if args.command == "compare" and args.networks:
        libraries = args.peers or installed(NETWORK_PACKAGES)
        return compare_networks(TASKS, libraries, args.threads, args.dtype, args.json, args.plot, args.isa)
    if args.command == "compare":
        chosen = [shape for some in args.shapes or [SHAPES if args.peers is None else TARGETS] for shape in some]
        return compare(chosen, args.peers or installed(), args.threads, args.dtype, args.json, args.plot, args.isa)
    if environment(None) != os.environ:
        # NumPy has read these variables already: start over in a process of its own.
        wanted = environment(None) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.call([sys.executable, "-P", "-m", "fastfc.cli.main", *args.arguments], env=wanted)
    if args.data:
        try:
            real_run(args.data, args.epochs, args.seed, args.plot)
        except (ImportError, FileNotFoundError) as error:
            print(f"fastfc demo: {error}", file=sys.stderr)
            return 2
        return 0
    from fastfc.cli.demo import demo

    return demo(args.epochs or 30, args.seed, args.plot)


PLAIN = {"²": "2", "×": "x", "·": "*", "µ": "u"}  # what the commands write for themselves


def degraded(error):
    """The handler "fastfc" of encoding errors: similar text in ASCII, bytes of a file's name as they are, an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, end = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":  # what surrogateescape makes of a byte
        return bytes([ord(character) - 0xDC00]), end
    return PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode(), end


codecs.register_error("fastfc", degraded)


def main(arguments=None):
    """Run one command; the exit status. From then on stdout and stderr take any text, see `degraded`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # it may also be None, or what a program puts there
            stream.reconfigure(errors="fastfc")
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    args = parse(arguments)
    args.arguments = arguments
    try:
        status = run(args) or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `fastfc demo | head`: leave nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
