"""The recipes in deploy/: their commands are ours, their versions those that were tested, their fields KubeRay's.

KubeRay's own schema has a megabyte and is not here; the fields are those that its API reference lists for ray.io/v1.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cli import build_parser

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
RAY_VERSION = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]
VERSION = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]

POD_FIELDS: dict[str, Any] = {
    "spec": {
        "containers": [
            {
                "name": str,
                "image": str,
                "ports": [{"containerPort": int, "name": str}],
                "resources": {"requests": dict, "limits": dict},
                "volumeMounts": [{"name": str, "mountPath": str}],
            }
        ],
        "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}],
    }
}
JOB_FIELDS: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "submissionMode": str,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": str},
            "headGroupSpec": {"rayStartParams": dict, "template": POD_FIELDS},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": dict,
                    "template": POD_FIELDS,
                }
            ],
        },
    },
}


def check_fields(value: Any, known: Any, place: str = "") -> None:
    """Check that a document has only known fields, of their types."""
    if isinstance(known, type):
        assert type(value) is known, place
    elif isinstance(known, list):
        assert isinstance(value, list), place
        for row, item in enumerate(value):
            check_fields(item, known[0], f"{place}[{row}]")
    else:
        assert isinstance(value, dict), place
        assert set(value) <= set(known), f"{place}: {set(value) - set(known)}"
        for name, item in value.items():
            check_fields(item, known[name], f"{place}.{name}")


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
    return document


def test_the_fields_of_the_job_are_known(job: dict[str, Any]) -> None:
    check_fields(job, JOB_FIELDS)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
    with pytest.raises(AssertionError, match="rayversion"):
        check_fields({"spec": {"rayClusterSpec": {"rayversion": "2"}}}, JOB_FIELDS)
    with pytest.raises(AssertionError):
        check_fields({"spec": {"ttlSecondsAfterFinished": "600"}}, JOB_FIELDS)


def test_every_pod_of_the_job_has_the_data_and_the_image(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["image"] == f"groundlabel:{VERSION}"
            assert {(mount["name"], mount["mountPath"]) for mount in container["volumeMounts"]} == {("data", "/data")}
            assert volumes == {"data"}
            assert container["resources"]["limits"] == container["resources"]["requests"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert cluster["authOptions"]["mode"] == "token"


def test_versions_are_those_that_were_tested(job: dict[str, Any]) -> None:
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == RAY_VERSION
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert "--constraint constraints.txt" in dockerfile
    assert dockerfile.count(f"groundlabel:{VERSION}") == 1
    for name in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE):
        assert all((ROOT / part).exists() for part in name.split())


def parse(words: list[str]) -> dict[str, Any]:
    """Return the options of a `groundlabel annotate` line, as that command reads them."""
    assert words[:2] == ["groundlabel", "annotate"]
    return vars(build_parser("annotate").parse_args(words[1:]))


def test_the_entrypoint_is_a_command_of_ours(job: dict[str, Any]) -> None:
    options = parse(shlex.split(job["spec"]["entrypoint"]))
    assert options["address"] == "auto"
    assert all(options[name].startswith("/data/") for name in ("images", "classes", "output"))


def run_script(name: str, words: list[str], folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a script with programs that print what they are called with."""
    (folder / "bin").mkdir()
    for program, text in {
        "ray": 'printf "%s\\n" ray "$@"',
        "srun": 'printf "%s\\n" "$@"; cat "$RAY_AUTH_TOKEN_PATH" >token; stat -c %a "$RAY_AUTH_TOKEN_PATH" >>token',
        "scontrol": "printf 'node7\\nnode8\\n'",
    }.items():
        (folder / "bin" / program).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / program).chmod(0o755)
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), **settings}
    script = str(DEPLOY / name)
    return subprocess.run(
        ["bash", script, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_submitting(tmp_path: Path) -> None:
    words = ["http://head:8265", "/shared/my photos", "/shared/classes.yaml", "/shared/run", "--workers", "8"]
    done = run_script("submit.sh", words, tmp_path)
    called = done.stdout.splitlines()
    assert called[:6] == ["ray", "job", "submit", "--address", "http://head:8265", "--"]
    options = parse(called[6:])
    assert (options["images"], options["output"]) == ("/shared/my photos", "/shared/run")
    assert (options["address"], options["workers"]) == ("auto", 8)


def test_submitting_without_words_says_how(tmp_path: Path) -> None:
    done = run_script("submit.sh", ["http://head:8265"], tmp_path)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_slurm(tmp_path: Path) -> None:
    settings = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2"}
    folders = {"IMAGES": "/shared/photos", "CLASSES": "car, person", "RUN": "/shared/run"}
    done = run_script("slurm.sh", ["--size", "1000"], tmp_path, **settings, **folders)
    assert done.returncode == 0, done.stderr
    called = done.stdout.splitlines()
    place = called.index("--")
    assert called[1:place] == ["ray", "symmetric-run", "--address", "node7:23456", "--min-nodes", "2"]
    options = parse(called[place + 1 :])
    assert (options["classes"], options["size"], options["address"]) == ("car, person", 1000, "auto")
    token = (tmp_path / "token").read_text()
    assert re.fullmatch(r"[0-9a-f]{64}600\n", token)
    assert not list(tmp_path.glob(".groundlabel-token-*"))


def test_slurm_names_what_is_missing(tmp_path: Path) -> None:
    done = run_script("slurm.sh", [], tmp_path, IMAGES="/shared/photos")
    assert done.returncode != 0
    assert "CLASSES: names the ontology" in done.stderr
