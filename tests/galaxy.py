#!/usr/bin/env python
"""Check the collection as Galaxy gets it: the archive that `ansible-galaxy collection build` makes.

    tests/galaxy.py sanity                       ansible-test's sanity tests, of the oldest and the newest core here
    tests/galaxy.py sanity --only 2.19 2.22      of these cores
    tests/galaxy.py ignore [--only ...]          write the findings that REASONS accepts to tests/sanity/ignore-*.txt
    tests/galaxy.py import                       galaxy-importer, ansible-lint, and the linters of docs and changelog

Each core has the environment in which `make matrix` runs it. ansible-test makes one more for each of its tests, from
the package index, and keeps it in `.cache/galaxy`. A finding is accepted by its line in `tests/sanity`, with a reason;
a line that nothing needs any more is a finding itself. What cannot run is named.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cores

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "galaxy"
SANITY = ROOT / "tests" / "sanity"
COLLECTION = Path("ansible_collections", "selfhosted", "prefect")

PROGRAMS = {"pslint": "pwsh", "shellcheck": "shellcheck"}
"""Sanity tests that need a program which is on no package index of Python."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why findings of some rules are accepted in the files that match a pattern."""

    rules: tuple[str, ...]
    text: str
    files: str = "*"
    says: str = ""
    """What the message of the finding contains."""
    by_action: bool = False
    """Whether only of modules that have an action plugin of the same name."""

    def covers(self, file: str, rule: str) -> bool:
        """Return whether this is a reason for a rule in a file, whatever the message is."""
        beside = ROOT / "plugins" / "action" / Path(file).name
        return rule in self.rules and fnmatch.fnmatch(file, self.files) and (beside.exists() or not self.by_action)


def validated(*rules: str) -> tuple[str, ...]:
    return tuple(f"validate-modules:{rule}" for rule in rules)


REASONS = (
    Reason(
        rules=validated("missing-gplv3-license"),
        text="The licence of this collection is Apache-2.0.",
    ),
    Reason(
        rules=validated(
            *("doc-default-does-not-match-spec", "doc-elements-mismatch", "doc-required-mismatch"),
            *("doc-type-does-not-match-spec", "nonexistent-parameter-documented", "parameter-type-not-in-doc"),
            "undocumented-parameter",
        ),
        files="plugins/modules/*",
        by_action=True,
        text="The documented options are those of its action plugin, which passes others to the module.",
    ),
    Reason(
        rules=validated("use-fail-json-not-sys-exit"),
        files="plugins/modules/host_deployment_scripts.py",
        text="In the text of a program that the module runs.",
    ),
    Reason(
        rules=validated("use-run-command-not-popen"),
        files="plugins/modules/host_release.py",
        text="Runs beside another command, which run_command cannot do.",
    ),
    Reason(
        rules=("shebang",),
        files="templates/*",
        text="The template of a program, which the Python of the release runs.",
    ),
    Reason(
        rules=("no-assert",),
        text="Tells the type checker what the code before has made sure of.",
    ),
    Reason(
        rules=("pylint:disallowed-name",),
        text="A value that is not used is called _, as in the standard library.",
    ),
    Reason(
        rules=("pylint:used-before-assignment",),
        text="pylint misses names that an earlier item of the same `with` binds.",
    ),
    Reason(
        rules=("pylint:ansible-bad-function",),
        files="plugins/module_utils/onhost/*",
        text="Runs on hosts as a program, without Ansible, and this is its output.",
    ),
    Reason(
        rules=("pylint:ansible-bad-function",),
        files="plugins/module*/host*",
        says="run_command instead of subprocess.",
        text="Has no AnsibleModule, or runs a program beside another one, as another account, or with a time limit.",
    ),
    Reason(
        rules=("pylint:unidiomatic-typecheck",),
        files="roles/prefect_definitions/*",
        text="Compares types, one of which is that of None.",
    ),
    Reason(
        rules=("pylint:unsupported-binary-operation",),
        text="A union of types, in Python since 3.10, which modules need.",
    ),
    Reason(
        rules=("pylint:dangerous-default-value",),
        text="A constant, which no code changes.",
    ),
    Reason(
        rules=("pylint:confusing-with-statement",),
        text="The second item is a context of its own.",
    ),
    Reason(
        rules=("pylint:unnecessary-comprehension",),
        text="Makes tuples of the lists that JSON has.",
    ),
    Reason(
        rules=("pylint:using-constant-test",),
        files="roles/prefect_definitions/*",
        text="pylint takes the code of a SystemExit for a constant.",
    ),
    Reason(
        rules=("pylint:stop-iteration-return",),
        files="roles/prefect_definitions/*",
        text="The iterator is never empty.",
    ),
)


@dataclass(frozen=True, kw_only=True, order=True)
class Finding:
    """What a sanity test says of a line of a file."""

    file: str
    rule: str
    """The test, such as `no-assert`, with the code where it has some: `pylint:disallowed-name`."""
    line: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.message}"


def run(command: Sequence[str | Path], **options: object) -> int:
    """Run a command with its output on the terminal, and return its exit code."""
    return subprocess.run(command, check=False, **options).returncode  # type: ignore[call-overload, no-any-return]


@contextmanager
def archive(tools: Path) -> Iterator[Path]:
    """Build the archive with the ansible-galaxy of a directory of programs, and yield its path."""
    with tempfile.TemporaryDirectory(prefix="galaxy-") as directory:
        command = [str(tools / "ansible-galaxy"), "collection", "build", "--output-path", directory, str(ROOT)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        yield next(Path(directory).glob("*.tar.gz"))


@contextmanager
def unpacked(built: Path) -> Iterator[Path]:
    """Unpack an archive where Ansible looks for collections, outside of any repository, and yield its directory."""
    with tempfile.TemporaryDirectory(prefix="galaxy-") as directory:
        place = Path(directory, COLLECTION)
        with tarfile.open(built) as packed:
            packed.extractall(place, filter="data")
        yield place


def path_of(tools: Path, *, pythons: bool = False) -> str:
    """Return a PATH with these programs first, with every Python here if need be, and without shims."""
    others = [cores.interpreter(f"3.{minor}") for minor in range(10, 16)] if pythons else []
    own = [path for path in os.environ["PATH"].split(os.pathsep) if Path(path).name != "shims"]
    return os.pathsep.join(dict.fromkeys([str(tools), *(str(Path(path).parent) for path in others if path), *own]))


def not_runnable(row: cores.Row) -> dict[str, str]:
    """Return the sanity tests of a core that cannot run here, each with the reason."""
    missing = {
        test: f"this machine has no {program}" for test, program in PROGRAMS.items() if not shutil.which(program)
    }
    for lock in row.directory.glob("lib/*/site-packages/ansible_test/_data/requirements/sanity.*.txt"):
        # The tests of a release candidate may need what is not released yet.
        for url in re.findall(r"@ (https://[^#\s]+)", lock.read_text()):
            try:
                urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
            except OSError:
                missing[lock.name.split(".")[1]] = f"{url} cannot be reached"
    return missing


def sanity(row: cores.Row, *, missing: Mapping[str, str], ignore: bool) -> list[Finding]:
    """Run the sanity tests of a core, and return what they find: with `ignore`, what they ignore as well."""
    tools = row.directory / "bin"
    home = CACHE / "home"
    bring_pip(row, home)
    # pip's settings are those of the user, whose home directory ansible-test does not see.
    configured = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    environment = os.environ | {"PATH": path_of(tools, pythons=True), "HOME": str(home), "XDG_CONFIG_HOME": configured}
    left_out = [word for test in missing for word in ("--skip-test", test)]
    with archive(tools) as built, unpacked(built) as place:
        (place / "tests").mkdir()
        shutil.copy(ROOT / "tests" / "config.yml", place / "tests")
        if not ignore:
            shutil.copytree(SANITY, place / "tests" / "sanity")
        log = row.directory / "sanity.log"
        with log.open("w") as output:
            command = ["ansible-test", "sanity", "--local", "--python", "default", *left_out]
            code = run(command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        found = sorted(findings(place / "tests" / "output" / "bot"))
    said = log.read_text()
    # It ends a run that it cannot go on with in the same way, but for this summary.
    if code and "sanity test(s) listed below" not in said:
        sys.exit(f"{row.name}: ansible-test ended with exit code {code}:\n{said[-2000:]}")
    return found


def bring_pip(row: cores.Row, home: Path) -> None:
    """Let ansible-test take the pip that comes with Python for its environments, instead of one from its own site."""
    wanted = next(row.directory.glob("lib/*/site-packages/ansible_test/_internal/python_requirements.py"))
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in re.findall(r"\bpip='([\d.]+)'", wanted.read_text()):
        (cache / f"get_pip_{version.replace('.', '_')}.py").write_text("import ensurepip\n\nensurepip.bootstrap()\n")


def findings(reports: Path) -> Iterator[Finding]:
    """Yield what the reports of ansible-test say, a file for each test that failed."""
    for report in reports.glob("*.json"):
        test = re.sub(r"^ansible-test-sanity-|-python-[\d.]+$", "", report.stem)
        for result in json.loads(report.read_text())["results"]:
            for said in result["output"].splitlines():
                file, line, _, message = said.split(":", maxsplit=3)
                code = re.match(r" ([a-z0-9-]+): ", message) if test in ("pylint", "validate-modules") else None
                rule = f"{test}:{code[1]}" if code else test
                yield Finding(file=file, rule=rule, line=line, message=message.removeprefix(code[0] if code else " "))


def ignored(found: Sequence[Finding]) -> tuple[list[str], list[Finding]]:
    """Return the lines of the ignore file for what REASONS accepts, and the findings that it does not accept."""
    lines: dict[str, str] = {}
    rest = []
    for finding in found:
        reasons = (
            reason for reason in REASONS if reason.covers(finding.file, finding.rule) and reason.says in finding.message
        )
        if reason := next(reasons, None):
            lines.setdefault(f"{finding.file} {finding.rule}", reason.text)
        else:
            rest.append(finding)
    return [f"{entry} # {text}" for entry, text in sorted(lines.items())], rest


def kept(file: Path, missing: Iterable[str]) -> list[str]:
    """Return the lines of an ignore file for tests that did not run, and for files that exist."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [
        line for line in lines if line.split()[1].partition(":")[0] in missing and (ROOT / line.split()[0]).exists()
    ]


def rows(only: Sequence[str]) -> list[cores.Row]:
    """Return the cores to run, each on the newest Python here: the oldest and the newest unless `only` names some."""
    here = [row for row in cores.chosen(only) if row.interpreter]
    newest = {row.core.version: row for row in here}
    wanted = list(newest.values()) if only else [newest[version] for version in (min(newest), max(newest))]
    for row in wanted:
        cores.install(row)
    return wanted


def check_sanity(only: Sequence[str], *, ignore: bool) -> int:
    """Run the sanity tests and print the findings; with `ignore`, write the accepted ones to the ignore files."""
    count = 0
    for row in rows(only):
        print(f"ansible-core {row.installed.replace(' ', ' on Python ')}", flush=True)
        missing = not_runnable(row)
        for test, why in missing.items():
            print(f"{row.name}: {test}: SKIPPED: {why}", flush=True)
        found = sanity(row, missing=missing, ignore=ignore)
        if ignore:
            lines, found = ignored(found)
            file = SANITY / f"ignore-{row.core.version}.txt"
            lines += kept(file, missing)
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(f"{line}\n" for line in sorted(lines)))
        for finding in found:
            print(f"  {finding}", flush=True)
        print(f"{row.name}: sanity: {len(found)} findings", flush=True)
        count += len(found)
    return 1 if count else 0


def check_import() -> int:
    """Import and lint the archive as Galaxy does, lint its documentation and changelog, and return the exit code."""
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": path_of(tools), "GALAXY_IMPORTER_RUN_ANSIBLE_LINT": "false"}
    with archive(tools) as built, unpacked(built) as place, tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "galaxy_importer.main", str(built)]
        done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
        said = [line for line in done.stdout.splitlines() if not line.startswith("Loading ")]
        print(*said, sep="\n", flush=True)
        # These are its options. It gives ansible-lint three minutes, which a busy machine exceeds.
        lint = ["ansible-lint", "--profile", "production", "--format", "pep8", "--nocolor", "--offline"]
        lint += ["-x", "yaml,var-naming,avoid-dot-notation,import-task-no-when,single-entry-point,use-loop"]
        environment |= {"ANSIBLE_COLLECTIONS_PATH": str(place.parents[2]), "XDG_CACHE_HOME": scratch}
        linters = {
            "antsibull-docs": [
                *("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--check-extra-docs-refs"),
                *("--validate-collection-refs", "self", "."),
            ],
            "antsibull-changelog": ["antsibull-changelog", "lint"],
            "ansible-lint": [*lint, "-q"],
        }
        failed = [name for name, linter in linters.items() if run(linter, cwd=place, env=environment)]
    print("ansible-test: SKIPPED by galaxy-importer, which runs it in a container: `make sanity` runs it")
    messages = [line for line in said if re.match(r"(WARNING|ERROR|CRITICAL): ", line)]
    print(f"import: {len(messages)} messages, exit code {done.returncode}")
    print(*(f"{name}: {'FAILED' if name in failed else 'no message'}" for name in linters), sep="\n")
    return 1 if done.returncode or messages or failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in {"sanity": "run the sanity tests", "ignore": "write the ignore files"}.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("--only", nargs="+", default=[], metavar="CORE", help="2.21, or 2.21/3.13: on one Python")
    commands.add_parser("import", help="run galaxy-importer")
    arguments = parser.parse_args()
    if arguments.command == "import":
        return check_import()
    try:
        return check_sanity(arguments.only, ignore=arguments.command == "ignore")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
