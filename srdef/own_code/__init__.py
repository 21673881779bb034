"""Code of the user's own: found by its name, hashed with all that it reads, noticed when it is edited."""
