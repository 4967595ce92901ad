"""What is deployed is checked by the tools that will read it where they are at hand, and by its shape everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from poller.core.words import DEFAULT_WORDS, overlay
from poller.ops.metrics import Metrics
from poller.settings import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "poller.service"
RULES = DEPLOY / "prometheus" / "rules.yml"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def tool(name: str) -> str:
    """Path of *name*; skips the test where it is not installed (beside this Python counts too)."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def passes(*command: str | Path) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


# -- systemd --


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path):
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/poller/bin/poller", "/bin/true"))
    passes(tool("systemd-analyze"), "verify", "--recursive-errors=one", copy)


def test_the_unit_is_hardened():
    passes(tool("systemd-analyze"), "security", "--offline=true", "--threshold=15", UNIT)


def test_the_unit_notifies_watches_and_waits_for_the_drain():
    found = unit()
    assert found["Type"] == ["notify"]
    assert found["WatchdogSec"] == ["30s"]
    assert found["RestartPreventExitStatus"] == ["64 78"]
    drain_s = load({"SQL_DSN": "postgres://a@b/c"}).settings.drain_timeout_s
    assert int(found["TimeoutStopSec"][0].removesuffix("s")) > drain_s
    assert "ProcSubset" not in found


def test_the_unit_passes_secrets_as_credentials_and_never_in_the_environment():
    found = unit()
    credentials = {value.partition(":")[0] for value in found["LoadCredential"]}
    pointed = dict(re.findall(r"(\w+)_FILE=%d/(\w+)", " ".join(found["Environment"])))
    assert set(pointed.values()) == credentials
    assert set(pointed) == {"SQL_DSN", "CUSTOM_PASS_ADMIN_TOKEN"}
    assert not re.search(r"(SQL_DSN|TOKEN)=", UNIT.read_text())


# -- container --


CONTAINERFILE = DEPLOY / "container" / "Containerfile"


def test_hadolint_has_nothing_to_say_of_the_container_file():
    assert passes(tool("hadolint"), CONTAINERFILE).strip() == ""


def test_the_image_runs_as_nobody_in_exec_form_with_a_health_check():
    last = CONTAINERFILE.read_text().rpartition("\nFROM ")[2]
    assert "\nUSER 65532:65532\n" in last
    assert '\nENTRYPOINT ["poller"]\n' in last
    assert '\nCMD ["run"]\n' in last
    assert 'CMD ["poller", "healthcheck", "live"]' in last
    assert "org.opencontainers.image.title" in last
    assert "\nSTOPSIGNAL SIGTERM\n" in last


def test_the_image_is_built_of_files_that_exist():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE.read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for line in copied for name in line.split())


# -- kubernetes --


def manifests() -> dict[str, Any]:
    return {
        found["kind"]: found
        for path in MANIFESTS
        if path.name != "kustomization.yaml"
        for found in yaml.safe_load_all(path.read_text())
    }


def pod() -> dict[str, Any]:
    found: dict[str, Any] = manifests()["Deployment"]["spec"]["template"]["spec"]
    return found


def test_the_manifests_follow_the_schema_of_kubernetes(tmp_path: Path):
    checker = tool("kubernetes-validate")
    for path in MANIFESTS:
        if path.name != "kustomization.yaml":
            passes(checker, "--strict", path)


def test_kustomize_renders_every_manifest():
    rendered = passes(tool("kubectl"), "kustomize", DEPLOY / "kubernetes")
    assert {found["kind"] for found in yaml.safe_load_all(rendered)} == set(manifests())


def test_the_kustomization_lists_every_manifest():
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == [path.name for path in MANIFESTS]


def test_the_pod_meets_the_restricted_security_standard():
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not any("hostPort" in port for port in container["ports"])
    assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= {
        "configMap",
        "secret",
        "emptyDir",
    }


def test_the_pod_has_its_probes_limits_and_time_to_drain():
    (container,) = pod()["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    # A database that is away keeps /startupz failing; the pod must wait for it, not be restarted.
    assert container["startupProbe"]["httpGet"]["path"] == "/livez"
    assert "memory" in container["resources"]["limits"]
    assert "cpu" not in container["resources"]["limits"]
    settings = load({"SQL_DSN": "postgres://a@b/c"}).settings
    assert pod()["terminationGracePeriodSeconds"] >= settings.drain_timeout_s + 15
    assert settings.metrics_port in [port["containerPort"] for port in container["ports"]]


def test_two_replicas_share_the_work_and_one_of_them_may_be_evicted():
    found = manifests()
    assert found["Deployment"]["spec"]["replicas"] == 2
    budget = found["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == found["Deployment"]["spec"]["selector"]


def test_the_settings_of_the_deployment_are_settings(tmp_path: Path):
    file = tmp_path / "poller.toml"
    file.write_text(manifests()["ConfigMap"]["data"]["poller.toml"])
    (container,) = pod()["containers"]
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    secrets = {name: path for name, path in environ.items() if path.startswith("/run/secrets/")}
    assert set(secrets) == {"SQL_DSN_FILE", "CUSTOM_PASS_ADMIN_TOKEN_FILE"}
    for name, path in secrets.items():
        secret = tmp_path / Path(path).name
        secret.write_text("postgres://a@b/c?sslmode=verify-full")
        environ[name] = str(secret)
    assert load({**environ, "CUSTOM_PASS_CONFIG_FILE": str(file)}).warnings == []


# -- prometheus --


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_promtool_accepts_the_rules_and_their_tests_pass():
    promtool = tool("promtool")
    passes(promtool, "check", "rules", RULES)
    passes(promtool, "test", "rules", RULES.with_name("rules_test.yml"))


def test_promtool_accepts_what_we_expose():
    promtool = tool("promtool")
    body = Metrics().exposition()[0]
    ran = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False, timeout=60)
    complaints = [line for line in (ran.stdout + ran.stderr).decode().splitlines() if line.startswith("custompass_")]
    assert complaints == []


def test_the_alerts_that_operators_know_are_there():
    names = {rule["alert"] for rule in rules()}
    assert names >= {
        "CustomPassHighErrorRate",
        "CustomPassTaskQueueBacklog",
        "CustomPassUpstreamDown",
        "CustomPassChannelNotAskable",
        "CustomPassSlowUpstream",
        "CustomPassSecondWriter",
        "CustomPassTasksWithoutChannel",
        "CustomPassDatabaseConnectionsExhausted",
    }


def test_every_alert_has_a_test_that_it_fires():
    tested = yaml.safe_load(RULES.with_name("rules_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tested for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules()}


def test_every_metric_and_label_in_the_rules_exists():
    metrics = Metrics()
    known = {
        name
        for family in metrics.registry.collect()
        for name in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    for rule in rules():
        named = set(re.findall(r"custompass_\w+", rule["expr"]))
        assert named
        assert named <= known
    assert metrics.requests._labelnames == ("channel", "status", "reason")


# -- status mappings --

MAPPINGS = sorted((ROOT / "config" / "status-mappings").glob("*.json"))


def test_there_are_mappings_of_well_known_upstreams():
    assert {"suno", "kling", "runway", "midjourney-proxy", "replicate", "fal"} <= {path.stem for path in MAPPINGS}


@pytest.mark.parametrize("path", MAPPINGS, ids=lambda path: path.stem)
def test_a_mapping_is_a_channels_mapping_as_it_stands(path: Path):
    text = path.read_text()
    words, findings = overlay(DEFAULT_WORDS, text)
    assert findings == []
    mapping = json.loads(text)
    assert list(mapping) == ["success", "failed", "processing"]
    assert set(mapping["success"]) <= words.success
    assert set(mapping["failed"]) <= words.failed
    assert set(mapping["processing"]) <= words.processing
