"""`rbees pool models download`: fetch a model, through the daemon if one runs here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from rbees.pool.forms import HostOption, check_host_option, is_peer_named
from rbees.pool.target import asks_poold_if_there
from rbees.service.role_settings import MODELS_DIR

if TYPE_CHECKING:
    from rbees.clients.poold import PooldClient
    from rbees.protocol.downloads import DownloadRequest

_OF_THIS_PROCESS: Final = (MODELS_DIR, "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE")
"""Variables that say where from and where to: whoever sets them for this command means this command, not this host's daemon."""


@click.command("download")
@click.argument("model")
@click.option("--quant", "quantization", metavar="NAME", help="Such as Q4_K_M.  [default: what fits this host]")
@click.option(
    "--local-dir",
    cls=HostOption,
    type=click.Path(),
    help="Folder of this host to put the files into.  [default: the shared Hugging Face cache]",
)
@click.option(
    "--from",
    "sources",
    metavar="URL",
    multiple=True,
    help="Pool daemon that has the model, such as https://mac:9200; may be repeated. The hub is asked only where none can give it.",
)
@asks_poold_if_there
async def download(
    pool: PooldClient | None,
    *,
    model: str,
    quantization: str | None,
    local_dir: str | None,
    sources: tuple[str, ...],
    as_json: bool,
) -> None:
    """Fetch a model of the catalogue, or `hf:org/repo[@rev][::file=path]`, and print its reference.

    What was fetched before an interruption is kept. Private and gated repositories need a token in HF_TOKEN.
    """
    from rbees.terminal.downloads import show_download

    check_host_option("--local-dir", local_dir)
    request = _request(model, quantization, sources)
    if pool is not None and (is_peer_named() or not _is_own(local_dir)):
        await show_download(pool.download(request), model, as_json=as_json)
        return
    from rbees.pool.here import Here, local_folder
    from rbees.pool.notice import tell_daemon
    from rbees.terminal.notes import notes

    here = Here()
    await show_download(here.download(request, local_folder(local_dir)), model, as_json=as_json)
    with notes(silent=as_json) as said:
        await tell_daemon(here, said)


def _is_own(local_dir: str | None) -> bool:
    """Whether the command fetches by itself, because it was told what this host's daemon was not."""
    return local_dir is not None or any(os.environ.get(name) for name in _OF_THIS_PROCESS)


def _request(model: str, quantization: str | None, sources: tuple[str, ...]) -> DownloadRequest:
    """The request, checked as a daemon would.

    Raises:
        RbeesError: INVALID_REQUEST.
    """
    from rbees.clients.http import is_base_url
    from rbees.protocol.downloads import MAX_SOURCES, DownloadRequest
    from rbees.protocol.errors import ErrorCode, RbeesError

    named = tuple(dict.fromkeys(url.rstrip("/") for url in sources))
    for url in named:
        if not is_base_url(url):
            # What makes a url unfit may be a password in it, which is then not repeated.
            raise RbeesError(ErrorCode.INVALID_REQUEST, "A pool after `--from` must look like `http://host:port`.", field="from")
    if len(named) > MAX_SOURCES:
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"Name at most {MAX_SOURCES} pools after `--from`.", field="from")
    return DownloadRequest(model_ref=model, quantization=quantization, sources=named)
