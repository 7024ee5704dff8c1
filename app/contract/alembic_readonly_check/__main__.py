"""`python -m alembic_readonly_check` is the command."""

from alembic_readonly_check.cli import main

main()
