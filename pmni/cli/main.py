"""The command line: `pmni <stage>`; a stage's modules are imported only when it runs.

`pmni fork-server` is for the workflow alone: see pmni.runtime.fork_server.
"""

import argparse
import logging
import sys
from importlib import import_module
from pathlib import Path

from pmni import __version__
from pmni.errors import PmniError
from pmni.runtime import fork_server
from pmni.runtime.stages import STAGES


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser with one subcommand a stage; only the chosen stage's options are filled in."""
    parser = argparse.ArgumentParser(
        prog="pmni", description="From multi-view normal maps to a mesh and camera poses."
    )
    parser.add_argument("--version", action="version", version=f"pmni {__version__}")
    commands = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)
    for stage in STAGES.values():
        command = commands.add_parser(stage.name, help=stage.summary, description=stage.summary)
        if stage.name == chosen:
            module = import_module(stage.module)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one stage. Returns 0, or 2 after a line on standard error that says what to do."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["fork-server"]:
        return fork_server.serve(Path(argv[1]), main)
    if argv and argv[0] in STAGES and (code := fork_server.forward(argv)) is not None:
        return code
    # Not before a command is forwarded, which need not wait for pydantic.
    from pmni.config.base import plain_deprecations

    chosen = next((word for word in argv if not word.startswith("-")), None)
    args = build_parser(chosen).parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    try:
        with plain_deprecations(lambda line: print(f"pmni: warning: {line}", file=sys.stderr)):
            args.run(args)
    except PmniError as error:
        print(f"pmni {args.stage}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        print(f"pmni {args.stage}: error: {named}{error.strerror or error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
