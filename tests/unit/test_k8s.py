"""The manifests: they render, every field is one that Kubernetes knows, and they agree with each other and with us."""

import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import missing

from tracker.app.edge import DRAIN_SECONDS
from tracker.setting_values import byte_count
from tracker.settings import Role, Settings, settings_table

Manifest = dict[str, Any]

K8S = Path(__file__).parents[2] / "k8s"

kubernetes_validate: Any = importlib.import_module("kubernetes_validate")  # has no types

# What a process may take from SIGTERM to exit: answers in flight, closing connections, the last COPY and fsync.


WORKLOADS = ("StatefulSet", "Deployment", "Job")
SERVERS = ("StatefulSet", "Deployment")


def render(directory: str) -> list[Manifest]:
    kubectl = shutil.which("kubectl") or missing("kubectl is not installed; it renders the manifests")
    command = [kubectl, "kustomize", str(K8S / directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")  # deprecated fields are warned of on stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def base() -> list[Manifest]:
    return render("base")


@pytest.fixture(scope="module")
def dev() -> list[Manifest]:
    return render("overlays/dev")


@pytest.fixture(scope="module", params=["base", "overlays/dev"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(request.param)


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] in kinds]


def pods(manifests: list[Manifest], *kinds: str) -> Iterator[tuple[str, Manifest, Manifest, Manifest]]:
    """Name, labels, spec and the one container of each pod template."""
    for one in of_kind(manifests, *(kinds or WORKLOADS)):
        template = one["spec"]["template"]
        (container,) = template["spec"]["containers"]
        yield one["metadata"]["name"], template["metadata"]["labels"], template["spec"], container


def selects(selector: Manifest, labels: Manifest) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_every_field_is_one_that_kubernetes_knows(manifests: list[Manifest], version: str) -> None:
    """A misspelt field is dropped without a word: the probe or limit it should have been is not there."""
    assert {"StatefulSet", "Deployment", "Job", "Service", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap"} <= {
        one["kind"] for one in manifests
    }
    for one in manifests:
        kubernetes_validate.validate(one, version, strict=True)


def test_no_two_objects_have_one_name(manifests: list[Manifest]) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(set(names)) == len(names)


def test_the_base_names_no_namespace_holds_no_secret_and_leaves_the_image_open(base: list[Manifest]) -> None:
    """A secret in the base would be everybody's secret."""
    assert not of_kind(base, "Secret", "Namespace")
    assert all("namespace" not in one["metadata"] for one in base)
    assert {"tracker"} == {container["image"] for *_, container in pods(base)}


def test_an_overlay_sets_every_image(dev: list[Manifest]) -> None:
    assert {"tracker:dev"} == {container["image"] for *_, container in pods(dev)}


# ── Pods ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_pod_meets_the_restricted_profile_with_a_read_only_root(manifests: list[Manifest]) -> None:
    for name, _, spec, container in pods(manifests):
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        drop_all = {"drop": ["ALL"]}
        expected = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": drop_all}
        assert expected == container["securityContext"], name
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec), name


def test_no_pod_gets_service_links_or_a_token(manifests: list[Manifest]) -> None:
    """Service links put TRACKER_PORT=tcp://… into the environment; a token is a way into the cluster."""
    for name, _, spec, _ in pods(manifests):
        assert (spec["enableServiceLinks"], spec["automountServiceAccountToken"]) == (False, False), name


def test_every_pod_asks_for_what_it_needs_and_is_bounded_in_all_but_cpu(manifests: list[Manifest]) -> None:
    """A CPU limit throttles: redirects would wait for the next period of 100 ms."""
    for name, _, _, container in pods(manifests):
        assert {"cpu", "memory", "ephemeral-storage"} == set(container["resources"]["requests"]), name
        assert {"memory", "ephemeral-storage"} == set(container["resources"]["limits"]), name


def test_no_volume_is_memory_and_every_scratch_volume_is_bounded(manifests: list[Manifest]) -> None:
    """A spool in memory is gone with the pod, and counts against its memory limit until then."""
    for name, _, spec, container in pods(manifests):
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        for volume in spec["volumes"]:
            assert volume["name"] in mounted, name
            if "emptyDir" in volume:
                assert {"sizeLimit"} == set(volume["emptyDir"]), name


def test_whether_a_process_lives_is_judged_without_the_database(manifests: list[Manifest]) -> None:
    """A liveness or start-up probe that fails while PostgreSQL is away restarts every edge when its spool is needed."""
    for name, _, _, container in pods(manifests, *SERVERS):
        probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        expected = {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
        assert expected == {kind: probe["path"] for kind, probe in probes.items()}, name
        assert {"admin"} == {probe["port"] for probe in probes.values()}, name


def test_the_grace_period_holds_the_sleep_and_the_drain(manifests: list[Manifest]) -> None:
    """With less, the kill arrives before the last batch is shipped."""
    for name, _, spec, container in pods(manifests, *SERVERS):
        sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        readiness = container["readinessProbe"]
        assert sleep > readiness["periodSeconds"] * readiness["failureThreshold"], name
        assert spec["terminationGracePeriodSeconds"] >= sleep + DRAIN_SECONDS + 5, name
        assert spec["terminationGracePeriodSeconds"] >= 45, name


def test_the_spool_outlives_its_pod_and_fits_its_volume(manifests: list[Manifest]) -> None:
    """A full volume stops the spool as a full disk does; a volume deleted with its pod takes unshipped clicks along."""
    (edge,) = of_kind(manifests, "StatefulSet")
    assert {"Retain"} == set(edge["spec"]["persistentVolumeClaimRetentionPolicy"].values())
    assert edge["spec"]["podManagementPolicy"] == "Parallel"
    (claim,) = edge["spec"]["volumeClaimTemplates"]
    (container,) = edge["spec"]["template"]["spec"]["containers"]
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == claim["metadata"]["name"])
    environ = {one["name"]: one["value"] for one in container["env"]}
    assert Path(mount["mountPath"]) in Path(environ["TRACKER_SPOOL_DIR"]).parents
    size = byte_count(1, 1 << 60)
    volume = size(claim["spec"]["resources"]["requests"]["storage"])
    assert size(environ["TRACKER_SPOOL_MAX_BYTES"]) <= 0.8 * volume


# ── Settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def environment(manifests: list[Manifest], container: Manifest) -> dict[str, str]:
    """What a container's process finds in its environment, of the variables we set."""
    config = {one["metadata"]["name"]: one["data"] for one in of_kind(manifests, "ConfigMap")}
    environ: dict[str, str] = {}
    for source in container.get("envFrom", []):
        environ |= config[source["configMapRef"]["name"]]
    return environ | {one["name"]: one["value"] for one in container.get("env", [])}


def test_every_setting_named_is_one_of_ours(manifests: list[Manifest]) -> None:
    rows = settings_table()
    known = {row.name for row in rows} | {f"{row.name}_FILE" for row in rows if row.secret}
    for name, _, _, container in pods(manifests):
        assert set(environment(manifests, container)) <= known, name
    for config in of_kind(manifests, "ConfigMap"):
        assert set(config["data"]) <= known - {row.name for row in rows if row.secret}


def test_every_part_starts_with_the_settings_and_secrets_of_the_example(dev: list[Manifest], tmp_path: Path) -> None:
    """Read by the same code as the real start: the one mistake no schema can find."""
    roles: dict[str, Role] = {"tracker-edge": "edge", "tracker-control": "control", "tracker-schema": "config"}
    (secret,) = of_kind(dev, "Secret")
    for name, _, spec, container in pods(dev):
        (volume,) = (one["secret"] for one in spec["volumes"] if "secret" in one)
        (mount,) = (one for one in container["volumeMounts"] if one["name"] == "secrets")
        assert secret["metadata"]["name"] == volume["secretName"]
        environ = environment(dev, container)
        for item in volume["items"]:
            file = tmp_path / f"{name}-{item['path']}"
            file.write_text(secret["stringData"][item["key"]])
            (variable,) = (key for key, value in environ.items() if value == f"{mount['mountPath']}/{item['path']}")
            environ[variable] = str(file)
        settings = Settings.read(environ, role=roles[name])
        assert settings.database_url
        assert not settings.warnings
        ports = {one["name"]: one["containerPort"] for one in container.get("ports", [])}
        assert ports.get("public", settings.port) == settings.port
        assert ports.get("admin", settings.admin_port) == settings.admin_port
        assert container["command"][0] == "tracker"


def test_only_the_schema_job_holds_the_owner_of_the_schema_and_no_edge_the_admin_token(base: list[Manifest]) -> None:
    held = {
        name: {item["key"] for volume in spec["volumes"] if "secret" in volume for item in volume["secret"]["items"]}
        for name, _, spec, _ in pods(base)
    }
    expected = {
        "tracker-edge": {"edge-database-url", "secret-keys"},
        "tracker-control": {"control-database-url", "admin-token"},
        "tracker-schema": {"schema-database-url"},
    }
    assert expected == held


# ── What selects what ────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_selector_finds_the_pods_it_is_meant_for(manifests: list[Manifest]) -> None:
    """A selector that finds nothing is a Service without endpoints, a budget that protects nobody."""
    found = {}
    for one in of_kind(manifests, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = one["spec"]
        selector = spec.get("selector") or spec["podSelector"]
        labels = selector.get("matchLabels", selector)
        names = {name for name, has, *_ in pods(manifests) if selects(labels, has)}
        found[one["kind"], one["metadata"]["name"]] = names
    everyone = {"tracker-edge", "tracker-control", "tracker-schema"}
    expected = {
        ("Service", "tracker"): {"tracker-edge"},
        ("Service", "tracker-edge"): {"tracker-edge"},
        ("Service", "tracker-admin"): {"tracker-control"},
        ("PodDisruptionBudget", "tracker-edge"): {"tracker-edge"},
        ("PodDisruptionBudget", "tracker-control"): {"tracker-control"},
        ("NetworkPolicy", "tracker-closed"): everyone,
        ("NetworkPolicy", "tracker-database"): everyone,
        ("NetworkPolicy", "tracker-edge"): {"tracker-edge"},
        ("NetworkPolicy", "tracker-control"): {"tracker-control"},
    }
    assert expected == found
    for one in of_kind(manifests, *SERVERS):
        assert selects(one["spec"]["selector"]["matchLabels"], one["spec"]["template"]["metadata"]["labels"])


def test_services_and_policies_name_ports_that_the_pods_have(manifests: list[Manifest]) -> None:
    ports = {name: {port["name"] for port in container.get("ports", [])} for name, _, _, container in pods(manifests)}
    assert ports["tracker-edge"] == {"public", "admin"}
    assert ports["tracker-control"] == {"admin"}
    for one in of_kind(manifests, "Service"):
        behind = {name for name, labels, *_ in pods(manifests) if selects(one["spec"]["selector"], labels)}
        for port in one["spec"]["ports"]:
            assert all(port["targetPort"] in ports[name] for name in behind), one["metadata"]["name"]


def test_the_admin_port_is_behind_no_public_service_and_open_to_no_unnamed_namespace(manifests: list[Manifest]) -> None:
    """The admin port serves the API: the Service an Ingress points at must not have it."""
    for one in of_kind(manifests, "Service"):
        target = {port["targetPort"] for port in one["spec"]["ports"]}
        headless = one["spec"].get("clusterIP") == "None"
        assert target == ({"admin"} if headless else {"public"}), one["metadata"]["name"]
        assert one["spec"].get("type", "ClusterIP") == "ClusterIP", one["metadata"]["name"]
    for policy in of_kind(manifests, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            if any(port["port"] == "admin" for port in rule["ports"]):
                assert all(peer["namespaceSelector"]["matchLabels"] for peer in rule["from"])


def test_the_policies_start_closed_and_let_nobody_out_to_private_addresses(manifests: list[Manifest]) -> None:
    """The second wall behind the outgoing sender's own check (SSRF)."""
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests, "NetworkPolicy")}
    closed = policies["tracker-closed"]
    assert {"Ingress", "Egress"} == set(closed["policyTypes"])
    assert not {"ingress", "egress"} & set(closed)
    (out,) = policies["tracker-control"]["egress"]
    blocks = {peer["ipBlock"]["cidr"]: set(peer["ipBlock"].get("except", [])) for peer in out["to"]}
    private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "127.0.0.0/8"}
    assert private <= blocks["0.0.0.0/0"]
    assert "::/0" not in blocks


def test_the_readme_explains_every_kind_of_value() -> None:
    """What nobody can say the reason of is changed by the first who is in a hurry."""
    text = (K8S / "README.md").read_text()
    for word in (
        "terminationGracePeriodSeconds", "preStop", "startupProbe", "livenessProbe", "readinessProbe", "resources",
        "enableServiceLinks", "automountServiceAccountToken", "readOnlyRootFilesystem", "podManagementPolicy",
        "persistentVolumeClaimRetentionPolicy", "TRACKER_SPOOL_MAX_BYTES", "TRACKER_WORKERS", "maxUnavailable",
    ):
        assert re.search(rf"`[^`]*{word}[^`]*`", text), word
