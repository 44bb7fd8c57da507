"""What the manifests for Kubernetes promise, as far as that can be seen without a cluster."""

import shutil
import subprocess
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar

import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from app.api.metrics import Metrics
from app.replicas.application import APPLICATION, build
from app.settings import PREFIX, Settings

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
OWN_KINDS = {"Kustomization", "RayService"}  # kubectl's, of no API; and KubeRay's


def documents(overlay: str) -> list[dict[str, Any]]:
    """Render an overlay, as `kubectl apply -k` does."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl renders overlays, and is not installed")
    command = ["kubectl", "kustomize", str(FOLDER / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def of_kind(kind: str) -> dict[str, Any]:
    """Read the base's document of a kind."""
    files = (yaml.safe_load(path.read_text()) for path in (FOLDER / "base").glob("*.yaml"))
    [found] = (document for document in files if document["kind"] == kind)
    return found


POD = of_kind("Deployment")["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
ENVIRONMENT = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}


def settings() -> Settings:
    """Return the settings that the container has."""
    values = {name.removeprefix(PREFIX).lower(): value for name, value in ENVIRONMENT.items()}
    assert set(values) <= set(Settings.model_fields)
    return Settings(_env_file=None, **values)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.yaml")), ids=lambda file: file.stem)
def test_files_are_valid(file: Path, version: str) -> None:
    document = yaml.safe_load(file.read_text())
    if document["kind"] not in OWN_KINDS:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_overlays_are_valid_once_rendered(overlay: str) -> None:
    rendered = documents(overlay)
    assert {document["kind"] for document in rendered} == {
        "Deployment",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "Service",
    }
    for document in rendered:
        kubernetes_validate.validate(document, NEWEST, strict=True)
    [pod] = (d["spec"]["template"]["spec"] for d in rendered if d["kind"] == "Deployment")
    [container] = pod["containers"]
    is_gpu = overlay == "gpu"
    assert container["image"] == ("rooftrace:gpu" if is_gpu else "rooftrace:cpu")
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) is is_gpu
    assert ({"name": "ROOFTRACE_DEVICE", "value": "cuda"} in container["env"]) is is_gpu


def test_the_service_before_replicas() -> None:
    """The Deployment is the base's but for what a process on a Ray cluster needs."""
    rendered = documents("ray")
    for document in rendered:
        if document["kind"] not in OWN_KINDS:
            kubernetes_validate.validate(document, NEWEST, strict=True)
    [pod] = (d["spec"]["template"]["spec"] for d in rendered if d["kind"] == "Deployment")
    [container] = pod["containers"]
    plain = {v["name"]: v["value"] for v in container["env"] if "value" in v}
    ours = {n.removeprefix(PREFIX).lower(): v for n, v in plain.items() if n.startswith(PREFIX)}
    chosen = Settings(_env_file=None, **ours)
    assert (chosen.engine, chosen.ray_address) == ("ray", "rooftrace-models-head-svc:6379")
    assert container["command"][-1].endswith("exec rooftrace serve")
    assert {volume["name"] for volume in pod["volumes"]} == {"tmp", "jobs", "shm"}


class TestRayService:
    """What can be seen without KubeRay's schema: the pods, and what Ray Serve is given."""

    document: ClassVar[dict[str, Any]] = yaml.safe_load((FOLDER / "ray/models.yaml").read_text())
    cluster: ClassVar[dict[str, Any]] = document["spec"]["rayClusterConfig"]

    def test_serve_takes_its_configuration(self) -> None:
        config = yaml.safe_load(self.document["spec"]["serveConfigV2"])
        assert config == yaml.safe_load((FOLDER.parent / "serve.yaml").read_text())
        [application] = ServeDeploySchema.model_validate(config).applications
        module, _, name = application.import_path.partition(":")
        assert application.name == APPLICATION
        assert getattr(import_module(module.replace("rooftrace", "app", 1)), name) is build

    def test_pods_are_valid(self) -> None:
        groups = [self.cluster["headGroupSpec"], *self.cluster["workerGroupSpecs"]]
        for group in groups:
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "x"},
                **group["template"],
            }
            kubernetes_validate.validate(pod, NEWEST, strict=True)
            [container] = pod["spec"]["containers"]
            values = {v["name"].removeprefix(PREFIX).lower(): v["value"] for v in container["env"]}
            Settings(_env_file=None, **values)

    def test_the_cluster_asks_for_the_token_that_services_have(self) -> None:
        assert self.cluster["authOptions"] == {"mode": "token", "secretName": "rooftrace-ray"}
        assert (
            "name: rooftrace-ray, key: auth_token"
            in (FOLDER / "ray/kustomization.yaml").read_text()
        )
        assert self.cluster["rayVersion"] == metadata.version("ray")

    def test_workers_have_room_for_the_replicas(self) -> None:
        [group] = self.cluster["workerGroupSpecs"]
        [container] = group["template"]["spec"]["containers"]
        values = {v["name"]: int(v["value"]) for v in container["env"]}
        room = group["maxReplicas"] * int(group["rayStartParams"]["num-cpus"])
        assert values["ROOFTRACE_MAX_REPLICAS"] * values["ROOFTRACE_WORKERS"] <= room


def test_a_wrong_file_is_found() -> None:
    broken = {**of_kind("Service"), "spec": {"ports": [{"port": "eighty"}], "selectors": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, NEWEST, strict=True)


def test_a_stop_has_the_time_that_it_needs() -> None:
    told = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = told + settings().drain_delay + settings().deadline
    assert POD["terminationGracePeriodSeconds"] > needed
    probe = CONTAINER["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < told + settings().drain_delay


def test_the_container_gets_no_more_than_it_needs() -> None:
    security = CONTAINER["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["automountServiceAccountToken"] is False
    mounts = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts == {"/tmp", str(settings().jobs)}
    limit = int(CONTAINER["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert limit >= settings().memory_budget + 2**30


def test_the_room_for_jobs_holds_their_budget() -> None:
    [volume] = (volume for volume in POD["volumes"] if volume["name"] == "jobs")
    room = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
    assert room > settings().job_budget


def test_the_autoscaler_asks_for_a_metric_that_there_is() -> None:
    spec = of_kind("HorizontalPodAutoscaler")["spec"]
    [metric] = (each["pods"]["metric"]["name"] for each in spec["metrics"])
    assert f"\n{metric} ".encode() in Metrics().render()
    assert spec["scaleTargetRef"]["name"] == of_kind("Deployment")["metadata"]["name"]
    assert "replicas" not in of_kind("Deployment")["spec"]
    # One replica may always go, and the queue of the others is no longer than they may have.
    assert spec["minReplicas"] > of_kind("PodDisruptionBudget")["spec"]["maxUnavailable"]
    [wanted] = (each["pods"]["target"]["averageValue"] for each in spec["metrics"])
    assert 0 < int(wanted) < settings().max_waiting


def test_everything_selects_the_pods() -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Service")["spec"]["selector"] == labels
    assert of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    annotations = of_kind("Deployment")["spec"]["template"]["metadata"]["annotations"]
    [port] = CONTAINER["ports"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"]) == str(settings().port)
