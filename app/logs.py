"""Logging: a line of JSON an event in production, a readable one in development."""

import logging
import sys

import structlog

from app.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Set structlog and the libraries' loggers up; everything goes to standard error."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    errors: structlog.typing.Processor = structlog.processors.dict_tracebacks
    if settings.is_development:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        errors = structlog.processors.format_exc_info
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            errors,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
