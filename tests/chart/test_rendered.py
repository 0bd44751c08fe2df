"""What the chart installs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from lull.api import names
from lull.core.diagnosis import REQUIRED_ACCESS
from lull.core.prices import Price, PriceList, parse_prices
from lull.settings import GatewaySettings, OperatorSettings
from tests.chart.conftest import CHART, ROOT
from tests.chart.reading import container, environment, kinds, one, pod_specs, rules

if TYPE_CHECKING:
    from tests.chart.conftest import Chart, Manifest

READ = ("list", "watch")
CHILD = ("get", *READ, "create", "patch", "delete")
CHILDREN = (
    ("apps", "deployments"),
    ("leaderworkerset.x-k8s.io", "leaderworkersets"),
    ("", "services"),
    ("", "persistentvolumeclaims"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
    ("monitoring.coreos.com", "podmonitors"),
)
OPERATOR = {
    *(("lull.dev", "llmdeployments", verb) for verb in READ),
    ("lull.dev", "llmdeployments/status", "patch"),
    *((*child, verb) for child in CHILDREN for verb in CHILD),
    ("apps", "deployments/scale", "patch"),
    *(("", "pods", verb) for verb in (*READ, "delete")),
    ("", "pods/status", "patch"),
    *(("", "events", verb) for verb in ("create", "patch")),
}
OPERATOR_OF_THE_CLUSTER = OPERATOR | {("", "nodes", verb) for verb in READ}
OPERATOR_AT_HOME = {
    *(("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "update")),
    *(("discovery.k8s.io", "endpointslices", verb) for verb in READ),
}
GATEWAY = {(group, kind, verb) for group, kind in (("lull.dev", "llmdeployments"), ("", "pods")) for verb in READ}
GATEWAY_OF_THE_CLUSTER = GATEWAY | {("", "nodes", verb) for verb in READ}

GATEWAY_AT_HOME = {("", "secrets", verb) for verb in READ}

FULL: dict[str, Any] = {
    "image": {"registry": "registry.example.com", "pullSecrets": [{"name": "pull"}]},
    "networkPolicy": {"clients": [{"namespaceSelector": {}}]},
    "prePull": {"images": ["vllm/vllm-openai:v0.33.0", "registry.example.com/engine@sha256:" + "a" * 64]},
    "monitoring": {"podMonitor": {"enabled": True}},
}


def test_the_operator_may_do_exactly_what_it_does(defaults: list[Manifest]) -> None:
    assert rules(one(defaults, "ClusterRole", "lull-operator")) == OPERATOR_OF_THE_CLUSTER
    assert rules(one(defaults, "Role", "lull-operator-own")) == OPERATOR_AT_HOME


def test_the_doctor_asks_for_nothing_that_is_not_granted(defaults: list[Manifest]) -> None:
    assert rules(one(defaults, "ClusterRole", "lull-operator")) >= set(REQUIRED_ACCESS)


def test_the_lease_is_the_releases_and_its_spec_the_operators(defaults: list[Manifest]) -> None:
    name = environment(defaults, "operator")["LULL_LEASE_NAME"]
    on_leases = [rule for rule in one(defaults, "Role", "lull-operator-own")["rules"] if "leases" in rule["resources"]]

    assert one(defaults, "Lease", name)["spec"] == {}
    assert [(rule.get("resourceNames"), rule["verbs"]) for rule in on_leases] == [
        ([name], ["get", "update"]),
        (None, ["create"]),
    ]


def test_the_gateway_only_reads(defaults: list[Manifest]) -> None:
    assert rules(one(defaults, "ClusterRole", "lull-gateway")) == GATEWAY_OF_THE_CLUSTER
    assert rules(one(defaults, "Role", "lull-gateway-keys")) == GATEWAY_AT_HOME


def test_one_secret_is_read_and_by_the_gateway_alone(defaults: list[Manifest]) -> None:
    name = environment(defaults, "gateway")["LULL_KEYS_SECRET"]
    granted = [
        (role["metadata"]["name"], role["kind"], rule.get("resourceNames"))
        for role in defaults
        if role["kind"] in {"Role", "ClusterRole"}
        for rule in role["rules"]
        if {"secrets", "*"} & set(rule["resources"])
    ]

    assert granted == [("lull-gateway-keys", "Role", [name])]


def test_the_commands_write_the_secret_that_gateways_watch(defaults: list[Manifest]) -> None:
    assert environment(defaults, "gateway")["LULL_KEYS_SECRET"] == GatewaySettings().keys_secret


def test_valkeys_password_stays_in_its_secret(chart: Chart) -> None:
    values = {"gateway": {"keys": {"valkey": {"url": "valkey://valkey:6379/0", "passwordSecret": {"name": "valkey"}}}}}

    variables = {one["name"]: one for one in container(chart.render(values), "gateway")["env"]}

    assert variables["LULL_VALKEY_URL"]["value"] == "valkey://valkey:6379/0"
    assert variables["LULL_VALKEY_PASSWORD"] == {
        "name": "LULL_VALKEY_PASSWORD",
        "valueFrom": {"secretKeyRef": {"name": "valkey", "key": "password"}},
    }


def test_whoever_may_edit_a_namespace_may_wake_its_models(chart: Chart, defaults: list[Manifest]) -> None:
    view, edit = (one(defaults, "ClusterRole", f"lull-{name}") for name in ("view", "edit"))
    aggregated = [
        {key.rpartition("-")[2] for key in role["metadata"]["labels"] if "aggregate-to" in key} for role in (view, edit)
    ]

    assert rules(view) == {("lull.dev", "llmdeployments", verb) for verb in ("get", "list", "watch")}
    assert ("lull.dev", "llmdeployments", "patch") in rules(edit)
    assert aggregated == [{"view", "edit", "admin"}, {"edit", "admin"}]
    assert "lull-edit" not in {each["metadata"]["name"] for each in chart.render({"rbac": {"aggregate": False}})}


def prices(manifests: list[Manifest]) -> PriceList:
    return parse_prices(one(manifests, "ConfigMap", "lull-prices")["data"]["prices.yaml"])


def test_list_prices_have_their_source_and_date_and_ones_own_go_before_them(chart: Chart) -> None:
    plain = prices(chart.render({}))
    own = prices(chart.render({"operator": {"acceleratorPrices": {"NVIDIA-L4": 0.5, "*": 4}}}))

    assert all(price.source.startswith("AWS ") and price.at == "2026-07-20" for price in plain.accelerators.values())
    assert plain.accelerators["NVIDIA-L4"].amount == 0.8048
    assert own.accelerators == {
        **plain.accelerators,
        "NVIDIA-L4": Price(0.5, "operator.acceleratorPrices"),
        "*": Price(4.0, "operator.acceleratorPrices"),
    }


def test_a_price_may_be_given_on_the_command_line_of_helm(chart: Chart) -> None:
    flags = [f"--set=operator.acceleratorPrices.{given}" for given in ("NVIDIA-L4=0.5", "NVIDIA-L40S=1.50", "*=4")]

    given = prices(list(yaml.safe_load_all(chart.helm("template", "lull", str(CHART), *flags))))

    assert {product: given.accelerators[product].amount for product in ("NVIDIA-L4", "NVIDIA-L40S", "*")} == {
        "NVIDIA-L4": 0.5,
        "NVIDIA-L40S": 1.5,
        "*": 4.0,
    }


@pytest.mark.parametrize("values", [{"listPrices": False}, {"currency": "EUR"}])
def test_list_prices_can_be_left_out_and_are_where_they_are_in_another_currency(
    chart: Chart, values: dict[str, object]
) -> None:
    found = prices(chart.render({"operator": values}))

    assert found.accelerators == {}
    assert found.currency == values.get("currency", "USD")


def test_the_operator_reads_the_prices_where_they_are_mounted(defaults: list[Manifest]) -> None:
    (spec,) = (
        each["spec"]["template"]["spec"]
        for each in defaults
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "lull-operator"
    )
    mount = next(each for each in container(defaults, "operator")["volumeMounts"] if each["name"] == "prices")

    assert f"{mount['mountPath']}/prices.yaml" == environment(defaults, "operator")["LULL_PRICES_FILE"]
    assert {"name": "prices", "configMap": {"name": "lull-prices"}} in spec["volumes"]


def test_one_namespace_needs_no_rights_on_the_cluster(chart: Chart) -> None:
    manifests = chart.render({"rbac": {"scope": "namespaced", "watchNamespace": "models"}})

    assert not kinds(manifests) & {"ClusterRole", "ClusterRoleBinding"}
    assert rules(one(manifests, "Role", "lull-operator")) == OPERATOR
    assert rules(one(manifests, "Role", "lull-gateway")) == GATEWAY
    assert one(manifests, "Role", "lull-operator")["metadata"]["namespace"] == "models"
    assert one(manifests, "Role", "lull-operator-own")["metadata"]["namespace"] == "lull-system"
    assert one(manifests, "Role", "lull-gateway-keys")["metadata"]["namespace"] == "lull-system"
    assert environment(manifests, "operator")["LULL_WATCH_NAMESPACE"] == "models"
    assert environment(manifests, "gateway")["LULL_WATCH_NAMESPACE"] == "models"


@pytest.mark.parametrize("values", [{}, {"rbac": {"scope": "namespaced"}}])
def test_bindings_join_roles_and_accounts_that_exist(chart: Chart, values: dict[str, object]) -> None:
    manifests = chart.render(values)
    bindings = [item for item in manifests if item["kind"].endswith("RoleBinding")]

    assert len(bindings) == 4
    for binding in bindings:
        role = one(manifests, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        assert role["metadata"].get("namespace") == binding["metadata"].get("namespace")
        (subject,) = binding["subjects"]
        assert one(manifests, "ServiceAccount", subject["name"])["metadata"]["namespace"] == subject["namespace"]


@pytest.mark.parametrize(("values", "count"), [({}, 3), (FULL, 4)])
def test_every_container_meets_the_restricted_profile(chart: Chart, values: dict[str, object], count: int) -> None:
    specs = list(pod_specs(chart.render(values)))

    assert len(specs) == count
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in (*spec.get("initContainers", ()), *spec["containers"]):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert each["resources"]["limits"]["memory"]


def test_environment_is_what_settings_read(defaults: list[Manifest]) -> None:
    for component, settings in (("operator", OperatorSettings), ("gateway", GatewaySettings)):
        known = {f"LULL_{field.upper()}" for field in settings.model_fields}
        # Fixed by the chart itself: ports; and the whole cluster is the default.
        left_alone = {"LULL_ADMIN_PORT", "LULL_PORT", "LULL_WATCH_NAMESPACE"}

        assert set(environment(defaults, component)) == known - left_alone


@pytest.mark.parametrize(("component", "settings"), [("operator", OperatorSettings), ("gateway", GatewaySettings)])
def test_defaults_of_chart_and_settings_agree(
    defaults: list[Manifest],
    monkeypatch: pytest.MonkeyPatch,
    component: str,
    settings: type[OperatorSettings | GatewaySettings],
) -> None:
    for name, value in environment(defaults, component).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    configured = settings()
    monkeypatch.undo()

    assert configured == settings()


def test_large_numbers_stay_numbers(chart: Chart) -> None:
    manifests = chart.render({"gateway": {"maxBodyBytes": 1 << 30, "firstByteSeconds": 7200, "connectSeconds": 0.5}})

    variables = environment(manifests, "gateway")

    assert variables["LULL_MAX_BODY_BYTES"] == str(1 << 30)
    assert variables["LULL_FIRST_BYTE_SECONDS"] == "7200"
    assert variables["LULL_CONNECT_SECONDS"] == "0.5"


def test_selectors_match_the_pods_they_are_for(chart: Chart) -> None:
    manifests = chart.render(FULL)
    for component in ("operator", "gateway"):
        deployment = one(manifests, "Deployment", f"lull-{component}")
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        policy = one(manifests, "NetworkPolicy", f"lull-{component}")

        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
        assert spread["labelSelector"]["matchLabels"].items() <= labels
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels
        assert (names.LABEL_APP, names.APP_LULL) in labels

    gateway = one(manifests, "Deployment", "lull-gateway")["spec"]["template"]["metadata"]["labels"].items()
    for service in ("lull-gateway", "lull-gateway-admin"):
        assert one(manifests, "Service", service)["spec"]["selector"].items() <= gateway
    assert one(manifests, "PodDisruptionBudget", "lull-gateway")["spec"]["selector"]["matchLabels"].items() <= gateway


def test_labels_of_users_never_replace_those_that_select(chart: Chart) -> None:
    values = {"gateway": {"podLabels": {"app.kubernetes.io/component": "mine", "team": "a"}}}

    labels = one(chart.render(values), "Deployment", "lull-gateway")["spec"]["template"]["metadata"]["labels"]

    assert labels["app.kubernetes.io/component"] == "gateway"
    assert labels["team"] == "a"


def test_services_lead_to_the_ports_that_listen(defaults: list[Manifest]) -> None:
    clients = one(defaults, "Service", "lull-gateway")["spec"]
    admin = one(defaults, "Service", "lull-gateway-admin")["spec"]

    ports = {port["name"]: port["containerPort"] for port in container(defaults, "gateway")["ports"]}

    assert ports == {"http": names.PORT_GATEWAY, "admin": names.PORT_ADMIN}
    assert clients["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    assert (admin["clusterIP"], admin["publishNotReadyAddresses"]) == ("None", True)
    assert admin["ports"] == [{"name": "admin", "port": names.PORT_ADMIN, "targetPort": "admin"}]
    assert environment(defaults, "operator")["LULL_GATEWAY_SERVICE"] == "lull-gateway-admin"


def test_gateways_are_replaced_one_up_before_one_down(defaults: list[Manifest]) -> None:
    deployment = one(defaults, "Deployment", "lull-gateway")["spec"]

    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert one(defaults, "PodDisruptionBudget", "lull-gateway")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("seconds", [0, 60, 90.5, 3600])
def test_a_gateway_is_never_killed_while_it_drains(chart: Chart, seconds: float) -> None:
    manifests = chart.render({"gateway": {"drainSeconds": seconds}})

    grace = one(manifests, "Deployment", "lull-gateway")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

    assert grace >= GatewaySettings().lame_duck_seconds + seconds + 10
    assert isinstance(grace, int)


def test_the_crd_is_the_generated_one(chart: Chart) -> None:
    generated = (ROOT / "crds" / "llmdeployments.lull.dev.yaml").read_text()
    assert (CHART / "files" / "llmdeployments.lull.dev.yaml").read_text() == generated, "run make crds"

    kept = one(chart.render(), "CustomResourceDefinition", "llmdeployments.lull.dev")
    loose = one(chart.render({"crds": {"keep": False}}), "CustomResourceDefinition", "llmdeployments.lull.dev")

    assert loose == yaml.safe_load(generated)
    assert kept["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert kept == loose


def test_no_crd_where_none_is_wanted(chart: Chart) -> None:
    assert "CustomResourceDefinition" not in kinds(chart.render({"crds": {"install": False}}))


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "lull/lull:0.1.0"),
        ({"tag": "dev-0123456789ab"}, "lull/lull:dev-0123456789ab"),
        ({"registry": "r.example.com:5000/", "tag": "1"}, "r.example.com:5000/lull/lull:1"),
        ({"tag": "1", "digest": "sha256:" + "a" * 64}, "lull/lull@sha256:" + "a" * 64),
    ],
)
def test_every_pod_and_the_fetcher_use_one_image(chart: Chart, image: dict[str, str], reference: str) -> None:
    manifests = chart.render({"image": image})

    assert {each["image"] for spec in pod_specs(manifests) for each in spec["containers"]} == {reference}
    assert environment(manifests, "operator")["LULL_IMAGE"] == reference


def test_only_operator_and_prometheus_reach_the_admin_port_of_a_gateway(defaults: list[Manifest]) -> None:
    clients, admin = one(defaults, "NetworkPolicy", "lull-gateway")["spec"]["ingress"]

    assert clients == {"ports": [{"port": "http"}]}
    assert admin["ports"] == [{"port": "admin"}]
    operators, prometheus = admin["from"]
    assert operators["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"
    assert prometheus["namespaceSelector"]["matchLabels"] == {names.LABEL_MONITORING: "true"}


def test_clients_can_be_limited(chart: Chart) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"team": "a"}}}

    policy = one(chart.render({"networkPolicy": {"clients": [peer]}}), "NetworkPolicy", "lull-gateway")

    clients = policy["spec"]["ingress"][0]["from"]
    assert peer in clients
    assert len(clients) == 2
    assert clients[0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"


def test_helm_test_asks_the_gateway_for_its_models(defaults: list[Manifest]) -> None:
    pod = one(defaults, "Pod", "lull-test-models")
    (program,) = pod["spec"]["containers"][0]["args"]

    compile(program, "models", "exec")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert '"http://lull-gateway:80/v1/models"' in program


def test_a_pod_monitor_finds_both(chart: Chart) -> None:
    manifests = chart.render({"monitoring": {"podMonitor": {"enabled": True}}})
    monitor = one(manifests, "PodMonitor", "lull")["spec"]

    (expression,) = monitor["selector"]["matchExpressions"]

    assert expression["values"] == ["operator", "gateway"]
    assert [endpoint["honorLabels"] for endpoint in monitor["podMetricsEndpoints"]] == [True]
    for component in expression["values"]:
        labels = one(manifests, "Deployment", f"lull-{component}")["spec"]["template"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert {"name": "admin", "containerPort": 8081} in container(manifests, "operator")["ports"]


def test_nodes_pull_what_is_listed_and_the_fetcher_and_nothing_by_default(
    chart: Chart, defaults: list[Manifest]
) -> None:
    assert "DaemonSet" not in kinds(defaults)

    daemons = one(chart.render(FULL), "DaemonSet", "lull-pre-pull")["spec"]
    pod = daemons["template"]["spec"]

    assert daemons["selector"]["matchLabels"].items() <= daemons["template"]["metadata"]["labels"].items()
    assert [each["image"] for each in pod["initContainers"]] == FULL["prePull"]["images"]
    assert {each["imagePullPolicy"] for each in pod["initContainers"]} == {"IfNotPresent"}
    assert pod["containers"][0]["image"] == "registry.example.com/lull/lull:0.1.0"
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert not pod["automountServiceAccountToken"]


def test_probes_ask_the_admin_port(defaults: list[Manifest]) -> None:
    for component in ("operator", "gateway"):
        probed = container(defaults, component)
        assert probed["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
        assert probed["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
