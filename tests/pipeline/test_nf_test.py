"""The modules and their nf-test specs: that each has what it must, and, where an nf-test is on PATH, that the specs pass."""

import re
import shutil
import subprocess

import pytest
from runs import ENVIRONMENT, ROOT

MODULES = sorted(path for path in (ROOT / "modules").iterdir() if path.is_dir())
SPECS = [*(module / "tests/main.nf.test" for module in MODULES), ROOT / "tests/main.nf.test"]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_module_is_one_process_of_its_name_with_a_stub_and_a_spec(module):
    code = (module / "main.nf").read_text()
    assert re.findall(r"^process (\w+) \{", code, flags=re.MULTILINE) == [module.name.upper()]
    assert len(re.findall(r"^    stub:$", code, flags=re.MULTILINE)) == 1

    spec = (module / "tests/main.nf.test").read_text()
    assert re.findall(r"^    (script|process) '(.*)'$", spec, flags=re.MULTILINE) == [
        ("script", "../main.nf"), ("process", module.name.upper()),
    ]  # fmt: skip
    assert "options '-stub-run'" in spec


def test_main_includes_every_module_and_nothing_that_is_not_there():
    included = {}
    for names, source in re.findall(r"^include \{(.*?)\} from '(.*)'$", (ROOT / "main.nf").read_text(), flags=re.MULTILINE):
        path = ROOT / source
        path = path / "main.nf" if path.is_dir() else path.with_suffix(".nf")
        included[path] = {name.strip() for name in names.split(";")}
        defined = re.findall(r"^(?:process|workflow|def) (\w+)", path.read_text(), flags=re.MULTILINE)
        assert included[path] <= set(defined)
    assert set(included) == {*(module / "main.nf" for module in MODULES), ROOT / "modules/functions.nf"}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nf-test"), reason="no nf-test on PATH: the specs beside the modules are not run")
def test_the_specs_pass():
    """With --ci, a snapshot that is missing is a failure and is not made anew."""
    ran = subprocess.run(["nf-test", "test", "--ci"], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True, timeout=1500)
    tests = sum(len(re.findall(r"^    test\('", spec.read_text(), flags=re.MULTILINE)) for spec in SPECS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"Executed {tests} tests" in ran.stdout
