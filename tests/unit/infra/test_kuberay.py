import pytest
import yaml

from penstock.infra.kuberay import render

FILES = ["kuberay/raycluster.yaml", "kuberay/rayjob.yaml", "kuberay/rayservice.yaml", "kuberay/kustomization.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_manifests_are_as_they_were(example, golden, name):
    made = render(example)
    assert list(made) == FILES
    assert made[name] == golden(name)


def test_the_job_runs_the_pipeline_on_the_cluster_that_is_there(example):
    spec = render(example)["kuberay/rayjob.yaml"]["spec"]
    assert spec["entrypoint"].startswith("penstock run /etc/penstock/pipeline.toml")
    assert "runner.address=auto" in spec["entrypoint"]


def test_the_service_is_one_application(example):
    (application,) = yaml.safe_load(render(example)["kuberay/rayservice.yaml"]["spec"]["serveConfigV2"])["applications"]
    assert application["import_path"] == "penstock.runners.application:service"
    assert application["args"] == {"address": "/etc/penstock/pipeline.toml#embeddings.clean:encode"}


def test_gpus_are_a_group_of_their_own_when_there_are_some(example, changed):
    groups = render(example)["kuberay/raycluster.yaml"]["spec"]["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["cpu", "gpu"]
    assert groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    groups = render(changed("gpu_workers = 2", ""))["kuberay/raycluster.yaml"]["spec"]["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["cpu"]


def test_the_heads_state_is_kept_in_redis_when_there_is_one(changed):
    spec = render(changed("gpu_workers = 2", 'redis = "redis:6379"'))["kuberay/raycluster.yaml"]["spec"]
    options = spec["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == "redis:6379"
    assert options["redisPassword"] == {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}}


def test_the_services_token_comes_from_a_secret(example):
    made = render(example)

    def env(file, key):
        spec = made[file]["spec"]
        return [one["name"] for one in spec[key]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]]

    assert "PENSTOCK_TOKEN" in env("kuberay/rayservice.yaml", "rayClusterConfig")
    assert "PENSTOCK_TOKEN" not in env("kuberay/rayjob.yaml", "rayClusterSpec")
