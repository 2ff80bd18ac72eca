"""The other project called `loupe`, which has the same import name, is noticed and named."""

import sys

import pytest

from loupe.cli import main
from loupe.doctor import checks, installation


def install(folder, monkeypatch, **fields) -> None:
    """A distribution called loupe, as pip records it, that comes before any other on the path."""
    record = folder / "loupe-9.9.dist-info"
    record.mkdir()
    lines = {"Metadata-Version": "2.1", "Name": "loupe", "Version": "9.9", **fields}
    (record / "METADATA").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    monkeypatch.syspath_prepend(folder)


def test_the_other_project_is_said_on_the_command_line_and_by_the_doctor(tmp_path, monkeypatch, capsys):
    install(tmp_path, monkeypatch, Author="Someone else")
    assert installation.other_project() == "9.9"
    monkeypatch.setattr(sys, "argv", ["loupe", "--version"])
    with pytest.raises(SystemExit) as end:
        main.main()
    out, err = capsys.readouterr()
    assert end.value.code == 0 and out.startswith("loupe ")
    assert len(err.splitlines()) == 1 and "9.9" in err and "pip uninstall loupe" in err
    finding = next(finding for finding in checks.versions() if finding.name == "other loupe")
    assert finding.state == "broken" and "9.9" in finding.value and "loupe-vision" in finding.remedy


def test_an_earlier_installation_of_ours_is_not_taken_for_the_other_project(tmp_path, monkeypatch, capsys):
    install(tmp_path, monkeypatch, Author="The Loupe developers")
    assert installation.other_project() is None
    assert all(finding.name != "other loupe" for finding in checks.versions())
