"""What HTTP asks of every request and answer."""
