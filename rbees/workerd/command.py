"""`rbees workerd serve`, `memory` and `try`: flags, the secret, exit codes. Poold runs the first, a person may run all of them."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args
from urllib.parse import urlsplit

import click

from rbees.protocol.codec import encode
from rbees.protocol.device_options import DeviceOptions, check_device_options
from rbees.protocol.errors import ErrorCode, ErrorEnvelope, RbeesError
from rbees.protocol.vectors import Pooling
from rbees.protocol.workers import Backend
from rbees.service import folders, logs
from rbees.service.clock import SystemClock
from rbees.service.daemon import run_daemon
from rbees.service.device_flags import device_flags, take_device_options
from rbees.service.identity import Identities
from rbees.workerd.adapters import named_with, read_adapters
from rbees.workerd.config import WorkerConfig
from rbees.workerd.engine.adapter import Adapter
from rbees.workerd.model_paths import model_path

F = TypeVar("F", bound=Callable[..., Any])

EXIT_MODEL_NOT_LOADABLE: Final = 65
SPIN_COUNT: Final = "1000"
"""Turns of libgomp's waiting loop, 10 to 60 microseconds by processor."""
_MOST_SLOTS: Final = 256
"""The library's own limit, known here without importing the engine."""
_WORKER_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_LOAD_FAILURES: Final = frozenset(
    {ErrorCode.MODEL_NOT_FOUND, ErrorCode.MODEL_INCOMPATIBLE, ErrorCode.INSUFFICIENT_VRAM, ErrorCode.BACKEND_UNAVAILABLE}
)


_SHAPE_FLAGS: Final[tuple[Callable[[Any], Any], ...]] = (
    click.option("--backend", type=click.Choice(get_args(Backend)), default="cpu", show_default=True, help="What computes."),
    click.option("--device", help="Such as cuda:1; several as cuda:0,cuda:1.  [default: the backend's first]"),
    device_flags,
    click.option("--slots", type=click.IntRange(1, _MOST_SLOTS), default=4, show_default=True, help="Sequences served at once."),
    click.option("--ctx", type=click.IntRange(16), default=4096, show_default=True, help="Most tokens of one sequence."),
    click.option(
        "--kv-cells",
        type=click.IntRange(16),
        help="KV cells that all slots share.  [default: a context for each slot, and one more where each has its own]",
    ),
    click.option("--threads", type=click.IntRange(1, 1024), help="Compute threads.  [default: physical cores]"),
    click.option("--lora", multiple=True, metavar="PATH[=SCALE]", help="Compute with this LoRA adapter; may come several times."),
    click.option(
        "--pooling",
        type=click.Choice(get_args(Pooling)),
        help="Make vectors so: of all tokens, the first (cls), the last, or scores.  [default: as the model's header says]",
    ),
    click.option("--safe-mode", is_flag=True, help="Avoid kernels that kill the process on some virtual machines."),
)


def shape_flags(function: F) -> F:
    """Decorate a click command with the flags that say what a worker takes: how much of it, and where."""
    for flag in reversed(_SHAPE_FLAGS):
        function = flag(function)
    return function


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """One worker: one process that serves one model."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@command.command()
@click.option(
    "--model", type=click.Path(path_type=Path), required=True, help="The GGUF file (or script) to serve, or a short name."
)
@click.option("--model-ref", help="Name of the model in events and reports.  [default: file:MODEL, or its short name]")
@click.option("--model-sha256", help="Digest of the file, passed on in reports.")
@shape_flags
@click.option(
    "--speculation",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="Guess next tokens where that saves time; answers are the same.",
)
@click.option("--draft-model", type=click.Path(path_type=Path), help="A smaller model of the same vocabulary that guesses too.")
@click.option(
    "--draft-tokens", type=click.IntRange(1, 16), default=8, show_default=True, help="Most tokens that it guesses at a time."
)
@click.option(
    "--cache-ram",
    type=click.IntRange(0, 1 << 20),
    metavar="MIB",
    help="Main memory for prompts that the KV memory forgets; 0 for none.  [default: up to 1024]",
)
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Port; 0 takes a free one.")
@click.option("--worker-id", help="Identity of this worker.  [default: a new one]")
@click.option("--nonce", help="Tells this process from others with its pid.  [default: random]")
@click.option("--callback-url", help="Where to report that the model is loaded.")
@click.option(
    "--secret-fd",
    type=click.IntRange(0),
    help="Inherited descriptor with the bearer token; needed unless `--callback-url` takes a new one.",
)
@click.option("--runtime-dir", type=click.Path(path_type=Path), help="Folder of the control socket.")
@click.option("--allowed-host", help="A further name under which other hosts may call this worker.")
@click.option("--tls-cert-file", help="PEM certificate chain, to be reached from other hosts.")
@click.option("--tls-key-file", help="PEM private key (mode 0600).")
@click.option("--tls-ca-file", help="PEM certificates to trust when calling back.")
@click.option("--insecure-lan", is_flag=True, help="Listen beyond loopback without TLS.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(["auto", "json", "text"]), default="json", show_default=True)
def serve(log_level: str, log_format: str, secret_fd: int | None, **flags: Any) -> None:
    """Load a model and serve it until told to stop."""
    # ggml's assertions would otherwise try to attach a debugger to this process.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    # A fault is named in the log: where nobody is there to take the status, that is all that tells of it.
    faulthandler.enable(all_threads=False)
    limit_spinning(os.environ)
    logs.configure("workerd", log_level, log_format)
    try:
        config = _config(flags)
        sys.exit(_serve(config, _secret(secret_fd, told=config.callback_url is not None)))
    except RbeesError as error:
        logs.logger().error("the worker ends", action="worker_failed", code=str(error.code))
        # The last line of this form is what the pool reports as the reason.
        sys.stderr.write(encode(ErrorEnvelope(error=error.body())).decode() + "\n")
        sys.exit(EXIT_MODEL_NOT_LOADABLE if error.code in _LOAD_FAILURES else error.exit_code)


@command.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="The GGUF file to reckon with, or a short name.")
@shape_flags
@click.option("as_json", "--json", is_flag=True, help="Print JSON for programs.")
def memory(model: Path, as_json: bool, **flags: Any) -> None:
    """Say what memory a worker would take, without loading the model."""
    device, options, adapters = _take_shape(flags)
    if flags["backend"] == "scripted":
        raise RbeesError(ErrorCode.CONFIGURATION, "A scripted model takes no memory worth asking for; name a GGUF file.")
    with _needing_the_extra():
        from rbees.workerd.engine.backend import LoadSpec
        from rbees.workerd.memory import as_text, ask

        cells = flags.pop("kv_cells")
        path = str(model_path(model, "--model")[0])
        need = ask(LoadSpec(path, device=device, options=options, adapters=adapters, cells=cells, **flags))
    click.echo(encode(need).decode() if as_json else as_text(need))


@command.command("try")
@click.option("--model", type=click.Path(path_type=Path), required=True, help="The GGUF file to load, or a short name.")
@shape_flags
@click.option("as_json", "--json", is_flag=True, help="Print JSON for programs.")
def try_(model: Path, as_json: bool, **flags: Any) -> None:
    """Load a model and decode some tokens, to see whether a backend works here; `rbees pool dev doctor` runs this."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    limit_spinning(os.environ)
    logs.configure("workerd", "error", "json")
    device, options, adapters = _take_shape(flags)
    with _needing_the_extra():
        from rbees.workerd.engine.backend import LoadSpec
        from rbees.workerd.trial import try_out

        cells, path = flags.pop("kv_cells"), str(model_path(model, "--model")[0])
        done = try_out(LoadSpec(path, device=device, options=options, adapters=adapters, cells=cells, **flags))
    if as_json:
        click.echo(encode(done).decode())
        return
    rate = done.decoded_tokens * 1000 / max(1, done.decode_ms)
    click.echo(
        f"{done.backend} works on {done.device}: loaded in {done.load_ms} ms, {done.decoded_tokens} tokens at {rate:.0f} a second."
    )


def limit_spinning(environ: MutableMapping[str, str]) -> None:
    """Have compute threads that wait for each other sleep after some microseconds; what the user has set stays.

    A decode step of one stream has hundreds of barriers. libgomp spins at each for milliseconds, so where another program runs
    on one of the processors, the threads burn their time waiting for the one that was put off, and a step takes ten times as long.
    Spinning about as long as falling asleep and being woken takes never costs more than twice the better of the two.
    """
    if "OMP_WAIT_POLICY" not in environ:
        environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def _serve(config: WorkerConfig, secret: str) -> int:
    # Imported here because a --help needs no web server.
    with _needing_the_extra():
        from rbees.workerd.app import Worker

    async def main(stopping: asyncio.Event) -> int:
        return await Worker(config, secret, SystemClock(), stopping).run()

    return run_daemon(main)


@contextlib.contextmanager
def _needing_the_extra() -> Iterator[None]:
    """Tell a host without the extra how to get it.

    Raises:
        RbeesError: BACKEND_UNAVAILABLE
    """
    try:
        yield
    except ModuleNotFoundError as error:
        from rbees.service.extras import install_command

        sentence = f"The package {error.name} is not installed here; run `{install_command('llama')}`."
        raise RbeesError(ErrorCode.BACKEND_UNAVAILABLE, sentence) from None


def _take_shape(flags: dict[str, Any]) -> tuple[str, DeviceOptions, tuple[Adapter, ...]]:
    """Device, options and adapters, taken out of the flags once they are seen to agree with the others."""
    backend, options = flags["backend"], take_device_options(flags)
    device = flags.pop("device") or {"cuda": "cuda:0", "metal": "metal:0"}.get(backend, "cpu")
    _check_options(backend, device, options)
    if flags["kv_cells"] is not None and options.kv_layout == "per_slot":
        raise RbeesError(
            ErrorCode.CONFIGURATION, "`--kv-cells` counts the cells of a pool; leave it or `--kv-layout per_slot` out."
        )
    if flags["slots"] == _MOST_SLOTS and options.kv_layout == "per_slot":
        raise RbeesError(
            ErrorCode.CONFIGURATION,
            f"`--kv-layout per_slot` needs a spare slot; ask for at most {_MOST_SLOTS - 1} `--slots`, or leave it out.",
        )
    if flags["kv_cells"] is not None and flags["kv_cells"] < flags["ctx"]:
        raise RbeesError(ErrorCode.CONFIGURATION, "`--kv-cells` must be at least `--ctx`, or no sequence could fill its context.")
    return device, options, read_adapters(flags.pop("lora"))


def _config(flags: dict[str, Any]) -> WorkerConfig:
    model, name = model_path(flags["model"], "--model")
    device, options, adapters = _take_shape(flags)
    if flags["draft_model"] is not None and flags["speculation"] == "off":
        raise RbeesError(ErrorCode.CONFIGURATION, "`--draft-model` and `--speculation off` contradict each other; leave one out.")
    if flags["worker_id"] is not None and not _WORKER_ID.fullmatch(flags["worker_id"]):
        raise RbeesError(ErrorCode.CONFIGURATION, "`--worker-id` names files: use up to 64 letters, digits, `.`, `_` and `-`.")
    _check_callback_url(flags["callback_url"])
    defaults: dict[str, Any] = {
        "model": model,
        "model_ref": flags["model_ref"] or named_with(name, adapters),
        "draft_model": flags["draft_model"] and model_path(flags["draft_model"], "--draft-model")[0],
        "adapters": adapters,
        "device": device,
        "options": options,
        "worker_id": flags["worker_id"] or Identities(SystemClock()).worker_id(),
        "nonce": flags["nonce"] or secrets.token_hex(8),
        "runtime_dir": folders.make_private_folder(flags["runtime_dir"]) if flags["runtime_dir"] else folders.runtime_folder(),
    }
    return WorkerConfig(**{**flags, **defaults})


def _check_options(backend: str, device: str, options: DeviceOptions) -> None:
    """What `check_device_options` refuses, said of flags.

    Raises:
        RbeesError: CONFIGURATION
    """
    try:
        check_device_options(backend, tuple(device.split(",")), options)
    except RbeesError as error:
        flags = re.sub(r"`([a-z]+(?:_[a-z]+)*)`", lambda name: f"`--{name[1].replace('_', '-')}`", error.message)
        raise RbeesError(ErrorCode.CONFIGURATION, flags) from None


def _check_callback_url(url: str | None) -> None:
    """Before the model is loaded, which may take minutes.

    Raises:
        RbeesError: CONFIGURATION
    """
    if url is None:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise RbeesError(ErrorCode.CONFIGURATION, "`--callback-url` must look like `http://host:port/path`.")


def _secret(descriptor: int | None, *, told: bool) -> str:
    """The bearer token that the parent wrote into the descriptor, or a new one where somebody is `told` of it.

    Raises:
        RbeesError: CONFIGURATION
    """
    if descriptor is None and not told:
        sentence = (
            "Nobody could call this worker, because nobody would know its token: write one of at least 32 characters to a file "
            "that only you can read, and pass it as `--secret-fd 3 3< FILE`."
        )
        raise RbeesError(ErrorCode.CONFIGURATION, sentence)
    if descriptor is None:
        return Identities(SystemClock()).secret()
    try:
        with os.fdopen(descriptor, encoding="ascii", errors="replace") as stream:
            secret = stream.read(4096).strip()
    except OSError:
        secret = ""
    if len(secret) < 32:
        raise RbeesError(ErrorCode.CONFIGURATION, "The descriptor named by `--secret-fd` holds no token.")
    return secret
