from penstock.infra.parallelcluster import render

FILE = "parallelcluster/cluster.yaml"


def queues(made):
    return {queue["Name"]: queue for queue in made[FILE]["Scheduling"]["SlurmQueues"]}


def test_the_cluster_is_as_it_was(example, golden):
    assert render(example) == {FILE: golden(FILE)}


def test_nodes_that_speak_mpi_have_efa_and_stand_close(example):
    made = queues(render(example))
    assert made["mpi"]["ComputeResources"][0]["Efa"] == {"Enabled": True}
    assert made["mpi"]["Networking"]["PlacementGroup"] == {"Enabled": True}
    assert "Efa" not in made["cpu"]["ComputeResources"][0]
    assert made["gpu"]["ComputeResources"][0]["InstanceType"] == "g5.xlarge"


def test_nodes_write_datasets_alone(example):
    for part in (render(example)[FILE]["HeadNode"], *queues(render(example)).values()):
        rights = {one["KeyName"]: one["EnableWriteAccess"] for one in part["Iam"]["S3Access"]}
        assert rights == {"raw/*": False, "datasets/*": True}


def test_lustre_is_mounted(example):
    (shared,) = render(example)[FILE]["SharedStorage"]
    assert (shared["MountDir"], shared["FsxLustreSettings"]) == ("/fsx", {"FileSystemId": "fs-0123456789abcdef0"})


def test_accounting_is_there_when_it_is_asked_for(example, changed):
    assert "Database" not in render(example)[FILE]["Scheduling"]["SlurmSettings"]
    asked = 'accounting_uri = "db:3306"\naccounting_secret = "arn:aws:secretsmanager:eu-central-1:1:secret:slurm"'
    settings = render(changed('head_instance = "t3.medium"', asked))[FILE]["Scheduling"]["SlurmSettings"]
    assert settings["Database"]["Uri"] == "db:3306"
    assert settings["Database"]["PasswordSecretArn"].endswith("secret:slurm")
