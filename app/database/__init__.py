"""Two ways to the database: a read is one statement, a write is one transaction."""
