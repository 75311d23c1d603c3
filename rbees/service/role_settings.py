"""The settings of each role, as data: one frozen struct per role, one documented field per setting.

Names are the TOML keys (`[orcd] port = 8080`), the environment (`RBEES_ORCD_PORT`) and, with dashes, the flags. Loading and
precedence live in `settings.py`; docs/configuration.md is generated from the descriptions here. Folders default to `None`,
which means the platform's own place (`service/folders.py`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from rbees.protocol.device_options import DeviceOptions, FlashAttention, KvType, LoadMode, needs_flash_attention


def _about(text: str, *, gt: float | None = None, ge: float | None = None, le: float | None = None) -> msgspec.Meta:
    if gt is not None:
        return msgspec.Meta(description=text, gt=gt, le=le)
    return msgspec.Meta(description=text, ge=ge, le=le)


Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What orcd and poold have in common."""

    bind: Annotated[str, _about("Address to listen on. Anything but loopback needs a token and a certificate.")] = "127.0.0.1"
    state_dir: Annotated[str | None, _about("Folder of the daemon's durable state.")] = None
    token_file: Annotated[str | None, _about("File (mode 0600) with the cluster token that every caller must send.")] = None
    tls_cert_file: Annotated[str | None, _about("PEM certificate chain of this daemon.")] = None
    tls_key_file: Annotated[str | None, _about("PEM private key (mode 0600) of this daemon.")] = None
    tls_ca_file: Annotated[str | None, _about("PEM certificates to trust when calling other daemons.")] = None
    insecure_lan: Annotated[
        bool, _about("Listen beyond loopback without TLS. Tokens and prompts then cross the network readable.")
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...], _about("Further values of the Host header to accept, beside the bound address and localhost.")
    ] = ()
    allowed_origins: Annotated[tuple[str, ...], _about("Browser origins that may call this daemon. Empty: none.")] = ()
    max_body_bytes: Annotated[int, _about("Largest request body.", ge=1024)] = 10 * 1024 * 1024
    drain_timeout_s: Annotated[float, _about("How long SIGTERM lets running work finish.", ge=0)] = 30.0
    log_level: Annotated[LogLevel, _about("Least severe level that is logged.")] = "info"
    log_format: Annotated[LogFormat, _about("`auto` is text on a terminal and JSON elsewhere.")] = "auto"


class OrcdSettings(DaemonSettings, frozen=True, kw_only=True):
    """`[orcd]`: the orchestrator daemon."""

    port: Annotated[Port, _about("Port to listen on; 0 takes a free one.")] = 8080
    queue_limit: Annotated[int, _about("Most jobs that may wait; one more is answered 429. 0 sets no limit.", ge=0)] = 10_000
    pools: Annotated[tuple[str, ...], _about("Endpoints of pools that orcd calls on start, beside those that register.")] = ()
    heartbeat_interval_s: Annotated[float, _about("How often pools report.", gt=0)] = 2.0
    suspect_after_s: Annotated[
        float, _about("Silence after which a pool gets no new work, and jobs leave it whose streams are silent too.", gt=0)
    ] = 6.0
    lost_after_s: Annotated[float, _about("Silence after which all jobs of a pool go on elsewhere.", gt=0)] = 15.0
    hang_after_s: Annotated[float, _about("A worker without a beat, or whose step counter stands, for so long has hung.", gt=0)] = (
        5.0
    )
    retries: Annotated[int, _about("How often a job whose worker failed is tried again.", ge=0)] = 5
    retry_first_delay_s: Annotated[float, _about("Delay before the first retry; doubles up to 60 s, with jitter.", ge=0)] = 1.0
    worker_idle_s: Annotated[float, _about("A worker without work for so long is stopped.", gt=0)] = 1_800.0
    replica_idle_s: Annotated[float, _about("The same for a worker beside others of its model.", gt=0)] = 300.0
    pinned_models: Annotated[
        tuple[str, ...],
        _about("Models whose workers are never stopped for others or for want of work, by reference, alias, file name or sha256."),
    ] = ()
    event_log_bytes: Annotated[
        int, _about("Most bytes of the log of events that `rbees orcd replay` reads, for each run of orcd; 0 writes none.", ge=0)
    ] = 64 * 1024 * 1024
    policy_plugin: Annotated[
        str | None, _about("The cluster's own policy: the name of an entry point of `rbees.policies`, or `module:Class`.")
    ] = None
    policy_limit_ms: Annotated[float, _about("How long one answer of that policy may take.", ge=1)] = 5.0
    retention_days: Annotated[float, _about("Ended jobs are deleted after so long.", gt=0)] = 7.0
    erase_content_after_s: Annotated[
        Annotated[float, msgspec.Meta(ge=0)] | None,
        _about("Prompts and outputs of ended jobs are erased after so long; unset: kept as long as the job."),
    ] = None
    max_file_bytes: Annotated[int, _about("Largest file that may be uploaded for a batch.", ge=1024)] = 200 * 1024 * 1024

    def __post_init__(self) -> None:
        if not self.heartbeat_interval_s < self.suspect_after_s < self.lost_after_s:
            raise ValueError("`heartbeat_interval_s`, `suspect_after_s` and `lost_after_s` must grow in this order")


class PooldSettings(DaemonSettings, frozen=True, kw_only=True):
    """`[poold]`: the pool daemon of a host."""

    port: Annotated[Port, _about("Port to listen on; 0 takes a free one.")] = 9200
    pool_id: Annotated[str | None, _about("Name of this pool in the cluster; default: the host name.")] = None
    endpoint: Annotated[str | None, _about("URL under which orcd reaches this pool; default: made from bind and port.")] = None
    orcd_url: Annotated[str | None, _about("URL of the orchestrator to register with; unset: wait to be called.")] = None
    model_dirs: Annotated[tuple[str, ...], _about("Folders searched for GGUF files; `file:` references must lie inside one.")] = ()
    models_file: Annotated[
        str | None, _about("File with further short names of models; default: `models.toml` in the user's settings folder.")
    ] = None
    worker_port_first: Annotated[Port, _about("First port that workers may take; 0 lets the system choose.")] = 0
    worker_port_last: Annotated[Port, _about("Last port that workers may take.")] = 0
    default_slots: Annotated[int, _about("Sequences a worker serves at once unless the spawn says.", ge=1, le=256)] = 4
    default_ctx: Annotated[
        int, _about("Most KV cells per sequence unless the spawn says; models trained for less get less.", ge=64)
    ] = 4_096
    default_flash_attention: Annotated[FlashAttention, _about("Flash attention of workers unless the spawn says.")] = "auto"
    default_kv_type_k: Annotated[KvType, _about("How workers store keys unless the spawn says.")] = "f16"
    default_kv_type_v: Annotated[KvType, _about("How workers store values unless the spawn says.")] = "f16"
    default_load_mode: Annotated[LoadMode, _about("How workers read weights unless the spawn says.")] = "auto"
    load_timeout_s: Annotated[float, _about("A worker that has not loaded its model after so long is stopped.", gt=0)] = 600.0
    memory_reserve_bytes: Annotated[int, _about("Memory that preflight leaves free on each device.", ge=0)] = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.worker_port_last < self.worker_port_first:
            raise ValueError("`worker_port_last` lies below `worker_port_first`")
        if self.default_flash_attention == "off" and needs_flash_attention(self.default_kv_type_v):
            raise ValueError(
                f"`default_kv_type_v` {self.default_kv_type_v} needs flash attention, which `default_flash_attention` forbids"
            )

    def default_options(self) -> DeviceOptions:
        """How models are laid on devices unless the spawn says."""
        return DeviceOptions(
            flash_attention=self.default_flash_attention,
            kv_type_k=self.default_kv_type_k,
            kv_type_v=self.default_kv_type_v,
            load_mode=self.default_load_mode,
        )


class CtlSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[ctl]`: the operator's client."""

    orcd_url: Annotated[
        str | None, _about("URL of the orchestrator; default: a running `rbees up`, else http://127.0.0.1:8080.")
    ] = None
    token_file: Annotated[str | None, _about("File (mode 0600) with the cluster token.")] = None
    tls_ca_file: Annotated[str | None, _about("PEM certificates to trust.")] = None
    default_domain: Annotated[
        str, _about("Domain of a `--host` that neither `[hosts]` nor ssh_config knows; empty takes the name as it is.")
    ] = "home.arpa"
    ssh_config_file: Annotated[
        str, _about("ssh_config to take addresses, users, keys and jump hosts from. What would run a program is refused.")
    ] = "~/.ssh/config"
    known_hosts_file: Annotated[str, _about("SSH keys of hosts that were confirmed. A host with another key is refused.")] = (
        "~/.ssh/known_hosts"
    )


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[pool]`: the local tool of a pool host."""

    checkout: Annotated[
        str | None, _about("Git checkout that `rbees-pool git` acts on; default: the one that rbees runs from.")
    ] = None
    git_protocols: Annotated[
        tuple[Literal["file", "git", "http"], ...],
        _about("Protocols that git may use beside https and ssh: `file`, `git`, `http`."),
    ] = ()


class HostSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[hosts.NAME]`: what `llorch pool` calls a pool host, and how it is reached."""

    url: Annotated[str | None, _about("URL of the host's poold.")] = None
    token_file: Annotated[
        str | None, _about("File (mode 0600) with the token that this poold asks for; without it none is sent.")
    ] = None
    tls_ca_file: Annotated[str | None, _about("PEM certificates to trust there, in place of those of `[ctl]`.")] = None
    ssh: Annotated[str | None, _about("`[user@]host[:port]` for SSH, where host may be a name of ssh_config; default: NAME.")] = (
        None
    )
    program: Annotated[str, _about("What is run there by SSH; `~/` is the home folder on the host.")] = "rbees-pool"


ROLES: Final[dict[str, type[msgspec.Struct]]] = {
    "orcd": OrcdSettings,
    "poold": PooldSettings,
    "ctl": CtlSettings,
    "pool": PoolSettings,
}
"""The tables of a settings file, beside the hosts. A worker has none: whoever starts it passes flags."""
HOSTS_TABLE: Final = "hosts"
MODELS_DIR: Final = "RBEES_MODELS_DIR"
VARIABLES: Final[dict[str, str]] = {
    "RBEES_HOME": "Folder that holds state, sockets and the user's settings file together, in place of the platform's own places. "
    "The system's settings file is then not read.",
    MODELS_DIR: "Folder that models are downloaded into, in place of the Hugging Face cache that other tools share; "
    "it is searched as one of the `model_dirs` are.",
}
"""Environment variables that belong to no role; any other `RBEES_*` name is refused as a slip."""
