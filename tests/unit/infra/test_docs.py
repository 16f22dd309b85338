import re
from pathlib import Path

from penstock.infra.validate import RULES

PAGE = Path(__file__).parents[3] / "docs" / "infra.md"


def test_the_page_lists_every_rule_as_it_is():
    rows = re.findall(r"^\| ([A-Z0-9]+-[A-Z0-9]+) \| [\w ]+ \| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    told = {name: (sentence, mend) for name, sentence, mend in rows}
    assert {rule.id: (rule.sentence, rule.mend) for rule in RULES}.items() <= told.items()


def test_it_says_that_nothing_was_deployed():
    assert "Nothing of this was ever deployed on a real AWS account" in PAGE.read_text()
