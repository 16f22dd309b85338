"""Options by which a run is seen from outside; each has a variable, for runs that others start."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from penstock.commands.telling import err
from penstock.telemetry import Settings

__all__ = ["LogFile", "MetricsFile", "MetricsPort", "Trace", "TraceUnits", "settings", "warn"]

_PANEL = "Seen from outside"
_COLLECTORS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

MetricsPort = Annotated[
    str,
    typer.Option(
        help="Prometheus may ask here while it runs.",
        metavar="[HOST:]PORT",
        envvar="PENSTOCK_METRICS_PORT",
        rich_help_panel=_PANEL,
    ),
]
MetricsFile = Annotated[
    str,
    typer.Option(
        help="The same for node_exporter's textfile collector.",
        metavar="FILE.prom",
        envvar="PENSTOCK_METRICS_FILE",
        rich_help_panel=_PANEL,
    ),
]
Trace = Annotated[
    str,
    typer.Option(
        help="Spans by OTLP/HTTP to a collector, http://HOST:4318, or as OTLP JSON to a file.",
        metavar="URL|FILE",
        envvar="PENSTOCK_TRACE",
        rich_help_panel=_PANEL,
    ),
]
TraceUnits = Annotated[
    int,
    typer.Option(
        help="About so many units have spans; failed ones always.",
        metavar="UNITS",
        envvar="PENSTOCK_TRACE_UNITS",
        min=0,
        rich_help_panel=_PANEL,
    ),
]
LogFile = Annotated[
    str,
    typer.Option(
        help="Failed units, quarantined rows and progress as JSON lines.",
        metavar="FILE",
        envvar="PENSTOCK_LOG_FILE",
        rich_help_panel=_PANEL,
    ),
]


def settings(metrics_port: str, metrics_file: str, trace: str, trace_units: int, log_file: str) -> Settings:
    """What was asked for on the command line, by our variables, or by OpenTelemetry's own."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    collector = not disabled and any(os.environ.get(name) for name in _COLLECTORS)
    return Settings(metrics_port, metrics_file, trace, collector, trace_units, log_file)


def warn(text: str) -> None:
    """Say it on the standard error."""
    err.print("[yellow]warning:[/] ", end="")
    err.print(text, markup=False)
