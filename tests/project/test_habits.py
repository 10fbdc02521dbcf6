"""What a release and a visitor rely on: one version, links that lead somewhere, files that can be read."""

import re
from pathlib import Path

import pytest

import fcbp

ROOT = Path(__file__).parents[2]
yaml = pytest.importorskip("yaml", reason="pip install 'fcbp[sweep]'")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path):
    return yaml.safe_load((ROOT / path).read_text())


def test_the_version_is_in_one_place():
    assert read("CITATION.cff")["version"] == fcbp.__version__
    assert f"\n## {fcbp.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_jobs_with_steps_and_the_least_rights(path):
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert True in workflow  # YAML 1.1 reads the key `on` so
    for name, job in workflow["jobs"].items():
        assert "uses" in job or job["steps"], name
        for needed in [job.get("needs", [])] if isinstance(job.get("needs", []), str) else job.get("needs", []):
            assert needed in workflow["jobs"]
        for step in job.get("steps", []):
            assert ("uses" in step) != ("run" in step)
            assert "@" in step.get("uses", "@")


def test_the_site_is_opened_in_a_browser_before_it_is_published():
    jobs = read(".github/workflows/docs.yml")["jobs"]
    runs = [step.get("run", "") for step in jobs["build"]["steps"]]
    built = next(i for i, run in enumerate(runs) if "mkdocs build --strict" in run)
    assert any("docs/tools/browse.py site" in run for run in runs[built + 1 :])
    assert jobs["deploy"]["needs"] == "build"


def test_every_supported_python_is_tested():
    text = (ROOT / "pyproject.toml").read_text()
    stated = re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    matrix = read(".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == stated
    (oldest,) = re.findall(r'"torch>=([\d.]+)"', text)
    assert any(row["torch"] == f"torch=={oldest}.*" for row in matrix["include"])
    assert f'requires-python = ">={stated[0]}"' in text


@pytest.mark.parametrize("path", [".pre-commit-config.yaml", "CITATION.cff"])
def test_other_files_are_yaml(path):
    assert isinstance(read(path), dict)


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/benchmarks.md", "docs/extending.md"]
)
def test_links_to_files_lead_somewhere(document):
    path = ROOT / document
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_the_readme_is_short_and_has_the_command_of_the_tests():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert sum(bool(re.match(r"pip install .*\[test\].* -m pytest", line)) for line in lines) == 1
    assert any("download.pytorch.org/whl/cpu" in line for line in lines)
