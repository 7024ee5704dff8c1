"""What development needs and production never imports: a database, migrations, demo data."""


class DevError(Exception):
    """A development command cannot go on; the text is one sentence that says what to do."""
