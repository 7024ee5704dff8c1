"""Log tail -> hub -> Server-Sent Events.

Knows nothing of HTTP authentication, and of tables only the log.
"""
