"""Settings come from the environment, secrets also from files, and all that is wrong is said at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from tallygate_server import config
from tallygate_server.config import SECRET_BYTES_MAX, Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(config.PREFIX):
            monkeypatch.delenv(name)


def problems_of(**overrides: object) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    return caught.value.problems


def test_defaults_run_embedded_on_the_loopback() -> None:
    settings = load_settings()

    assert settings.database_url is None
    assert settings.redis_url is None
    assert (settings.grpc_host, settings.grpc_port) == ("127.0.0.1", 50_051)
    assert (settings.ops_host, settings.ops_port) == ("127.0.0.1", 50_052)
    assert settings.data_dir == Path(".tallygate")
    assert settings.transport == "native"


def test_a_variable_sets_a_setting_and_an_argument_beats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYGATE_GRPC_PORT", "6000")
    monkeypatch.setenv("TALLYGATE_REFLECTION", "false")

    assert load_settings().grpc_port == 6000
    assert load_settings(grpc_port=7000).grpc_port == 7000
    assert load_settings().reflection is False


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYGATE_DATABASE_URL", "")
    monkeypatch.setenv("TALLYGATE_GRPC_PORT", "")

    settings = load_settings()

    assert settings.database_url is None
    assert settings.grpc_port == 50_051


def test_a_secret_is_read_from_a_file_without_its_line_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://u:p@h/db\n")
    monkeypatch.setenv("TALLYGATE_DATABASE_URL_FILE", str(file))

    settings = load_settings()

    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://u:p@h/db"


def test_a_secret_file_at_the_bound_is_read_and_one_byte_more_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    monkeypatch.setenv("TALLYGATE_STRIPE_API_KEY_FILE", str(file))

    file.write_text("k" * SECRET_BYTES_MAX)
    assert load_settings().stripe_api_key is not None

    file.write_text("k" * (SECRET_BYTES_MAX + 1))
    assert "larger than" in problems_of()[0]


def test_a_missing_secret_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TALLYGATE_REDIS_URL_FILE", str(tmp_path / "absent"))

    (problem,) = problems_of()

    assert problem.startswith("TALLYGATE_REDIS_URL_FILE: cannot read")


def test_a_secret_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one")
    monkeypatch.setenv("TALLYGATE_STRIPE_API_KEY_FILE", str(file))
    monkeypatch.setenv("TALLYGATE_STRIPE_API_KEY", "two")

    assert problems_of() == (
        "TALLYGATE_STRIPE_API_KEY: given twice, also as TALLYGATE_STRIPE_API_KEY_FILE; remove one",
    )


def test_all_problems_are_listed_at_once_and_none_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYGATE_GRPC_PORT", "65536")
    monkeypatch.setenv("TALLYGATE_DATABASE_URL", "mysql://u:hunter2@h/db")
    monkeypatch.setenv("TALLYGATE_LOG_LEVEL", "loud")
    monkeypatch.setenv("TALLYGATE_GRPC_PROT", "1")

    problems = problems_of()

    assert [problem.split(":")[0] for problem in problems] == [
        "TALLYGATE_GRPC_PROT",
        "TALLYGATE_DATABASE_URL",
        "TALLYGATE_GRPC_PORT",
        "TALLYGATE_LOG_LEVEL",
    ]
    assert "hunter2" not in "".join(problems)


def test_variables_that_kubernetes_adds_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_50051_TCP", "PORT_50051_TCP_ADDR"):
        monkeypatch.setenv(f"TALLYGATE_{name}", "tcp://10.0.0.1:50051")

    assert load_settings().grpc_port == 50_051


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"tls_cert_file": "c.pem", "transport": "grpcio"}, "TALLYGATE_TLS_KEY_FILE"),
        ({"tls_client_ca_file": "ca.pem"}, "TALLYGATE_TLS_CLIENT_CA_FILE"),
        ({"tls_cert_file": "c.pem", "tls_key_file": "k.pem"}, "TALLYGATE_TRANSPORT=grpcio"),
        ({"hold_ttl_ms": 2_000, "commit_timeout_ms": 2_000}, "TALLYGATE_HOLD_TTL_MS"),
        ({"grpc_port": 5, "ops_port": 5}, "TALLYGATE_OPS_PORT"),
        ({"stripe_timeout_ms": 2, "stripe_call_timeout_ms": 1}, "TALLYGATE_STRIPE_CALL_TIMEOUT_MS"),
    ],
)
def test_a_combination_that_cannot_work_is_refused(overrides: dict[str, object], named: str) -> None:
    assert any(named in problem for problem in problems_of(**overrides))


@pytest.mark.parametrize("live_key", ["sk_live_local", "rk_live_local", " sk_live_local"])
@pytest.mark.parametrize(
    ("api_base", "allowed"),
    [
        ("https://api.stripe.com", True),
        ("https://stripe.example.test", True),
        ("http://127.0.0.1:12111", True),
        ("http://[::1]:12111", True),
        ("http://localhost:12111", True),
        ("http://stripe.example.test", False),
        ("http://127.0.0.1.example.test", False),
        ("HTTP://10.0.0.1", False),
    ],
)
def test_a_live_key_leaves_this_machine_encrypted_only(live_key: str, api_base: str, *, allowed: bool) -> None:
    problems = () if allowed else problems_of(stripe_api_key=live_key, stripe_api_base=api_base)

    if allowed:
        load_settings(stripe_api_key=live_key, stripe_api_base=api_base)
    assert allowed or any("TALLYGATE_STRIPE_API_BASE" in problem for problem in problems)
    assert "live_local" not in str(problems)


def test_a_test_key_may_go_anywhere() -> None:
    settings = load_settings(stripe_api_key="sk_test_local", stripe_api_base="http://stripe.example.test")

    assert settings.stripe_api_base == "http://stripe.example.test"


@pytest.mark.parametrize(
    "api_base",
    ["api.stripe.com", "ftp://api.stripe.com", "https://", "https://user:word@api.stripe.com", "https://a?b=c"],
)
def test_the_address_of_stripe_is_an_address_only(api_base: str) -> None:
    problems = problems_of(stripe_api_base=api_base)

    assert any("TALLYGATE_STRIPE_API_BASE" in problem for problem in problems)
    assert "word" not in str(problems)


def test_two_ports_of_zero_are_two_free_ports() -> None:
    assert load_settings(grpc_port=0, ops_port=0).grpc_port == 0


def test_only_the_embedded_database_is_migrated_unasked() -> None:
    assert load_settings().migrates_at_start
    assert not load_settings(database_url="postgresql:///db").migrates_at_start
    assert load_settings(database_url="postgresql:///db", auto_migrate=True).migrates_at_start


def test_settings_cannot_be_changed_and_hide_secrets() -> None:
    settings = load_settings(database_url="postgresql://u:hunter2@h/db")

    with pytest.raises(ValidationError):
        settings.grpc_port = 1  # type: ignore[misc]
    assert "hunter2" not in repr(settings)


def test_the_table_has_a_described_row_per_setting() -> None:
    rows = config.render_settings_table().splitlines()[2:]

    assert len(rows) == len(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())
    assert any("TALLYGATE_STRIPE_API_KEY_FILE" in row for row in rows)
