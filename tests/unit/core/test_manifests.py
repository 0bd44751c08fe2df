from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lull.api import names
from lull.api.llmdeployment import InvalidSpec, Manifest, parse_llmdeployment
from lull.api.reasons import Reason
from lull.core.manifests import BuildSettings, build, find_revision
from lull.core.manifests.refusals import OWNED_FLAGS, OWNED_PREFIXES, OWNED_VARIABLES
from tests.manifests import SETTINGS, manifest, stored


def _workload(**spec: Any) -> Manifest:
    return build(stored(manifest(**spec)), SETTINGS)[-1]


def _child(kind: str, settings: BuildSettings = SETTINGS, **spec: Any) -> Manifest:
    (child,) = (child for child in build(stored(manifest(**spec)), settings) if child["kind"] == kind)
    return child


def _pod(**spec: Any) -> Manifest:
    pod: Manifest = _workload(**spec)["spec"]["template"]["spec"]
    return pod


def _engine(**spec: Any) -> Manifest:
    engine: Manifest = _pod(**spec)["containers"][0]
    return engine


def _revision(**spec: Any) -> str:
    revision: str = _workload(**spec)["metadata"]["annotations"][names.LABEL_REVISION]
    return revision


def _mounts(container: Manifest) -> dict[str, bool]:
    """Where a container sees volumes, and whether it may write there."""
    return {mount["mountPath"]: not mount.get("readOnly", False) for mount in container["volumeMounts"]}


def _flag(name: str, **spec: Any) -> str | None:
    arguments: list[str] = _engine(**spec)["args"]
    return arguments[arguments.index(name) + 1] if name in arguments else None


@pytest.mark.parametrize("flag", OWNED_FLAGS)
def test_refuses_every_flag_of_its_own_with_what_to_do(flag: str) -> None:
    whole = f"{flag}keyfile" if flag.endswith("-") else flag

    with pytest.raises(InvalidSpec, match=r"extraArgs: --") as refused:
        _workload(engine={"extraArgs": [whole, "value"]})

    assert whole in str(refused.value)


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ("--served-model-name=x", "spec.model.name"),
        ("--served_model_name", "spec.model.name"),
        ("--served-model", "spec.model.name"),
        ("--max_model_len=10", "spec.engine.maxModelLen"),
        ("--max-num-s", "spec.engine.maxNumSeqs"),
        ("-tp", "spec.parallelism.tensor"),
        ("-tp=2", "spec.parallelism.tensor"),
        ("-t", "spec.parallelism.tensor"),
        ("-pp", "spec.parallelism.pipeline"),
        ("-dpn", "spec.parallelism.data"),
        ("-n", "spec.accelerator.nodesPerReplica"),
        ("-n2", "spec.accelerator.nodesPerReplica"),
        ("-r1", "spec.accelerator.nodesPerReplica"),
        ("-ep", "spec.parallelism.expert"),
        ("-q", "spec.engine.quantization"),
        ("-qawq", "spec.engine.quantization"),
        ("-sc", "spec.engine.speculative"),
        ("-sc.method", "spec.engine.speculative"),
        ("--speculative-c.model=x", "spec.engine.speculative"),
        ("--speculative_config.num_speculative_tokens", "spec.engine.speculative"),
        ("--spec-m", "spec.engine.speculative"),
        ("-ac.backend", "spec.engine.attentionBackend"),
        ("--attention-config={}", "spec.engine.attentionBackend"),
        ("--structured_outputs_config.backend", "spec.engine.structuredOutputsBackend"),
        ("--structured-outputs-config.reasoning_parser_plugin", "loads code"),
        ("--kv-transfer-config.kv_connector_module_path=x", "loads code"),
        ('--kv-transfer-config={"a": [{"kv_connector_module_path": "x"}]}', "loads code"),
        ('{"kv_\\u0063onnector_module_path": "x"}', "loads code"),
        ("--data-parallel-size-local", "spec.parallelism.data"),
        ("--disable-prefix-caching", "spec.engine.prefixCaching"),
        ("--no-enable-prefix-caching", "spec.engine.prefixCaching"),
        ("--no-disable-lora", "spec.adapters"),
        ("--max-lora", "spec.adapters.maxLoaded"),
        ("--device_memory_utilization", "spec.engine.gpuMemoryUtilization"),
        ("--no-enforce-eager", "spec.engine.enforceEager"),
        ("--ssl-certfile", "TLS before the gateway"),
        ("--trust_remote_code", "spec.model.trustRemoteCode"),
        ("--task", "spec.model.task"),
        ("--shutdown-timeout", "spec.rollout.drain"),
        ("--", "spec.model.source"),
    ],
)
def test_refuses_its_own_flags_in_every_spelling(argument: str, instead: str) -> None:
    with pytest.raises(InvalidSpec, match="is refused") as refused:
        _workload(engine={"extraArgs": ["--kv-events-config", "{}", argument]})

    assert instead in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--reasoning-parser", "qwen3"],
        ["--tool-call-parser=hermes"],
        ["--speculative-config.prompt_lookup_max", "4"],
        ["--attention-config.flash_attn_version", "3"],
        ["--structured-outputs-config.disable_any_whitespace", "true"],
        ["--kv-transfer-config", '{"kv_connector": "NixlConnector"}'],
        ["--kv-cache-dtype-skip-layers", "0"],
        ["--quantization-config", "{"],
        ["--disable-log-stats"],
        ["-asc", "2"],
        ["-dcp", "2"],
        ["-cc.mode", "3"],
        ["--model-impl", "transformers"],
        ["--tokenizer", "/models/model"],
        ["-O3"],
        ["--sim-decode-ms", "5"],
        ["--hf-overrides", '{"a": 1}'],
        ["--seed", "-1"],
        ["--generation-config", "-"],
    ],
)
def test_passes_other_flags_on_as_they_are(arguments: list[str]) -> None:
    assert _engine(engine={"extraArgs": arguments})["args"][-len(arguments) :] == arguments


@pytest.mark.parametrize("argument", ["--seed 1", "--block-size\t16", "-O 3"])
def test_refuses_a_flag_and_its_value_in_one_item(argument: str) -> None:
    with pytest.raises(InvalidSpec, match="must be two items"):
        _workload(engine={"extraArgs": [argument]})


def test_refuses_a_second_model_among_the_arguments() -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.model\.source"):
        _workload(engine={"extraArgs": ["org/other-model"]})


@pytest.mark.parametrize("variable", [*OWNED_VARIABLES, "VLLM_DP_RANK"])
def test_refuses_every_variable_of_its_own(variable: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"spec\.engine\.env: {variable} is refused: "):
        _workload(engine={"env": [{"name": variable, "value": "1"}]})


@pytest.mark.parametrize("prefix", OWNED_PREFIXES)
def test_a_whole_family_of_variables_is_refused_by_its_beginning(prefix: str) -> None:
    variable = {"name": f"{prefix}X", "value": "1"}

    with pytest.raises(InvalidSpec, match=r"is refused|must not set"):
        _workload(engine={"env": [variable]})


def test_every_variable_that_it_sets_is_one_that_users_cannot() -> None:
    assert {variable["name"] for variable in _engine(adapters={})["env"]} <= OWNED_VARIABLES.keys()


def test_kubernetes_expands_nothing_in_what_users_write() -> None:
    engine = _engine(
        engine={"extraArgs": ["--seed", "$(SEED)", "$$1"], "env": [{"name": "SEED", "value": "$(HOME) $x"}]}
    )

    assert engine["args"][-3:] == ["--seed", "$$(SEED)", "$$$$1"]
    assert engine["env"][-1] == {"name": "SEED", "value": "$$(HOME) $$x"}


def test_a_variable_may_come_from_a_secret() -> None:
    source = {"secretKeyRef": {"name": "proxy", "key": "url"}}

    assert _engine(engine={"env": [{"name": "HTTPS_PROXY", "valueFrom": source}]})["env"][-1] == {
        "name": "HTTPS_PROXY",
        "valueFrom": source,
    }


def test_a_template_too_large_to_keep_is_refused() -> None:
    env = [{"name": f"V{number}", "value": "x" * 4096} for number in range(60)]

    with pytest.raises(InvalidSpec, match="too long together"):
        _workload(engine={"env": env})


@pytest.mark.parametrize("name", ["8b", "a" * 41, "llama.8b", "Llama", ""])
def test_refuses_a_name_that_its_service_could_not_have(name: str) -> None:
    with pytest.raises(InvalidSpec, match=r"metadata\.name must be at most 40"):
        build(parse_llmdeployment(manifest(name=name)), SETTINGS)


@pytest.mark.parametrize(
    ("spec", "flag", "value"),
    [
        ({"engine": {"dtype": "Bfloat16"}}, "--dtype", "bfloat16"),
        ({"engine": {"quantization": "awq"}}, "--quantization", "awq"),
        ({"engine": {"kvCacheDtype": "Fp8E4m3"}}, "--kv-cache-dtype", "fp8_e4m3"),
        ({"engine": {"loadFormat": "ShardedState"}}, "--load-format", "sharded_state"),
        ({"engine": {"maxNumBatchedTokens": 8192}}, "--max-num-batched-tokens", "8192"),
        ({"engine": {"gpuMemoryUtilization": "0.90"}}, "--gpu-memory-utilization", "0.90"),
        ({"engine": {"attentionBackend": "FLASHINFER"}}, "--attention-backend", "FLASHINFER"),
        (
            {"engine": {"structuredOutputsBackend": "Xgrammar"}},
            "--structured-outputs-config.backend",
            "xgrammar",
        ),
        ({"engine": {"kvOffload": {"cpu": "32Gi"}}}, "--kv-offloading-size", "32"),
        ({"engine": {"kvOffload": {"cpu": "33Gi"}}, "parallelism": {"data": 2}}, "--kv-offloading-size", "16.5"),
        ({"engine": {"speculative": {"method": "Ngram"}}}, "--speculative-config.method", "ngram"),
        (
            {"engine": {"speculative": {"method": "Draft", "model": "hf://org/small"}}},
            "--speculative-config.model",
            "/models/draft",
        ),
        ({"model": {"source": "hf://org/name", "task": "Embed"}}, "--convert", "embed"),
        ({"model": {"source": "hf://org/name", "task": "Rerank"}}, "--convert", "classify"),
        ({"parallelism": {"pipeline": 2}}, "--pipeline-parallel-size", "2"),
        ({"parallelism": {"data": 2}}, "--data-parallel-size", "2"),
        ({"parallelism": {"data": 2}, "adapters": {}}, "--api-server-count", "1"),
        ({"adapters": {"maxLoaded": 4, "maxRank": 64, "cpuSlots": 50}}, "--max-cpu-loras", "50"),
    ],
)
def test_a_field_is_the_flag_that_its_description_names(spec: dict[str, Any], flag: str, value: str) -> None:
    assert _flag(flag) is None
    assert _flag(flag, **spec) == value


def test_what_the_spec_leaves_to_vllm_is_not_said() -> None:
    assert _engine()["args"][7:] == [
        *("--tensor-parallel-size", "1", "--enable-prompt-tokens-details", "--shutdown-timeout", "60")
    ]


def test_an_offload_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="write for example 32Gi"):
        _workload(engine={"kvOffload": {"cpu": "32"}})


def test_leaves_the_replica_count_out() -> None:
    assert "replicas" not in _workload(replicas=3)["spec"]


def test_the_grace_period_holds_the_pause_the_drain_and_the_end() -> None:
    pod = _pod(rollout={"drain": "1m30.5s"})
    arguments = pod["containers"][0]["args"]

    assert arguments[arguments.index("--shutdown-timeout") + 1] == "91"
    assert pod["terminationGracePeriodSeconds"] == 3 + 91 + 15


@pytest.mark.parametrize(
    ("source", "loaded"),
    [
        ("hf://org/name@main", "/models/model"),
        ("pvc://weights", "/models"),
        ("pvc://weights/", "/models"),
        ("pvc://weights/a/b", "/models/a/b"),
        ("file:///opt/tiny", "/opt/tiny"),
    ],
)
def test_the_engine_loads_what_is_in_the_pod(source: str, loaded: str) -> None:
    assert _engine(model={"source": source})["args"][0] == loaded


def test_a_secret_is_a_folder_of_the_fetcher_only() -> None:
    pod = _pod(model={"source": "s3://bucket/name", "secretName": "opener"})
    (fetcher,) = pod["initContainers"]

    assert fetcher["args"][4:6] == ["--credentials", "/var/run/lull/credentials"]
    assert _mounts(fetcher)["/var/run/lull/credentials"] is False
    assert "/var/run/lull/credentials" not in _mounts(pod["containers"][0])
    assert "opener" not in json.dumps(fetcher)
    assert pod["volumes"][-1]["secret"]["secretName"] == "opener"


@pytest.mark.parametrize(
    ("source", "fetchers"),
    [("hf://org/name", 1), ("s3://bucket/a", 1), ("oci://host/a", 1), ("pvc://weights/a", 1), ("file:///opt/tiny", 0)],
)
def test_whatever_can_be_looked_at_before_the_engine_starts_is(source: str, fetchers: int) -> None:
    assert len(_pod(model={"source": source}).get("initContainers", [])) == fetchers


def test_the_model_is_checked_against_what_the_spec_says_of_it() -> None:
    (fetcher,) = _pod(engine={"maxModelLen": 4096, "quantization": "awq"}, parallelism={"tensor": 2})["initContainers"]

    assert json.loads(fetcher["args"][fetcher["args"].index("--check") + 1]) == {
        "tensorParallel": 2,
        "pipelineParallel": 1,
        "dataParallel": 1,
        "expertParallel": False,
        "maxModelLen": 4096,
        "quantization": "awq",
    }


@pytest.mark.parametrize(
    ("spec", "may_write"),
    [
        ({}, False),
        ({"model": {"source": "pvc://weights/a"}}, False),
        (
            {
                "model": {"source": "hf://org/name", "cache": {"type": "HostPath", "path": "/cache"}},
                "engine": {"compileCache": "ModelCache"},
            },
            True,
        ),
        ({"model": {"source": "pvc://weights/a"}, "engine": {"loadFormat": "NpCache"}}, True),
    ],
)
def test_weights_are_read_only_to_an_engine_that_only_reads(spec: dict[str, Any], may_write: bool) -> None:
    pod = _pod(**spec)

    assert _mounts(pod["containers"][0])["/models"] is may_write
    claims = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert all(claim.get("readOnly", False) is not may_write for claim in claims)


@pytest.mark.parametrize(
    ("load_format", "weights"), [("Mistral", "mistral"), ("Pt", "pytorch"), ("NpCache", "pytorch")]
)
def test_an_engine_that_reads_another_copy_of_the_weights_gets_it(load_format: str, weights: str) -> None:
    cache = {"type": "HostPath", "path": "/cache"}
    model = {"source": "hf://org/name", "cache": cache}
    engine = {"loadFormat": load_format}

    (fetcher,) = _pod(model=model, engine=engine)["initContainers"]

    assert fetcher["args"][-2:] == ["--weights", weights]
    # In a shared cache each copy has a folder of its own.
    assert _engine(model=model, engine=engine)["args"][0] != _engine(model=model)["args"][0]


def test_two_sources_never_share_a_folder_of_a_shared_cache() -> None:
    cache = {"type": "PersistentVolumeClaim", "claimName": "weights"}
    sources = ["hf://org/name", "hf://org/name@v1", "hf://org/name-v1", "s3://org/name", "oci://org/name"]

    folders = {_engine(model={"source": source, "cache": cache})["args"][0] for source in sources}

    assert len(folders) == len(sources)
    assert all(folder.startswith("/models/org-name") for folder in folders)


def test_a_draft_beside_a_claim_of_somebody_else_has_a_volume_of_its_own() -> None:
    pod = _pod(
        model={"source": "pvc://weights/a"}, engine={"speculative": {"method": "Draft", "model": "hf://org/small"}}
    )

    _, fetcher = pod["initContainers"]
    assert fetcher["args"][:4] == ["fetch", "hf://org/small", "--to", "/draft/model"]
    assert _mounts(fetcher)["/draft"] is True
    assert _mounts(pod["containers"][0])["/draft"] is False


@pytest.mark.parametrize(
    ("vendor", "resource", "label"),
    [
        ("Nvidia", "nvidia.com/gpu", "nvidia.com/gpu.product"),
        ("Amd", "amd.com/gpu", "amd.com/gpu.product-name"),
        ("Tpu", "google.com/tpu", "cloud.google.com/gke-tpu-accelerator"),
        ("Neuron", "aws.amazon.com/neuron", "node.kubernetes.io/instance-type"),
    ],
)
def test_each_vendor_has_its_resource_its_label_and_its_taint(vendor: str, resource: str, label: str) -> None:
    pod = _pod(accelerator={"vendor": vendor, "product": "a"}, parallelism={"tensor": 2, "data": 2})

    assert pod["containers"][0]["resources"]["limits"] == {resource: "4"}
    assert {"key": resource, "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert {"key": label, "operator": "In", "values": ["a"]} in _node_terms(pod)[0]["matchExpressions"]


def _node_terms(pod: Manifest) -> list[Manifest]:
    terms: list[Manifest] = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    return terms


def test_a_pool_may_have_a_product_of_its_own() -> None:
    pod = _pod(accelerator={"product": "L4"}, placement={"pools": [{"name": "big", "product": "H100"}]})

    assert [term["matchExpressions"][0]["values"] for term in _node_terms(pod)] == [["H100"]]


def test_a_cpu_engine_asks_for_no_device_and_tolerates_no_gpu_taint() -> None:
    pod = _pod(engine={"image": "cpu"}, accelerator={"vendor": "Cpu"}, parallelism={"tensor": 2})

    assert pod["containers"][0]["resources"] == {}
    assert "nvidia" not in json.dumps(pod["tolerations"])


def test_replicas_spread_over_zones_unless_the_spec_says_otherwise() -> None:
    (default,) = _pod()["topologySpreadConstraints"]
    (chosen,) = _pod(
        podTemplate={
            "topologySpreadConstraints": [
                {"maxSkew": 2, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
            ]
        }
    )["topologySpreadConstraints"]

    assert (default["topologyKey"], default["whenUnsatisfiable"]) == ("topology.kubernetes.io/zone", "ScheduleAnyway")
    assert (chosen["maxSkew"], chosen["topologyKey"]) == (2, "kubernetes.io/hostname")
    assert chosen["labelSelector"] == default["labelSelector"]


def test_a_claim_for_one_node_keeps_replicas_together() -> None:
    cache = {"type": "PersistentVolumeClaim", "size": "40Gi", "accessMode": "ReadWriteOnce"}

    affinity = _pod(model={"source": "hf://org/name", "cache": cache})["affinity"]["podAffinity"]

    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert "affinity" not in _pod(model={"source": "hf://org/name", "cache": {**cache, "accessMode": "ReadWriteMany"}})


def test_a_claim_for_one_node_is_none_for_a_replica_on_two() -> None:
    cache = {"type": "PersistentVolumeClaim", "size": "40Gi", "accessMode": "ReadWriteOnce"}

    with pytest.raises(InvalidSpec, match="use ReadWriteMany"):
        _workload(
            model={"source": "hf://org/name", "cache": cache},
            accelerator={"nodesPerReplica": 2},
            parallelism={"tensor": 2},
        )


def test_creates_a_claim_only_where_it_is_told_a_size() -> None:
    claim = _child(
        "PersistentVolumeClaim",
        model={"source": "hf://org/name", "cache": {"type": "PersistentVolumeClaim", "size": "40Gi"}},
    )

    assert claim["metadata"]["name"] == "llama-8b-cache"
    assert claim["spec"] == {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "40Gi"}}}
    given = {"type": "PersistentVolumeClaim", "claimName": "weights"}
    kinds = {child["kind"] for child in build(stored(manifest(model={"source": "hf://a/b", "cache": given})), SETTINGS)}
    assert "PersistentVolumeClaim" not in kinds


def test_prometheus_is_told_of_engines_where_the_cluster_knows_pod_monitors() -> None:
    monitor = _child("PodMonitor", replace(SETTINGS, serves_pod_monitors=True))

    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "http", "path": "/metrics"}]
    assert "PodMonitor" not in {child["kind"] for child in build(stored(manifest()), SETTINGS)}


def test_a_replica_on_two_nodes_is_a_group_or_nothing_at_all() -> None:
    spec: dict[str, Any] = {"accelerator": {"nodesPerReplica": 2}, "parallelism": {"tensor": 16}}

    with pytest.raises(InvalidSpec, match="LeaderWorkerSet") as refused:
        build(stored(manifest(**spec)), replace(SETTINGS, serves_groups=False))

    assert refused.value.reason is Reason.LEADER_WORKER_SET_MISSING
    template = _workload(**spec)["spec"]["leaderWorkerTemplate"]
    leader = template["leaderTemplate"]["spec"]["containers"][0]
    assert leader["resources"]["limits"] == {"nvidia.com/gpu": "8"}


def test_only_lull_reaches_the_sidecar_and_only_peers_reach_each_other() -> None:
    engine, adapters = _child("NetworkPolicy", adapters={})["spec"]["ingress"]
    _, peers = _child("NetworkPolicy", accelerator={"nodesPerReplica": 2}, parallelism={"tensor": 2})["spec"]["ingress"]

    assert [len(engine["from"]), len(adapters["from"])] == [2, 1]
    assert adapters["ports"] == [{"port": names.PORT_ADAPTERS, "protocol": "TCP"}]
    assert peers["from"][0].keys() == {"podSelector"}


def test_hands_down_the_labels_that_the_operator_is_told_to() -> None:
    written = manifest()
    written["metadata"]["labels"] = {"team": "search", "tier": "gold", names.LABEL_APP: "mine"}
    settings = replace(SETTINGS, pass_labels=("team", "absent", names.LABEL_APP))

    children = build(stored(written), settings)

    template = children[-1]["spec"]["template"]
    for metadata in (*(child["metadata"] for child in children), template["metadata"]):
        assert metadata["labels"]["team"] == "search"
        assert metadata["labels"][names.LABEL_APP] == names.APP_ENGINE
        assert "tier" not in metadata["labels"]
    assert template["metadata"]["labels"][names.LABEL_REVISION] == _revision()


def test_additions_to_the_pod_are_where_kubernetes_looks_for_them() -> None:
    pod = _pod(
        podTemplate={
            "priorityClassName": "high",
            "runtimeClassName": "nvidia",
            "schedulerName": "other",
            "serviceAccountName": "reader",
            "imagePullSecrets": ["registry"],
            "nodeSelector": {"a": "b", "c": "d"},
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1, "fsGroup": 2, "supplementalGroups": [44]},
        },
        placement={"pools": [{"name": "default", "nodeSelector": {"a": "pool"}}]},
    )

    assert [
        pod[field] for field in ("priorityClassName", "runtimeClassName", "schedulerName", "serviceAccountName")
    ] == [
        "high",
        "nvidia",
        "other",
        "reader",
    ]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["nodeSelector"] == {"a": "pool", "c": "d"}
    context = pod["securityContext"]
    assert [context[field] for field in ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups")] == [
        1000,
        1,
        2,
        [44],
    ]


def test_a_file_has_no_owner_to_refer_to() -> None:
    children = build(parse_llmdeployment(manifest()), SETTINGS)

    assert all("ownerReferences" not in child["metadata"] for child in children)


@pytest.mark.parametrize(
    "spec",
    [
        {"scaling": {"maxReplicas": 20, "idleAfter": "1h"}},
        {"queue": {"maxHeld": 1}},
        {"replicas": 4},
        {"placement": {"pools": [{"name": "default", "maxReplicas": 3}], "onDemandBase": 1}},
        {"rollout": {"maxSurge": "25%", "maxUnavailable": 1, "whenFull": "Wait"}},
    ],
)
def test_no_pod_restarts_for_what_it_does_not_depend_on(spec: dict[str, Any]) -> None:
    assert _revision(**spec) == _revision()


@pytest.mark.parametrize(
    "spec",
    [
        {"model": {"source": "hf://org/other"}},
        {"model": {"source": "hf://org/name", "aliases": ["a"]}},
        {"model": {"source": "hf://org/name", "secretName": "a"}},
        {"model": {"source": "hf://org/name", "cache": {"size": "40Gi"}}},
        {"engine": {"image": "other"}},
        {"accelerator": {"vendor": "Amd"}},
        {"adapters": {}},
        {"podTemplate": {"metadata": {"annotations": {"a": "b"}}}},
        {"engine": {"maxModelLen": 1}},
        {"engine": {"env": [{"name": "A", "value": "b"}]}},
        {"engine": {"extraArgs": ["--seed=1"]}},
        {"parallelism": {"tensor": 2}},
        {"accelerator": {"product": "NVIDIA-L4"}},
        {"resources": {"memory": "8Gi"}},
        {"placement": {"pools": [{"name": "default", "capacityType": "Spot"}]}},
        {"rollout": {"drain": "5s"}},
        {"name": "other"},
    ],
)
def test_a_new_revision_for_what_pods_are_made_of(spec: dict[str, Any]) -> None:
    assert _revision(**spec) != _revision()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"items": []}, {"items": [{"name": "a", "source": "hf://org/a"}]}),
        ({"items": [{"name": "a", "source": "hf://org/a"}]}, {"items": [{"name": "a", "source": "hf://org/b"}]}),
    ],
)
def test_no_pod_restarts_for_the_list_of_adapters(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert _workload(adapters=before) == _workload(adapters=after)


@pytest.mark.parametrize("slots", [{"maxLoaded": 9}, {"maxRank": 64}, {"cpuSlots": 64}, {"secretName": "other"}])
def test_a_new_revision_for_what_an_engine_has_room_for(slots: dict[str, Any]) -> None:
    assert _revision(adapters=slots) != _revision(adapters={})


def test_a_claim_that_grows_restarts_no_pod() -> None:
    cache = {"type": "PersistentVolumeClaim", "size": "40Gi"}

    assert _workload(model={"source": "hf://org/name", "cache": cache}) == _workload(
        model={"source": "hf://org/name", "cache": {**cache, "size": "80Gi"}}
    )


def test_an_image_that_lull_chose_stays_when_lull_would_choose_another() -> None:
    chosen = {"engine": {"vendor": "Nvidia", "image": "vllm/vllm-openai:v0.30.0"}}
    deployment = stored(manifest(), status=chosen)

    workload = build(deployment, SETTINGS)[-1]

    assert workload["spec"]["template"]["spec"]["containers"][0]["image"] == "vllm/vllm-openai:v0.30.0"
    assert workload["metadata"]["annotations"][names.LABEL_REVISION] == _revision()


FIRST = "vllm/vllm-openai:v0.33.0"


@pytest.mark.parametrize(
    ("spec", "revision"),
    [
        ({"engine": {"image": FIRST}}, "d374fde2a8"),
        (
            {
                "engine": {
                    "image": "cpu:1",
                    "maxModelLen": 2048,
                    "maxNumSeqs": 4,
                    "enforceEager": True,
                    "extraArgs": ["--seed=1"],
                    "env": [{"name": "A", "value": "b"}, {"name": "E", "value": ""}],
                },
                "accelerator": {"vendor": "Cpu"},
                "resources": {"cpu": "2", "memory": "6Gi", "sharedMemory": "1Gi"},
            },
            "92ddda5d1a",
        ),
        (
            {
                "model": {"source": "hf://org/name@main", "name": "x", "aliases": ["y"], "secretName": "t"},
                "engine": {"image": FIRST},
                "parallelism": {"tensor": 4},
                "accelerator": {"product": "NVIDIA-L4", "resourceName": "nvidia.com/mig-1g.10gb"},
                "rollout": {"drain": "5s"},
                "placement": {
                    "pools": [
                        {
                            "name": "spot",
                            "capacityType": "Spot",
                            "nodeSelector": {"a": "b"},
                            "tolerations": [
                                {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
                            ],
                        }
                    ]
                },
            },
            "30052e95b6",
        ),
        ({"model": {"source": "pvc://claim/a"}, "engine": {"image": FIRST}}, "b0481a8e29"),
    ],
)
def test_objects_of_the_first_version_keep_their_revision(spec: dict[str, Any], revision: str) -> None:
    deployment = stored(manifest(**spec))

    assert find_revision(deployment, deployment.spec.placement.pools[0]) == revision


@pytest.mark.parametrize(
    "engine",
    [
        {"extraArgs": ["--hf-overrides", '{"max_position_embeddings": 65536}']},
        {"extraArgs": ["--hf_overrides.max_position_embeddings=65536"]},
        {"env": [{"name": "VLLM_ALLOW_LONG_MAX_MODEL_LEN", "value": "1"}]},
    ],
)
def test_a_context_that_the_user_stretches_is_not_held_against_the_models(engine: Manifest) -> None:
    plain, stretched = (
        _pod(engine={"maxModelLen": 65536, **more})["initContainers"][0]["args"][-1] for more in ({}, engine)
    )

    assert json.loads(plain)["maxModelLen"] == 65536
    assert json.loads(stretched)["maxModelLen"] is None
