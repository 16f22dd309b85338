from penstock.infra.render import HEAD, changes, write


def test_new_changed_and_gone_files_are_told_with_their_lines(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old.yaml").write_text(HEAD + "x: 1\n")
    (tmp_path / "same.yaml").write_text("y: 1\n")
    (tmp_path / "changed.yaml").write_text("z: 1\nkept: 1\n")
    found = changes({"same.yaml": "y: 1\n", "changed.yaml": "z: 2\nkept: 1\n", "b/new.yaml": "n: 1\n"}, tmp_path)
    assert [change.path for change in found] == ["a/old.yaml", "b/new.yaml", "changed.yaml"]
    gone, new, changed = (list(change.diff()) for change in found)
    assert gone[:2] == ["--- a/a/old.yaml", "+++ /dev/null"]
    assert new[:2] == ["--- /dev/null", "+++ b/b/new.yaml"]
    assert changed[3:] == ["-z: 1", "+z: 2", " kept: 1"]


def test_writing_leaves_no_difference_and_touches_nothing_else(tmp_path):
    (tmp_path / "old.yaml").write_text(HEAD + "x: 1\n")
    (tmp_path / "README.md").write_text("mine\n")
    (tmp_path / "mine.yaml").write_text("x: 1\n")
    texts = {"b/new.yaml": "n: 1\n"}
    write(changes(texts, tmp_path), tmp_path)
    assert changes(texts, tmp_path) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README.md", "b", "mine.yaml", "new.yaml"]


def test_a_folder_that_is_not_there_is_all_new(tmp_path):
    (change,) = changes({"a.yaml": "n: 1\n"}, tmp_path / "none")
    assert change.before is None
