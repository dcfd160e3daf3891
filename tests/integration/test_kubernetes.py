"""``deploy/kubernetes`` as it renders: objects that Kubernetes takes, and commands that the program knows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from compose import ROOT, Dockerfile, variables_read
from documents import is_complete
from kustomization import containers, render

from hms_tune.database.connect import MOST_CONNECTIONS, SLOT_CONNECTIONS

OVERLAYS = ("example", "cloudnative-pg", "export")
FOREIGN = {"postgresql.cnpg.io/v1"}
"""Of an operator: not among Kubernetes' own schemas."""

OTHERS_VARIABLES = {"HOME", "HF_HOME", "WANDB_MODE", "AWS_DEFAULT_REGION"}
OTHERS_VARIABLES |= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
VERSIONS = ("1.31", kubernetes_validate.latest_version())
"""The first in which podFailurePolicy is no trial feature, and the newest."""


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest, tmp_path: Path) -> list[dict[str, Any]]:
    """An overlay's objects, with its example of secrets in the place of secrets."""
    shutil.copytree(ROOT / "deploy" / "kubernetes", tmp_path / "kubernetes")
    folder: Path = tmp_path / "kubernetes" / request.param
    example = folder / "secrets.env.example"
    if example.exists():
        example.rename(folder / "secrets.env")
    return render(folder)


def pods(overlay: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["spec"]["template"]["spec"] for each in overlay if containers(each)]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_kubernetes_takes(overlay: list[dict[str, Any]], version: str) -> None:
    checked = [each for each in overlay if each["apiVersion"] not in FOREIGN]
    assert checked
    for each in checked:
        kubernetes_validate.validate(each, version, strict=True)


def test_every_command_is_one_of_the_program(overlay: list[dict[str, Any]]) -> None:
    for pod in pods(overlay):
        (container,) = pod["containers"]
        assert is_complete(container["args"])  # it raises for a word that the program does not know
        assert container["image"] == "registry.example.org/hms-tune:0.1.0"


def test_every_variable_is_read_by_the_program_and_every_reference_leads_somewhere(
    overlay: list[dict[str, Any]],
) -> None:
    by_name = {(each["kind"], each["metadata"]["name"]): each for each in overlay}
    given = set()
    for each in overlay:
        given |= set(each.get("data", {})) | set(each.get("stringData", {}))
    for pod in pods(overlay):
        (container,) = pod["containers"]
        given |= {variable["name"] for variable in container.get("env", ())}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        claims = {
            v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v
        }
        if by_name.keys() & {("ConfigMap", "hms-tune")}:  # the export stands beside an overlay
            assert {("PersistentVolumeClaim", claim) for claim in claims} <= set(by_name)
            assert ("Secret", "hms-tune") in by_name
    assert given - variables_read() - OTHERS_VARIABLES == set()
    if ("Job", "hms-tune-workers") in by_name:
        assert {"HMS_TUNE_STORAGE", "HMS_TUNE_ARTIFACTS", "HMS_TUNE_DATA", "HMS_TUNE_HOME"} <= given


def test_no_pod_is_root_writes_its_image_or_takes_a_service_for_a_setting(
    overlay: list[dict[str, Any]],
) -> None:
    for pod in pods(overlay):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["enableServiceLinks"] is False
        (container,) = pod["containers"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        written = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/var/lib/hms-tune"} <= written


def test_workers_are_started_again_for_as_long_as_there_is_more_to_do(overlay: list[dict[str, Any]]) -> None:
    for job in [each for each in overlay if each["metadata"]["name"] == "hms-tune-workers"]:
        spec = job["spec"]
        assert (spec["completionMode"], spec["completions"]) == ("Indexed", spec["parallelism"])
        more, evicted, wrong = spec["podFailurePolicy"]["rules"]
        assert (more["action"], more["onExitCodes"]["values"]) == ("Ignore", [os.EX_TEMPFAIL])
        assert (evicted["action"], evicted["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
        assert (wrong["action"], wrong["onExitCodes"]["values"]) == ("FailJob", [2])
        pod = spec["template"]["spec"]
        assert pod["restartPolicy"] == "Never"  # which the policy needs
        assert pod["terminationGracePeriodSeconds"] >= 60
        (container,) = pod["containers"]
        *_, check = container["livenessProbe"]["exec"]["command"]
        assert check.replace('"', "'") == Dockerfile.read().healthcheck.replace('"', "'")


def test_the_database_of_its_own_takes_the_connections_of_its_workers(overlay: list[dict[str, Any]]) -> None:
    for cluster in [each for each in overlay if each["apiVersion"] in FOREIGN]:
        (workers,) = (each for each in overlay if each["metadata"]["name"] == "hms-tune-workers")
        allowed = int(cluster["spec"]["postgresql"]["parameters"]["max_connections"])
        assert allowed >= workers["spec"]["parallelism"] * (SLOT_CONNECTIONS + MOST_CONNECTIONS + 2)
