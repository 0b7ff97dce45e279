"""packaging/helm/muster: Helm renders it, Kubernetes' schemas take it, and it says what a node needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging_commands import PACKAGING, settings_from, unknown_variables

import muster
from muster.testing.hub import STOP_SECONDS

helm = pytest.importorskip("helm_python", reason="requirements/packaging.lock is not installed")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="requirements/packaging.lock is not installed")

CHART = PACKAGING / "helm" / "muster"
VERSIONS = ("1.25", "1.30", "1.34")
LEAST: dict[str, Any] = {
    "hostname": "hub.example.com", "database": "postgresql://m:s@db/muster", "bus": "nats://m:s@n1:4222,nats://n2:4222",
}  # fmt: skip
MOST: dict[str, Any] = {
    "hostname": "hub.example.com", "aliases": ["west.example.com"], "existingSecret": "urls", "replicas": 5,
    "certificateSecret": "certificate", "options": ["--throttle", "on", "--consumer-group=billing"],
    "image": {"repository": "registry.example.com/muster", "tag": "1"}, "imagePullSecrets": [{"name": "registry"}],
    "service": {"annotations": {"a/b": "c"}, "loadBalancerSourceRanges": ["192.0.2.0/24"]},
    "networkPolicy": {
        "enabled": True, "from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
        "egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}],
    },
    "podAnnotations": {"x": "y"}, "podLabels": {"z": "w"}, "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "k", "operator": "Exists"}], "affinity": {"nodeAffinity": {}},
}  # fmt: skip


def rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The objects by their kind."""
    with helm.Chart.load(str(CHART)) as chart:
        texts = chart.render(values, name="release", namespace="hubs")
    found = [one for name, text in texts.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    assert len({one["kind"] for one in found}) == len(found)
    return {one["kind"]: one for one in found}


def container(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (one,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(one)


def secret_values(objects: dict[str, dict[str, Any]], one: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The container's environment."""
    given = objects.get("Secret", {}).get("stringData", {"database": LEAST["database"], "bus": LEAST["bus"]})
    name = objects["Secret"]["metadata"]["name"] if "Secret" in objects else "urls"
    for variable in one["env"]:
        key = variable["valueFrom"]["secretKeyRef"]
        assert key["name"] == name
        yield variable["name"], given[key["key"]]


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_kubernetes_takes_what_helm_makes_of_it(values: dict[str, Any]) -> None:
    objects = rendered(values)
    expected = {"Deployment", "Service", "PodDisruptionBudget"}
    assert set(objects) == expected | ({"Secret"} if values is LEAST else {"NetworkPolicy"})
    for version in VERSIONS:
        for one in objects.values():
            kubernetes_validate.validate(one, version, strict=True)
    wrong = objects["Service"]
    wrong["spec"]["portz"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_helm_has_nothing_against_it() -> None:
    found = helm.lint(str(CHART), LEAST)["messages"]
    assert [one["error"] for one in found if one["error"] != "icon is recommended"] == []


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "hostname"), ({"hostname": "h"}, "database"), ({**LEAST, "bus": ""}, "bus"),
        ({**LEAST, "replica": 2}, "replica"), ({**LEAST, "database": "mysql://h/n"}, "database"),
        ({**LEAST, "service": {"type": "Ingress"}}, "service"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_their_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmError, match=named):
        rendered(values)


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_the_program_takes_its_command_line(values: dict[str, Any]) -> None:
    objects = rendered(values)
    one = container(objects)
    environment = dict(secret_values(objects, one))
    assert unknown_variables(environment) == []
    settings = settings_from(one["args"], environment)
    assert settings.hostnames == ("hub.example.com", *values.get("aliases", ()))
    assert (settings.database, settings.bus) == (LEAST["database"], tuple(LEAST["bus"].split(",")))
    mounts = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in objects["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    assert set(mounts) == set(volumes)
    assert settings.data == Path(mounts["data"])
    assert (settings.certificate is not None) is (values is MOST)
    if settings.certificate is not None:
        assert settings.certificate.certificate.parent == Path(mounts["certificate"])
        assert volumes["certificate"]["secret"]["secretName"] == values["certificateSecret"]
        assert (settings.throttle, settings.consumer_groups) == (True, ("billing",))
    named = {port["name"]: port["containerPort"] for port in one["ports"]}
    assert named == {"mqtt": settings.mqtt_port, "amqp": settings.amqp_port, "https": settings.https_port}
    assert {port["targetPort"]: port["port"] for port in objects["Service"]["spec"]["ports"]} == named


def test_nodes_are_replaced_one_at_a_time_and_drain() -> None:
    objects = rendered(LEAST)
    spec, one = objects["Deployment"]["spec"], container(objects)
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pause = int(one["lifecycle"]["preStop"]["exec"]["command"][1])
    ready = one["readinessProbe"]
    assert pause >= ready["periodSeconds"] * ready["failureThreshold"]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= pause + STOP_SECONDS
    for probe, path in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
        assert one[f"{probe}Probe"]["httpGet"] == {"path": f"/health/{path}", "port": "https", "scheme": "HTTPS"}
    budget = objects["PodDisruptionBudget"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    for selector in (budget["selector"]["matchLabels"], objects["Service"]["spec"]["selector"]):
        assert selector.items() <= labels.items()
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert "PodDisruptionBudget" not in rendered({**LEAST, "replicas": 1}), "else its node could never be drained"
    other = rendered({**LEAST, "bus": "nats://elsewhere:4222"})
    assert other["Deployment"]["spec"]["template"] != spec["template"], "new URLs start new nodes"


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == muster.__version__
