"""The code of the documents runs as printed, and their links lead somewhere."""

import contextlib
import importlib
import io
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from test_notebooks import differences

from srdef import attacks, datasets, defenses
from srdef.command import COMMANDS
from srdef.commands import configuration

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Pages that run large networks, or many frameworks.
SLOW = (
    "epsilon-sweep",
    "get-started",
    "threat-models",
    "many-devices",
    "your-attack",
    "your-defense",
    "your-model",
)

# A block of code, what stands in a comment before it, and what it is said to print.
BLOCK = re.compile(r"(<!-- not run: .*? -->\n)?```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


# `srdef COMMAND CONFIGURATION:ARGUMENT`.
COMMAND = re.compile(r"srdef ([a-z][\w-]+)(?: (\w+)(?::(\S+))?)?(?=\s|$)")


def blocks(path):
    """The code blocks of a page that can run, each with what it prints ("" if the page does not say)."""
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [(code, printed) for comment, code, printed in found if not comment]


def pages():
    for path in DOCUMENTS[1:]:
        if blocks(path):
            marks = [pytest.mark.slow] if path.stem in SLOW else []
            yield pytest.param(path, id=path.stem, marks=marks)


def run(path, monkeypatch):
    """Run a page from top to bottom; its names, and for each block what it printed and what the page says."""
    module = types.ModuleType("page")  # classes are looked up in their module
    monkeypatch.setitem(sys.modules, "page", module)
    outputs = []
    for code, expected in blocks(path):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(path), "exec"), vars(module))
        outputs.append((printed.getvalue(), expected))
    return vars(module), outputs


@pytest.fixture
def sandbox(monkeypatch, tmp_path):
    """An empty folder, registries that are restored, and a stand-in for RobustBench's download."""
    monkeypatch.chdir(tmp_path)
    for registry in (attacks.REGISTRY, defenses.REGISTRY, datasets.REGISTRY):
        monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    robustbench = types.ModuleType("robustbench")
    robustbench.utils = types.ModuleType("robustbench.utils")
    robustbench.utils.load_model = load_model
    monkeypatch.setitem(sys.modules, "robustbench", robustbench)
    monkeypatch.setitem(sys.modules, "robustbench.utils", robustbench.utils)


def load_model(model_name, dataset, threat_model):
    """A linear network in the place of RobustBench's."""
    import torch

    assert (dataset, threat_model) == ("cifar10", "Linf")
    torch.manual_seed(len(model_name))
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))


def comparable(text):
    """What was printed, with the numbers of tables marked as the percentages that they are."""
    lines = text.strip().splitlines()
    return "\n".join(re.sub(r"(\d\.\d)", r"\1 %", line) if line[:1] == "|" else line for line in lines)


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("path", list(pages()))
def test_code_runs_and_prints_what_the_page_says(path, monkeypatch):
    names, outputs = run(path, monkeypatch)
    said = [(comparable(printed), comparable(expected)) for printed, expected in outputs if expected]
    # Percentages, shares and counts within what another processor may make of them.
    assert differences([a for a, _ in said], [b for _, b in said]) == []
    if "get_config" in names:
        config = names["get_config"]()
        assert config.attacks
        assert config.defenses


def test_most_guides_say_what_their_code_prints():
    guides = [path for path in (ROOT / "docs/guides").glob("*.md") if blocks(path)]
    silent = [path.name for path in guides if not any(expected for _, expected in blocks(path))]
    assert silent == []


def anchors(path):
    """The anchors of a document's headings, as GitHub and mkdocs make them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.is_file(), target
        assert not anchor or anchor in anchors(found), target


def test_the_site_has_every_page_once():
    navigation = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    found = [str(path.relative_to(ROOT / "docs")) for path in DOCUMENTS[1:]]
    assert sorted(navigation) == sorted(found)


@pytest.mark.parametrize(
    ("registry", "page"), [(attacks.REGISTRY, "attacks"), (datasets.REGISTRY, "datasets")]
)
def test_the_reference_has_everything_registered(registry, page):
    """Of functions that have the name of their module only those that a page names are shown."""
    text = (ROOT / f"docs/reference/{page}.md").read_text(encoding="utf-8")
    assert [name for name in registry.names() if not re.search(rf"\b{name}\b", text)] == []


def commands(path):
    """The commands of a page, in code that is not Python."""
    text = path.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`(srdef [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in "\n".join([*fenced, *inline]).splitlines():
        if found := COMMAND.match(line):
            yield found.groups()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_commands_and_configurations_exist(path):
    for command, name, argument in commands(path):
        assert command in COMMANDS
        schema = importlib.import_module(f"srdef.commands.{command.replace('-', '_')}").COMMAND.schema
        if name and schema:
            configuration.load(name if argument is None else f"{name}:{argument}")


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_needs_no_network(tmp_path):
    """As `make docs` builds it, where what that installs is there."""
    build = pytest.importorskip("mkdocs.commands.build")
    pytest.importorskip("mkdocstrings")
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build.build(config)
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', html), page.name


def test_srdef_alone_imports_little():
    """`import srdef` is fast, and its parts are there when they are used."""
    code = (
        "import sys, srdef; print('jax' in sys.modules, srdef.attacks.fgsm().epsilon, "
        "srdef.evaluate_robustness.__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == ["False", str(10 / 255), "evaluate_robustness"]
