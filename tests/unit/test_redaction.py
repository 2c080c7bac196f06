"""Secrets are found in the texts of other libraries, and ordinary text is left alone."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import quote, quote_plus

import pytest
import requests
import sqlalchemy

from components.redaction import hide_passwords, redact, redact_address, remember_secret

# Characters that end a part of a URL, separate parameters, or are escaped by Python and JSON.
PASSWORDS = ["p@ss/w:o%r?d#1", "a'quoted\"one\\", "plus+and&more=", "sp ace\u00fcber", "%41percent"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://ci:PASSWORD@host:5000/api", "http://ci:***@host:5000/api"),
        ("(http://ci:PASSWORD@host) and bob@x.org", "(http://ci:***@host) and bob@x.org"),
        ("postgresql+psycopg://u:PASSWORD@h/db", "postgresql+psycopg://u:***@h/db"),
        ("http://ci:PASS@WORD/PASS?WORD#PASS:WORD@host/x", "http://ci:***@host/x"),
        ("redis://:PASSWORD@host", "redis://:***@host"),
        ("s3://KEY:PASSWORD@bucket?region=x", "s3://KEY:***@bucket?region=x"),
        ("https://TOKEN0123456789abcdef@github.com/o/r.git", "https://***@github.com/o/r.git"),
        ("https://TOKEN0123456789abcdef:x-oauth-basic@h/o", "https://***:***@h/o"),
        ("fatal: ghp_PASSWORD0123456789 is no branch", "fatal: *** is no branch"),
        ("Authorization: Basic UEFTU1dPUkQ=", "Authorization: ***"),
        ("{'Authorization': 'Bearer PASSWORD', 'A': 'b'}", "{'Authorization': '***', 'A': 'b'}"),
        ("[('authorization', b'PASSWORD')]", "[('authorization', b'***')]"),
        ("sent Bearer PASSWORD123.x-y_z in vain", "sent Bearer *** in vain"),
        ("Set-Cookie: session=PASSWORD; Path=/", "Set-Cookie: ***"),
        (
            "url: /k?X-Amz-Credential=K%2F1&X-Amz-Signature=PASSWORD&X-Amz-Expires=60 (Caused by",
            "url: /k?X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Expires=60 (Caused by",
        ),
        ("https://a.blob.example/c?sv=1&sig=PASSWORD", "https://a.blob.example/c?sv=1&sig=***"),
        ("x-amz-security-token: PASSWORD", "x-amz-security-token: ***"),
        ("user=u password=PASSWORD host=h", "user=u password=*** host=h"),
        ("connect(password='PASS WORD', port=1)", "connect(password='***', port=1)"),
        ('{"secret_key": "PASS, \'WORD", "a": 1}', '{"secret_key": "***", "a": 1}'),
        (r"b'{\"token\": \"PASSWORD\"}'", r"b'{\"token\": \"***\"}'"),
        ("KILN_PASSWORD_CI=PASSWORD", "KILN_PASSWORD_CI=***"),
        (
            "-----BEGIN PRIVATE KEY-----\nPASSWORD\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----***-----END PRIVATE KEY-----",
        ),
    ],
)
def test_secret_of_unknown_value_is_found_by_its_form(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "promote: fashion@champion moved to version 3 (http://host:5000)",
        "models:/fashion@champion",
        "RAY_AUTH_TOKEN_PATH=/secrets/token: no such file; put the cluster's token there",
        "start the cluster with RAY_AUTH_MODE=token on every node",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to what you were given",
        "ssh://git@host:22/repository and git@github.com:o/r.git",
        "postgresql+psycopg://mlflow@127.0.0.1:5432/mlflow",
        "the token: ask your administrator; basic authentication is required",
        "sqlite:////data/mlflow.db, s3://bucket/prefix?region=eu",
        "parameters: seed=1, recipe.tokens=4, key=3",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "variable",
    [
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "RAY_AUTH_TOKEN",
        "PGPASSWORD",
        "KILN_PASSWORD_CI",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
    ],
)
def test_value_of_a_secret_variable_is_found_however_it_is_written(
    variable: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, password)
    for written in (
        f"the server says <{password}>",
        f"{password!r}",
        json.dumps([password]),
        f"/x/{quote(password)}/y",
        f"/x/{quote(password, safe='')}/y",
        f"x={quote_plus(password)}",
    ):
        shown = redact(written)
        assert "***" in shown, written
        assert not _has_part_of(password, shown), shown


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("MLFLOW_TRACKING_URI", "http://ci:{}@host:5000"),
        ("MLFLOW_TRACKING_URI", "postgresql://ci:{}@host/db"),
        ("KILN_STORAGE", "s3://KEY:{}@bucket/prefix"),
        ("HTTPS_PROXY", "http://ci:{}@proxy:3128"),
    ],
)
def test_password_in_an_address_is_found_where_a_library_quotes_it_alone(
    variable: str, address: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for written in (password, quote(password, safe="")):
        monkeypatch.setenv(variable, address.format(written))
        for text in (f"cannot parse {written!r}", f"login with {password!r} failed"):
            assert not _has_part_of(password, redact(text))


def test_login_is_found_in_its_base64_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ci")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22hunter")
    monkeypatch.setenv("HTTPS_PROXY", "http://ci:%41bcdefgh@proxy:3128")
    for login in (b"ci:hunter22hunter", b"ci:Abcdefgh"):
        assert redact(f"headers {base64.b64encode(login).decode()!r}") == "headers '***'"


def test_query_of_an_address_in_the_environment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_STORAGE", "s3://bucket/x?secret_key=hunter%2F22hunter&region=europe-1")
    assert redact("signed with 'hunter/22hunter' in europe-1") == "signed with '***' in europe-1"


def test_short_values_and_parts_of_words_are_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "pw")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "postgres")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/secrets/path/of/the/token")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    text = "pw in postgresql://h/db: /secrets/path/of/the/token is false, "
    assert redact(text + "postgres!") == text + "***!"


def test_remembered_secret_is_found() -> None:
    remember_secret("read-from-a-file")
    assert redact("token read-from-a-file refused") == "token *** refused"


def test_whole_address_is_redacted_without_a_scheme_or_with_blanks() -> None:
    assert redact_address("ci:a@b@host:5000") == "ci:***@host:5000"
    assert redact_address("http://ci:a b@host:5000") == "http://ci:***@host:5000"
    assert redact_address("host:5000") == "host:5000"
    assert hide_passwords("http://a:b@c http://d:e@f") == "http://a:***@c http://d:***@f"


def test_errors_of_requests_and_sqlalchemy_are_redacted() -> None:
    for address in ("htp://ci:PASSWORD@h", "http://ci:PASSWORD@h:99999/x", "//ci:PASSWORD@h"):
        with pytest.raises(requests.RequestException) as caught:
            requests.get(address, timeout=1)
        assert "PASSWORD" in str(caught.value)
        assert "PASSWORD" not in redact(str(caught.value))
    parameters = {"token": "PASSWORD"}
    with pytest.raises(sqlalchemy.exc.OperationalError) as refused:
        sqlalchemy.create_engine("sqlite://").connect().exec_driver_sql("SELECT x", parameters)
    assert "PASSWORD" in str(refused.value)
    assert "PASSWORD" not in redact(str(refused.value))


def test_part_of_a_password_is_found_that_a_library_takes_for_a_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = "http://ci:PASSWORD/REST@127.0.0.1:1/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(requests.RequestException) as caught:
        requests.get(address, timeout=1)
    assert "PASSWORD" in str(caught.value)
    assert "PASSWORD" not in redact(str(caught.value))


@pytest.mark.parametrize(
    "part",
    ["://a:", "a@", "password='", "token=", "basic ", "cookie: ", "authorization,", "x", " "],
)
def test_hostile_text_takes_no_long_time(part: str) -> None:
    text = part * (200_000 // len(part))
    start = time.perf_counter()
    redact(text)
    assert time.perf_counter() - start < 5


def _has_part_of(password: str, text: str) -> bool:
    """Return whether six characters of a password in a row are in a text."""
    return any(password[n : n + 6] in text for n in range(len(password) - 5))
