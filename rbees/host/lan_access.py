"""How this host calls the pools that it takes models from: whom it sends a token, and by which authority it knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from rbees.protocol.downloads import CopySource
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.service import auth
from rbees.service.role_settings import HostSettings


@dataclass(frozen=True, slots=True)
class Access:
    """How this host calls other pools."""

    token: str | None
    tls_ca_file: str | None
    insecure_lan: bool
    own_url: str | None = None
    """This pool's own, which is no source."""
    hosts: Sequence[HostSettings] = field(default=(), repr=False)
    """Those of the settings."""

    def source(self, url: str) -> CopySource:
        """How a pool is called whose url somebody typed: with a token only where the settings say whom to trust there.

        Raises:
            RbeesError: CONFIGURATION: the token would cross the network readable, or its file cannot be read.
        """
        parts = urlsplit(url)
        is_local = auth.is_loopback(parts.hostname or "")
        listed = next((host for host in self.hosts if host.url is not None and _same(host.url, url)), HostSettings())
        token = auth.read_secret(listed.token_file) if listed.token_file is not None else self.token
        if token is not None and parts.scheme == "http" and not (is_local or self.insecure_lan):
            message = f"The cluster's token would go to {url} readable; name the pool by https, or accept that with `insecure_lan`."
            raise RbeesError(ErrorCode.CONFIGURATION, message, url=url)
        is_trusted = is_local or self.insecure_lan or listed.token_file is not None or self.tls_ca_file is not None
        return CopySource(url=url, token=token if is_trusted else None, tls_ca_file=listed.tls_ca_file or self.tls_ca_file)


def _same(one: str, other: str) -> bool:
    return one.rstrip("/").lower() == other.rstrip("/").lower()
