"""How Annex gets into a project's database and out of it again: install, migrate, uninstall."""


class InstallationError(Exception):
    """Annex cannot be installed or removed; the text is one sentence that says what to do."""
