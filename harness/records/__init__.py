"""What is written down: settings, records and their identities, as dataclasses; reading and writing them."""
