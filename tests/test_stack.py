"""The files of the compose stack, checked without an engine or a network."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from tests.helpers.compose import COMPOSE, ROOT, compose_client, run
from tests.helpers.semconv import ATTRIBUTES, SIGNALS

SERVICES = COMPOSE["services"]
JAEGER = SERVICES["jaeger"]


def jaeger_config() -> dict:
    """Return otel/jaeger.yaml with `${env:…}` replaced by the environment of the container."""
    text = (ROOT / "otel/jaeger.yaml").read_text(encoding="utf-8")
    environment = JAEGER["environment"]
    return yaml.safe_load(
        re.sub(r"\$\{env:(\w+):-(.*?)\}", lambda m: str(environment.get(m[1], m[2])), text)
    )


def mounts(service: dict) -> list[list[str]]:
    """Return the mounts of a service, each split into source, target and mode."""
    return [mount.split(":") for mount in service.get("volumes", [])]


def port_of(section: dict) -> int:
    """Return the port of a section's endpoint."""
    return int(section["endpoint"].rsplit(":", 1)[1])


def test_ports_are_published_on_loopback_only():
    """No service can be reached from another machine."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not str(port).startswith("127.0.0.1:")] == []
    assert all("network_mode" not in service for service in SERVICES.values())


def test_jaeger_listens_on_the_published_ports():
    """UI and API on 16686, OTLP on 4317 and 4318, and health on 13133 are published and served."""
    config = jaeger_config()
    otlp = config["receivers"]["otlp"]["protocols"]
    served = {
        port_of(config["extensions"]["jaeger_query"]["http"]),
        port_of(otlp["grpc"]),
        port_of(otlp["http"]),
        port_of(config["extensions"]["healthcheckv2"]["http"]),
    }
    published = {tuple(map(int, port.split(":")[1:])) for port in JAEGER["ports"]}
    assert served == {16686, 4317, 4318, 13133}
    assert published == {(port, port) for port in served}


def test_traces_are_kept_on_a_named_volume():
    """Traces survive the container: all folders of Badger are on a volume."""
    config = jaeger_config()
    exporter = config["exporters"]["jaeger_storage_exporter"]["trace_storage"]
    badger = config["extensions"]["jaeger_storage"]["backends"][exporter]["badger"]
    volumes = [Path(mount[1]) for mount in mounts(JAEGER) if mount[0] in COMPOSE["volumes"]]
    assert config["extensions"]["jaeger_query"]["storage"]["traces"] == exporter
    assert badger["ephemeral"] is False
    for folder in badger["directories"].values():
        assert any(Path(folder).is_relative_to(volume) for volume in volumes), folder


def test_acknowledged_spans_are_stored():
    """Nothing between receiver and Badger buffers spans, so none is lost or reordered."""
    config = jaeger_config()
    assert "processors" not in config["service"]["pipelines"]["traces"]
    assert "queue" not in config["exporters"]["jaeger_storage_exporter"]


def test_only_our_traces_are_listed():
    """Jaeger does not add itself to the list of services."""
    assert jaeger_config()["extensions"]["jaeger_query"]["enable_tracing"] is False


def test_mounted_files_exist_and_are_read_only():
    """Every mounted file is in the repository, read-only, and at the path that Jaeger reads."""
    files = [mount for mount in mounts(JAEGER) if mount[0].startswith(".")]
    assert all((ROOT / source).is_file() and mode == "ro" for source, _, mode in files)
    targets = {target for _, target, _ in files}
    assert JAEGER["command"][0].removeprefix("--config=") in targets
    assert JAEGER["environment"]["JAEGER_UI_CONFIG"] in targets


def test_health_check_asks_jaeger_itself():
    """The health check of the container is Jaeger's own status."""
    test = JAEGER["healthcheck"]["test"]
    health = jaeger_config()["extensions"]["healthcheckv2"]
    assert "healthcheckv2" in jaeger_config()["service"]["extensions"]
    assert test[0] == "CMD"
    assert test[-1] == f"http://127.0.0.1:{port_of(health['http'])}/status"


def test_the_search_covers_all_kept_traces():
    """The longest lookback of the UI equals the time for which traces are kept."""
    ui = json.loads((ROOT / "otel/jaeger-ui.json").read_text(encoding="utf-8"))
    weeks = int(ui["search"]["maxLookback"]["value"].removesuffix("w"))
    config = jaeger_config()["extensions"]["jaeger_storage"]["backends"]["traces"]
    assert config["badger"]["ttl"]["spans"] == f"{weeks * 7 * 24}h"


def test_images_are_pinned():
    """Every image has a full version, or is built from this repository."""
    assert re.fullmatch(r"jaegertracing/jaeger:2\.\d+\.\d+", JAEGER["image"])
    for service in SERVICES.values():
        assert re.search(r":\d+\.\d+\.\d+$", service.get("image", "")) or "build" in service


def test_services_have_least_privilege():
    """Services have no capabilities, no writable root, and bounded memory."""
    for service in SERVICES.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "mem_limit" in service
        assert not {"privileged", "cap_add"} & set(service)


def test_demo_runs_only_in_its_profile_and_reports_to_jaeger():
    """`docker compose up` starts Jaeger only; the demo waits for it and sends its trace to it."""
    demo = SERVICES["demo"]
    dockerfile = (ROOT / demo["build"]["context"] / demo["build"]["dockerfile"]).read_text()
    assert "profiles" not in JAEGER
    assert demo["profiles"] == ["demo"]
    assert demo["depends_on"]["jaeger"]["condition"] == "service_healthy"
    assert demo["command"] == ["demo", "--otlp", "http://jaeger:4318", "--live", "snapshot"]
    _, build, image = re.split(r"^FROM ", dockerfile, flags=re.M)
    assert build.startswith("python:${PYTHON} AS build\n")
    assert image.startswith("python:${PYTHON}-slim\n")
    assert build.index("\nUSER 10001\n") < build.index("pip "), "no build step runs as root"
    assert "\nUSER 10001\n" in image
    assert "RUN" not in image


@pytest.mark.parametrize("profile", [[], ["--profile", "demo"]], ids=["default", "demo"])
def test_compose_accepts_the_file(profile):
    """A compose client, v1.29 or later, accepts docker-compose.yml."""
    client = compose_client()
    if client is None:
        pytest.skip("no compose client on PATH (docker compose or docker-compose)")
    result = run(*client, "-f", str(ROOT / "docker-compose.yml"), *profile, "config", "-q")
    assert result.returncode == 0, result.stderr


def test_links_of_the_ui_name_existing_attributes():
    """Menu, link patterns and order of attributes use existing attributes and spans."""
    text = (ROOT / "otel/jaeger-ui.json").read_text(encoding="utf-8")
    ui = json.loads(text)
    names = set(re.findall(r"(?:zemosaic|process|error)\.[a-z_.]+[a-z_]", unquote(text)))
    assert {"zemosaic.pair.outcome", "zemosaic.run.state", "error.type"} <= names
    assert names <= ATTRIBUTES.keys()
    assert set(re.findall(r"operation=(\w+)", text)) <= {name for _, name in SIGNALS}
    for pattern in ui["linkPatterns"]:
        assert pattern.get("key", "trace") in pattern["url"]


def test_the_search_link_finds_a_state_that_is_final():
    """Badger's index keeps the state of live spans, so a search for "running" finds all runs."""
    text = unquote((ROOT / "otel/jaeger-ui.json").read_text(encoding="utf-8"))
    assert set(re.findall(r'"zemosaic\.run\.state":"(\w+)"', text)) == {"died"}
