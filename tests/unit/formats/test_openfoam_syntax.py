"""Dictionaries, there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import UnitError
from penstock.formats.openfoam import read_dictionary, write_dictionary

WORDS = st.text("abcXYZ019_.:-", min_size=1, max_size=8).filter(lambda text: not text.startswith("#"))
KEYS = st.one_of(WORDS, WORDS.map(lambda w: f"div({w},U)"), WORDS.map(lambda w: f'"({w}|q).*"'))
VALUES = st.one_of(WORDS, WORDS.map(lambda w: f"(a {w} (1 2))"), WORDS.map(lambda w: f'"{w}; }}"'), st.just(""))
TREES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=3),
    lambda inner: st.dictionaries(KEYS, st.one_of(VALUES, inner), max_size=3),
    max_leaves=6,
)


@given(TREES)
def test_what_is_written_is_read_again(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("case") / "system" / "controlDict"
    write_dictionary(path, tree)
    assert read_dictionary(path) == tree


def test_numbers_truths_and_vectors_are_written_as_openfoam_wants_them(tmp_path):
    write_dictionary(
        tmp_path / "d", {"endTime": 0.5, "n": 3, "compressed": False, "U": (1, 0.0, 0), "sub": {"on": True}}
    )
    found = read_dictionary(tmp_path / "d")
    assert found == {"endTime": "0.5", "n": "3", "compressed": "no", "U": "(1 0.0 0)", "sub": {"on": "yes"}}


def test_comments_directives_macros_and_lists_of_dictionaries(tmp_path):
    (tmp_path / "d").write_text(
        """/* one; { */ FoamFile { version 2.0; format ascii; class dictionary; object d; }
#include "more"
a 1; // two;
b (x /* three */ y);
$macro;
boundary ( left { type cyclic; } );
code #{ if (x) { y = "};"; } #};
functions { #includeFunc Q
  probe { type probes; $defaults; } }
"""
    )
    assert read_dictionary(tmp_path / "d") == {
        "#include": '"more"',
        "a": "1",
        "b": "(x   y)",
        "$macro": "",
        "boundary": "( left { type cyclic; } )",
        "code": '#{ if (x) { y = "};"; } #}',
        "functions": {"#includeFunc": "Q", "probe": {"type": "probes", "$defaults": ""}},
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a 1", "';' at the end of the entry was needed"),
        ("a { b 1;", "there is the end; '}' was needed"),
        ("a (1 2;", "';' at the end of the entry was needed"),
        ("a 1; }", "there is '}'; a keyword was needed"),
    ],
)
def test_what_does_not_end_is_refused(tmp_path, text, found):
    (tmp_path / "d").write_text(text)
    with pytest.raises(UnitError, match=found) as caught:
        read_dictionary(tmp_path / "d")
    assert str(tmp_path / "d") in str(caught.value)
