"""The command line of a worker is its last record: what is written there can be read back, and holds no secret."""

from __future__ import annotations

import msgspec

from rbees.host.worker_spec import FIXED_ENVIRONMENT, WorkerSpec, arguments, environment, owner_of, read_arguments

SPEC = WorkerSpec(
    worker_id="worker-01m85v0jsd2kta03kbjw9kfphe",
    nonce="0123456789ab-01m85v0jseq8cf5fkppxeszv48",
    model_path="/models/a b=c.gguf",
    model_ref="file:/models/a b=c.gguf",
    model_sha256="ab" * 32,
    backend="cpu",
    device="cpu",
    slots=4,
    ctx=4096,
    bind="127.0.0.1",
    port=0,
    callback_url="http://127.0.0.1:9200/internal/workers/x/ready",
    runtime_dir="/run/rbees",
)


def test_a_command_line_can_be_read_back() -> None:
    for spec in (
        SPEC,
        msgspec.structs.replace(
            SPEC, safe_mode=True, callback_url=None, port=9301, tls_cert_file="/c.pem", insecure_lan=True, threads=2, pooling="rank"
        ),
        msgspec.structs.replace(SPEC, kv_type_k="q8_0", kv_type_v="q4_0", flash_attention="on", load_mode="mmap+mlock"),
        msgspec.structs.replace(SPEC, backend="cuda", device="cuda:0", gpu_layers=0, split_mode="none", main_gpu=0),
        msgspec.structs.replace(SPEC, backend="cuda", device="cuda:0,cuda:2", split_mode="layer", tensor_split=(3.0, 1.25)),
    ):
        assert read_arguments(["/usr/bin/python3", *arguments(spec, 7)]) == spec
        assert read_arguments(["/usr/bin/python3", *arguments(spec, None)]) == spec


def test_other_processes_are_no_workers() -> None:
    assert read_arguments([]) is None
    assert read_arguments(["/usr/bin/python3", "-P", "-m", "rbees", "poold", "serve"]) is None
    assert read_arguments(["/usr/bin/python3", "-P", "-m", "rbees", "workerd", "serve", "--model=/x"]) is None
    assert read_arguments(["grep", "rbees", *arguments(SPEC, None)]) is None


def test_the_descriptor_is_named_and_nothing_else_of_the_secret() -> None:
    assert "--secret-fd=7" in arguments(SPEC, 7)
    assert not any("secret" in word for word in arguments(SPEC, None))


def test_the_owner_is_the_part_before_the_dash() -> None:
    assert owner_of(SPEC.nonce) == "0123456789ab"


def test_only_listed_variables_reach_a_worker() -> None:
    own = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "RBEES_HOME": "/h",
        "HF_TOKEN": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "RBEES_POOLD_TOKEN_FILE": "/t",
        "LD_PRELOAD": "/evil.so",
    }
    assert environment(own) == {"PATH": "/bin", "LC_ALL": "C", "RBEES_HOME": "/h", **FIXED_ENVIRONMENT}


def test_cuda_is_told_of_devices_that_go_by_uuids() -> None:
    instance = "MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135"
    assert environment({"CUDA_VISIBLE_DEVICES": "3"}, (f"cuda:{instance}",)) == {
        **FIXED_ENVIRONMENT,
        "CUDA_VISIBLE_DEVICES": instance,
    }
    assert environment({}, ("cuda:GPU-1", "cuda:GPU-2"))["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert environment({"CUDA_VISIBLE_DEVICES": "3"}, ("cuda:0", "cuda:1")) == FIXED_ENVIRONMENT
    assert environment({}, ("cpu",)) == FIXED_ENVIRONMENT


def test_a_worker_may_use_several_devices() -> None:
    assert SPEC.devices == ("cpu",)
    assert msgspec.structs.replace(SPEC, device="cuda:0,cuda:2").devices == ("cuda:0", "cuda:2")
