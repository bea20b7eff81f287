"""Between commands and people: arguments, lists of what failed, and errors as a few lines with an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from apibench import text
from apibench.errors import ApibenchError, ExitCode


def parse_settings(pairs: Sequence[str]) -> dict[str, str | int | float | bool]:
    """``KEY=VALUE`` with numbers and true/false as such. Raises ApibenchError for anything else."""
    settings: dict[str, str | int | float | bool] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ApibenchError(f"--setting {pair}: write KEY=VALUE")
        settings[key] = value
        for convert in (int, float):
            try:
                settings[key] = convert(value)
                break
            except ValueError:
                continue
        if value in ("true", "false"):
            settings[key] = value == "true"
    return settings


def parse_targets(names: Sequence[str], providers: Sequence[str], default: str) -> dict[str, str]:
    """The network behind each provider, from ``NAME`` (of all) and ``PROVIDER=NAME``. Raises ApibenchError for anything else."""
    own: dict[str, str] = {}
    for name in names:
        provider, equals, network = name.partition("=")
        if not equals or ":" in provider:  # "file:ARCH=PATH" is a network
            default = name
        elif provider not in providers or not network:
            raise ApibenchError(f"--target {name}: write NAME or PROVIDER=NAME; providers are {', '.join(providers)}")
        else:
            own[provider] = network
    return {provider: own.get(provider, default) for provider in providers}


def beside(out: Path) -> Path:
    """Where imported photographs go unless told: beside the output, under its name."""
    out = out.resolve()
    return out.with_name(out.name + "-clean")


def use_threads(threads: int | None, device: str) -> None:
    """Set the number of CPU threads, and refuse a device that is not there."""
    from apibench._torch import torch

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ApibenchError(f"--device {device}: not usable here: {first[:120]}; --device cpu is") from error


def tell(notes: Iterable[str]) -> None:
    """What a user has to know beside the result, on standard error, a line each."""
    for note in notes:
        click.echo(text.plain(note, 400), err=True)


def list_failed(failed: Sequence[tuple[str, str]], ignored: int) -> ExitCode:
    """Name what could not be done, on standard error; the exit code that goes with it."""
    if ignored:
        click.echo(f"{ignored} files without an image suffix were ignored", err=True)
    for _, reason in failed[:20]:
        click.echo(f"not done: {text.plain(reason, 400)}", err=True)
    if len(failed) > 20:
        click.echo(f"... and {len(failed) - 20} more", err=True)
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def run_command(command: Callable[..., Any], arguments: Sequence[str] | None) -> int:
    """Run a click command; its exit code. A user's mistake is told in a few lines, never by a traceback."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core tells of connections and ports on standard error
    try:
        code = command(args=arguments, prog_name="apibench", standalone_mode=False)
        return int(code) if isinstance(code, int) else ExitCode.DONE
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        click.echo(f"apibench: {error.format_message()}", err=True)
        click.echo(f"see: {where.command_path if where else 'apibench'} --help", err=True)
        return ExitCode.NOTHING_DONE
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; what was done is kept, and the same command goes on from there", err=True)
        return 130
    except ApibenchError as error:
        click.echo(f"apibench: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing to tell it, and nothing may fail at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        hint = " What was done so far is kept." if error.errno == errno.ENOSPC else ""
        click.echo(f"apibench: {where}{error.strerror or error}.{hint}", err=True)
        return ExitCode.NOTHING_DONE
    except MemoryError:
        click.echo("apibench: out of memory; use a smaller --max-side. What was done so far is kept.", err=True)
        return ExitCode.NOTHING_DONE
