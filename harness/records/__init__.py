"""Settings, records and their identities as dataclasses, and how records are read and written."""
