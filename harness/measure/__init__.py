"""Memory and time: the harness measures, a method never reports on itself."""
