"""nf-core's own checks, run through its Python API on a copy of the project, without a network; docs/nf-core.md lists them."""

import copy
import json
import logging
import re
import shutil
import socket
import subprocess

import nf_core.utils
import pytest
import yaml
from click.testing import CliRunner
from nf_core.__main__ import nf_core_cli
from nf_core.pipelines.lint import PipelineLint
from nf_core.pipelines.schema import PipelineSchema
from runs import ENVIRONMENT, ROOT

SETTINGS = yaml.safe_load((ROOT / ".nf-core.yml").read_text())["lint"]
CHECKS = PipelineLint(ROOT, release_mode=True).lint_tests
FOLLOWED = [name for name in CHECKS if SETTINGS.get(name) is not False]

# The warnings that are known and stay; docs/nf-core.md says why
WARNINGS = {"schema_lint": ["Schema missing top-level `$id` attribute", "Input mimetype is missing or empty"]}


class Lint(PipelineLint):
    """nf-core's checks of a pipeline without an organisation: nf-core takes the one before the slash of `manifest.name`."""

    def load_pipeline_config(self) -> bool:
        self.nf_config = nf_core.utils.fetch_wf_config(self.wf_path)
        manifest = self.nf_config["manifest"]
        self.pipeline_prefix, self.pipeline_name = "", manifest["name"]
        self.minNextflowVersion = manifest["nextflowVersion"].lstrip("!>=")
        return True


class Offline(Exception):
    """Something asked for the network."""


def no_network(*_args, **_kwargs):
    raise Offline


@pytest.fixture(scope="module")
def offline():
    """Neither nf-core nor Nextflow gets a network, and the Nextflow is that of all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", no_network)
        patch.setattr(socket, "getaddrinfo", no_network)
        for name, value in (ENVIRONMENT | {"NXF_OFFLINE": "true"}).items():
            patch.setenv(name, value)
        yield patch


def ignored_by_git(folder, names):
    """What of a folder's content .gitignore names; a name with a slash before it is one of the project's root."""
    patterns = (ROOT / ".gitignore").read_text().split()
    here = [pattern.strip("/") for pattern in patterns if folder == str(ROOT) or not pattern.startswith("/")]
    return shutil.ignore_patterns(".git", *here)(folder, names)


@pytest.fixture(scope="module")
def project(offline, tmp_path_factory):
    """A copy of what git has or would take, as some checks write where they look, and most look into every folder.

    The configuration is asked of Nextflow once: copies of this copy differ in the schema alone. nf-core's own cache is
    left out, as it knows nothing of the files that nextflow.config includes.
    """
    folder = shutil.copytree(ROOT, tmp_path_factory.mktemp("lint") / "refmap", ignore=ignored_by_git)
    config = nf_core.utils.fetch_wf_config(folder, cache_config=False)
    assert config["manifest"]["name"] == "refmap" and config["params"]["max_epochs"] == 100
    offline.setattr(nf_core.utils, "fetch_wf_config", lambda *_args, **_kwargs: copy.deepcopy(config))
    return folder


@pytest.fixture
def broken(project, tmp_path):
    """Copies the project with a schema that the given function has changed."""

    def make(change):
        folder = shutil.copytree(project, tmp_path / "refmap")
        path = folder / "nextflow_schema.json"
        schema = json.loads(path.read_text())
        change(schema)
        path.write_text(json.dumps(schema))
        return folder

    return make


def lint(folder, check):
    """Run one check; returns its results by kind."""
    linter = Lint(folder, release_mode=True, hide_progress=True)
    assert linter._load()
    return getattr(linter, check)()


@pytest.fixture
def schema_lint(caplog):
    """Runs `nf-core pipelines schema lint`: its exit status, and what it logged."""
    caplog.set_level(logging.INFO, logger="nf_core.pipelines.schema")

    def run(folder):
        done = CliRunner().invoke(nf_core_cli, ["pipelines", "schema", "lint", str(folder / "nextflow_schema.json")])
        return done.exit_code, caplog.text

    return run


def documented(heading):
    """The names in the first column of the table below a heading of docs/nf-core.md."""
    section = (ROOT / "docs/nf-core.md").read_text().split(f"\n## {heading}\n")[1].split("\n#")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize("check", FOLLOWED)
def test_a_check_finds_nothing(project, check):
    results = lint(project, check)
    assert results.get("failed", []) == [] and results.get("fixed", []) == []
    assert results.get("warned", []) == WARNINGS.get(check, [])


def test_every_check_is_documented_as_followed_or_not():
    followed, left_out = documented("Checks that are followed"), documented("Checks that are not")
    assert sorted(followed) == sorted(FOLLOWED)
    assert sorted(left_out) == sorted(name for name, setting in SETTINGS.items() if setting is False)
    assert sorted(followed + left_out) == sorted(CHECKS)


def test_what_a_followed_check_leaves_out_is_documented():
    text = (ROOT / "docs/nf-core.md").read_text()
    items = [item for setting in SETTINGS.values() if setting for item in setting]
    assert len(items) > 30 and [item for item in items if f"`{item}`" not in text and f"\n{item}\n" not in text] == []


def test_nothing_is_left_out_that_holds(project):
    """An exception that is no longer needed goes: each file that may be absent is, and so is each setting."""
    assert [name for name in SETTINGS["files_exist"] if (project / name).exists()] == []
    config = nf_core.utils.fetch_wf_config(project)
    assert config["manifest"].keys().isdisjoint({"diagram", "homePage"}) and "/" not in config["manifest"]["name"]
    assert {"max_cpus", "max_memory", "max_time"} < config["params"].keys() and "custom_config_base" not in config["params"]


def test_a_check_that_wants_the_network_gets_none(project):
    with pytest.raises(Offline):
        lint(project, "actions_schema_validation")


def test_the_command_passes_the_schema(project, schema_lint):
    schema = json.loads((project / "nextflow_schema.json").read_text())
    count = sum(len(group["properties"]) for group in schema["$defs"].values())
    status, log = schema_lint(project)
    assert status == 0, log
    assert f"Pipeline schema looks valid[/] [dim](found {count} params)" in log
    assert "should be" not in log  # what it says of another title or description


def leave_a_group_out(schema):
    del schema["allOf"][0]


def give_a_default_that_is_no_choice(schema):
    schema["$defs"]["reference_options"]["properties"]["family"]["default"] = "nonesuch"


@pytest.mark.parametrize(
    "change, said",
    [
        (leave_a_group_out, "`#/$defs/input_output_options` not included in schema `allOf`"),
        (give_a_default_that_is_no_choice, "Default parameters are invalid: 'nonesuch' is not one of"),
    ],
)
def test_the_command_stops_at_a_broken_schema(broken, schema_lint, change, said):
    status, log = schema_lint(broken(change))
    assert status == 1
    assert said in log


def give_another_default(schema):
    schema["$defs"]["mapping_options"]["properties"]["max_epochs"]["default"] = 101


def take_a_parameter_away(schema):
    del schema["$defs"]["mapping_options"]["properties"]["max_epochs"]


@pytest.mark.parametrize(
    "change, check, said",
    [
        (give_another_default, "nextflow_config", "Config default value incorrect: `params.max_epochs` is set as `101`"),
        (take_a_parameter_away, "schema_params", "Param `max_epochs` from `nextflow config` not found"),
    ],
)
def test_a_check_finds_a_schema_that_differs_from_the_configuration(broken, change, check, said):
    [failed] = lint(broken(change), check)["failed"]
    assert failed.startswith(said)


def test_the_parameters_of_the_test_profile_are_valid(project, tmp_path):
    """By the API: `nf-core pipelines schema validate` exits with 0 whatever it finds."""
    told = subprocess.run(
        ["nextflow", "config", str(project), "-profile", "test", "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    params = {name: value for name, value in json.loads(told.stdout)["params"].items() if value is not None}
    assert params["demo"] is True and params["max_epochs"] == 3

    def valid(**changes):
        path = tmp_path / "params.json"
        path.write_text(json.dumps(params | changes))
        schema = PipelineSchema()
        schema.get_schema_path(project)
        schema.load_lint_schema()
        schema.load_input_params(path)
        return schema.validate_params()

    assert valid() is True
    assert valid(max_epochs=-1) is False
    assert valid(family="nonesuch") is False
    assert valid(input="sheet.xlsx") is False
