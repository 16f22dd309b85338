from penstock.infra.filesystem import render

FILE = "cloudformation/filesystem.yaml"


def test_the_file_system_is_as_it_was(example, golden):
    assert render(example) == {FILE: golden(FILE)}


def test_what_is_written_goes_to_the_bucket_and_raw_data_only_come(example):
    resources = render(example)[FILE]["Resources"]
    assert set(resources["Raw"]["Properties"]["S3"]) == {"AutoImportPolicy"}
    assert set(resources["Datasets"]["Properties"]["S3"]) == {"AutoImportPolicy", "AutoExportPolicy"}
    assert resources["Datasets"]["Properties"]["FileSystemPath"] == "/datasets"


def test_sizes_come_from_the_deployment(changed):
    lustre = render(changed("capacity_gib = 1200", "capacity_gib = 4800"))[FILE]["Resources"]["Lustre"]
    assert lustre["Properties"]["StorageCapacity"] == 4800
    assert (lustre["DeletionPolicy"], lustre["UpdateReplacePolicy"]) == ("Retain", "Retain")
