"""Pages without a build step."""
