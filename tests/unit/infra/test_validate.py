"""The clean set passes; each planted error is found by the id of its rule, in its file, and in no other."""

import copy
import shutil
from pathlib import Path

import pytest
import yaml

from penstock.errors import PlanError, SpecError
from penstock.infra import checks, validate
from penstock.infra.artefacts import rendered
from penstock.infra.policies.rule import Finding
from penstock.infra.validate import RULES

GONE = object()
S3 = "cloudformation/storage.yaml"
FSX = "cloudformation/filesystem.yaml"
NET = "cloudformation/network.yaml"
IAM = "cloudformation/access.yaml"
MONEY = "cloudformation/budget.yaml"
PC = "parallelcluster/cluster.yaml"
RAY = "ray/cluster.yaml"
CLUSTER = "kuberay/raycluster.yaml"
JOB = "kuberay/rayjob.yaml"
SERVICE = "kuberay/rayservice.yaml"
POD = "spec.headGroupSpec.template.spec"
BOX = f"{POD}.containers.0"
DATA = "Resources.Data.Properties"
ENCRYPTION = f"{DATA}.BucketEncryption.ServerSideEncryptionConfiguration"
HEAD = "Resources.RayHead.Properties.Policies.0.PolicyDocument.Statement"
CPU = "available_node_types.cpu"

PLANTED = [
    # CloudFormation, by cfn-lint
    (S3, f"{DATA}.BucketEncryptoin", {}, "CFN-E3002"),
    (FSX, "Resources.Lustre.Properties.StorageCapacity", "many", "CFN-E3012"),
    (S3, f"{ENCRYPTION}.0.ServerSideEncryptionByDefault.SSEAlgorithm", "AES257", "CFN-E3030"),
    (FSX, "Outputs.DnsName.Value", {"Fn::GetAtt": ["Lustre", "DnsNam"]}, "CFN-E6101"),
    # CloudFormation, by our rules
    (S3, f"{DATA}.PublicAccessBlockConfiguration.BlockPublicPolicy", False, "S3-PUBLIC"),
    (S3, f"{DATA}.PublicAccessBlockConfiguration", GONE, "S3-PUBLIC"),
    (S3, f"{DATA}.BucketEncryption", GONE, "S3-ENCRYPT"),
    (S3, f"{DATA}.VersioningConfiguration.Status", "Suspended", "S3-VERSIONS"),
    (S3, "Resources.DataPolicy", GONE, "S3-TLS"),
    (S3, "Resources.DataPolicy.Properties.PolicyDocument.Statement.0.Effect", "Allow", "IAM-PRINCIPAL"),
    (S3, "Resources.Data.DeletionPolicy", GONE, "DATA-RETAIN"),
    (FSX, "Resources.Lustre.UpdateReplacePolicy", "Delete", "DATA-RETAIN"),
    (FSX, "Resources.Lustre.Properties.LustreConfiguration.DeploymentType", "SCRATCH_2", "FSX-PERSISTENT"),
    (FSX, "Resources", {"Lustre": None}, "FSX-REPOSITORY"),
    (IAM, f"{HEAD}.1.Action", ["ec2:*"], "IAM-ACTION"),
    (IAM, f"{HEAD}.4.Resource", "*", "IAM-RESOURCE"),
    (
        IAM,
        "Resources.RayNode.Properties.ManagedPolicyArns",
        ["arn:aws:iam::aws:policy/AdministratorAccess"],
        "IAM-MANAGED",
    ),
    (NET, "Resources.Nodes.Properties.SecurityGroupIngress.0.CidrIp", "0.0.0.0/0", "NET-INGRESS"),
    (NET, "Resources.NodesIngress.Properties.CidrIpv6", "::/0", "NET-INGRESS"),
    (NET, "Resources.Subnet1.Properties.MapPublicIpOnLaunch", True, "NET-PRIVATE"),
    (NET, "Resources.ToS3", GONE, "NET-S3"),
    (MONEY, "Resources.Monthly.Properties.NotificationsWithSubscribers", GONE, "BUDGET-ALARM"),
    # ParallelCluster
    (PC, "Imds", GONE, "PC-IMDS"),
    (PC, "Scheduling.SlurmQueues.1.ComputeSettings.LocalStorage.RootVolume.Encrypted", False, "PC-DISK"),
    (PC, "HeadNode.Ssh.AllowedIps", GONE, "PC-SSH"),
    (PC, "Scheduling.SlurmQueues.0.Networking.AssignPublicIp", True, "PC-PUBLIC"),
    (PC, "HeadNode.Iam.S3Access.1.KeyName", GONE, "PC-S3"),
    (PC, "Scheduling.SlurmQueues.2.ComputeResources.0.MinCount", 99, "PC-COUNTS"),
    (PC, "Scheduling.SlurmQueues.1.Networking.PlacementGroup", GONE, "PC-EFA"),
    (PC, "HeadNode.Iam.AdditionalIamPolicies", [{"Policy": "arn:aws:iam::aws:policy/AmazonS3FullAccess"}], "PC-POLICY"),
    (PC, "SharedStorage.0.MountDir", GONE, "PC-MOUNT"),
    # Ray on AWS
    (RAY, "max_wrokers", 3, "RAY-SCHEMA"),
    (RAY, f"{CPU}.min_workers", "two", "RAY-SCHEMA"),
    (RAY, f"{CPU}.node_config.Instanc", 1, "RAY-NODE"),
    (RAY, "head_node_type", "haed", "RAY-HEAD"),
    (RAY, f"{CPU}.min_workers", 9, "RAY-COUNTS"),
    (RAY, "provider.use_internal_ips", False, "RAY-PRIVATE"),
    (RAY, f"{CPU}.node_config.MetadataOptions", GONE, "RAY-IMDS"),
    (RAY, f"{CPU}.node_config.BlockDeviceMappings.0.Ebs.Encrypted", False, "RAY-DISK"),
    (RAY, f"{CPU}.node_config.IamInstanceProfile", GONE, "RAY-ROLE"),
    (RAY, "head_start_ray_commands.1", "ray start --head --dashboard-host=0.0.0.0", "RAY-DASHBOARD"),
    # KubeRay
    (CLUSTER, "spec.rayVersoin", "2.60.0", "K8S-SCHEMA"),
    (CLUSTER, "spec.headGroupSpec", GONE, "K8S-SCHEMA"),
    (CLUSTER, "spec.workerGroupSpecs.0.maxReplicas", "8", "K8S-SCHEMA"),
    (JOB, "kind", "RayJobs", "K8S-SCHEMA"),
    (CLUSTER, f"{POD}.securityContext.runAsNonRoot", False, "K8S-ROOT"),
    (CLUSTER, f"{BOX}.securityContext.privileged", True, "K8S-PRIVILEGE"),
    (CLUSTER, f"{POD}.hostNetwork", True, "K8S-HOST"),
    (CLUSTER, f"{BOX}.image", "penstock/ray:latest", "K8S-IMAGE"),
    (CLUSTER, f"{BOX}.resources.limits", GONE, "K8S-LIMITS"),
    (CLUSTER, f"{BOX}.env.0", {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}, "K8S-SECRET"),
    (CLUSTER, "spec.workerGroupSpecs.0.minReplicas", 9, "K8S-COUNTS"),
    (CLUSTER, "spec.headGroupSpec.serviceType", "LoadBalancer", "K8S-OPEN"),
    (SERVICE, "spec.rayClusterConfig.rayVersion", "2.50.0", "K8S-VERSION"),
    # anywhere
    (IAM, "Resources.RayNode.Properties.Description", "of account 012345678901", "ANY-ACCOUNT"),
    (JOB, "spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.image", "ghcr.io/p/ray:1", "ANY-REGISTRY"),
    (RAY, "auth.ssh_private_key", "/home/me/key.pem", "ANY-MACHINE"),
    (CLUSTER, f"{BOX}.env.0", {"name": "MODEL", "value": "AKIA" + "A" * 16}, "ANY-SECRET"),
]
"""File, place, value, and the rule that must find it."""


@pytest.fixture(scope="module")
def clean(tmp_path_factory, example):
    folder = tmp_path_factory.mktemp("clean")
    for name, text in rendered(example).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_clean_set_has_no_findings(clean):
    assert validate.validate(clean, rehearse=False) == []


@pytest.mark.parametrize(("name", "place", "value", "rule"), PLANTED, ids=lambda one: one if type(one) is str else "")
def test_a_planted_error_is_found_by_its_rule(clean, tmp_path, monkeypatch, name, place, value, rule):
    folder = tmp_path / "planted"
    shutil.copytree(clean, folder)
    plant(folder / name, place, value)
    lint_only(monkeypatch, {name} if rule.startswith("CFN-") else set())
    found = [one for one in validate.validate(folder, rehearse=False) if one.rule == rule]
    assert found, f"{rule} did not find {place} = {value}"
    for one in found:
        assert str(one).startswith(f"{name}:")
        assert one.mend.strip()


def test_every_rule_of_ours_has_a_planted_error():
    planted = {rule for *_, rule in PLANTED}
    assert {rule.id for rule in RULES} - planted == {"BUDGET-THERE"}
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert {name for name, *_ in PLANTED} >= {S3, FSX, NET, IAM, MONEY, PC, RAY, CLUSTER, JOB, SERVICE}


def test_a_folder_without_a_budget_is_told(clean, tmp_path, monkeypatch):
    folder = tmp_path / "planted"
    shutil.copytree(clean, folder)
    (folder / MONEY).unlink()
    lint_only(monkeypatch, set())
    assert [one.rule for one in validate.validate(folder, rehearse=False)] == ["BUDGET-THERE"]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("cloudformation/broken.yaml", "a: [", "ANY-YAML"),
        ("ray/list.yaml", "- 1\n", "ANY-YAML"),
        ("ray/keys.yaml", "[a]: 1\n", "ANY-YAML"),
        ("ray/code.yaml", "a: !!python/object/apply:os.getcwd []\n", "ANY-YAML"),
        ("ray/twice.yaml", "a: 1\na: 2\n", "ANY-YAML"),
        ("notes/stray.yaml", "a: 1\n", "ANY-KIND"),
        ("stray.yaml", "a: 1\n", "ANY-KIND"),
        ("cloudformation/odd.yaml", "Resources: 3\n", "ANY-SHAPE"),
    ],
)
def test_what_cannot_be_checked_is_told_and_never_passed_over(clean, tmp_path, monkeypatch, name, text, rule):
    folder = tmp_path / "planted"
    shutil.copytree(clean, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    lint_only(monkeypatch, set())
    assert rule in {one.rule for one in validate.validate(folder, rehearse=False) if one.file == name}


def test_short_tags_of_templates_are_understood(clean, tmp_path, monkeypatch):
    folder = tmp_path / "planted"
    shutil.copytree(clean, folder)
    text = (folder / S3).read_text().replace("Bucket:\n          Ref: Data", "Bucket: !Ref Data")
    text = text.replace("Bucket:\n        Ref: Data", "Bucket: !Ref Data")
    assert "!Ref" in text
    (folder / S3).write_text(text)
    lint_only(monkeypatch, set())
    assert validate.validate(folder, rehearse=False) == []


def test_a_finding_is_one_line_with_place_rule_sentence_and_mend():
    assert str(Finding("a.yaml", "b.c", "X-1", "It is so.", "Do this.")) == "a.yaml:b.c X-1 It is so. Do this."


@pytest.mark.parametrize(("package", "told"), [("cfnlint", "cfn-lint is not"), ("ray", "ray is not installed")])
def test_a_missing_tool_is_an_error_with_its_command(clean, monkeypatch, package, told):
    real = checks.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == package else real(name))
    if package == "ray":
        lint_only(monkeypatch, set())
    with pytest.raises(PlanError, match=told) as error:
        validate.validate(clean, rehearse=False)
    assert "pip install 'penstock[infra]'" in str(error.value)


def test_parallelclusters_python_is_missed_with_the_command_that_makes_it(clean, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(checks.TOOLS, raising=False)
    lint_only(monkeypatch, set())
    with pytest.raises(PlanError, match=r"run scripts/infra-tools"):
        validate.validate(clean)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(SpecError, match="run penstock infra render"):
        validate.validate(tmp_path)


def plant(file: Path, place: str, value) -> None:
    """Set *value* at *place*; `GONE` takes it away; a mapping of None keeps only its keys."""
    data = yaml.safe_load(file.read_text())
    *way, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    owner = data
    for step in way:
        owner = owner[step]
    if value is GONE:
        del owner[last]
    elif isinstance(value, dict) and None in value.values():
        owner[last] = {key: copy.deepcopy(owner[last][key]) for key in value}
    else:
        owner[last] = value
    file.write_text(yaml.safe_dump(data, sort_keys=False))


def lint_only(monkeypatch, names) -> None:
    """cfn-lint takes most of the time, so it looks at what was changed and is its own to find."""
    real = checks.cfn_lint
    monkeypatch.setattr(checks, "cfn_lint", lambda folder, all_: real(folder, {n: all_[n] for n in all_ if n in names}))
