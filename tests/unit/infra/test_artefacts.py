from pathlib import Path

import yaml

from penstock.infra.artefacts import ARTEFACTS, dumped, rendered

ROOT = Path(__file__).parents[3]

FOLDER = ROOT / "deploy" / "rendered"


def test_the_folder_holds_what_is_rendered_to_the_letter(example):
    there = {file.relative_to(FOLDER).as_posix(): file.read_text() for file in FOLDER.rglob("*") if file.is_file()}
    assert rendered(example) == there


def test_the_same_deployment_gives_the_same_texts(example, changed):
    assert list(rendered(example).items()) == list(rendered(changed("[budget]", "[budget]")).items())


def test_a_change_of_one_part_touches_its_files_alone(example, changed):
    before, after = rendered(example), rendered(changed("monthly_usd = 500", "monthly_usd = 600"))
    assert [name for name in before if before[name] != after[name]] == ["cloudformation/budget.yaml"]


def test_what_is_dumped_is_read_back_as_it_was(example):
    for artefact in ARTEFACTS:
        for data in artefact.render(example).values():
            assert yaml.safe_load(dumped(data)) == data
            assert "&id" not in dumped(data)
