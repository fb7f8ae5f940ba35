"""The Slurm and Kubernetes recipes of docs/many-machines.md can be parsed, and what they call is there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import typer
import yaml

from vlmed.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "many-machines.md").read_text("utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)
    return str(found)


def options_of(line: str) -> dict[str, Any]:
    """What `vlmed run` understands of a line; raises where it doesn't."""
    words = shlex.split(line)
    assert words[:2] == ["vlmed", "run"]
    command: Any = typer.main.get_command(app)
    return dict(command.commands["run"].make_context("run", words[2:]).params)


def test_the_slurm_recipe_is_a_shell_script() -> None:
    script = block("bash")
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    (call,) = re.findall(r"^  (vlmed run.*?[^\\])\n", script.replace("\\\n", " "), re.M) or re.findall(
        r"(vlmed run[^\n]*)", script.replace("\\\n", " ")
    )
    options = options_of(call)
    assert (options["executor"], options["device"], options["worker_cpus"]) == ("ray", "cuda", 8)
    # The address goes through the environment, which all steps share.
    assert options["ray_address"] is None
    assert 'export RAY_ADDRESS="$first:6379"' in script


def test_the_kubernetes_recipe_is_a_ray_job() -> None:
    job = yaml.safe_load(block("yaml"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for template in (cluster["headGroupSpec"]["template"], group["template"]):
        (container,) = template["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in template["spec"]["volumes"]}
        assert {each["name"] for each in container["env"]} == {"VLMED_DATA", "VLMED_CACHE", "HF_HOME"}
        assert all(each["value"].startswith(mounted["shared"]) for each in container["env"])
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    options = options_of(job["spec"]["entrypoint"])
    assert (options["executor"], options["device"]) == ("ray", "cuda")
    assert options["worker_cpus"] <= float(limits["cpu"])
    assert str(options["out"]).startswith("/shared/")


def test_the_recipes_name_the_ray_that_is_tested() -> None:
    from importlib import metadata

    told = yaml.safe_load(block("yaml"))["spec"]["rayClusterSpec"]["rayVersion"]
    assert told.split(".")[0] == metadata.version("ray").split(".")[0]
