"""An MLflow server as docs/how-to/server.md sets it up: PostgreSQL, artifacts, passwords, roles."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from werkzeug.security import generate_password_hash

from components.errors import UserError
from components.registry import history, model_versions
from components.tracking import store
from pipelines import promote as command
from tests.integration.conftest import Clone, Server
from tests.integration.postgres import PASSWORD, Postgres
from tests.integration.versions import NAME, evaluate_version, register_version

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "how-to" / "server.md").read_text()
USERS = {name: f"{name}-has-{os.urandom(8).hex()}" for name in ("admin", "ci", "alice", "reader")}
HISTORY = history.history_model_name(NAME)
ConnectAs = Callable[[str], MlflowClient]


class AuthServer(Server):
    """The server of docs/how-to/server.md, with its commands and settings on other ports."""

    def __init__(self, folder: Path, database: Postgres) -> None:
        super().__init__(folder)
        self.database = database

    def _localize(self, text: str) -> str:
        for documented, local in (
            ("127.0.0.1:5432", f"127.0.0.1:{self.database.port}"),
            ("--port 5000", f"--port {self.port}"),
            ("/srv/mlflow/artifacts", str(self.folder / "artifacts")),
        ):
            text = text.replace(documented, local)
        return text

    def options(self) -> list[str]:
        documented = re.search(r"^mlflow server (.*?[^\\])$", TEXT, re.M | re.S)
        assert documented is not None
        return [*shlex.split(self._localize(documented[1]).replace("\\\n", " ")), "--workers", "2"]

    def start(self, **env: str) -> None:
        documented = re.search(r"^\[mlflow\]\n(?:\w.*\n)+", TEXT, re.M)
        assert documented is not None
        ini = self.folder / "basic_auth.ini"
        ini.write_text(self._localize(documented[0]))
        settings = {
            "PYTHONPATH": python_path(),
            "MLFLOW_AUTH_CONFIG_PATH": str(ini),
            "MLFLOW_AUTH_ADMIN_PASSWORD": USERS["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": os.urandom(16).hex(),
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{self.port}",
        }
        assert all(f"export {name}=" in TEXT for name in settings)
        super().start(PGPASSFILE=str(self.database.pgpass), **settings, **env)

    def client_env(self, user: str) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": USERS[user],
        }


@pytest.fixture(scope="module")
def auth_server(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[AuthServer]:
    database = Postgres()
    server = AuthServer(tmp_path_factory.mktemp("server"), database)
    try:
        server.start()
        for words in (
            ("--training", "ci", "reader", "--promoters", "alice"),
            ("--remove", "reader"),
        ):
            done = run_command(server, home, "admin", "grant", *words)
            assert done.returncode == 0, done.stdout
        # MLflow checks the password in each request, for which a good hash takes a tenth of a
        # second.
        for name, password in USERS.items():
            cheap = generate_password_hash(password, method="pbkdf2:sha256:1")
            database.execute(
                "mlflow_auth",
                f"UPDATE users SET password_hash = '{cheap}' WHERE username = '{name}'",
            )
        yield server
    finally:
        if hasattr(server, "process"):
            server.signal(signal.SIGKILL)
        database.stop()


@pytest.fixture
def as_user(auth_server: AuthServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> ConnectAs:
    """Return a function that connects this process to the server as a user."""
    monkeypatch.chdir(home)

    def connect(user: str) -> MlflowClient:
        for key, value in auth_server.client_env(user).items():
            monkeypatch.setenv(key, value)
        return store.connect()

    return connect


def run_command(
    server: AuthServer, folder: Path, user: str, word: str, *arguments: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m pipelines.<word>` as a user, with the passwords of new users for `grant`."""
    passwords = new_passwords() if word == "grant" else {}
    identity = server.client_env(user)
    return subprocess.run(
        [sys.executable, "-m", f"pipelines.{word}", *arguments],
        cwd=folder,
        text=True,
        timeout=1200,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": python_path(), **passwords, **identity, **env},
    )


def new_passwords() -> dict[str, str]:
    """Return the variables from which `grant` takes the passwords of new users."""
    return {f"KILN_PASSWORD_{name.upper()}": password for name, password in USERS.items()}


def python_path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module")
def versions(auth_server: AuthServer, home: Path) -> tuple[int, int]:
    """Two versions that the training identity registered, the second clearly better."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for key, value in auth_server.client_env("ci").items():
            patch.setenv(key, value)
        client = store.connect()
        receipts = [register_version(client, seed) for seed in (1, 2)]
        for receipt, num_correct in zip(receipts, (1600, 1900), strict=True):
            evaluate_version(client, receipt, num_correct)
    return receipts[0].version, receipts[1].version


def test_granting_again_changes_nothing(
    auth_server: AuthServer, home: Path, versions: tuple[int, int]
) -> None:
    before = auth_server.database.dump("mlflow_auth"), auth_server.database.dump("mlflow")
    done = run_command(
        auth_server, home, "admin", "grant", "--training", "ci", "--promoters", "alice"
    )
    assert done.returncode == 0, done.stdout
    assert (auth_server.database.dump("mlflow_auth"), auth_server.database.dump("mlflow")) == before


def test_training_identity_cannot_promote(
    auth_server: AuthServer, home: Path, versions: tuple[int, int], as_user: ConnectAs
) -> None:
    promotion = ("promote", "--version", str(versions[1]), "--reason", "mine")
    before = auth_server.database.dump("mlflow")
    for option in ((), ("--override", "let me"), ("--alias", "challenger")):
        done = run_command(auth_server, home, "ci", *promotion, *option)
        assert done.returncode == 2, done.stdout
        assert f"{auth_server.address} does not let user 'ci' move {NAME}@" in done.stdout
        assert "that is for promoters" in done.stdout
        assert "Traceback" not in done.stdout
    assert auth_server.database.dump("mlflow") == before, "the history is unchanged too"
    dry_run = run_command(auth_server, home, "ci", *promotion, "--dry-run")
    assert dry_run.returncode == 0, dry_run.stdout


def test_training_identity_cannot_move_aliases_with_mlflow_alone(
    auth_server: AuthServer, versions: tuple[int, int], as_user: ConnectAs
) -> None:
    as_user("alice")
    command.promote(versions[0], "the first champion")
    before = auth_server.database.dump("mlflow")
    client = as_user("ci")
    calls: list[Callable[[], Any]] = [
        lambda: client.set_registered_model_alias(NAME, "champion", str(versions[1])),
        lambda: client.delete_registered_model_alias(NAME, "champion"),
        lambda: client.rename_registered_model(NAME, "elsewhere"),
        lambda: client.delete_registered_model(NAME),
        lambda: client.delete_model_version(NAME, str(versions[0])),
        lambda: client.create_model_version(
            HISTORY, source=f"models:/{NAME}/{versions[1]}", tags={"kiln.move": "{}"}
        ),
        lambda: client.set_model_version_tag(HISTORY, "1", "kiln.move", "{}"),
        lambda: client.delete_model_version(HISTORY, "1"),
        lambda: client.rename_registered_model(HISTORY, "elsewhere"),
        lambda: client.delete_registered_model(HISTORY),
    ]
    for call in calls:
        with pytest.raises(MlflowException) as caught:
            call()
        assert caught.value.get_http_status_code() == 403
    assert auth_server.database.dump("mlflow") == before
    as_user("alice")
    command.rollback("to no champion")


def test_promoters_promote_but_cannot_register_or_change_the_history(
    versions: tuple[int, int], as_user: ConnectAs
) -> None:
    client = as_user("alice")
    command.promote(versions[0], "first")
    command.promote(versions[1], "better")
    assert model_versions.get_aliases(client, NAME) == {"champion": versions[1]}
    command.rollback("one back")
    assert model_versions.get_aliases(client, NAME) == {"champion": versions[0]}
    command.rollback("to before the first")
    assert model_versions.get_aliases(client, NAME) == {}
    moves = [version.tags for version in model_versions.list_versions(client, HISTORY)]
    for change in (
        lambda: client.set_model_version_tag(HISTORY, "1", "kiln.move", "{}"),
        lambda: client.delete_model_version_tag(HISTORY, "1", "kiln.move"),
        lambda: client.delete_model_version(HISTORY, "1"),
        lambda: client.delete_registered_model(HISTORY),
    ):
        with pytest.raises(MlflowException, match="stays as it is"):
            change()
    assert [version.tags for version in model_versions.list_versions(client, HISTORY)] == moves
    with pytest.raises(
        UserError,
        match=r"does not let user 'alice' write runs .* that is for the training identity",
    ):
        register_version(client, seed=99)


def test_other_users_can_only_read(
    auth_server: AuthServer, home: Path, versions: tuple[int, int]
) -> None:
    assert run_command(auth_server, home, "reader", "promote", "--history").returncode == 0
    traced = run_command(auth_server, home, "reader", "trace", f"{NAME}/{versions[1]}")
    assert traced.returncode == 0, traced.stdout
    refused = run_command(
        auth_server, home, "reader", "promote", "--version", str(versions[1]), "--reason", "r"
    )
    assert refused.returncode == 2, refused.stdout
    assert "does not let user 'reader'" in refused.stdout
    refused = run_command(auth_server, home, "ci", "grant", "--promoters", "ci")
    assert refused.returncode == 2, refused.stdout
    assert "does not let user 'ci' give" in refused.stdout


def test_creator_of_the_registered_model_does_not_become_a_promoter(
    auth_server: AuthServer, home: Path, as_user: ConnectAs
) -> None:
    client = as_user("ci")
    early = register_version(client, seed=5, name="early")
    client.set_registered_model_alias("early", "champion", str(early.version))
    evaluate_version(client, early, 1900)
    promotion = ("promote", "--name", "early", "--version", "1", "--reason", "r")
    options = ("--override", "by hand", "--alias", "other")
    refused = run_command(auth_server, home, "ci", *promotion, *options)
    assert refused.returncode == 2, refused.stdout
    assert "that is for promoters" in refused.stdout
    roles = ("grant", "--training", "ci", "--promoters", "alice", "--name", "early")
    done = run_command(auth_server, home, "admin", *roles)
    assert done.returncode == 0, done.stdout
    with pytest.raises(MlflowException, match="those who may add to early-history"):
        client.set_registered_model_alias("early", "champion", str(early.version))
    register_version(client, seed=6, name="early")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"MLFLOW_TRACKING_PASSWORD": "not-the-password"},
            "does not accept the name and password of user 'ci'",
        ),
        (
            {"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""},
            "MLFLOW_TRACKING_USERNAME is not set",
        ),
        ({"MLFLOW_TRACKING_URI": "localhost"}, "MLFLOW_SERVER_ALLOWED_HOSTS has to have it"),
    ],
    ids=["password", "no user", "host"],
)
def test_refused_client_gets_the_reason(
    auth_server: AuthServer, home: Path, env: dict[str, str], message: str
) -> None:
    if "MLFLOW_TRACKING_URI" in env:
        env = {"MLFLOW_TRACKING_URI": f"http://localhost:{auth_server.port}"}
    done = run_command(auth_server, home, "ci", "promote", "--history", **env)
    assert done.returncode == 2, done.stdout
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_concurrent_registrations_leave_one_version_per_model(
    auth_server: AuthServer, home: Path, as_user: ConnectAs
) -> None:
    client = as_user("ci")
    code = (
        "from components.tracking import store\n"
        "from tests.integration.versions import register_version\n"
        "client = store.connect()\n"
        "print(sorted({(n % 2, register_version(client, 900 + n % 2).version) for n in range(4)}))"
    )
    env = {**os.environ, "PYTHONPATH": python_path()}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=home, env=env, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]  # fmt: skip
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    versions_seen = [output.splitlines()[-1] for output, _ in outputs]
    assert versions_seen[0] == versions_seen[1], "both processes got the same versions"
    digests = [
        v.tags["kiln.sha256"]
        for v in model_versions.list_versions(client, NAME)
        if not v.tags["kiln.sha256"].startswith("spare")
    ]
    assert len(digests) == len(set(digests))
    assert len({number for _, number in eval(versions_seen[0])}) == 2


def test_duplicate_that_may_not_be_deleted_loses_its_digest(
    as_user: ConnectAs, versions: tuple[int, int]
) -> None:
    client = as_user("ci")
    first = client.get_model_version(NAME, str(versions[0]))
    tags = {key: first.tags[key] for key in ("kiln.sha256", "kiln.format", "kiln.model")}
    duplicate = client.create_model_version(
        NAME,
        source=first.source,
        run_id=first.run_id,
        model_id=model_versions.get_model_id(first),
        tags=tags,
        await_creation_for=0,
    )
    assert (
        model_versions.find_by_digest(client, NAME, first.tags["kiln.sha256"]).version
        == first.version
    )
    assert (
        client.get_model_version(NAME, duplicate.version).tags["kiln.sha256"]
        == f"spare of version {first.version}"
    )


def test_pipeline_on_the_server_leaves_no_password_behind(
    auth_server: AuthServer, clone: Clone, tmp_path: Path
) -> None:
    out = tmp_path / "models" / "cnn"
    data = ("--train", "data/augmented/train", "--val", "data/prepared/val")
    outputs = []
    for user, *words in (
        ("admin", "grant", "--training", "ci", "--promoters", "alice"),
        ("ci", "train", "--model", "cnn", *data, "--out", str(out)),
        ("ci", "register", "--model", "cnn", "--trained", str(out),
         "--out", str(out / "receipt.json")),
        ("ci", "register", "--model", "resnet", "--trained", str(clone.path / "models/resnet"),
         "--out", str(out.parent / "resnet/receipt.json")),
        ("ci", "evaluate", "--models", str(out.parent), "--test", "data/prepared/test",
         "--out", str(tmp_path / "reports")),
        ("alice", "promote", "--best", "--reason", "a server"),
        ("alice", "promote", "--history"),
        ("reader", "trace", "fashion-mnist@champion"),
    ):  # fmt: skip
        done = clone.stage(
            *words,
            **auth_server.client_env(user),
            **(new_passwords() if words[0] == "grant" else {}),
        )
        assert done.returncode == 0, done.stdout
        outputs.append(done.stdout)
    code = (
        "from components.tracking import store\n"
        "client = store.connect()\n"
        "version = client.get_model_version_by_alias('fashion-mnist', 'champion')\n"
        "print(client.get_run(version.run_id).info.artifact_uri)"
    )
    output = clone.run("python", "-c", code, **auth_server.client_env("reader")).stdout
    assert output.splitlines()[-1].startswith("mlflow-artifacts:/"), (
        "clients do not need access to the folder"
    )
    assert list((auth_server.folder / "artifacts").rglob("*.pt2"))
    texts = [
        *outputs,
        auth_server.database.dump("mlflow"),
        auth_server.database.dump("mlflow_auth"),
    ]
    files = [
        p
        for folder in (clone.path, tmp_path, auth_server.folder)
        for p in folder.rglob("*")
        if p.is_file()
    ]
    assert len(files) > 50
    secrets = [
        PASSWORD,
        *USERS.values(),
        *(base64.b64encode(f"{n}:{p}".encode()).decode() for n, p in USERS.items()),
    ]
    for secret in secrets:
        assert not [text for text in texts if secret in text]
        assert not [path for path in files if secret.encode() in path.read_bytes()]


def list_writing_routes() -> list[tuple[str, str]]:
    """Return method and path of every route of MLflow's server that may change something."""
    from flask import Flask
    from mlflow.server import app, auth

    added_by_auth = Flask("auth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "for the list alone")
        patch.setattr(auth, "_init_store_for_app", lambda: None)
        auth.create_app(added_by_auth)
    rules = [*app.url_map.iter_rules(), *added_by_auth.url_map.iter_rules()]
    routes = {
        (method, re.sub(r"<[^>]*>", "1", rule.rule))
        for rule in rules
        for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}
    }
    return sorted(routes)


def list_encodings(body: dict[str, Any], own: str) -> Iterator[dict[str, Any]]:
    """Return arguments in all ways in which a check and a handler may read them differently.

    `own` is a registered model that the user may change. A check may read it where the handler
    reads the name in `body`.
    """
    query = {"name": own}
    text = json.dumps(body)
    yield {"json": body}
    yield {"json": body, "params": query}
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/JSON"):
        yield {"data": text, "params": query, "headers": {"Content-Type": content_type}}
    yield {"data": text, "params": query}
    yield {"params": body}
    twice = f'{{"name": "{own}", {text[1:]}'
    yield {"data": twice, "headers": {"Content-Type": "application/json"}}
    yield {"json": text}


def test_no_route_of_mlflow_changes_what_a_user_has_no_right_to(
    auth_server: AuthServer, versions: tuple[int, int], as_user: ConnectAs
) -> None:
    """Every route of the server, as a user without a role and as the training identity."""
    as_user("alice")
    command.promote(versions[0], "for the routes")
    reader = as_user("reader")
    reader.create_registered_model("mine")
    admin = as_user("admin")

    def describe(name: str, with_versions: bool) -> dict[str, Any]:
        model = admin.get_registered_model(name)
        described = {"aliases": model.aliases, "tags": model.tags, "text": model.description}
        if with_versions:
            listed = model_versions.list_versions(admin, name)
            described["versions"] = [
                (v.version, v.tags, v.source, v.description, v.current_stage) for v in listed
            ]
        return described

    def snapshot(user: str) -> list[Any]:
        histories = [
            model.name
            for model in admin.search_registered_models(max_results=1000)
            if model.name.endswith("-history")
        ]
        # The training identity may add versions and tags to the model.
        is_reader = user == "reader"
        task = describe(NAME, with_versions=is_reader)
        if not is_reader:
            task = {"aliases": task["aliases"]}
        return [task, describe(HISTORY, with_versions=True), sorted(histories)]

    routes = list_writing_routes()
    registry = [route for route in routes if re.search("registered-model|model-version", route[1])]
    assert len(registry) > 20
    assert len(routes) > 250
    for user in ("reader", "ci"):
        before = snapshot(user)

        def send(method: str, path: str, encoding: dict[str, Any], user: str = user) -> None:
            address = auth_server.address + path
            credentials = (user, USERS[user])
            with contextlib.suppress(requests.Timeout):
                requests.request(method, address, auth=credentials, timeout=10, **encoding)

        with ThreadPoolExecutor(8) as pool:
            for method, path in registry:
                sent = [
                    pool.submit(send, method, path, encoding)
                    for name in (NAME, HISTORY)
                    for encoding in list_encodings(make_body(name), "mine")
                ]
                for request in sent:
                    request.result()
                assert snapshot(user) == before, f"{user}: {method} {path}"
            others = sorted(set(routes) - set(registry))
            for _ in pool.map(lambda route: send(*route, {"json": make_body(NAME)}), others):
                pass
        assert snapshot(user) == before, user
    as_user("alice")
    command.rollback("after the routes")


def make_body(name: str) -> dict[str, Any]:
    """Return arguments with which any call of the registry would do harm to a registered model."""
    return {
        "name": name,
        "version": "1",
        "alias": "champion",
        "key": "kiln.move",
        "value": "{}",
        "new_name": "elsewhere-history",
        "description": "changed",
        "stage": "Archived",
        "source": f"models:/{NAME}/1",
        "permission": "MANAGE",
        "resource_type": "registered_model",
        "resource_pattern": name,
        "username": "ci",
        "role_id": 1,
    }
